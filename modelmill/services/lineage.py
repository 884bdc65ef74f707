"""Manifests and recipe parts → MLflow's words for them: params, dataset inputs, notes."""

import json
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Param

_PARAM_CHARACTERS = 6000  # MLflow's limit for a parameter's value
_DIGEST_CHARACTERS = 36  # and for a dataset's digest


def flat_params(values: dict[str, Any]) -> list[Param]:
    """Nested settings as dotted parameters; lists as JSON."""
    flat: dict[str, str] = {}
    _flatten("", values, flat)
    return [Param(name, value) for name, value in flat.items()]


def _flatten(prefix: str, value: Any, flat: dict[str, str]) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten(f"{prefix}.{name}" if prefix else str(name), inner, flat)
        return
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    flat[prefix] = text if len(text) <= _PARAM_CHARACTERS else text[: _PARAM_CHARACTERS - 1] + "…"


def dataset_inputs(inputs: list[dict[str, Any]], home: Path, context: str) -> list[DatasetInput]:
    """Input artifacts as MLflow datasets: named by type, identified by content digest."""
    return [
        DatasetInput(
            Dataset(
                name=item["type"],
                digest=item["digest"][:_DIGEST_CHARACTERS],
                source_type="modelmill",
                source=json.dumps({"artifact": item["digest"], "path": str(home / "artifacts" / item["digest"])}),
                profile=json.dumps({"made_by_stage": item["stage"]} if "stage" in item else {}),
            ),
            [InputTag("mlflow.data.context", context)],
        )
        for item in inputs
    ]


def made_by(manifest: dict[str, Any]) -> str | None:
    """The MLflow run of the stage that made this artifact, if it was recorded."""
    return manifest.get("links", {}).get("mlflow_stage_run")


def summary_note(manifest: dict[str, Any], reused: bool, experiment: str) -> str:
    """The description that MLflow shows on the page of a stage's run (markdown)."""
    counts = manifest["counts"]
    lines = [f"**in** {counts['in']:,} **out** {counts['out']:,} {counts['unit']}"]
    if counts["dropped"]:
        lines.append("dropped: " + ", ".join(f"{reason} {number:,}" for reason, number in counts["dropped"].items()))
    lines.append(f"key `{manifest['key'][:16]}`, artifact `{manifest['digest'][:16]}`")
    if reused:
        run_id = made_by(manifest)
        maker = f"[run {run_id}](#/experiments/{experiment}/runs/{run_id})" if run_id else "a run without MLflow"
        lines.append(f"reused; made by {maker} in {manifest['seconds']:.1f} s")
    lines += [f"waived: {waiver}" for waiver in manifest["waivers"]]
    if manifest["summary"]:
        lines.append(manifest["summary"])
    return "\n\n".join(lines)[:5000]
