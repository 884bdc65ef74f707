"""A whole model → one stage of it: its own layers only, under their ordinary names."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modelmill.tasks.lm.attention import Documents
from modelmill.tasks.lm.data import TrainingBatch
from modelmill.tasks.lm.losses import Measure
from modelmill.tasks.lm.parallel.vocabulary import head_part
from modelmill.tasks.lm.pipeline.split import StagePart


class Stage(nn.Module):
    """Part of a Llama or Dots1 whose parameters are called as in the whole model.

    forward: token ids [rows, length] on the first stage, hidden states [rows, length, width] on the others → hidden
    states, on the last stage what `measure` makes of them (a summed loss []). It runs transformers' own forward
    over the layers that are left, so where documents begin comes from `position_ids` on every stage. Takes the model's
    modules, not copies.
    `compute_dtype` bfloat16: under autocast, which a schedule's backward passes must lie outside of; hidden states are
    in it between stages and in float32 within them, as the residual stream is on one process.
    """

    def __init__(self, model: PreTrainedModel, part: StagePart, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        inner: Any = model.model
        self.part, self.config, self.compute_dtype = part, model.config, compute_dtype
        self.model = _shallow_copy(inner)
        self.model.layers = _layers(inner, [part])
        if not part.has_embedding:
            self.model.embed_tokens = None
        if not part.has_head:
            self.model.norm = nn.Identity()
        self.lm_head = model.lm_head if part.has_head else None

    def forward(self, inputs: Tensor, kind: type[TrainingBatch], tensors: dict[str, Tensor], measure: Measure) -> Any:
        """[rows, length] or [rows, length, width], and the batch's kind and tensors, which torch's schedules can cut
        into micro-batches → [rows, length, width], or the measure."""
        own = {"input_ids": inputs} if self.part.has_embedding else {"inputs_embeds": inputs.float()}
        batch = kind(**tensors)
        _, position_ids = batch.sequences
        documents = Documents(position_ids)
        autocast = self.compute_dtype != torch.float32
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast):
            found = self.model(**own, position_ids=position_ids, documents=documents, use_cache=False)
            hidden = found.last_hidden_state
            if not self.part.has_head:
                return hidden.to(self.compute_dtype)
            return measure(hidden, head_part(self.lm_head), batch)


def keep_parts(model: Any, parts: Sequence[StagePart]) -> None:
    """Take out of a whole model, in place, what belongs to other processes; what stays keeps its names."""
    model.model.layers = _layers(model.model, parts)
    if not parts[0].has_embedding:
        model.model.embed_tokens = None
    if not parts[-1].has_head:
        model.model.norm = nn.Identity()
        model.lm_head = None


def _layers(inner: Any, parts: Sequence[StagePart]) -> nn.ModuleList:
    """Layers with their numbers in the whole model."""
    layers = nn.ModuleList()
    for part in parts:
        for number in range(part.first, part.end):
            layers.add_module(str(number), inner.layers.get_submodule(str(number)))
    return layers


def _shallow_copy(module: Any) -> Any:
    """The same kind of module over the same parts, with hooks of its own and parts that can be taken out."""
    copy = module.__class__.__new__(module.__class__)
    for name, value in module.__dict__.items():
        copy.__dict__[name] = value.copy() if isinstance(value, dict) else value
    return copy


def boundary(stage: Stage, rows: int, length: int, sharing_size: int) -> tuple[Tensor, Tensor]:
    """What a stage takes and gives, as tensors without data, so that torch need not run the stage to find out.

    Token ids are whole rows; of hidden states each of the processes that share them (context, tensor) has its part.
    """
    width: int = stage.config.hidden_size  # pyright: ignore
    hidden = torch.empty(
        rows, length // sharing_size, width, dtype=stage.compute_dtype, device="meta", requires_grad=True
    )
    tokens = torch.empty(rows, length, dtype=torch.int64, device="meta")
    loss = torch.empty((), device="meta", requires_grad=True)
    return tokens if stage.part.has_embedding else hidden, loss if stage.part.has_head else hidden
