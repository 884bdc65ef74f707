"""A model and held-out tokens → loss and bits per byte by domain. A fixed set of whole-document windows."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from modelmill.tasks.lm.data import Batch, TokenFolder, TrainingBatch, stack
from modelmill.tasks.lm.losses import IGNORE, Head, Measure, cross_entropy_sum, summed_loss
from modelmill.tasks.lm.model import hidden_states, output_head
from modelmill.tasks.lm.pipeline.run import pipeline_of
from modelmill.tasks.lm.rows import DomainRows

# The 256 characters that byte-level BPE writes bytes with are one character each, so that the length of a token's
# text in the vocabulary is its number of bytes.


@dataclass(frozen=True)
class DomainScore:
    """Sums over the evaluated part of one domain: nll in nats."""

    nll: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        return self.nll / max(self.tokens, 1)

    @property
    def bits_per_byte(self) -> float:
        return self.nll / math.log(2) / max(self.bytes, 1)


class WindowScores(NamedTuple):
    """Bits (float64) and bytes (int64) of each held-out window that has a label."""

    bits: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class ValidationSet:
    """Held-out windows of each domain at one sequence length, and the bytes of each token id."""

    batches: Mapping[str, Batch]
    token_bytes: Tensor
    rows_per_forward: int


def token_byte_lengths(tokenizer_folder: Path, vocab_size: int) -> Tensor:
    """UTF-8 bytes that each token id of a byte-level BPE stands for (0 for special tokens): int64 [vocab_size]."""
    content = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    lengths = torch.zeros(vocab_size, dtype=torch.int64)
    for text, number in content["model"]["vocab"].items():
        lengths[number] = len(text)
    for token in content["added_tokens"]:
        lengths[token["id"]] = 0
    return lengths


def validation_set(
    tokens: TokenFolder,
    *,
    sequence_length: int,
    max_tokens_per_domain: int = 65_536,
    split: str = "validation",
    domains: list[str] | None = None,
) -> ValidationSet:
    """The first packed windows of each domain's held-out documents, always the same ones for the same arguments.

    Documents longer than `sequence_length` are cut, so that the figures of two lengths are not comparable.
    """
    shards = tokens.shards(split)
    batches = {}
    for domain in domains or shards.domains:
        source = DomainRows(
            shards,
            domain,
            seed=0,
            packing="stream",
            begin_token_id=tokens.begin_token_id,
            pad_token_id=tokens.pad_token_id,
            shuffle=False,
        )
        num_rows = min(source.num_rows(sequence_length), max(max_tokens_per_domain // sequence_length, 1))
        batches[domain] = stack([source.row(number, sequence_length) for number in range(num_rows)])
    lengths = token_byte_lengths(tokens.tokenizer, tokens.vocab_size)
    return ValidationSet(batches, lengths, max(8192 // sequence_length, 1))


@torch.no_grad()
def measured(model: PreTrainedModel, batches: Iterable[TrainingBatch], measure: Measure) -> list[Tensor]:
    """What `measure` makes of each batch, in main memory. Every process of the model's layout calls it with the same
    batches and gets the same."""
    if pipeline := pipeline_of(model):
        return pipeline.measured(batches, measure)
    device = str(next(model.parameters()).device)
    head, placed = output_head(model), (batch.to(device) for batch in batches)  # a cut head is gathered once
    return [measure(hidden_states(model, *batch.sequences), head, batch).cpu() for batch in placed]


def score_domains(model: PreTrainedModel, held_out: ValidationSet) -> dict[str, DomainScore]:
    """Negative log-likelihood, tokens and bytes of each domain."""
    scores = {}
    for domain, batch in held_out.batches.items():
        pieces = list(batch.split(held_out.rows_per_forward))
        nll = sum(map(float, measured(model, pieces, summed_loss)))
        kept = batch.labels[batch.labels != IGNORE]
        scores[domain] = DomainScore(nll, len(kept), int(held_out.token_bytes[kept].sum()))
    return scores


def score_windows(model: PreTrainedModel, held_out: ValidationSet) -> WindowScores:
    """The windows of every domain one by one, for the error of a mean."""
    pieces = [piece for batch in held_out.batches.values() for piece in batch.split(held_out.rows_per_forward)]
    nll = torch.cat(measured(model, pieces, _losses_of_rows)).double().numpy()
    labels = [row for piece in pieces for row in piece.labels]
    sizes = np.array([int(held_out.token_bytes[row[row != IGNORE]].sum()) for row in labels])
    kept = sizes > 0
    return WindowScores(nll[kept] / math.log(2), sizes[kept])


def _losses_of_rows(hidden: Tensor, head: Head, batch: Batch) -> Tensor:
    rows = zip(hidden, batch.labels, strict=True)
    return torch.stack([cross_entropy_sum(row, head, labels) for row, labels in rows])


def summary(scores: Mapping[str, DomainScore]) -> dict[str, float]:
    """`validation_loss` and `validation_bits_per_byte` over all domains, and bits per byte of each."""
    parts = list(scores.values())
    total = DomainScore(sum(s.nll for s in parts), sum(s.tokens for s in parts), sum(s.bytes for s in parts))
    by_domain = {f"validation_bits_per_byte/{domain}": score.bits_per_byte for domain, score in scores.items()}
    return {"validation_loss": total.loss, "validation_bits_per_byte": total.bits_per_byte} | by_domain


def validation_metrics(held_out: ValidationSet):
    """A function for the engine's `validate`."""

    def validate(model: PreTrainedModel) -> dict[str, float]:
        return summary(score_domains(model, held_out))

    return validate
