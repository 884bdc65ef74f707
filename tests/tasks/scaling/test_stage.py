import json
from pathlib import Path

import pytest

from modelmill.services.compute import RecordedPool
from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import file_digest, read_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.scaling.config import Config
from modelmill.tasks.scaling.stage import run
from modelmill.tasks.stage import Artifact, StageContext, StageResult

TINY = Config(
    budget_flops=4e10,
    sweep_flops=2e10,
    sequence_length=64,
    batch_tokens=128,
    num_sizes=3,
    budget_ratio=1.5,
    size_ratio=2.0,
    tokens_per_parameter=0.1,
    learning_rates=(4e-3, 8e-3, 1.6e-2),
    validation_tokens_per_domain=2048,
    max_parameters=200_000,
    bootstrap_copies=20,
)


def context(config: Config, tokens: Path, pool: RecordedPool, folder: Path) -> StageContext:
    artifact = Artifact("tokens", tokens, "digest", "tokenize", {})
    return StageContext(
        config=config,
        inputs={"tokens": [artifact]},
        workspace=folder,
        output=folder / "output",
        pool=pool,
        journal=Journal(folder / "journal.jsonl"),
        sampler=lambda: pytest.fail("scaling samples nothing"),
    )


@pytest.fixture
def finished(tokens_folder: Path, pool: RecordedPool, tmp_path: Path) -> tuple[StageResult, Path]:
    stage = context(TINY, tokens_folder, pool, tmp_path)
    return run(stage), stage.output


def test_sweep_gives_nine_runs_a_law_and_a_choice(
    finished: tuple[StageResult, Path], tokens_folder: Path, pool: RecordedPool, tmp_path: Path
) -> None:
    result, output = finished
    fit, runs = read_json(output / "fit.json"), read_json(output / "runs.json")
    assert result.rows_out == len(runs) == 9
    for size in {proxy["parameters"] for proxy in runs}:
        losses = [proxy["loss"] for proxy in runs if proxy["parameters"] == size]
        assert losses == sorted(losses, reverse=True), "more tokens, lower loss"
    choice = fit["choice"]
    assert max(proxy["parameters"] for proxy in runs) <= choice["parameters"] <= 200_000
    assert choice["flops"] == pytest.approx(TINY.budget_flops, rel=0.02)
    assert choice["interval"][0] < choice["predicted_loss"] < choice["interval"][1]
    assert choice["predicted_loss"] < min(proxy["loss"] for proxy in runs)
    assert choice["predicted_loss"] == min(candidate["predicted_loss"] for candidate in fit["candidates"])
    assert {path.name for path in (output / "report").iterdir()} == {"isoflop.svg", "law.svg", "learning_rate.svg"}
    assert f"{choice['parameters']:,} parameters" in result.summary

    again = context(TINY, tokens_folder, pool, tmp_path / "again")
    run(again)
    for name in ("fit.json", "runs.json", "report/isoflop.svg", "report/law.svg"):
        assert file_digest(again.output / name) == file_digest(output / name)


def test_every_experiment_is_priced_recorded_and_drawn(two_domains: Path, pool: RecordedPool, tmp_path: Path) -> None:
    suite = tmp_path / "rivers.jsonl"
    items = [{"question": f"Day {n}?", "choices": ["the river", "a boat"], "answer": n % 2} for n in range(20)]
    suite.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    asked = {
        "validation_tokens_per_domain": 512,
        "learning_rate_budgets": 2,
        "batch_sizes": (128, 192, 256),
        "batch_from_law": True,
        "transfer_widths": 2,
        "mixtures": 4,
        "suite": str(suite),
    }
    stage = context(TINY.model_copy(update=asked), two_domains, pool, tmp_path / "all")
    result = run(stage)
    fit = read_json(stage.output / "fit.json")
    assert set(fit["flops_by_experiment"]) == {
        "learning rates", "muP transfer", "mixtures", "batch sizes", "proxies"
    }  # fmt: skip
    assert result.metrics["flops"] == pytest.approx(sum(fit["flops_by_experiment"].values()))
    choice = fit["choice"]
    assert set(choice["mixture"]) == {"days", "prose"}
    assert choice["mixture"] == fit["mixture"]["weights"]
    days, prose = zip(*(run["losses"] for run in fit["mixture"]["tried"]), strict=True)
    assert max(days) < min(prose), "lists of days are easier than sentences"
    assert choice["batch_tokens"] % TINY.sequence_length == 0
    assert len(fit["batch"]["by_compute"]["curves"]) == 3
    assert len(fit["learning_rate"]["trials"]) == 2 * 3
    assert fit["suite"]["chance"] == 0.5
    assert 0 <= choice["predicted_accuracy"]["value"] <= 1
    assert fit["transfer"]["verdict"] in result.summary
    drawn = {path.stem for path in (stage.output / "report").iterdir()}
    assert drawn == {"isoflop", "law", "learning_rate", "transfer", "batch", "mixture", "suite"}


def test_bounds_that_hold_no_model_are_refused(tokens_folder: Path, pool: RecordedPool, tmp_path: Path) -> None:
    impossible = TINY.model_copy(update={"sweep_flops": 1e8})
    with pytest.raises(RecipeError, match="Raise sweep_flops"):
        run(context(impossible, tokens_folder, pool, tmp_path))


def test_recipe_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="above max_parameters"):
        Config(budget_flops=1e12, sweep_flops=1e11, min_parameters=10, max_parameters=5)
    with pytest.raises(ValueError, match="whole number of sequences"):
        Config(budget_flops=1e12, sweep_flops=1e11, batch_tokens=1000)
    with pytest.raises(ValueError, match="three different multiples"):
        Config(budget_flops=1e12, sweep_flops=1e11, batch_sizes=(512, 1024))
    with pytest.raises(ValueError, match="compares nothing"):
        Config(budget_flops=1e12, sweep_flops=1e11, transfer_widths=1)
