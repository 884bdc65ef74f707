"""Manifests, training records and scores of a line → the released model's card in markdown."""

import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from ruamel.yaml import YAML

from modelmill.tasks.files import read_json
from modelmill.tasks.lm.vllm_names import vllm_arguments
from modelmill.tasks.release.config import Config
from modelmill.tasks.stage import Artifact

TEMPLATES = Path(__file__).parent / "data"
DATA_TYPES = ("pages", "documents", "unique", "corpus", "tokens")


@dataclass(frozen=True)
class Facts:
    """What the card is made from. `training` has one row a checkpoint, `alignment` one a step."""

    config: Config
    model_config: dict[str, Any]
    parameters: int
    score: dict[str, Any]
    scorecard_table: str
    manifests: Sequence[dict[str, Any]]
    training: Sequence[dict[str, Any]]
    alignment: Sequence[dict[str, Any]]
    choice: dict[str, Any]


def model_card(facts: Facts) -> str:
    """What the model is, how to run it, scores with intervals, data, training, limits, and where each part is from."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters |= {"yaml": as_yaml, "count": count, "interval": interval, "cell": cell}
    return environment.get_template("model_card.md").render(
        facts=facts,
        config=facts.config,
        counted=[manifest for manifest in facts.manifests if counts_rows(manifest)],
        configured=[manifest for manifest in facts.manifests if manifest.get("config")],
        waivers=waivers(facts.manifests),
        vllm_arguments=shlex.join(vllm_arguments(facts.model_config)),
    )


def training_rows(checkpoints: Sequence[Artifact]) -> list[dict[str, Any]]:
    """`training.json` of each checkpoint, with the stage's id."""
    return [{"id": artifact.stage_id} | read_json(artifact.path / "training.json") for artifact in checkpoints]


def alignment_rows(chats: Sequence[Artifact]) -> list[dict[str, Any]]:
    """`steps.json` of each chat artifact, with the stage's id."""
    return [{"id": artifact.stage_id} | row for artifact in chats for row in read_json(artifact.path / "steps.json")]


def waivers(manifests: Sequence[dict[str, Any]]) -> list[str]:
    """Gates that were waived and code changes that were declared equivalent, each with its stage."""
    found = [f"{manifest['id']}: {waiver}" for manifest in manifests for waiver in manifest.get("waivers", ())]
    return found + [
        f"{manifest['id']}: a code change was accepted as equivalent: {manifest['accepted']['why']}"
        for manifest in manifests
        if "accepted" in manifest
    ]


def counts_rows(manifest: dict[str, Any]) -> bool:
    """Does the stage count data, rather than models?"""
    counts = manifest.get("counts")
    return bool(counts) and (bool(counts["dropped"]) or manifest["type"] in DATA_TYPES)


def as_yaml(value: Any) -> str:
    """A setting tree as YAML 1.2."""
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.dump(value, stream)
    return stream.getvalue().rstrip()


def count(value: float | None) -> str:
    """1234567 → 1,234,567."""
    return "–" if value is None else f"{value:,.0f}"


def interval(score: dict[str, Any], value: str = "accuracy") -> str:
    """A share with its 95 % interval."""
    if "low" not in score or "high" not in score:
        return f"{score[value]:.1%}"
    return f"{score[value]:.1%} ({score['low']:.1%}–{score['high']:.1%})"


def cell(value: Any) -> str:
    """A value in a table: numbers short, nothing as a dash."""
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
