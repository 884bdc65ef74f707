"""Products in 8 bits: right where 8 bits are enough, near where they are not, and only where a run trains with them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modelmill.tasks.errors import ResourceError
from modelmill.tasks.lm import float8
from modelmill.tasks.lm.data import Batch, RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import validation_metrics, validation_set
from modelmill.tasks.lm.losses import summed_loss
from modelmill.tasks.lm.model import build_model, measure_batch
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks, join_layout
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.precision import forward_precision, gathered_type, open_products
from modelmill.tasks.lm.settings import OptimizerConfig, Precision, TrainSettings
from modelmill.tasks.lm.shape import ModelShape
from tests.tasks.lm.gloo_processes import on_processes

SHAPE = ModelShape(
    vocab_size=384,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    intermediate_size=96,
    max_sequence_length=64,
    tie_embeddings=False,
)
PLAN = Plan(
    total_tokens=4 * 256,
    batch_tokens=256,
    sequence_length=64,
    schedule=Schedule(kind="constant", learning_rate=1e-2),
)
LAYOUTS = [Layout(data_shard=2), Layout(context=2), Layout(tensor=2), Layout(pipeline=2)]


def with_gradients(function: Any, inputs: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Output and gradients of both."""
    inputs, weight = inputs.clone().requires_grad_(), weight.clone().requires_grad_()
    output = function(inputs, weight)
    output.backward(gradient.to(output.dtype))
    assert inputs.grad is not None and weight.grad is not None
    return [output.detach(), inputs.grad, weight.grad]


@pytest.mark.parametrize("rows", [(2, 16), (3, 7)])  # 21 rows are no multiple of 16
def test_small_numbers_are_multiplied_exactly(rows: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(-8, 9, (*rows, 32), generator=generator).float()
    weight = torch.randint(-1, 2, (48, 32), generator=generator).float()
    gradient = torch.randint(-2, 3, (*rows, 48), generator=generator).float()
    found = with_gradients(float8.multiply, inputs, weight, gradient)
    for tensor, expected in zip(found, with_gradients(F.linear, inputs, weight, gradient), strict=True):
        assert torch.equal(tensor.float(), expected)
    assert torch.equal(float8.gradients(gradient, inputs, weight)[0], found[1])


def test_other_numbers_are_as_near_as_their_digits() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 64, 128, generator=generator)
    weight = 0.02 * torch.randn(96, 128, generator=generator)
    gradient = 1e-6 * torch.randn(4, 64, 96, generator=generator)
    expected = with_gradients(F.linear, inputs, weight, gradient)
    errors = [
        float((found.float() - wanted).norm() / wanted.norm())
        for found, wanted in zip(with_gradients(float8.multiply, inputs, weight, gradient), expected, strict=True)
    ]
    # E4M3 rounds by 2^-4 at most, E5M2 by 2^-3; both by about a third of that in the mean.
    assert errors[0] < 2**-4 and max(errors[1:]) < 2**-3


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_value_is_rounded_alike_beside_any_largest_value(dtype: torch.dtype) -> None:
    values = torch.randn(16, generator=torch.Generator().manual_seed(1))
    alone = float8.rounded(values, dtype)
    beside = float8.rounded(torch.cat([values, torch.tensor([777.0])]), dtype)
    assert beside.scale > 64 * alone.scale
    near = values.abs() > 0.1  # smaller ones lose digits beside the large one
    assert torch.equal((alone.values.float() * alone.scale)[near], (beside.values.float() * beside.scale)[:-1][near])


def test_zeros_stay_zeros_and_what_is_no_number_is_not_hidden() -> None:
    zeros, weight = torch.zeros(16, 16), torch.ones(16, 16)
    assert torch.equal(float8.multiply(zeros, weight).float(), zeros)
    for bad in (torch.nan, torch.inf):
        assert not float8.multiply(torch.full((16, 16), bad), weight).isfinite().any()


class Products(TorchDispatchMode):
    """Counts products in 8 bits."""

    number = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.number += function is torch.ops.aten._scaled_mm.default
        return function(*arguments, **(named or {}))


def test_all_products_of_a_layer_while_training_and_none_while_measuring() -> None:
    model = build_model(SHAPE, seed=1)
    tokens = torch.arange(2 * 32).view(2, 32)
    batch = Batch(tokens, tokens, torch.arange(32).expand(2, -1))
    with Products() as products, open_products([model], "fp8"), forward_precision("fp8", "cpu"):
        with torch.no_grad():
            measure_batch(model, batch, summed_loss)
        assert products.number == 0
        measure_batch(model, batch, summed_loss).backward()
    assert products.number == SHAPE.num_layers * 7 * 3
    with Products() as products, forward_precision("fp8", "cpu"):
        measure_batch(model, batch, summed_loss).backward()
    assert products.number == 0


def curve(
    tokens_folder: Path, precision: Precision, ranks: Ranks | None = None, **settings: Any
) -> tuple[list[float], float]:
    """Losses of the steps, and the last held-out loss."""
    ranks, tokens = ranks or Ranks(), open_tokens(tokens_folder)
    dtype = gathered_type(precision)
    model = build_model(SHAPE, seed=1, special_tokens=tokens.special_tokens, ranks=ranks, compute_dtype=dtype)
    held_out = validation_set(tokens, sequence_length=64, max_tokens_per_domain=512)
    report = train(
        model,
        build_optimizer(model, OptimizerConfig(eps=1e-4)),
        PLAN,
        RowBatches(document_mixture(tokens, seed=1)),
        TrainSettings(log_every_steps=1, precision=precision, **settings),
        validate=validation_metrics(held_out),
        ranks=ranks,
    )
    return [line["loss"] for line in report.curve if "loss" in line], report.last["validation_loss"]


def on_layouts(tokens_folder: Path) -> list[tuple[list[float], float]]:
    return [curve(tokens_folder, "fp8", join_layout(layout)) for layout in LAYOUTS]


def test_a_run_in_8_bits_is_near_one_in_16_and_the_same_on_any_layout(tokens_folder: Path, tmp_path: Path) -> None:
    losses, held_out = curve(tokens_folder, "fp8")
    in_bf16, held_out_in_bf16 = curve(tokens_folder, "bf16")
    assert losses != in_bf16
    assert losses == pytest.approx(in_bf16, rel=0.01)
    assert held_out == pytest.approx(held_out_in_bf16, rel=0.01)
    for checkpointing in ("selective", "full"):
        again = curve(tokens_folder, "fp8", activation_checkpointing=checkpointing)
        assert again == (losses, held_out)
    for layout, found in zip(LAYOUTS, on_processes(2, on_layouts, tmp_path, tokens_folder), strict=True):
        assert found[0] == pytest.approx(losses, rel=2**-8), layout.model_dump(exclude_defaults=True)
        assert found[1] == pytest.approx(held_out, rel=2**-8)


def test_a_gpu_without_such_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A800")
    with pytest.raises(ResourceError, match=r"fp8 needs a GPU of compute capability 8\.9 .* found A800 with 8\.0"):
        float8.check_device(torch.device("cuda"))
