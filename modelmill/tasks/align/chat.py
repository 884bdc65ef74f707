"""Conversations and a chat template → token ids with a mask of the assistant's tokens, checked against a contract."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from modelmill.tasks.errors import ContractError
from modelmill.tasks.files import atomic_path, value_digest
from modelmill.tasks.models.load import load_tokenizer

Example = tuple[list[int], list[int]]
"""Token ids, and for each whether predicting it is trained (1) or not (0)."""


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer and what its chat template puts around a reply.

    end_of_turn: the token after a reply. end_of_text: others that end a text. formatting: every special token (header,
    termination), for DPO's mask.
    """

    tokenizer: PreTrainedTokenizerBase
    end_of_turn: int
    end_of_text: tuple[int, ...]
    formatting: frozenset[int]
    template_digest: str

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """Token ids up to and including the header of the assistant's turn."""
        turns = [[{"role": "user", "content": question}] for question in questions]
        encoded: Any = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
        return encoded["input_ids"]

    def examples(self, questions: Sequence[str], answers: Sequence[str]) -> list[Example]:
        """Whole conversations with the mask that the template's `generation` marks give."""
        turns = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            for question, answer in zip(questions, answers, strict=True)
        ]
        encoded: Any = self.tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        return list(zip(encoded["input_ids"], encoded["assistant_masks"], strict=True))


def open_chat_format(folder: Path) -> ChatFormat:
    """Read the tokenizer of a folder and check that its template can be trained on.

    Raises:
        ContractError: no chat template, no marks of the assistant's tokens, or replies that end without special token.
    """
    tokenizer: Any = load_tokenizer(folder)
    template = tokenizer.chat_template
    if not template or not re.search(r"{%-?\s*generation", template):
        raise ContractError(
            f"the tokenizer in {folder} has no chat template with {{% generation %}} marks; expected one, since "
            "without the marks the loss would also count the user's words. Rerun tokenize."
        )
    special = frozenset(tokenizer.all_special_ids) | frozenset(tokenizer.added_tokens_decoder)
    end_of_text = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    probe = ChatFormat(tokenizer, -1, end_of_text, special, value_digest(template))
    [(tokens, mask)] = probe.examples(["question"], ["answer"])
    if not mask[-1] or tokens[-1] not in special:
        raise ContractError(
            f"the chat template in {folder} does not end a reply with a special token under the loss (found the tokens "
            f"{tokenizer.convert_ids_to_tokens(tokens[-3:])}); a model trained with it would never stop"
        )
    return replace(probe, end_of_turn=tokens[-1])


def loss_share(examples: Sequence[Example], bounds: tuple[float, float]) -> float:
    """Share of all tokens that are under the loss.

    Raises:
        ContractError: the share is outside `bounds`.
    """
    trained = sum(sum(mask) for _, mask in examples)
    share = trained / max(sum(len(tokens) for tokens, _ in examples), 1)
    if not bounds[0] <= share <= bounds[1]:
        raise ContractError(
            f"{share:.1%} of the tokens are under the supervised loss; expected {bounds[0]:.0%} to {bounds[1]:.0%} "
            "(loss_share). Near 100 % the prompts are not masked, near 0 % the answers are: look at the chat template."
        )
    return share


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Parquet with columns token_ids (list of int32) and mask (list of bool)."""
    table = pa.table(
        {
            "token_ids": pa.array([tokens for tokens, _ in examples], pa.list_(pa.int32())),
            "mask": pa.array([[bool(bit) for bit in mask] for _, mask in examples], pa.list_(pa.bool_())),
        }
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_examples(path: Path) -> list[Example]:
    """What `write_examples` wrote."""
    table = pq.read_table(path)
    return list(zip(table["token_ids"].to_pylist(), table["mask"].to_pylist(), strict=True))
