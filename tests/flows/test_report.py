import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelmill.flows.report import StageView, write_report
from modelmill.tasks.files import write_json

RECORD = {"name": "tiny", "recipe": {"description": "a small line"}, "time": 1.7e9, "links": {}}


def view(folder: Path, stage: str, **changes: Any) -> StageView:
    """A finished stage with an artifact folder and a manifest, as the runner leaves them."""
    artifact = folder / stage
    artifact.mkdir(parents=True, exist_ok=True)
    counts = {"in": 10, "out": 7, "unit": "documents", "dropped": {"too_short": 2, "language": 1}}
    manifest = {"counts": counts, "waivers": [], "why": ["build", "never built"]} | changes
    return StageView(stage, stage, "build", "k" * 64, "d" * 64, 1.5, 10**8, manifest, artifact, ["never built"])


def scaling(folder: Path) -> StageView:
    stage = view(folder, "scaling")
    choice = {"parameters": 1_066_112, "tokens": 625_664, "learning_rate": 2.7e-3}
    fit = {"choice": choice, "budget_flops": 4e12, "choice_limited_by": "Inside the bounds.", "cautions": ["E = 0"]}
    write_json(folder / "scaling" / "fit.json", fit)
    return stage


def pretrain(folder: Path, scored: bool = True) -> StageView:
    stage, training = view(folder, "pretrain"), {"sequence_length": 256, "decayed_loss": 3.2, "stable_loss": 3.3}
    training |= {"validation_loss_before": 7.6, "validation_loss": 5.3}
    if scored:
        interval = {"forecast_interval": [3.0, 3.3], "forecast_inside_interval": True}
        training |= {"forecast": 3.16, "forecast_error": 3.2 / 3.16 - 1} | interval
    write_json(folder / "pretrain" / "training.json", training)
    lines = [
        {"step": 0, "tokens": 0, "validation_loss": 7.6},
        {"step": 10, "tokens": 10_240, "loss": 6.1, "learning_rate": 2e-3, "grad_norm": 1.0},
        {"step": 20, "tokens": 20_480, "loss": 5.2, "learning_rate": 2e-3, "grad_norm": 1.0},
        {"step": 20, "tokens": 20_480, "validation_loss": 5.3},
    ]
    (folder / "pretrain" / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return stage


def evaluate(folder: Path) -> StageView:
    stage = view(folder, "evaluate")
    cells = [{"length": n, "depth": d, "accuracy": 0.5} for n in (256, 512) for d in (0.0, 1.0)]
    verified = {"accuracy": 0.4, "low": 0.3, "high": 0.5, "n": 100}
    model = {"id": "pretrain", "bits_per_byte": {"all": 2.1, "python": 2.0}, "verified": verified, "needle": cells}
    write_json(folder / "evaluate" / "scorecard.json", {"models": [model]})
    return stage


def clean(folder: Path) -> StageView:
    stage = view(folder, "clean")
    for part in ("dropped", "documents"):
        (folder / "clean" / part).mkdir()
    rows = {"url": ["http://a/"], "reason": ["too_short"], "text": ["<script>alert(1)</script>"]}
    pq.write_table(pa.table(rows), folder / "clean" / "dropped" / "part-00000.parquet")
    return stage


def align(folder: Path) -> StageView:
    stage = view(folder, "align")
    steps = [
        {"step": name, "accuracy": value, "low": value - 0.05, "high": value + 0.05, "n": 200}
        for name, value in (("base", 0.1), ("sft-1", 0.5), ("dpo-1", 0.6))
    ]
    write_json(folder / "align" / "steps.json", steps)
    return stage


def page(stages: list[StageView], folder: Path) -> str:
    return write_report(stages, folder / "report.html", RECORD).read_text(encoding="utf-8")


def test_whole_line_is_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    extend = view(tmp_path, "extend", waivers=["gate waived: needle at 512 tokens: 20% of the facts found"])
    makers = (clean, scaling, pretrain, align, evaluate)
    html = page([*(make(tmp_path) for make in makers), extend], tmp_path)
    assert "Forecast after decay: <b>3.160</b> (3.000 to 3.300)" in html
    assert "Measured: <b>3.200</b>, +1.3 %, inside the interval" in html
    assert "1,066,112 parameters" in html
    assert "E = 0" in html
    assert "gate waived: needle at 512 tokens" in html
    assert "too short 2" in html
    assert "Held-out loss went from 7.60 to 5.30" in html
    assert "went from 10.0% (5.0% to 15.0%) to 60.0%" in html
    assert not re.search(r'(?:src|href)="(?!data:)', html), "no file beside the page, no network"


def test_text_of_documents_is_never_markup(tmp_path: Path) -> None:
    html = page([clean(tmp_path)], tmp_path)
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html


@pytest.mark.parametrize("make", [clean, scaling, pretrain, align, evaluate])
def test_each_section_stands_alone(make: Any, tmp_path: Path) -> None:
    assert "<h2>Stages</h2>" in page([make(tmp_path)], tmp_path)


def test_run_without_a_forecast_says_nothing_about_it(tmp_path: Path) -> None:
    assert "Forecast after decay" not in page([pretrain(tmp_path, scored=False)], tmp_path)


def test_stage_that_was_not_reached_is_listed(tmp_path: Path) -> None:
    waiting = StageView("release", "release", "waiting", "", "", None, None, {}, None, [])
    html = page([waiting], tmp_path)
    assert "<b>release</b>" in html
    assert "waiting" in html
    assert "Scorecard" not in html
