"""A model and the processes that share its rows → the same model, which takes and gives whole rows but computes a
part of each: consecutive tokens of a context group's process, of these again a part in a tensor group.

Context is Ulysses (arXiv:2309.14509): every process holds a part of the tokens and all heads; for attention an
all-to-all makes that all tokens and a part of the heads, another one turns it back. Documents stay apart: their lengths
are those of whole rows. With more processes than key-value heads, these are repeated first.
"""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.parallel.collectives import exchange, gather_sequence
from modelmill.tasks.lm.parallel.ranks import Ranks

NAME = "ulysses"

# What transformers' attention functions ask the module: here keys and values have as many heads as queries.
_EVEN_HEADS = SimpleNamespace(num_key_value_groups=1, is_causal=True, training=True)

# Shapes: R rows, T tokens of a row, C processes of the context group, t = T / C, H heads, d size of a head.


def share_rows(model: Any, bodies: Sequence[Any], ranks: Ranks) -> None:
    """Make a model take this process's part of each row, in place; what its matrices do with it is `cut_matrices`'.

    `bodies` run its layers: one, or in a pipeline the stages of this process, which hand on parts of rows; the one with
    the last norm gives whole rows.
    """
    if ranks.context_mesh is not None:
        _attend_to_whole_rows(model, ranks.context_mesh.get_group())
    number = ranks.context_mesh.get_local_rank() if ranks.context_mesh is not None else 0
    layout, groups = ranks.layout, ranks.sharing_groups

    def take_part(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        positions = named["position_ids"]
        length = positions.shape[1]
        if length % layout.sharing_size:
            raise RecipeError(
                f"the layout shares rows of {length} tokens among {layout.sharing_size} processes (context x tensor); "
                "expected a sequence length that is a multiple of it"
            )
        whole = named.keys() & {"input_ids", "position_ids"}
        parts = {name: named[name].chunk(layout.context, dim=1)[number] for name in whole}
        return arguments, named | parts

    def join_parts(_module: Any, _arguments: Any, output: Any) -> Any:
        for group in reversed(groups):
            output.last_hidden_state = gather_sequence(output.last_hidden_state, group)
        return output

    for body in bodies:
        body.register_forward_pre_hook(take_part, with_kwargs=True)
    if bodies and not isinstance(bodies[-1].norm, nn.Identity):
        bodies[-1].register_forward_hook(join_parts)


def _attend_to_whole_rows(model: Any, group: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.context_group = group
        layer.self_attn.whole_row_attention = ALL_ATTENTION_FUNCTIONS[model.config._attn_implementation]
    AttentionInterface.register(NAME, _attention)
    model.set_attn_implementation(NAME)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **named: Any,
) -> tuple[Tensor, None]:
    """Attention of this process's tokens [R, H, t, d] to whole rows, in transformers' form → [R, t, H, d].

    What attends to whole rows is the function that the model had before.
    """
    group = module.context_group
    size = group.size()
    heads = math.lcm(key.shape[1], size)
    key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    split = (query.shape[1] // size, heads // size, heads // size)
    query, key, value = _own_heads((query, key, value), size, group).split(split, dim=1)
    groups = split[0] // split[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output, _ = module.whole_row_attention(_EVEN_HEADS, query, key, value, attention_mask, **named)
    return _own_tokens(output, size, group), None


def _own_heads(states: tuple[Tensor, ...], size: int, group: Any) -> Tensor:
    """Several [R, H, t, d] → one [R, sum of H / C, T, d], by one all-to-all."""
    parts = torch.cat([state.unflatten(1, (size, -1)) for state in states], dim=2)
    received = exchange(parts.movedim(1, 0), group)  # [C, R, H / C, t, d]
    return received.movedim(0, 2).flatten(2, 3)


def _own_tokens(states: Tensor, size: int, group: Any) -> Tensor:
    """[R, T, H / C, d] → [R, t, H, d]."""
    received = exchange(states.unflatten(1, (size, -1)).movedim(1, 0), group)  # [C, R, t, H / C, d]
    return received.movedim(0, 2).flatten(2, 3)
