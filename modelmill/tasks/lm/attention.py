"""Queries, keys, values and the lengths of documents → attention inside each document, without a mask.

A dense mask makes a CPU compute the whole square of a row, and twice the triangle of a row without documents; on a GPU
it keeps flash attention out, and for 131,072 tokens takes 17 GB. Cut at the documents' borders, the work is the sum of
their own triangles, by the kernels for plain causal attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

NAME = "documents"


def attend_by_document(model: PreTrainedModel) -> None:
    """Let a model attend this way where `documents` is given, and causally where it is not."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


class Documents:
    """Lengths of the documents of all rows, one row after another: position_ids [rows, length].

    Not a list: torch.compile would look into it, and compile layers anew for each number of documents.
    """

    def __init__(self, position_ids: Tensor) -> None:
        self.lengths = _lengths(position_ids)


def _lengths(position_ids: Tensor) -> list[int]:
    first = torch.ones_like(position_ids, dtype=torch.bool)
    first[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
    starts = first.flatten().nonzero().flatten()
    return torch.diff(starts, append=starts.new_tensor([first.numel()])).tolist()


@torch.compiler.disable
def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    documents: Documents | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Of transformers' attention functions: query [R, H, T, d], key and value [R, K, T, d] → [R, T, H, d]."""
    rows, heads, length, size = query.shape
    grouped = key.shape[1] != heads
    if documents is None or len(documents.lengths) == rows:
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
        return output.transpose(1, 2), None
    # [1, heads, rows * length, size], cut into documents: the rows lie one after another.
    parts = [
        tensor.transpose(1, 2).flatten(0, 1).transpose(0, 1).unsqueeze(0).split(documents.lengths, dim=2)
        for tensor in (query, key, value)
    ]
    outputs = [
        F.scaled_dot_product_attention(*document, is_causal=True, scale=scaling, enable_gqa=grouped)
        for document in zip(*parts, strict=True)
    ]
    return torch.cat(outputs, dim=2).squeeze(0).transpose(0, 1).reshape(rows, length, heads, size), None


def _no_mask(*arguments: Any, **named: Any) -> None:
    """The lengths say it all."""
