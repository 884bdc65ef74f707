"""The stages of this process and a batch → the gradients and the loss of the batch, through a torch schedule."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from transformers import PreTrainedModel

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.data import Batch
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.pipeline.split import StagePart, stage_parts
from modelmill.tasks.lm.pipeline.stage import Stage, boundary
from modelmill.tasks.lm.shape import ModelShape

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved-1f1b": ScheduleInterleaved1F1B}


def own_parts(shape: ModelShape, config: PipelineConfig, sequence_length: int, rank: int, size: int) -> list[StagePart]:
    """The parts that process `rank` of `size` holds: stages rank, rank + size, ..."""
    return stage_parts(shape, size * config.num_chunks, sequence_length, config.balance)[rank::size]


def own_stages(model: PreTrainedModel, parts: Sequence[StagePart]) -> list[Stage]:
    """The stages of this process, cut out of a whole model (on the meta device, if it is large)."""
    return [Stage(model, part) for part in parts]


class Pipeline:
    """Runs batches through the stages of a process group. Every process of the group calls it with the same batch."""

    def __init__(
        self,
        stages: Sequence[Stage],
        config: PipelineConfig,
        group: dist.ProcessGroup,
        activation_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.stages = stages
        self.config = config
        self.group = group
        self.activation_dtype = activation_dtype
        self._schedules: dict[tuple[int, int], Any] = {}
        self._weight = 1.0

    def backward(self, batch: Batch, weight: float) -> Tensor:
        """Add the gradients of (summed loss / weight) and return that loss [], on every process of the group.

        `weight` is the number of labels of the whole batch of all data-parallel processes.

        Raises:
            RecipeError: the rows do not make equal micro-batches, or not as many as the schedule needs.
        """
        rows, length = batch.input_ids.shape
        schedule = self._schedule(rows, length)
        self._weight = weight
        own = [batch.input_ids] if self.stages[0].part.has_embedding else []
        losses: list[Tensor] = []
        schedule.step(
            *own,
            position_ids=batch.position_ids,
            labels=batch.labels,
            target=batch.labels,
            losses=losses,
            return_outputs=False,
        )
        total = torch.zeros((), device=batch.input_ids.device)
        for loss in losses:
            total += loss.detach()
        dist.all_reduce(total, group=self.group)
        return total

    def _schedule(self, rows: int, length: int) -> Any:
        """A schedule fits one shape of batch, which a plan changes a few times in a run."""
        if (rows, length) not in self._schedules:
            num_micro_batches = self._num_micro_batches(rows)
            stages = [self._torch_stage(stage, length) for stage in self.stages]
            self._schedules = {
                (rows, length): SCHEDULES[self.config.schedule](
                    stages if self.config.schedule == "interleaved-1f1b" else stages[0],  # pyright: ignore
                    num_micro_batches,
                    loss_fn=lambda loss, _: loss / self._weight,
                    scale_grads=False,
                )
            }
        return self._schedules[rows, length]

    def _num_micro_batches(self, rows: int) -> int:
        num_micro_batches, left = divmod(rows, self.config.micro_batch_rows)
        if left:
            raise RecipeError(
                f"found {rows} rows for a pipeline and {self.config.micro_batch_rows} rows in a micro-batch; expected "
                "a multiple: change batch_tokens or micro_batch_rows"
            )
        self.config.check_micro_batches(num_micro_batches, dist.get_world_size(self.group))
        return num_micro_batches

    def _torch_stage(self, stage: Stage, length: int) -> PipelineStage:
        inputs, outputs = boundary(
            stage.part, self.config.micro_batch_rows, length, stage.config.hidden_size, self.activation_dtype
        )
        size = dist.get_world_size(self.group)
        return PipelineStage(
            stage,
            stage.part.index,
            size * self.config.num_chunks,
            torch.device(stage.device),
            input_args=inputs,
            output_args=outputs,
            group=self.group,
        )
