"""Manifests and artifacts of a line's stages → what the report shows, as plain values."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from modelmill.tasks.files import read_json

_DATA_STAGES = ("ingest", "clean", "dedup", "curate")
_SAMPLE_CHARACTERS = 600


@dataclass(frozen=True)
class StageView:
    """One stage of the newest run. `manifest` is empty, `artifact` and `evidence` None while it is not finished.

    evidence: the folder with report/ and dropped/, which may be another than that of the artifact.
    """

    id: str
    stage: str
    status: str
    key: str
    digest: str
    seconds: float | None
    peak_memory_bytes: int | None
    manifest: dict[str, Any] = field(repr=False)
    artifact: Path | None
    evidence: Path | None
    why: list[str]

    def file(self, name: str) -> Path | None:
        """A file of the artifact, if it has it."""
        return self.artifact / name if self.artifact and (self.artifact / name).exists() else None

    def evidence_files(self, pattern: str) -> list[Path]:
        """Files of the evidence, sorted."""
        return sorted(self.evidence.glob(pattern)) if self.evidence else []


def finished(stages: list[StageView], *names: str) -> list[StageView]:
    """The finished stages of these kinds, in line order."""
    return [stage for stage in stages if stage.artifact and stage.stage in names]


def funnel(stages: list[StageView]) -> list[dict[str, Any]]:
    """Rows in, out and dropped by reason (largest first) of each data stage, with shares of the largest input."""
    rows = [
        {"id": stage.id, **stage.manifest["counts"], "dropped": _sorted(stage.manifest["counts"]["dropped"])}
        for stage in finished(stages, *_DATA_STAGES)
    ]
    largest = max((row["in"] for row in rows), default=1)
    for row in rows:
        row["share"] = row["out"] / largest
        row["dropped_share"] = (row["in"] - row["out"]) / largest
    return rows


def _sorted(reasons: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(((reason, number) for reason, number in reasons.items() if number), key=lambda item: -item[1])


def curves(stages: list[StageView]) -> list[dict[str, Any]]:
    """Per training stage: id, lines of its curve, sequence length."""
    found = []
    for stage in finished(stages, "pretrain", "extend", "anneal"):
        path = stage.file("curve.jsonl")
        if path:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found.append({"id": stage.id, "lines": lines, "training": read_json(stage.artifact / "training.json")})  # type: ignore[operator]
    return found


def forecast(stages: list[StageView]) -> dict[str, Any] | None:
    """Pretrain's forecast (nats per token) against what was measured after a decay, if the run was scored."""
    for stage in finished(stages, "pretrain"):
        if path := stage.file("training.json"):
            training = read_json(path)
            if training.get("forecast") is not None:
                return {
                    "predicted": training["forecast"],
                    "measured": training["decayed_loss"],
                    "interval": training.get("forecast_interval"),
                    "error": training["forecast_error"],
                    "inside": training.get("forecast_inside_interval"),
                }
    return None


def scorecard(stages: list[StageView]) -> dict[str, Any] | None:
    """The scorecard of evaluate."""
    for stage in finished(stages, "evaluate"):
        return read_json(stage.artifact / "scorecard.json")  # type: ignore[operator]
    return None


def align_steps(stages: list[StageView]) -> list[dict[str, Any]]:
    """Verified accuracy with its interval by step of align."""
    for stage in finished(stages, "align"):
        return read_json(stage.artifact / "steps.json")  # type: ignore[operator]
    return []


def waivers(stages: list[StageView]) -> list[tuple[str, str]]:
    """(stage, sentence) of every gate that was not passed and let through; release only repeats them."""
    return [
        (stage.id, text) for stage in stages if stage.stage != "release" for text in stage.manifest.get("waivers", [])
    ]


def scaling_plots(stages: list[StageView]) -> list[tuple[str, str, Path]]:
    """(stage, title, file) of the figures that scaling drew."""
    return [
        (stage.id, path.stem.replace("-", " ").replace("_", " "), path)
        for stage in finished(stages, "scaling")
        for path in stage.evidence_files("report/*.svg")
    ]


def growths(stages: list[StageView]) -> list[dict[str, Any]]:
    """Per extend: id, its gates.json, and the figure that it drew of the facts found before and after each step."""
    return [
        {
            "id": stage.id,
            "gates": read_json(path),
            "figure": next(iter(stage.evidence_files("report/needle.svg")), None),
        }
        for stage in finished(stages, "extend")
        if (path := stage.file("gates.json"))
    ]


def expert_loads(stages: list[StageView]) -> list[dict[str, Any]]:
    """Per checkpoint of a mixture of experts: id, and its experts.json."""
    return [
        {"id": stage.id, **read_json(path)}
        for stage in finished(stages, "pretrain", "extend", "anneal")
        if (path := stage.file("experts.json"))
    ]


def samples(stages: list[StageView]) -> list[dict[str, str]]:
    """A dropped document for the most frequent reasons of each data stage, and two that reached the corpus."""
    found: list[dict[str, str]] = []
    for stage in finished(stages, "clean", "dedup", "curate"):
        reasons = [reason for reason, _ in _sorted(stage.manifest["counts"]["dropped"])[:3]]
        found += [{"where": f"dropped by {stage.id}: {row['reason']}", **row} for row in _dropped(stage, reasons)]
    for stage in finished(stages, "curate"):
        for shard in sorted((stage.artifact / "documents").glob("*.parquet"))[:1]:  # type: ignore[operator]
            rows = pq.read_table(shard, columns=["url", "text"]).to_pylist()
            for row in rows[:: max(1, len(rows) // 2)][:2]:
                found.append({"where": "kept in the corpus", **_shortened(row)})
    return found


def _dropped(stage: StageView, reasons: list[str]) -> list[dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for shard in stage.evidence_files("dropped/*.parquet"):
        columns = [name for name in ("url", "reason", "text") if name in pq.read_schema(shard).names]
        for row in pq.read_table(shard, columns=columns).to_pylist():
            if row["reason"] in reasons and row["reason"] not in rows:
                rows[row["reason"]] = _shortened(row)
        if len(rows) == len(reasons):
            break
    return [rows[reason] for reason in reasons if reason in rows]


def _shortened(row: dict[str, Any]) -> dict[str, str]:
    text = row.get("text") or ""
    more = " …" if len(text) > _SAMPLE_CHARACTERS else ""
    return {key: value for key, value in row.items() if key != "text"} | {"text": text[:_SAMPLE_CHARACTERS] + more}
