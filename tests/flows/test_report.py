import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelmill.flows.expert_plots import relative_loads
from modelmill.flows.report import StageView, write_report
from modelmill.tasks.extend.report import write_needle_figure
from modelmill.tasks.files import read_json, write_json

RECORD = {"name": "tiny", "recipe": {"description": "a small line"}, "time": 1.7e9, "links": {}}


def view(folder: Path, stage: str, **changes: Any) -> StageView:
    """A finished stage with an artifact folder and a manifest, as the runner leaves them."""
    artifact = folder / stage
    artifact.mkdir(parents=True, exist_ok=True)
    counts = {"in": 10, "out": 7, "unit": "documents", "dropped": {"too_short": 2, "language": 1}}
    manifest = {"counts": counts, "waivers": [], "why": ["build", "never built"]} | changes
    return StageView(
        stage, stage, "build", "k" * 64, "d" * 64, 1.5, 10**8, manifest, artifact, artifact, ["never built"]
    )


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


def extend(folder: Path) -> StageView:
    """A checkpoint of a mixture of experts that grew once."""
    stage = view(folder, "extend", waivers=["gate waived: needle at 512 tokens: 20% of the facts found"])
    needle = [{"length": n, "depth": d, "accuracy": 0.5} for n in (256, 512) for d in (0.0, 1.0)]
    ruler = [{"task": task, "length": 512, "accuracy": 0.25} for task in ("multi_key", "common_words")]
    step = {"sequence_length": 512, "short": {"bits_per_byte": 2.1, "limit": 2.2}, "ruler": ruler}
    step |= {"needle": {"accuracy": 0.2, "limit": 1.0, "grid": needle}}
    gates = {"before": {"needle": needle, "ruler": ruler[:1]}, "steps": [step], "waivers": []}
    write_json(folder / "extend" / "gates.json", gates)
    write_needle_figure(folder / "extend" / "report" / "needle.svg", gates)
    lines = [
        {"step": n, "tokens": 5120 * n, "loss": 5.0, "learning_rate": 1e-3, "max_violation": 1.5 - n / 4}
        | {"max_violation_by_layer": [1.0 - n / 4, 2.0 - n / 4]}
        for n in (1, 2)
    ]
    (folder / "extend" / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    training = {"sequence_length": 512, "validation_loss_before": 5.3, "validation_loss": 5.3}
    write_json(folder / "extend" / "training.json", training)
    domains = {
        "prose": {"tokens": 300, "load": [[1.0, 0.5, 0.5], [2.0, 0.0, 0.0]]},
        "code": {"tokens": 100, "load": [[0.0, 1.0, 1.0], [2.0, 0.0, 0.0]]},
    }
    write_json(folder / "extend" / "experts.json", {"domains": domains, "max_violation": 1.25})
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
    makers = (clean, scaling, pretrain, extend, align, evaluate)
    html = page([make(tmp_path) for make in makers], tmp_path)
    assert "Forecast after decay: <b>3.160</b> (3.000 to 3.300)" in html
    assert "Measured: <b>3.200</b>, +1.3 %, inside the interval" in html
    assert "1,066,112 parameters" in html
    assert "E = 0" in html
    assert "gate waived: needle at 512 tokens" in html
    assert "too short 2" in html
    assert "Held-out loss went from 7.60 to 5.30" in html
    assert "<td>after 512</td>" in html and '<td class="n">25%</td>' in html
    assert "MaxVio 1.25 of all held-out tokens" in html
    assert "went from 10.0% (5.0% to 15.0%) to 60.0%" in html
    assert not re.search(r'(?:src|href)="(?!data:)', html), "no file beside the page, no network"


def test_figures_stand_under_their_own_heading(tmp_path: Path) -> None:
    html = page([pretrain(tmp_path), extend(tmp_path)], tmp_path)
    sections = {part.partition("</h2>")[0]: part for part in html.split("<h2>")[1:]}
    assert {name: part.count("<img") for name, part in sections.items()} == {
        "Stages": 0,
        "Scaling: the forecast and the outcome": 0,
        "Training, all stages": 1,
        "Mixture of experts: who gets the tokens": 2,
        "Long context": 1,
    }


def test_maps_of_experts_are_relative_to_an_even_share(tmp_path: Path) -> None:
    extend(tmp_path)
    loads = relative_loads(read_json(tmp_path / "extend" / "experts.json")["domains"])
    assert list(loads) == ["all domains", "code", "prose"]
    assert loads["prose"][0].tolist() == [1.5, 0.75, 0.75]
    assert loads["all domains"].tolist() == [pytest.approx([1.125, 0.9375, 0.9375]), [3, 0, 0]]


def test_text_of_documents_is_never_markup(tmp_path: Path) -> None:
    html = page([clean(tmp_path)], tmp_path)
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html


@pytest.mark.parametrize("make", [clean, scaling, pretrain, extend, align, evaluate])
def test_each_section_stands_alone(make: Any, tmp_path: Path) -> None:
    assert "<h2>Stages</h2>" in page([make(tmp_path)], tmp_path)


def test_run_without_a_forecast_says_nothing_about_it(tmp_path: Path) -> None:
    assert "Forecast after decay" not in page([pretrain(tmp_path, scored=False)], tmp_path)


def test_stage_that_was_not_reached_is_listed(tmp_path: Path) -> None:
    waiting = StageView("release", "release", "waiting", "", "", None, None, {}, None, None, [])
    html = page([waiting], tmp_path)
    assert "<b>release</b>" in html
    assert "waiting" in html
    assert "Scorecard" not in html
