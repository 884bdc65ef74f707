"""A whole model → one stage of it: its own layers only, under their ordinary names."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modelmill.tasks.lm.attention import attends_by_document, document_lengths
from modelmill.tasks.lm.losses import cross_entropy_sum
from modelmill.tasks.lm.pipeline.split import StagePart


class Stage(nn.Module):
    """Part of a Llama or Dots1 whose parameters are called as in the whole model.

    forward: token ids [rows, length] on the first stage, hidden states [rows, length, width] on the others → hidden
    states, on the last stage the summed -log p(label). It runs transformers' own forward over the layers that are left,
    so the document mask comes from `position_ids` on every stage. Takes the model's modules, not copies: what other
    stages hold is freed with the model.
    """

    def __init__(self, model: PreTrainedModel, part: StagePart) -> None:
        super().__init__()
        inner: Any = model.model
        layers = nn.ModuleList()
        for number in range(part.first, part.end):
            layers.add_module(str(number), inner.layers[number])  # keeps its number in the whole model
        self.part, self.config, self.device = part, model.config, model.device
        self.model = _shallow_copy(inner)
        self.model.layers = layers
        if not part.has_embedding:
            self.model.embed_tokens = None
        if not part.has_head:
            self.model.norm = nn.Identity()
        self.lm_head = model.lm_head if part.has_head else None

    def forward(self, inputs: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:
        """[rows, length] or [rows, length, width] → [rows, length, width], or the summed loss []."""
        source = "input_ids" if self.part.has_embedding else "inputs_embeds"
        arguments: dict[str, Any] = {source: inputs, "position_ids": position_ids, "use_cache": False}
        if attends_by_document(self.model):
            arguments["document_lengths"] = document_lengths(position_ids)
        hidden = self.model(**arguments).last_hidden_state
        if self.lm_head is None:
            return hidden
        return cross_entropy_sum(hidden.flatten(0, 1), self.lm_head.weight, labels.flatten())  # pyright: ignore


def _shallow_copy(module: Any) -> Any:
    """The same kind of module over the same parts, so that taking parts out leaves the original whole."""
    copy = module.__class__.__new__(module.__class__)
    copy.__dict__.update(module.__dict__)
    for name in ("_modules", "_parameters", "_buffers"):
        copy.__dict__[name] = dict(module.__dict__[name])
    return copy


def boundary(part: StagePart, rows: int, length: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a stage takes and gives, as tensors without data, so that torch need not run the stage to find out."""
    hidden = torch.empty(rows, length, width, dtype=dtype, device="meta", requires_grad=True)
    tokens = torch.empty(rows, length, dtype=torch.int64, device="meta")
    loss = torch.empty((), dtype=torch.float32, device="meta", requires_grad=True)
    return tokens if part.has_embedding else hidden, loss if part.has_head else hidden
