"""The steps of align on two gloo processes: what one process finds and writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from modelmill.tasks.align.chat import open_chat_format, write_examples
from modelmill.tasks.align.config import Config, PreferenceConfig, RewardConfig, SupervisedConfig
from modelmill.tasks.align.pairs import Pair, Reply
from modelmill.tasks.align.preference import train_preference
from modelmill.tasks.align.records import write_pairs, write_replies
from modelmill.tasks.align.reward import train_reward
from modelmill.tasks.align.stage import check_steps
from modelmill.tasks.align.supervised import train_supervised
from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import read_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.verify.problems import problem_set
from tests.tasks.align.tiny import write_model, write_tokenizer
from tests.tasks.lm.gloo_processes import on_processes
from tests.tasks.lm.parallel.compare import near, place, place_of, same_tensors, values

EXPERTS = {"num_routed": 4, "num_shared": 1, "top_k": 2, "intermediate_size": 16}
# Three pairs a batch: of two processes one has one of them and the other's second one, which it leaves out. Experts
# want an even number.
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "dense": ({}, 3),
    "untied": ({"tie_embeddings": False}, 3),
    "moe": ({"tie_embeddings": False, "experts": EXPERTS}, 4),
}
CASES: list[tuple[str, Layout]] = [
    ("dense", Layout(data_shard=2)),
    ("dense", Layout(data_replicate=2)),
    ("dense", Layout(context=2)),
    ("dense", Layout(tensor=2)),
    ("untied", Layout(pipeline=2)),
    ("moe", Layout(data_shard=2, expert=2)),
    ("moe", Layout(context=2)),
    ("moe", Layout(tensor=2)),
    ("moe", Layout(pipeline=2, stages=PipelineConfig(schedule="interleaved-1f1b", num_chunks=2))),
]


def write_inputs(folder: Path, changes: dict[str, Any]) -> None:
    """A model, its tokenizer, examples, pairs and replies."""
    chat = open_chat_format(write_tokenizer(folder / "tokenizer"))
    write_model(folder / "model", folder / "tokenizer", num_kv_heads=2, **changes)
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


def aligned(layout: Layout, data: Path, folder: Path, batch_pairs: int) -> None:
    """A supervised step, a reward model and a preference step, each on the model in `data`."""
    journal = Journal(folder / "journal.jsonl")
    common = {"seed": 1, "device": "cpu", "journal": journal, "layout": layout, "start": data / "model"}
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


def run_cases(folder: Path) -> None:
    for kind, layout in CASES:
        aligned(layout, folder / kind, folder / "two" / place(kind, layout), MODELS[kind][1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs by the kind of model, every kind by one process under `alone`, every case by two under `two`."""
    folder = tmp_path_factory.mktemp("steps")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind, (changes, batch_pairs) in MODELS.items():
        write_inputs(folder / kind, changes)
        aligned(Layout(), folder / kind, folder / "alone" / kind, batch_pairs)
    torch.set_num_threads(threads)
    on_processes(2, run_cases, folder, folder)
    return folder


@pytest.mark.parametrize(("kind", "layout"), CASES, ids=place_of)
def test_the_steps_of_align_on_two_processes_are_one_process_s(folder: Path, kind: str, layout: Layout) -> None:
    alone, two = folder / "alone" / kind, folder / "two" / place(kind, layout)
    assert values(two / "records.json") == near(values(alone / "records.json"))
    assert read_json(two / "rewards.json") == pytest.approx(read_json(alone / "rewards.json"), abs=2e-4)
    for file in ("supervised/model.safetensors", "preference/model.safetensors", "reward.safetensors"):
        same_tensors(two / file, alone / file)


def test_layouts_that_a_stage_cannot_use_are_refused_before_it_runs(folder: Path) -> None:
    dense, moe, untied = (folder / kind / "model" for kind in ("dense", "moe", "untied"))
    values = {"difficulty": 1, "instructions": 1, "sampling": {"prompts": 1}, "preference": {"batch_pairs": 3}}
    config = Config.model_validate(values | {"rejection": {"sequence_length": 127}})
    check_steps(config, Layout(data_shard=2), dense)
    with pytest.raises(RecipeError, match="found tie_embeddings with a pipeline"):
        check_steps(config, Layout(pipeline=2), dense)
    with pytest.raises(RecipeError, match=r"preference\.batch_pairs is 3: found 3 rows .* and 2 rows in a micro-batch"):
        check_steps(config, Layout(pipeline=2, stages=PipelineConfig(micro_batch_rows=4)), untied)
    with pytest.raises(RecipeError, match="num_heads 2; expected a divisor"):
        check_steps(config, Layout(tensor=4), dense)
    with pytest.raises(RecipeError, match=r"preference\.batch_pairs is 3, and the layout has 2 processes"):
        check_steps(config, Layout(data_shard=2), moe)
    with pytest.raises(RecipeError, match=r"rejection\.sequence_length is 127, and the layout has 2 processes"):
        check_steps(config, Layout(context=2), dense)
