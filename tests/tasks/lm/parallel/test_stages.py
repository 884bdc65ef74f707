"""The training stages on two gloo processes, started once: what one process finds and writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modelmill.tasks.anneal.config import Config as AnnealConfig
from modelmill.tasks.anneal.stage import anneal
from modelmill.tasks.extend.config import Config as ExtendConfig
from modelmill.tasks.extend.stage import grow
from modelmill.tasks.files import read_json
from modelmill.tasks.journal import Journal, read_events
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.pretrain.config import Config as PretrainConfig
from modelmill.tasks.pretrain.resolve import resolve
from modelmill.tasks.pretrain.stage import train_base
from tests.tasks.lm.gloo_processes import on_processes
from tests.tasks.lm.parallel.compare import near, place, place_of, same_tensors, values
from tests.tasks.lm.tiny_stages import pretrained, write_fit

ALONE = Layout()
# A gradient near zero is all rounding, and an epsilon far below it would make a whole step of that.
ADAM = {"eps": 1e-4}
EXPERTS = {"num_routed": 4, "num_shared": 1, "top_k": 2, "intermediate_size": 16}
SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 48}
EXTEND = ExtendConfig.model_validate(
    {
        "steps": [
            {"sequence_length": 128, "rope_theta": 4e4, "total_tokens": 1024},
            {"sequence_length": 256, "total_tokens": 1024},
        ],
        "needles": {"sentence": "{key} is {value}.", "keys": ["red", "oven", "mill", "stone"], "num_digits": 1},
        "gates": {
            "on_failure": "waive",
            "num_samples": 2,
            "ruler_samples": 1,
            "depths": [0.0, 1.0],
            "short_tolerance": "noise",
        },
        "learning_rate": 2e-3,
        "validation_tokens_per_domain": 256,
        "optimizer": ADAM,
        "train": {"log_every_steps": 1},
    }
)
PRETRAIN = PretrainConfig.model_validate({"optimizer": ADAM, "train": {"log_every_steps": 1}})
INTERLEAVED = PipelineConfig(schedule="interleaved-1f1b", num_chunks=2)
ANNEAL = AnnealConfig.model_validate(
    {
        "total_tokens": 1536,
        "batch_tokens": 256,
        "learning_rate": 2e-3,
        "average_checkpoints": 3,
        "average_share": 0.5,
        "keep": "average",
        "validation_tokens_per_domain": 256,
        "optimizer": ADAM,
        "train": {"log_every_steps": 1},
    }
)


def pretrained_with_branch(layout: Layout, fit: Path, tokens: Path, folder: Path) -> None:
    resolved = resolve(PRETRAIN, read_json(fit / "fit.json")["choice"], open_tokens(tokens))
    train_base(PRETRAIN, resolved, tokens, folder / "work", folder / "output", journal(folder), "cpu", layout)


def extended(layout: Layout, base: Path, tokens: Path, folder: Path) -> None:
    grow(EXTEND, base, tokens, folder / "work", folder / "output", journal(folder), "cpu", layout)


def annealed(layout: Layout, base: Path, tokens: Path, folder: Path) -> None:
    anneal(ANNEAL, base, tokens, folder / "work", folder / "output", journal(folder), "cpu", layout)


def journal(folder: Path) -> Journal:
    return Journal(folder / "journal.jsonl")


Stage = Callable[[Layout, Path, Path, Path], None]
"""(layout, model or checkpoint, data, folder to write to)."""

RUNS: dict[str, tuple[Stage, str]] = {
    "pretrain": (pretrained_with_branch, "fit"),
    "extend-dense": (extended, "dense"),
    "extend-moe": (extended, "moe"),
    "anneal-moe": (annealed, "moe"),
    "extend-untied": (extended, "untied"),
    "anneal-untied": (annealed, "untied"),
}
CASES: list[tuple[str, Layout]] = [
    ("pretrain", Layout(data_shard=2)),
    ("extend-dense", Layout(data_shard=2)),
    ("extend-dense", Layout(data_replicate=2)),
    ("extend-moe", Layout(context=2)),
    ("extend-moe", Layout(tensor=2)),
    ("anneal-moe", Layout(data_shard=2, expert=2)),
    ("anneal-moe", Layout(data_replicate=2)),
    ("anneal-moe", Layout(tensor=2)),
    ("extend-untied", Layout(pipeline=2)),
    ("anneal-untied", Layout(pipeline=2, stages=INTERLEAVED)),
]


def run_cases(inputs: dict[str, tuple[Path, Path]], folder: Path) -> None:
    for run, layout in CASES:
        function, kind = RUNS[run]
        function(layout, *inputs[kind], folder / place(run, layout))


@pytest.fixture(scope="module")
def folder(tokens_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run by one process under `alone`, every case by two under `two`."""
    folder = tmp_path_factory.mktemp("stages")
    shape = {"shape": SIZES | {"experts": EXPERTS}}
    inputs = {
        "fit": (write_fit(folder / "fit").path, tokens_folder),
        "dense": (pretrained(tokens_folder, folder / "dense").path, tokens_folder),
        "moe": (pretrained(tokens_folder, folder / "moe", **shape).path, tokens_folder),
        "untied": (pretrained(tokens_folder, folder / "untied", **shape, tie_embeddings=False).path, tokens_folder),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for run, (function, kind) in RUNS.items():
        function(ALONE, *inputs[kind], folder / "alone" / run)
    torch.set_num_threads(threads)
    on_processes(2, run_cases, folder, inputs, folder / "two")
    return folder


@pytest.mark.parametrize(("run", "layout"), CASES, ids=place_of)
def test_a_stage_on_two_processes_is_one_process_s(folder: Path, run: str, layout: Layout) -> None:
    alone, two = folder / "alone" / run, folder / "two" / place(run, layout)
    assert files(two / "output") == files(alone / "output")
    for file in ("training.json", "curve.jsonl", "gates.json", "experts.json"):
        if (alone / "output" / file).exists():
            assert values(two / "output" / file) == near(values(alone / "output" / file)), file
    for file in (alone / "output" / "model").glob("*.json"):
        assert read_json(two / "output" / "model" / file.name) == read_json(file)
    same_tensors(two / "output" / "model" / "model.safetensors", alone / "output" / "model" / "model.safetensors")
    same_tensors(two / "output" / "optimizer.safetensors", alone / "output" / "optimizer.safetensors")
    assert len(notes_and_figures(two)) == len(notes_and_figures(alone)), "only the first process writes the journal"


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def notes_and_figures(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "journal.jsonl", 0)[0] if event["kind"] != "progress"]
