"""Compiled layers beside eager ones: the same curves on one process and on two gloo processes."""

from pathlib import Path
from typing import Any

import pytest

from modelmill.tasks.errors import ResourceError
from modelmill.tasks.lm.attention import Documents
from modelmill.tasks.lm.compilation import check_compiler
from modelmill.tasks.lm.data import RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks, join_layout
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.settings import OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import Experts
from tests.tasks.lm.compiling import needs_compiler, only_compiled, quiet
from tests.tasks.lm.gloo_processes import on_processes
from tests.tasks.lm.parallel.compare import near_curve
from tests.tasks.lm.tiny_run import SHAPE

pytestmark = quiet

DENSE = SHAPE.model_copy(update={"num_heads": 4, "num_kv_heads": 2, "tie_embeddings": False, "num_layers": 10})
"""More layers than torch keeps graphs of one function."""
EXPERTS = Experts(num_routed=4, num_shared=1, top_k=2, intermediate_size=16, first_dense_layers=1)
SHAPES = {"dense": DENSE, "moe": DENSE.model_copy(update={"experts": EXPERTS})}
PLAN = Plan(
    total_tokens=2 * 4 * 64,
    batch_tokens=4 * 64,
    sequence_length=64,
    schedule=Schedule(kind="constant", learning_rate=1e-2),
)
EAGER = TrainSettings(log_every_steps=1)
COMPILED = EAGER.model_copy(update={"compile": True})
LAYOUTS = [Layout(data_shard=2), Layout(context=2), Layout(tensor=2), Layout(pipeline=2)]


def curve(kind: str, tokens_folder: Path, settings: TrainSettings, ranks: Ranks) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    tokens = open_tokens(tokens_folder)
    model = build_model(SHAPES[kind], seed=1, special_tokens=tokens.special_tokens, ranks=ranks)
    optimizer = build_optimizer(model, OptimizerConfig(eps=1e-4))
    report = train(model, optimizer, PLAN, RowBatches(document_mixture(tokens, seed=1)), settings, ranks=ranks)
    return [(line["loss"], line["grad_norm"]) for line in report.curve]


@needs_compiler
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("dense", {"num_pieces": 2}), ("dense", {"activation_checkpointing": "full"}), ("moe", {})],
)
def test_compiled_layers_give_the_eager_curve(kind: str, changes: dict[str, Any], tokens_folder: Path) -> None:
    expected = near_curve(curve(kind, tokens_folder, EAGER, Ranks()))
    with only_compiled():
        assert curve(kind, tokens_folder, COMPILED.model_copy(update=changes), Ranks()) == expected


@needs_compiler
def test_numbers_of_documents_and_shapes_of_batches_do_not_use_up_the_graphs(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    model = build_model(DENSE, seed=1, special_tokens=tokens.special_tokens)
    shapes = {"batch_tokens": 512, "sequence_ramp": ((4096, 48), (6144, 32), (8192, 80))}
    plan = PLAN.model_copy(update={"total_tokens": 20 * 512, **shapes})
    batches = RowBatches(document_mixture(tokens, seed=1))
    documents = {len(Documents(batches.batch(point).position_ids).lengths) for point in plan.points()}
    assert len(documents) > 8  # graphs that torch keeps of one function
    with only_compiled():
        train(model, build_optimizer(model, OptimizerConfig()), plan, batches, COMPILED)


@needs_compiler
def test_compiled_layers_multiply_in_8_bits(tokens_folder: Path) -> None:
    changes = {"precision": "fp8"}
    eager = curve("dense", tokens_folder, EAGER.model_copy(update=changes), Ranks())
    with only_compiled():
        found = curve("dense", tokens_folder, COMPILED.model_copy(update=changes), Ranks())
    # bf16 keeps eight binary digits, and a kernel rounds less often than its parts do.
    assert [step[0] for step in found] == pytest.approx([step[0] for step in eager], rel=2**-8)


def on_layouts(tokens_folder: Path) -> list[list[tuple[float, float]]]:
    found = []
    for layout in LAYOUTS:
        with only_compiled():
            found.append(curve("dense", tokens_folder, COMPILED, join_layout(layout)))
    return found


@needs_compiler
@pytest.mark.timeout(900)  # each process compiles for each layout
def test_compiled_layers_give_one_process_s_curve_on_two(tokens_folder: Path, tmp_path: Path) -> None:
    expected = near_curve(curve("dense", tokens_folder, EAGER, Ranks()))
    for layout, found in zip(LAYOUTS, on_processes(2, on_layouts, tmp_path, tokens_folder), strict=True):
        assert found == expected, layout.model_dump(exclude_defaults=True)


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match=r"compile: true needs a C\+\+ compiler.*; found no g"):
        check_compiler()


def test_compiling_and_selective_checkpointing_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="compile with activation_checkpointing: selective"):
        TrainSettings(compile=True, activation_checkpointing="selective")
