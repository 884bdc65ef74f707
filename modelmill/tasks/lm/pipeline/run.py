"""The stages of this process and a batch → the gradients and the loss of the batch, through a torch schedule."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from modelmill.tasks.lm.data import TrainingBatch
from modelmill.tasks.lm.losses import Measure
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.pipeline.split import StagePart, stage_parts
from modelmill.tasks.lm.pipeline.stage import Stage, boundary
from modelmill.tasks.lm.shape import ModelShape

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved-1f1b": ScheduleInterleaved1F1B}


def own_parts(shape: ModelShape, ranks: Ranks) -> list[StagePart]:
    """The parts of a model that this process holds: stages i, i + P, ... of the i-th of P; none without a pipeline."""
    layout = ranks.layout
    if layout.pipeline == 1:
        return []
    num_stages = layout.pipeline * layout.stages.num_chunks
    parts = stage_parts(shape, num_stages, shape.max_sequence_length, layout.stages.balance)
    return parts[ranks.pipeline_rank :: layout.pipeline]


class Pipeline:
    """Runs batches through the stages of a pipeline group, whose processes all call it with the same batch."""

    def __init__(self, stages: Sequence[Stage], ranks: Ranks) -> None:
        assert ranks.mesh is not None
        self.stages = stages
        self.layout = ranks.layout
        self.device = torch.device(ranks.device)
        self.group = ranks.mesh["pipeline"].get_group()
        self._schedules: dict[tuple[int, int], Any] = {}
        self._weight = 1.0

    def backward(self, batch: TrainingBatch, weight: float, objective: Measure) -> Tensor:
        """Add the gradients of (the objective / weight) and return that loss [], or 0 where another process has the
        head.

        `weight` is that of the whole batch of all data-parallel processes.

        Raises:
            RecipeError: the rows do not make equal micro-batches, or not as many as the schedule needs.
        """
        tokens, _ = batch.sequences
        schedule = self._schedule(len(batch.labels), *tokens.shape)
        self._weight = weight
        own = [tokens] if self.stages[0].part.has_embedding else []
        losses: list[Tensor] = []
        schedule.step(
            *own,
            kind=type(batch),
            tensors=batch.tensors,
            measure=objective,
            target=batch.labels,
            losses=losses,
            return_outputs=False,
        )
        total = torch.zeros((), device=self.device)
        for loss in losses:
            total += loss.detach()
        return total

    @torch.no_grad()
    def measured(self, batches: Iterable[TrainingBatch], measure: Measure) -> list[Tensor]:
        """What `measure` makes of each batch, in main memory, without gradients, on every process of the group."""
        found: list[Tensor] = []
        for batch in batches:
            batch = batch.to(str(self.device))
            for stage in self.stages:
                output = stage(self._input(stage, batch), type(batch), batch.tensors, measure)
                if stage.part.has_head:
                    found.append(output.cpu())
                else:
                    dist.send(output.contiguous(), group=self.group, group_dst=self._holder(stage.part.index + 1))
        for module in nn.ModuleList(self.stages).modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        shared = [found]
        last = self.layout.pipeline - 1  # whatever the number of chunks, it has the head
        dist.broadcast_object_list(shared, group=self.group, group_src=last, device=torch.device("cpu"))
        return shared[0]

    def _input(self, stage: Stage, batch: TrainingBatch) -> Tensor:
        tokens, _ = batch.sequences
        if stage.part.has_embedding:
            return tokens
        rows, length = tokens.shape
        hidden = torch.empty_like(boundary(stage, rows, length, self.layout.sharing_size)[0], device=self.device)
        dist.recv(hidden, group=self.group, group_src=self._holder(stage.part.index - 1))
        return hidden

    def _holder(self, index: int) -> int:
        return index % self.layout.pipeline

    def _schedule(self, rows: int, sequences: int, length: int) -> Any:
        """A schedule fits one shape of batch: a plan changes it a few times in a run, pairs of replies at any step.
        Only the newest is kept, for the sake of its buffers."""
        if (sequences, length) not in self._schedules:
            config = self.layout.stages
            num_micro_batches = config.num_micro_batches(rows, self.layout.pipeline, sequences // rows)
            stages = [self._torch_stage(stage, sequences // num_micro_batches, length) for stage in self.stages]
            self._schedules = {
                (sequences, length): SCHEDULES[config.schedule](
                    stages if config.schedule == "interleaved-1f1b" else stages[0],  # pyright: ignore
                    num_micro_batches,
                    loss_fn=lambda loss, _: loss / self._weight,
                    scale_grads=False,
                )
            }
        return self._schedules[sequences, length]

    def _torch_stage(self, stage: Stage, sequences: int, length: int) -> PipelineStage:
        config, layout = self.layout.stages, self.layout
        inputs, outputs = boundary(stage, sequences, length, layout.sharing_size)
        return PipelineStage(
            stage,
            stage.part.index,
            layout.pipeline * config.num_chunks,
            self.device,
            input_args=inputs,
            output_args=outputs,
            group=self.group,
        )


def pipeline_of(model: Any) -> Pipeline | None:
    """The pipeline that a model on this process is a part of."""
    return getattr(model, "pipeline", None)
