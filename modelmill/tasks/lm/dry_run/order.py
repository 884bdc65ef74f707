"""A torch pipeline schedule and the seconds of each stage → when every process computes what, idles and keeps what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage

from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.pipeline.run import SCHEDULES


@dataclass(frozen=True)
class Work:
    """One pass of one micro-batch through one stage."""

    stage: int
    micro_batch: int
    forward: bool


def schedule_order(config: PipelineConfig, num_micro_batches: int, mesh: DeviceMesh) -> list[list[Work]]:
    """What each process of the pipeline does, one after another, taken from torch's own schedule. That of 1f1b, whose
    list is off by one on the last stage in torch 2.13, is written down here as torch carries it out.

    Raises:
        RecipeError: the schedule cannot deal with the number of micro-batches.
    """
    size, group = mesh.size(), mesh.get_group()
    if size == 1:
        return [[Work(0, number, forward) for number in range(num_micro_batches) for forward in (True, False)]]
    config.check_micro_batches(num_micro_batches, size)
    if config.schedule == "1f1b":
        return [_one_forward_one_backward(rank, size, num_micro_batches) for rank in range(size)]
    hidden = torch.empty(1, device="meta", requires_grad=True)
    indices = range(mesh.get_local_rank(), size * config.num_chunks, size)
    stages: Any = [
        PipelineStage(nn.Identity(), index, size * config.num_chunks, torch.device("meta"), hidden, hidden, group=group)
        for index in indices
    ]
    schedule: Any = SCHEDULES[config.schedule](
        stages if config.schedule == "interleaved-1f1b" else stages[0], num_micro_batches, loss_fn=lambda loss, _: loss
    )
    return [_passes(schedule.pipeline_order[rank]) for rank in range(size)]


def _one_forward_one_backward(rank: int, size: int, num_micro_batches: int) -> list[Work]:
    warmup = min(num_micro_batches, size - rank)
    order = [Work(rank, number, True) for number in range(warmup)]
    for number in range(num_micro_batches):
        order.append(Work(rank, number, False))
        if number + warmup < num_micro_batches:
            order.append(Work(rank, number + warmup, True))
    return order


def _passes(actions: Sequence[Any]) -> list[Work]:
    kinds = {"FORWARD": True, "FULL_BACKWARD": False}
    return [
        Work(action.stage_index, action.microbatch_index, kinds[action.computation_type.name])
        for action in actions
        if action is not None and action.computation_type.name in kinds
    ]


def peak(order: Sequence[Work], weight: Callable[[int], float]) -> float:
    """The largest sum of weights of the stages whose forward pass is done and whose backward pass is not."""
    now = highest = 0.0
    for work in order:
        now += weight(work.stage) if work.forward else -weight(work.stage)
        highest = max(highest, now)
    return highest


def simulate(orders: Sequence[Sequence[Work]], seconds: Callable[[Work], float], transfer: float = 0.0) -> float:
    """Seconds until the last pass ends. A pass waits for its process, and for the pass before it on the neighbouring
    stage, which arrives `transfer` seconds after its end."""
    num_stages = 1 + max(work.stage for order in orders for work in order)
    ends: dict[Work, float] = {}
    clocks, positions = [0.0] * len(orders), [0] * len(orders)
    waiting = sum(len(order) for order in orders)
    while waiting:
        moved = False
        for rank, order in enumerate(orders):
            while positions[rank] < len(order):
                work = order[positions[rank]]
                needed = _needs(work, num_stages)
                if needed is not None and needed not in ends:
                    break
                ready = 0.0 if needed is None else ends[needed] + (transfer if needed.stage != work.stage else 0.0)
                clocks[rank] = ends[work] = max(clocks[rank], ready) + seconds(work)
                positions[rank] += 1
                waiting -= 1
                moved = True
        assert moved, "the schedule waits for itself"
    return max(clocks)


def _needs(work: Work, num_stages: int) -> Work | None:
    if work.forward:
        return Work(work.stage - 1, work.micro_batch, True) if work.stage else None
    if work.stage == num_stages - 1:
        return Work(work.stage, work.micro_batch, True)
    return Work(work.stage + 1, work.micro_batch, False)
