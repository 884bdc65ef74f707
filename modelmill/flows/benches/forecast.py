"""A folder of texts → how far the scaling stage's forecast lies from a run of 8 times its largest proxy's compute.

The stages are run one after another: tokenize, scaling, pretrain. Nothing is typed in between. The run has one thread,
as each proxy has. A folder keeps the artifacts, and a second call goes on. Wall times count: run it on a quiet machine.
"""

import importlib
import time
from pathlib import Path
from typing import Any, NoReturn

from matplotlib.figure import Figure

from modelmill.flows.benches.forecast_corpus import write_corpus
from modelmill.services.compute import Compute, ComputeConfig
from modelmill.tasks.errors import MillError
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.settings import InitialisationConfig, TrainSettings
from modelmill.tasks.pretrain.config import Config as PretrainConfig
from modelmill.tasks.scaling.config import Config as ScalingConfig
from modelmill.tasks.scaling.plots import COLOURS
from modelmill.tasks.stage import Artifact, StageConfig, StageContext
from modelmill.tasks.tokenize.config import Config as TokenizeConfig

_INITIALISATION = InitialisationConfig(std=0.05, mup_base_width=128)
TOKENIZE = TokenizeConfig(vocab_size=1024, sample_megabytes=8)
# Sizes of one family of shapes (two to four layers of 64 to 96) and no run below 450 steps: shorter ones end on the way
# to their law, deeper ones of width 32 lie beside their neighbours' (3.8 % in a first sweep with both).
SCALING = ScalingConfig(
    sweep_flops=1.4e13,
    budget_flops=2.5e13,  # 8.2 times the largest proxy
    sequence_length=128,
    batch_tokens=512,
    num_sizes=4,
    size_ratio=4.0,
    tokens_per_parameter=4.0,
    learning_rates=(1e-3, 2e-3, 4e-3, 8e-3),
    initialisation=_INITIALISATION,
    validation_tokens_per_domain=32_768,
)
PRETRAIN = PretrainConfig(
    decay_share=SCALING.decay_share,
    initialisation=_INITIALISATION,
    train=TrainSettings(num_pieces=1, num_threads=1),
)


def measure(
    source: Path,
    home: Path,
    tokenize: TokenizeConfig = TOKENIZE,
    scaling: ScalingConfig = SCALING,
    pretrain: PretrainConfig = PRETRAIN,
    workers: int = 1,
) -> dict[str, Any]:
    """Forecast and outcome in nats per token, what both cost in FLOPs and seconds; a figure in `home`.

    workers: proxies at a time, each on a core.
    """
    if not (home / "corpus" / "mixture.json").exists():
        write_corpus(source, home / "corpus")
    seconds = {
        "tokenize": _stage("tokenize", tokenize, {"corpus": "corpus"}, home, workers),
        "scaling": _stage("scaling", scaling, {"tokens": "tokenize"}, home, workers),
        "pretrain": _stage("pretrain", pretrain, {"tokens": "tokenize", "fit": "scaling"}, home, workers),
    }
    fit, runs = (read_json(home / "scaling" / "output" / name) for name in ("fit.json", "runs.json"))
    training = read_json(home / "pretrain" / "output" / "training.json")
    _draw(home / "forecast.svg", runs, training, fit["choice"]["flops"])
    return {
        "forecast": training["forecast"],
        "interval": training["forecast_interval"],
        "measured": training["decayed_loss"],
        "error": training["forecast_error"],
        "compute_of_largest_proxy": fit["choice"]["compute_of_largest_proxy"],
        "sweep_flops": sum(fit["flops_by_experiment"].values()),
        "law_noise": fit["law"]["relative_noise"],
        "workers": workers,
        "seconds": seconds,
    }


def _draw(path: Path, runs: list[dict[str, Any]], training: dict[str, Any], flops: float) -> None:
    """Losses against compute: dots are proxies, the bar is the forecast with its interval, the star is the outcome."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, size in enumerate(sorted({run["parameters"] for run in runs})):
        points = sorted((run["flops"], run["loss"]) for run in runs if run["parameters"] == size)
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[number], linewidth=1, label=f"{size / 1e6:.2f}M")
    low, high = training["forecast_interval"]
    value = training["forecast"]
    axes.errorbar(flops, value, [[value - low], [high - value]], color="0.5", marker="_", capsize=4, label="forecast")
    axes.plot(flops, training["decayed_loss"], "*", color="black", markersize=10, label="measured")
    axes.set(xscale="log", xlabel="FLOPs", ylabel="validation loss (nats per token)", title="Forecast and outcome")
    axes.legend(frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _stage(name: str, config: StageConfig, inputs: dict[str, str], home: Path, workers: int) -> float:
    """Run a stage unless its output is there; seconds that it took."""
    folder, record = home / name, home / name / "seconds.json"
    if record.exists():
        return read_json(record)
    journal = Journal(folder / "journal.jsonl")
    backend = "process" if workers == 1 else "ray"
    compute = Compute(ComputeConfig(backend=backend, workers=workers, device="cpu"), folder)
    paths = {type: home / stage / ("" if type == "corpus" else "output") for type, stage in inputs.items()}
    context = StageContext(
        config=config,
        inputs={type: [Artifact(type, path, "", inputs[type], {})] for type, path in paths.items()},
        workspace=folder,
        output=folder / "output",
        pool=compute.pool(folder, journal),
        journal=journal,
        sampler=_no_sampler,
    )
    entry: Any = importlib.import_module(f"modelmill.tasks.{name}.stage")
    before = time.monotonic()
    try:
        entry.run(context)
    finally:
        compute.stop()
    write_json(record, time.monotonic() - before)
    return read_json(record)


def _no_sampler() -> NoReturn:
    raise MillError("the stages of this bench sample nothing")
