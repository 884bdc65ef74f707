"""What is computed twice: the matrix products and attention that each kind of checkpointing repeats."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modelmill.tasks.lm.data import Batch
from modelmill.tasks.lm.losses import summed_loss
from modelmill.tasks.lm.model import build_model, measure_batch
from modelmill.tasks.lm.recompute import PRODUCTS, open_recomputation
from modelmill.tasks.lm.settings import ActivationCheckpointing
from tests.tasks.lm.tiny_run import SHAPE


class Counter(TorchDispatchMode):
    """Counts operations in `PRODUCTS`, and all others."""

    def __init__(self) -> None:
        super().__init__()
        self.products, self.others = 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function in PRODUCTS:
            self.products += 1
        else:
            self.others += 1
        return function(*arguments, **(named or {}))


def counted(kind: ActivationCheckpointing) -> tuple[int, int]:
    model = build_model(SHAPE, seed=1)
    tokens = torch.arange(2 * 32).view(2, 32)
    with open_recomputation([model], kind), Counter() as counter:
        measure_batch(model, Batch(tokens, tokens, torch.arange(32).expand(2, -1)), summed_loss).backward()
    return counter.products, counter.others


def test_selective_checkpointing_repeats_no_product_and_full_repeats_all() -> None:
    (products, others), (selective, more_others), (full, _) = map(counted, ("none", "selective", "full"))
    assert selective == products
    # Six matrices and attention: what the seventh gives is not needed for a gradient.
    assert full == products + 7 * SHAPE.num_layers
    assert more_others > others
