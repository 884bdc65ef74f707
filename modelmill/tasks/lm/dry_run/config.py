"""A layout file: model, processes, batch and hardware of a training run. Configuration models; needs pydantic only."""

from typing import Literal

from pydantic import Field, model_validator

from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.presets import SHAPES
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.stage import StageConfig

DIMENSIONS: tuple[str, ...] = ("tensor", "context", "expert", "shard", "replicate", "pipeline")
"""Along which processes send to each other; `shard` is FSDP's, over data_shard x context."""


class HardwareConfig(StageConfig):
    """One accelerator and its links. Defaults: NVIDIA H100 SXM (data sheet), 8 in a node, one 400 Gb/s port each [the
    network of Llama 3, arXiv:2407.21783 §3.3]."""

    memory_gb: float = Field(default=80.0, gt=0)
    "Memory of one accelerator, 10^9 bytes."
    peak_tflops: float = Field(default=989.0, gt=0)
    "Dense bf16 peak, 10^12 FLOPs a second."
    efficiency: float = Field(default=1.0, gt=0, le=1)
    "Share of the peak that matrix products reach. 1 gives a bound that no run beats; a measured share, a forecast."
    node_size: int = Field(default=8, gt=0)
    "Accelerators that the fast links join; a group of neighbours within one node uses them."
    node_gb_per_s: float = Field(default=450.0, gt=0)
    "Each accelerator's links within a node, in one direction, 10^9 bytes a second."
    network_gb_per_s: float = Field(default=50.0, gt=0)
    "Each accelerator's share of the network between nodes, in one direction, 10^9 bytes a second."


class LayoutFile(StageConfig):
    """What `mill dry-run` reads."""

    description: str = ""
    "What the layout is, and where its numbers come from."
    model: str
    "Name of a published shape (modelmill/tasks/lm/presets.py)."
    layout: Layout
    "Processes by dimension, as a compute file says it; without a pipeline only micro_batch_rows counts of its stages."
    sequence_length: int = Field(gt=0)
    "Tokens of a row."
    batch_tokens: int = Field(gt=0)
    "Tokens of one optimiser step, of all processes."
    checkpointing: Literal["none", "selective", "full"] = "full"
    "What stays for the backward pass, as with train.activation_checkpointing: everything; matrix products and "
    "attention; or each layer's input only."
    hardware: HardwareConfig = HardwareConfig()
    "The accelerators."

    @model_validator(mode="after")
    def _fits(self) -> "LayoutFile":
        if self.model not in SHAPES:
            raise ValueError(f"found model {self.model!r}; expected one of {', '.join(SHAPES)}")
        step = self.layout.data_size * self.layout.stages.micro_batch_rows * self.sequence_length
        if self.batch_tokens % step:
            raise ValueError(
                f"found batch_tokens {self.batch_tokens}; expected a multiple of {step} (data-parallel processes times "
                "rows of a micro-batch times tokens of a row)"
            )
        return self

    @property
    def shape(self) -> ModelShape:
        return SHAPES[self.model]

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one data-parallel process in one step."""
        return self.batch_tokens // (self.layout.data_size * self.layout.stages.micro_batch_rows * self.sequence_length)

    def gb_per_s(self, dimension: str) -> float:
        """Bandwidth of a process in its group along a dimension: neighbours share a node as long as they fit in it."""
        layout, hardware = self.layout, self.hardware
        inner = {"tensor": 1, "context": layout.tensor, "expert": layout.tensor, "shard": layout.tensor}
        size = {"tensor": layout.tensor, "context": layout.context, "expert": layout.expert, "shard": layout.shard_size}
        within = dimension in inner and inner[dimension] * size[dimension] <= hardware.node_size
        return hardware.node_gb_per_s if within else hardware.network_gb_per_s
