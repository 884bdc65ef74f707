"""A model and a batch → the batch's loss, its gradients added to the model's, in pieces side by side on CPU threads.

Each piece has a replica of the model that shares its weights and has gradients of its own, and is computed by one
thread; gradients are added in the order of the pieces. So the bits do not depend on the number of threads, one
barrier a step takes the place of one an operation, and a busy machine costs its share instead of stalling each barrier.
"""

import copy
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modelmill.tasks.lm.data import TrainingBatch

Backward = Callable[[Any, Any], Tensor]
"""(model, piece) → the piece's loss, after its backward pass."""


class Pieces:
    """Replicas of a model and the threads that work on them."""

    def __init__(self, model: nn.Module, executor: ThreadPoolExecutor | None, num_pieces: int) -> None:
        self.models = [model, *(_replica(model) for _ in range(num_pieces - 1))]
        self.executor = executor

    def backward(self, batch: TrainingBatch, num_rows: int, function: Backward) -> Tensor:
        """Sum of the losses of the pieces, each of an equal part of the batch's rows."""
        parts = list(batch.split(-(-num_rows // len(self.models))))
        run = self.executor.map if self.executor else map
        losses = list(run(function, self.models[: len(parts)], parts))
        for replica in self.models[1 : len(parts)]:
            _move_gradients(replica, self.models[0])
        return torch.stack(losses).sum()


@contextmanager
def open_pieces(model: nn.Module, num_pieces: int, num_threads: int | None) -> Iterator[Pieces]:
    """One piece: torch's own threads within each operation. More: single-threaded operations, pieces side by side."""
    before = torch.get_num_threads()
    try:
        if num_pieces == 1:
            torch.set_num_threads(num_threads or before)
            yield Pieces(model, None, 1)
            return
        torch.set_num_threads(1)
        workers = min(num_pieces, num_threads or len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as executor:
            yield Pieces(model, executor, num_pieces)
    finally:
        torch.set_num_threads(before)


def _replica(model: nn.Module) -> nn.Module:
    """A model whose parameters and buffers lie in the same memory; only gradients are its own."""
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, shared | {id(buffer): buffer for buffer in model.buffers()})


def _move_gradients(source: nn.Module, target: nn.Module) -> None:
    for from_parameter, to_parameter in zip(source.parameters(), target.parameters(), strict=True):
        if from_parameter.grad is None:
            continue
        if to_parameter.grad is None:
            to_parameter.grad = from_parameter.grad
        else:
            to_parameter.grad.add_(from_parameter.grad)
        from_parameter.grad = None
