"""A tokens artifact or explicit examples → batches: a pure function from the step's number to tensors."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from modelmill.tasks.errors import ContractError, RecipeError
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.mixture import MixtureChanges, MixtureRows
from modelmill.tasks.lm.packing import PackingKind
from modelmill.tasks.lm.plan import Plan, StepPoint
from modelmill.tasks.lm.rows import DomainRows, Row, RowSource
from modelmill.tasks.tokenize.shards import TokenShards


class TrainingBatch(ABC):
    """A batch: a dataclass of tensors with one entry a row. What is in them beside labels, its objective knows."""

    labels: Tensor

    @property
    @abstractmethod
    def sequences(self) -> tuple[Tensor, Tensor]:
        """Token ids and positions [S, length] for the model: equally many sequences of each row, in the rows' order."""

    @property
    @abstractmethod
    def weight(self) -> float:
        """What the summed loss is divided by."""

    @property
    def num_tokens(self) -> int:
        return self.sequences[0].numel()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By the name of the field."""
        return dict(vars(self))

    def split(self, rows: int) -> Iterator[Self]:
        """Micro-batches of at most `rows` rows."""
        pieces = (tensor.split(rows) for tensor in self.tensors.values())
        return (type(self)(*tensors) for tensors in zip(*pieces, strict=True))

    def to(self, device: str) -> Self:
        return type(self)(*(tensor.to(device) for tensor in self.tensors.values()))


@dataclass(frozen=True)
class Batch(TrainingBatch):
    """int64 tensors [rows, length]; labels[r, t] is the token to predict at t, or IGNORE."""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor

    @property
    def sequences(self) -> tuple[Tensor, Tensor]:
        return self.input_ids, self.position_ids

    @property
    def weight(self) -> float:
        """The number of labels."""
        return float((self.labels != IGNORE).sum())


class Batches(Protocol):
    """A pure function from a step to its batch."""

    def batch(self, point: StepPoint) -> TrainingBatch: ...


class RowBatches:
    """Batches made of the rows of one source (which may be a mixture)."""

    def __init__(self, source: RowSource) -> None:
        self.source = source

    def batch(self, point: StepPoint) -> Batch:
        numbers = range(point.first_row, point.first_row + point.num_rows)
        return stack([self.source.row(number, point.sequence_length) for number in numbers])


def stack(rows: list[Row]) -> Batch:
    """Rows of one length → a batch."""
    return Batch(
        torch.from_numpy(np.stack([row.tokens for row in rows])),
        torch.from_numpy(np.stack([row.labels for row in rows])),
        torch.from_numpy(np.stack([row.positions for row in rows])),
    )


@dataclass(frozen=True)
class TokenFolder:
    """What training needs to know of a tokens artifact beside its shards."""

    path: Path
    begin_token_id: int
    end_token_id: int
    pad_token_id: int
    vocab_size: int

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def special_tokens(self) -> dict[str, int]:
        """For the model's configuration."""
        return {
            "bos_token_id": self.begin_token_id,
            "eos_token_id": self.end_token_id,
            "pad_token_id": self.pad_token_id,
        }

    def shards(self, split: str) -> TokenShards:
        return TokenShards(self.path, split)


def open_tokens(path: Path | str) -> TokenFolder:
    """Read the special tokens and vocabulary size of a tokens artifact."""
    path = Path(path)
    tokenizer = json.loads((path / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    begin, end, pad = (ids.get(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "pad"))
    if begin is None or end is None or pad is None or end != index["eos_token_id"]:
        raise ContractError(
            f"the tokenizer in {path} has the special tokens {sorted(ids)} and its shards end documents with token "
            f"{index['eos_token_id']}; expected <|begin_of_text|>, <|end_of_text|> and <|pad|>, and the same end token"
        )
    return TokenFolder(path, begin, end, pad, index["vocab_size"])


def document_mixture(
    tokens: TokenFolder,
    *,
    seed: int,
    weights: Mapping[str, float] | None = None,
    packing: PackingKind = "best_fit",
    repeat_long: tuple[int, int] | None = None,
    plan: Plan | None = None,
    others: Mapping[str, tuple[RowSource, float]] | None = None,
) -> MixtureRows:
    """Packed training documents of every domain, drawn by `weights` (none: the mixture of the tokens artifact).

    With a plan the weights change where its `mixture_ramp` says so. `others`: further sources, each with its share of
    all rows, which stays the same.
    """
    shards = tokens.shards("train")
    weights = dict(shards.mixture if weights is None else weights)
    changes: MixtureChanges = plan.mixture_changes if plan else {}
    changed = [each for pairs in changes.values() for _, each in pairs]
    unknown = sorted(set(weights).union(*changed) - set(shards.domains))
    if unknown:
        raise RecipeError(f"the mixture names the domains {unknown}, but the tokens have only {shards.domains}")
    sources: dict[str, RowSource] = {
        domain: DomainRows(
            shards,
            domain,
            seed=seed,
            packing=packing,
            begin_token_id=tokens.begin_token_id,
            pad_token_id=tokens.pad_token_id,
            repeat_long=repeat_long,
        )
        for domain in shards.domains
        if any(each.get(domain, 0.0) > 0 for each in (weights, *changed))
    }
    shares = {name: share for name, (_, share) in (others or {}).items()}
    return MixtureRows(
        sources | {name: source for name, (source, _) in (others or {}).items()},
        _beside(weights, shares),
        seed=seed,
        changes={length: [(row, _beside(each, shares)) for row, each in pairs] for length, pairs in changes.items()},
    )


def _beside(weights: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """Weights of domains scaled to what the other sources leave of all rows."""
    factor = (1 - sum(shares.values())) / sum(weights.values())
    return {domain: weight * factor for domain, weight in weights.items()} | dict(shares)


def count_epochs(source: RowSource, plan: Plan) -> dict[str, float]:
    """How many times a run passes over each domain; the rows of each sequence length are counted for themselves."""
    passes: dict[str, float] = {}
    for length, num_rows in plan.num_rows.items():
        for domain, count in source.epochs(num_rows, length).items():
            passes[domain] = passes.get(domain, 0.0) + count
    return passes


def check_epochs(epochs: Mapping[str, float], limit: float) -> None:
    """Refuse a run that repeats a domain more often than the recipe allows.

    Raises:
        RecipeError: some domain is passed over more than `limit` times.
    """
    beyond = {domain: round(count, 2) for domain, count in epochs.items() if count > limit}
    if beyond:
        raise RecipeError(
            f"the run would pass over these domains more often than max_epochs = {limit:g}: {beyond}; train on fewer "
            "tokens, lower their weight in the mixture, add data, or raise max_epochs"
        )
