"""The training stages and the steps of align on two gloo processes, started once: what one process finds and writes."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from modelmill.tasks.align.chat import open_chat_format, write_examples
from modelmill.tasks.align.config import Config as AlignConfig
from modelmill.tasks.align.config import PreferenceConfig, RewardConfig, SupervisedConfig
from modelmill.tasks.align.pairs import Pair, Reply
from modelmill.tasks.align.preference import train_preference
from modelmill.tasks.align.records import write_pairs, write_replies
from modelmill.tasks.align.reward import train_reward
from modelmill.tasks.align.stage import check_steps
from modelmill.tasks.align.supervised import train_supervised
from modelmill.tasks.anneal.config import Config as AnnealConfig
from modelmill.tasks.anneal.stage import anneal
from modelmill.tasks.errors import RecipeError
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
from modelmill.tasks.verify.problems import problem_set
from tests.tasks.align.tiny import write_model, write_tokenizer
from tests.tasks.lm.gloo_processes import on_processes
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


def aligned(layout: Layout, base: Path, data: Path, folder: Path, batch_pairs: int = 3) -> None:
    """A supervised step, a reward model and a preference step, each on the model in `base`.

    Three pairs a batch: of two processes one has one of them and the other's second one, which it leaves out.
    """
    common = {"seed": 1, "device": "cpu", "journal": journal(folder), "layout": layout, "start": base}
    tokenizer, pairs = data / "tokenizer", data / "pairs.parquet"
    records = {
        "supervised": train_supervised(
            tokenizer=tokenizer,
            examples=data / "examples.parquet",
            output=folder / "supervised",
            config=SupervisedConfig(learning_rate=1e-3, batch_tokens=512, sequence_length=128),
            workspace=folder / "work" / "sft",
            label="sft",
            **common,
        ),
        "reward": train_reward(
            pairs=[pairs],
            replies=data / "replies.parquet",
            output=folder / "reward.safetensors",
            rewards=folder / "rewards.json",
            config=RewardConfig(learning_rate=1e-3, batch_pairs=batch_pairs),
            workspace=folder / "work" / "reward",
            label="reward",
            **common,
        ),
        "preference": train_preference(
            tokenizer=tokenizer,
            pairs=pairs,
            formatting=[5],
            output=folder / "preference",
            config=PreferenceConfig(learning_rate=1e-3, batch_pairs=batch_pairs, average_with_start=0.25),
            workspace=folder / "work" / "dpo",
            label="dpo",
            **common,
        ),
    }
    if not dist.is_initialized() or dist.get_rank() == 0:
        (folder / "records.json").write_text(json.dumps(records))


Stage = Callable[[Layout, Path, Path, Path], None]
"""(layout, model or checkpoint, data, folder to write to)."""

RUNS: dict[str, tuple[Stage, str]] = {
    "pretrain": (pretrained_with_branch, "fit"),
    "extend-dense": (extended, "dense"),
    "extend-moe": (extended, "moe"),
    "anneal-moe": (annealed, "moe"),
    "extend-untied": (extended, "untied"),
    "anneal-untied": (annealed, "untied"),
    "align": (aligned, "chat"),
    "align-moe": (partial(aligned, batch_pairs=4), "chat-moe"),
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
    ("align", Layout(data_shard=2)),
    ("align", Layout(data_replicate=2)),
    ("align", Layout(context=2)),
    ("align", Layout(tensor=2)),
    ("align-moe", Layout(data_shard=2, expert=2)),
    ("align-moe", Layout(context=2)),
    ("align-moe", Layout(tensor=2)),
]
OF_ALIGN = [case for case in CASES if case[0].startswith("align")]
OF_STAGES = [case for case in CASES if case not in OF_ALIGN]


def place_of(part: str | Layout) -> str | None:
    return None if isinstance(part, str) else "-".join(part.model_dump(exclude_defaults=True))


def place(run: str, layout: Layout) -> str:
    return f"{run}-{place_of(layout)}"


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
        "chat": chat_inputs(folder / "chat"),
        "chat-moe": chat_inputs(folder / "chat-moe", experts=EXPERTS, tie_embeddings=False),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for run, (function, kind) in RUNS.items():
        function(ALONE, *inputs[kind], folder / "alone" / run)
    torch.set_num_threads(threads)
    on_processes(2, run_cases, folder, inputs, folder / "two")
    return folder


def chat_inputs(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """A chat model, and the folder of examples, pairs, replies and tokenizer."""
    chat = open_chat_format(write_tokenizer(folder / "tokenizer"))
    base = write_model(folder / "model", folder / "tokenizer", num_kv_heads=2, **changes)
    problems = problem_set("train", 12, seed=0, families=["edits"])
    prompts = chat.prompts([problem.prompt for problem in problems])
    write_examples(
        folder / "examples.parquet", chat.examples([p.prompt for p in problems], [p.answer for p in problems])
    )
    good, bad = ([*chat.tokenizer.encode(text), chat.end_of_turn] for text in ("4", "seven"))
    pairs = [Pair(number, prompt, good, bad, False) for number, prompt in enumerate(prompts)]
    write_pairs(folder / "pairs.parquet", problems, pairs)
    replies = [Reply(pair.problem, pair.prompt, reply, "", True) for pair in pairs[:5] for reply in (good, bad)]
    write_replies(folder / "replies.parquet", problems, replies)
    return base, folder


@pytest.mark.parametrize(("run", "layout"), OF_STAGES, ids=place_of)
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


@pytest.mark.parametrize(("run", "layout"), OF_ALIGN, ids=place_of)
def test_the_steps_of_align_on_two_processes_are_one_process_s(folder: Path, run: str, layout: Layout) -> None:
    alone, two = folder / "alone" / run, folder / "two" / place(run, layout)
    assert values(two / "records.json") == near(values(alone / "records.json"))
    assert read_json(two / "rewards.json") == pytest.approx(read_json(alone / "rewards.json"), abs=2e-4)
    for file in ("supervised/model.safetensors", "preference/model.safetensors", "reward.safetensors"):
        same_tensors(two / file, alone / file)


def test_layouts_that_a_stage_cannot_use_are_refused_before_it_runs(folder: Path) -> None:
    dense, moe = folder / "dense" / "output" / "model", folder / "moe" / "output" / "model"
    values = {"difficulty": 1, "instructions": 1, "sampling": {"prompts": 1}, "preference": {"batch_pairs": 3}}
    config = AlignConfig.model_validate(values | {"rejection": {"sequence_length": 127}})
    check_steps(config, Layout(data_shard=2), dense)
    with pytest.raises(RecipeError, match="layout has pipeline: 2; align cuts models along every dimension but"):
        check_steps(config, Layout(pipeline=2), dense)
    with pytest.raises(RecipeError, match="num_kv_heads 1; expected a divisor"):
        check_steps(config, Layout(tensor=2), dense)
    with pytest.raises(RecipeError, match=r"preference\.batch_pairs is 3, and the layout has 2 processes"):
        check_steps(config, Layout(data_shard=2), moe)
    with pytest.raises(RecipeError, match=r"rejection\.sequence_length is 127, and the layout has 2 processes"):
        check_steps(config, Layout(context=2), dense)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def values(path: Path) -> dict[str, Any]:
    """All values in a JSON file or one of JSON lines, by where they stand."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return {f"{number}{name}": value for number, line in enumerate(lines) for name, value in leaves(json.loads(line))}


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in leaves(each, f"{name}.{key}")]
    if isinstance(value, list):
        return [leaf for number, each in enumerate(value) for leaf in leaves(each, f"{name}.{number}")]
    return [(name, value)]


def near(found: dict[str, Any]) -> dict[str, Any]:
    return {name: pytest.approx(v, rel=1e-5) if isinstance(v, float) else v for name, v in found.items()}


def same_tensors(many: Path, alone: Path) -> None:
    tensors, expected = load_file(many), load_file(alone)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor - expected[name]).abs().mean() < 1e-5, name


def notes_and_figures(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "journal.jsonl", 0)[0] if event["kind"] != "progress"]
