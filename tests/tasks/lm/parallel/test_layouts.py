"""Every dimension and pair on four gloo processes: losses, norms and states are one process's."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import read_json, remove_path
from modelmill.tasks.lm.artifact import write_expert_loads
from modelmill.tasks.lm.checkpoints import export, save_moments
from modelmill.tasks.lm.data import RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import validation_metrics, validation_set
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout, check_layout
from modelmill.tasks.lm.parallel.ranks import Ranks, join_layout
from modelmill.tasks.lm.parallel.states import state_folders
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.settings import ActivationCheckpointing, OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import Experts, ModelShape
from tests.tasks.lm.gloo_processes import on_processes
from tests.tasks.lm.parallel.compare import near_curve

DENSE = ModelShape(
    vocab_size=384,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    intermediate_size=48,
    max_sequence_length=64,
)
MOE = DENSE.model_copy(
    update={
        "num_kv_heads": 2,
        "tie_embeddings": False,
        "experts": Experts(num_routed=8, num_shared=1, top_k=2, intermediate_size=16),
    }
)
UNTIED = DENSE.model_copy(update={"tie_embeddings": False, "num_layers": 3})
# Four processes that share matrices want four key-value heads.
SHAPES = {
    "dense": DENSE,
    "untied": UNTIED,
    "moe": MOE,
    "moe with replicas": MOE,
    "moe in stages": MOE,
    "moe of four heads": MOE.model_copy(update={"num_kv_heads": 4}),
    "moe of four layers": MOE.model_copy(update={"num_layers": 4}),
}
# A gradient near zero is all rounding, and an epsilon far below it would make a whole step of that.
ADAM = OptimizerConfig(eps=1e-4)
SETTINGS = TrainSettings(log_every_steps=1, micro_batch_rows=2, checkpoint_every_steps=1)
CLIP = 0.5
CHECKPOINTING: tuple[ActivationCheckpointing, ...] = ("none", "full", "selective")
GPIPE = PipelineConfig(schedule="gpipe", micro_batch_rows=4, balance="light_ends")
CHUNKS = PipelineConfig(schedule="interleaved-1f1b", num_chunks=2)
LAYOUTS = {
    "dense": [
        Layout(data_shard=4),
        Layout(data_replicate=2, data_shard=2),
        Layout(tensor=4),
        Layout(context=4),
        Layout(data_shard=2, tensor=2),
        Layout(data_shard=2, context=2),
    ],
    "untied": [
        Layout(pipeline=4),
        Layout(pipeline=2, data_replicate=2),
        Layout(pipeline=2, data_shard=2, stages=CHUNKS),
        Layout(data_shard=4),
        Layout(pipeline=2, context=2, stages=CHUNKS),
    ],
    "moe": [
        Layout(data_shard=4),
        Layout(context=4),  # more processes than key-value heads
        Layout(data_shard=2, tensor=2),
        Layout(data_shard=2, context=2),
        Layout(context=2, tensor=2),
        Layout(data_shard=4, expert=4),
        Layout(data_shard=2, context=2, expert=2),
    ],
    "moe with replicas": [
        Layout(data_replicate=2, data_shard=2),
        Layout(data_replicate=2, data_shard=2, expert=2),
    ],
    "moe in stages": [
        Layout(pipeline=2, tensor=2, stages=GPIPE),
        Layout(pipeline=2, data_shard=2, stages=CHUNKS),
        Layout(pipeline=2, data_shard=2, expert=2),
    ],
    "moe of four heads": [Layout(tensor=4)],
    "moe of four layers": [Layout(pipeline=4)],
}


def run(
    kind: str,
    tokens_folder: Path,
    workspace: Path,
    ranks: Ranks,
    output: Path | None = None,
    checkpointing: ActivationCheckpointing = "none",
) -> list[tuple[float, ...]]:
    """Loss, gradient norm and MaxVio of each step, from the newest state in the workspace on, and held-out losses
    before and after; may write the trained model."""
    tokens = open_tokens(tokens_folder)
    model = build_model(SHAPES[kind], seed=1, special_tokens=tokens.special_tokens, ranks=ranks)
    optimizer = build_optimizer(model, ADAM)
    batches = RowBatches(document_mixture(tokens, seed=1))
    held_out = validation_set(tokens, sequence_length=64, max_tokens_per_domain=128)
    report = train(
        model,
        optimizer,
        two_steps(SHAPES[kind]),
        batches,
        SETTINGS.model_copy(update={"activation_checkpointing": checkpointing}),
        clip_norm=CLIP,
        workspace=workspace,
        validate=validation_metrics(held_out),
        ranks=ranks,
    )
    if output:
        export(model, tokens.tokenizer, output / "model", ranks)
        save_moments(output / "optimizer.safetensors", model, optimizer, ranks)
        write_expert_loads(output, model, held_out, SETTINGS, ranks)
    steps = [
        (line["loss"], line["grad_norm"], line.get("max_violation", 0.0)) for line in report.curve if "loss" in line
    ]
    return [*steps, *(tuple(figures[name] for name in sorted(figures)) for figures in (report.first, report.last))]


def two_steps(shape: ModelShape) -> Plan:
    # Six rows do not divide by four processes, which experts would not allow; who has more than two adds up
    # micro-batches.
    rows = 8 if shape.experts else 6
    return Plan(
        total_tokens=2 * 64 * rows,
        batch_tokens=64 * rows,
        sequence_length=64,
        schedule=Schedule(kind="constant", learning_rate=1e-2),
    )


def forget_last_step(workspace: Path) -> None:
    """So that the next run in the workspace continues from the state after its first step."""
    if not dist.is_initialized() or dist.get_rank() == 0:
        remove_path(state_folders(workspace)[-1])
    if dist.is_initialized():
        dist.barrier()


def run_layouts(kind: str, tokens_folder: Path, folder: Path) -> list[Any]:
    """For each layout: a whole run (two of three with activation checkpointing), its last step again (first layout
    only), and the last step from the state of the layout before."""
    curves, earlier = [], folder / "alone"
    for number, layout in enumerate(LAYOUTS[kind]):
        ranks = join_layout(layout)
        own = folder / str(number)
        whole = run(kind, tokens_folder, own, ranks, checkpointing=CHECKPOINTING[number % 3])
        forget_last_step(own / "states")
        again = whole
        if number == 0:
            again = run(kind, tokens_folder, own, ranks)
            forget_last_step(own / "states")
        is_last = layout is LAYOUTS[kind][-1]
        continued = run(kind, tokens_folder, earlier, ranks, folder / "output" if is_last else None)
        curves.append((whole, again, continued))
        earlier = own
    return curves


@pytest.mark.parametrize("kind", SHAPES)
def test_every_layout_is_one_process_and_continues_any_other_s_state(
    kind: str, tokens_folder: Path, tmp_path: Path
) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    curve = near_curve(run(kind, tokens_folder, alone, Ranks(), alone))
    shutil.copytree(alone / "states", many / "alone" / "states")
    forget_last_step(many / "alone" / "states")
    curves = on_processes(4, run_layouts, tmp_path, kind, tokens_folder, many)
    for layout, (whole, again, continued) in zip(LAYOUTS[kind], curves, strict=True):
        name = layout.model_dump(exclude_defaults=True)
        assert whole == curve, name
        assert again == whole, f"{name} after its own state"
        assert continued == curve, f"{name} after another layout's state"
    check_output(many / "output", alone)
    last = many / str(len(LAYOUTS[kind]) - 1)
    assert run(kind, tokens_folder, last, Ranks()) == curve, "one process after four"


def check_output(many: Path, alone: Path) -> None:
    """What several processes write is what one writes."""
    assert read_json(many / "model" / "config.json") == read_json(alone / "model" / "config.json")
    if (alone / "experts.json").is_file():
        assert near_loads(many) == pytest.approx(near_loads(alone), abs=0.01)
    for file in ("model/model.safetensors", "optimizer.safetensors"):
        tensors, expected = load_file(many / file), load_file(alone / file)
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            # Adam's first steps turn the rounding of a gradient near zero into a whole step: no bound on each weight.
            assert (tensor - expected[name]).abs().mean() < 1e-5, name


def near_loads(checkpoint: Path) -> list[float]:
    """Loads of all experts of all layers and domains."""
    domains = read_json(checkpoint / "experts.json")["domains"].values()
    return [load for domain in domains for layer in domain["load"] for load in layer]


def test_a_layout_that_cannot_hold_the_model_is_refused() -> None:
    with pytest.raises(RecipeError, match="num_kv_heads 2; expected a divisor"):
        check_layout(Layout(tensor=4), MOE)
    with pytest.raises(RecipeError, match="the model has no experts"):
        check_layout(Layout(data_shard=2, expert=2), DENSE)
    with pytest.raises(RecipeError, match="found tie_embeddings with a pipeline"):
        check_layout(Layout(pipeline=2), DENSE)
    with pytest.raises(RecipeError, match="found 8 pipeline stages"):
        check_layout(Layout(pipeline=4, stages=CHUNKS), UNTIED)
    with pytest.raises(ValueError, match=r"divisor of data_shard x context"):
        Layout(data_shard=2, expert=4)
