"""How a model is cut into pipeline stages and in which order they run. Configuration model; needs pydantic only."""

from typing import Literal

from pydantic import Field, model_validator

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.stage import StageConfig


class PipelineConfig(StageConfig):
    """Pipeline parallelism: each process holds `num_chunks` stages, stage i lies on process i modulo their number."""

    schedule: Literal["gpipe", "1f1b", "interleaved-1f1b"] = "1f1b"
    "gpipe: all forward passes first. 1f1b: one backward as soon as possible. interleaved-1f1b: with several chunks."
    num_chunks: int = Field(default=1, gt=0)
    "Stages of one process (V of the bubble (P - 1) / (V · M)); more than one with interleaved-1f1b only."
    micro_batch_rows: int = Field(default=1, gt=0)
    "Rows that travel through the stages at once: with a pipeline these count, not the recipe's train.micro_batch_rows."
    balance: Literal["cost", "light_ends"] = "cost"
    "cost: embedding and head weigh as much as they compute. light_ends: as a layer each, so that the first and the "
    "last stage get one layer fewer (Llama 3.1, arXiv:2407.21783 §3.3)."

    @model_validator(mode="after")
    def _chunks_fit(self) -> "PipelineConfig":
        if (self.num_chunks > 1) != (self.schedule == "interleaved-1f1b"):
            raise ValueError(
                f"found schedule {self.schedule} with num_chunks {self.num_chunks}; expected several chunks with "
                "interleaved-1f1b, and one with gpipe and 1f1b"
            )
        return self

    def num_micro_batches(self, num_rows: int, num_processes: int, sequences_per_row: int = 1) -> int:
        """Micro-batches that the rows of one pipeline make in a step; a row of several sequences is never cut.

        Raises:
            RecipeError: the rows do not make equal ones, or not as many as the schedule needs.
        """
        rows_at_once = max(self.micro_batch_rows // sequences_per_row, 1)
        number, left = divmod(num_rows, rows_at_once)
        if left:
            raise RecipeError(
                f"found {num_rows} rows for a pipeline and {rows_at_once} rows in a micro-batch; expected a "
                "multiple: change the size of the batches or the layout's micro_batch_rows"
            )
        self.check_micro_batches(number, num_processes)
        return number

    def check_micro_batches(self, num_micro_batches: int, num_processes: int) -> None:
        """Refuse a number of micro-batches that torch's schedule cannot carry out.

        Raises:
            RecipeError: fewer than processes, or for interleaved-1f1b no multiple of its rounds.
        """
        rounds = max(1, num_micro_batches // num_processes)
        if num_micro_batches < num_processes or (self.num_chunks > 1 and num_micro_batches % rounds):
            raise RecipeError(
                f"found {num_micro_batches} micro-batches for {self.schedule} on {num_processes} processes; expected "
                f"at least {num_processes}, for interleaved-1f1b a multiple of {rounds}: change the size of the "
                "batches or the layout's micro_batch_rows"
            )
