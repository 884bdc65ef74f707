"""Rows of documents → rows whose documents are cut into chunks, mixed, and tied by knots (Untie the Knots).

Source: arXiv:2409.04774 §3 and its code. A row is tied with a probability; in a tied row each document is cut at random
points, the chunks of all documents are shuffled (those of one document stay in order, the last chunk of the last
document stays at the end), and attention spans the whole row, so that a model must look for where a text goes on:

    <d>id1</d> text one, first part <knot0>   <d>id2</d> …   <d>id3</d> <knot1> text one, second part <s>id1<,>id3</s>
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator
from tokenizers import Tokenizer

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.data import TokenFolder
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.rows import Row, RowSource, random_generator
from modelmill.tasks.stage import StageConfig
from modelmill.tasks.tokenize.vocabulary import RESERVED

IDENTIFIER_LENGTH = 6
ALPHANUMERICS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class KnotsConfig(StageConfig):
    """Untie the Knots: how many rows are tied, and into how many chunks their documents are cut."""

    share: float = Field(gt=0, le=1)
    "Probability that a row is tied (published: 0.3, and 0.8, which was better)."
    chunk_weights: tuple[float, ...] = Field(default=(0.0, 1.0, 1.0), min_length=2)
    "Weights of one, two, three … chunks for each document of a tied row; two to three were best."

    @model_validator(mode="after")
    def _weights(self) -> "KnotsConfig":
        if min(self.chunk_weights) < 0 or sum(self.chunk_weights[1:]) <= 0:
            raise ValueError(
                f"chunk_weights are {list(self.chunk_weights)}; expected none below 0, and one above 0 for two chunks "
                "or more: otherwise no document is ever cut"
            )
        return self


@dataclass(frozen=True)
class KnotTokens:
    """Token ids: around a chunk's identifier, around and between the identifiers that close a document, the knots."""

    open_chunk: int
    close_chunk: int
    open_list: int
    separator: int
    close_list: int
    knots: tuple[int, ...]
    alphanumerics: tuple[int, ...]


def knot_tokens(tokens: TokenFolder, max_chunks: int) -> KnotTokens:
    """Reserved special tokens of the tokenizer: five around identifiers, then two knots for each place of a cut.

    Raises:
        ContractError: the tokenizer has too few reserved tokens, or does not know letters and digits as tokens.
    """
    tokenizer = Tokenizer.from_file(str(tokens.tokenizer / "tokenizer.json"))
    reserved = [number for name in RESERVED if (number := tokenizer.token_to_id(name)) is not None]
    needed = 5 + 2 * (max_chunks - 1)
    if len(reserved) < needed:
        raise ContractError(
            f"the tokenizer in {tokens.path} has {len(reserved)} reserved tokens (<|reserved_0|> …), but cutting "
            f"documents into {max_chunks} chunks needs {needed}: five around identifiers and two knots a cut; give "
            "fewer chunk_weights, or train the tokenizer with this version of tokenize"
        )
    letters = [number for letter in ALPHANUMERICS if (number := tokenizer.token_to_id(letter)) is not None]
    if len(letters) < len(ALPHANUMERICS):
        raise ContractError(
            f"the tokenizer in {tokens.path} lacks tokens for single letters; expected a byte-level one"
        )
    return KnotTokens(*reserved[:5], knots=tuple(reserved[5:needed]), alphanumerics=tuple(letters))


class KnotRows:
    """A row source over another one: each of its rows is tied with probability `share`, or passed on as it is."""

    def __init__(self, source: RowSource, config: KnotsConfig, tokens: TokenFolder, *, seed: int) -> None:
        self.source = source
        self.config = config
        self.seed = seed
        self.pad_token_id = tokens.pad_token_id
        self.special = knot_tokens(tokens, len(config.chunk_weights))
        self._weights = np.array(config.chunk_weights) / sum(config.chunk_weights)

    def row(self, number: int, length: int) -> Row:
        row = self.source.row(number, length)
        generator = random_generator(self.seed, "knots", number, length)
        if generator.random() >= self.config.share:
            return row
        documents = [self._cut(document, generator) for document in split_row(row, self.pad_token_id)]
        return tie(documents, self.special, length, generator, self.pad_token_id)

    def epochs(self, num_rows: int, length: int) -> dict[str, float]:
        """Those of the rows that are tied."""
        return self.source.epochs(num_rows, length)

    def _cut(self, document: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
        """Chunks between random points, no two of them equal."""
        num_chunks = min(1 + int(generator.choice(len(self._weights), p=self._weights)), len(document))
        points = 1 + generator.choice(len(document) - 1, num_chunks - 1, replace=False) if num_chunks > 1 else []
        return np.split(document, np.sort(np.asarray(points, dtype=np.int64)))


def split_row(row: Row, pad_token_id: int) -> list[np.ndarray]:
    """The documents of a row, or pieces of one, without the padding."""
    starts = np.flatnonzero(row.positions == 0)
    pieces = np.split(row.tokens, starts[1:])
    return [piece for piece in pieces if piece[0] != pad_token_id]


def tie(
    documents: Sequence[Sequence[np.ndarray]],
    special: KnotTokens,
    length: int,
    generator: np.random.Generator,
    pad_token_id: int,
) -> Row:
    """One row of `length` tokens from documents in chunks; what no longer fits behind the added tokens is cut off.

    A label counts where it goes on within its chunk, and within a closing list of identifiers; not where it is a knot,
    the token after one, an identifier before a chunk, a sentinel that opens a list, or another chunk's first token.
    Positions run through, so that attention sees the whole row. The last piece of a row is often a document that its
    end cut off: nothing is lost when the closing list behind it is.
    """
    slots = _tied_slots(documents, special, generator)
    order = _slot_order([len(document) for document in documents], generator)
    tokens = np.full(length + 1, pad_token_id, dtype=np.int64)
    trained = np.zeros(length + 1, dtype=bool)
    line = np.concatenate([slots[slot][0] for slot in order])[: length + 1]
    tokens[: len(line)] = line
    trained[: len(line)] = np.concatenate([slots[slot][1] for slot in order])[: length + 1]
    labels = np.where(trained[1:], tokens[1:], IGNORE)
    return Row(tokens[:-1], labels, np.arange(length, dtype=np.int64))


def _slot_order(num_chunks: Sequence[int], generator: np.random.Generator) -> list[int]:
    """Chunks by number, shuffled; each document's stay in order, and the last of the last document stays last."""
    document = np.repeat(np.arange(len(num_chunks)), num_chunks)
    drawn = np.append(generator.permutation(document[:-1]), document[-1:])
    order = np.empty(len(drawn), dtype=np.int64)
    order[np.argsort(drawn, kind="stable")] = np.arange(len(drawn))
    return order.tolist()


def _tied_slots(
    documents: Sequence[Sequence[np.ndarray]], special: KnotTokens, generator: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, whether each is trained as a label) of every chunk with all that is put around it, in document order."""
    slots = []
    for chunks in documents:
        if len(chunks) == 1:
            slots.append(_masked((chunks[0], _continuation(chunks[0]))))
            continue
        letters = generator.choice(special.alphanumerics, (len(chunks), IDENTIFIER_LENGTH))
        for place, chunk in enumerate(chunks):
            lead = [special.open_chunk, *letters[place], special.close_chunk]
            before = [special.knots[2 * place - 1]] if place else []
            parts = [(np.array([*lead, *before]), False), (chunk, _continuation(chunk))]
            if place < len(chunks) - 1:
                parts.append((np.array([special.knots[2 * place]]), False))
            else:
                parts += [(np.array([special.open_list]), False), (_closing_list(letters, special), True)]
            slots.append(_masked(*parts))
    return slots


def _closing_list(letters: np.ndarray, special: KnotTokens) -> np.ndarray:
    """The identifiers of a document's chunks in its order, separated and closed: what backtracing must write."""
    separators = np.full((len(letters), 1), special.separator)
    separators[-1] = special.close_list
    return np.hstack([letters, separators]).ravel()


def _continuation(chunk: np.ndarray) -> np.ndarray:
    return np.arange(len(chunk)) > 0


def _masked(*parts: tuple[np.ndarray, np.ndarray | bool]) -> tuple[np.ndarray, np.ndarray]:
    masks = [np.broadcast_to(np.asarray(mask), tokens.shape) for tokens, mask in parts]
    return np.concatenate([tokens for tokens, _ in parts]), np.concatenate(masks)
