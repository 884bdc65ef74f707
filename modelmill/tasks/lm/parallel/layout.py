"""How many processes a model is spread over, along which dimensions → whether a model fits. Needs pydantic only."""

from pydantic import Field, model_validator

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.pipeline.split import stage_parts
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.stage import StageConfig


class Layout(StageConfig):
    """The processes of one training run: as many as the product of all sizes but `expert`.

    It says where a run computes, not what: losses do not depend on it beyond rounding. Neighbouring processes share
    a tensor group, then a context group, a shard group, a replica and a pipeline stage, from fast links to slow ones.
    """

    data_replicate: int = Field(default=1, gt=0)
    "Copies of the model that only exchange gradients (HSDP); the number of nodes, where links between them are slow."
    data_shard: int = Field(default=1, gt=0)
    "Processes with rows of their own among which weights, gradients and optimiser state are cut (FSDP2)."
    context: int = Field(default=1, gt=0)
    "Processes that share each row: every one takes a part of its tokens, and within attention a part of the heads."
    tensor: int = Field(default=1, gt=0)
    "Processes that share each matrix, the vocabulary and the experts, and between matrices the tokens of each row; "
    "keep them within a node."
    expert: int = Field(default=1, gt=0)
    "Processes among which the experts are dealt out; each keeps its own rows. A part of data_shard x context."
    pipeline: int = Field(default=1, gt=0)
    "Processes that each hold a part of the layers, through which the rows of a batch pass one after another."
    stages: PipelineConfig = PipelineConfig()
    "How a pipeline cuts the layers, and in which order its stages compute."

    @model_validator(mode="after")
    def _experts_fit(self) -> "Layout":
        if self.expert > 1 and self.tensor > 1:
            raise ValueError(
                f"found expert {self.expert} with tensor {self.tensor}; tensor parallelism deals the experts out over "
                "the tensor group already: leave expert at 1"
            )
        if self.shard_size % self.expert:
            raise ValueError(
                f"found expert {self.expert} with data_shard {self.data_shard} and context {self.context}; expected a "
                "divisor of data_shard x context"
            )
        return self

    @property
    def sizes(self) -> dict[str, int]:
        """Processes along each dimension."""
        return self.model_dump(exclude={"stages"})

    @property
    def num_processes(self) -> int:
        return self.pipeline * self.data_replicate * self.shard_size * self.tensor

    @property
    def shard_size(self) -> int:
        """Processes among which FSDP cuts the weights."""
        return self.data_shard * self.context

    @property
    def sharing_size(self) -> int:
        """Processes with the same rows within a pipeline stage: each has a part of the tokens of every row."""
        return self.context * self.tensor

    @property
    def data_size(self) -> int:
        """Processes, or groups of them, with rows of their own."""
        return self.data_replicate * self.data_shard

    def rows_each(self, num_rows: int) -> int:
        """Rows of a batch that one process takes."""
        return -(-num_rows // self.data_size)

    @property
    def stage_size(self) -> int:
        """Processes that hold the same part of the layers."""
        return self.num_processes // self.pipeline

    @property
    def expert_group_size(self) -> int:
        """Processes among which the experts are dealt out."""
        return self.tensor if self.tensor > 1 else self.expert


def check_layout(layout: Layout, shape: ModelShape) -> None:
    """Refuse a layout that cannot hold a model.

    Raises:
        RecipeError: heads, widths or experts are not divisible by what shares them; a pipeline has too many stages or
            a tied embedding.
    """
    if layout.pipeline > 1:
        stage_parts(shape, layout.pipeline * layout.stages.num_chunks, shape.max_sequence_length)
    tensor, context, experts = layout.tensor, layout.context, shape.experts
    wanted = [
        ("num_heads", shape.num_heads, tensor * context, "tensor x context"),
        ("num_kv_heads", shape.num_kv_heads, tensor, "tensor"),
        ("intermediate_size", shape.intermediate_size, tensor, "tensor"),
        ("vocab_size", shape.vocab_size, tensor, "tensor"),
    ]
    if tensor > 1:
        # Embedding and head are cut by vocabulary over the tensor group, by width over FSDP's.
        wanted.append(("hidden_size", shape.hidden_size, layout.shard_size, "data_shard x context"))
    if experts:
        wanted += [
            ("experts.num_routed", experts.num_routed, layout.expert_group_size, "expert (or tensor)"),
            ("experts.intermediate_size", experts.intermediate_size * experts.num_shared, tensor, "tensor"),
        ]
    elif layout.expert > 1:
        raise RecipeError(f"the layout has expert: {layout.expert}, but the model has no experts; leave it out")
    for name, size, divisor, dimension in wanted:
        if size % divisor:
            raise RecipeError(
                f"the layout's {dimension} is {divisor}, the model's {name} {size}; expected a divisor of {size}: "
                "use another layout or another shape"
            )


def check_batches(layout: Layout, plan: Plan, shape: ModelShape) -> None:
    """Refuse a plan with a batch, now or later in the run, that a layout cannot carry.

    Raises:
        RecipeError: a mixture of experts whose processes cannot share the rows evenly, or a pipeline whose rows do not
            make micro-batches, or too few of them.
    """
    for segment in plan.timeline().segments:
        batches = f"batches of {segment.num_rows} rows (after {segment.tokens:,} tokens)"
        if shape.experts and segment.num_rows % layout.data_size:
            raise RecipeError(
                f"{batches} do not divide by the {layout.data_size} processes that share their rows, which a mixture "
                "of experts needs: a row that two have would count twice; change batch_tokens or the layout"
            )
        if layout.pipeline == 1:
            continue
        try:
            layout.stages.num_micro_batches(layout.rows_each(segment.num_rows), layout.pipeline)
        except RecipeError as error:
            raise RecipeError(f"{batches}: {error}") from None
