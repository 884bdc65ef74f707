"""Token shards on disk → memory-mapped documents and windows, by split and domain.

Layout under the `tokens` artifact, for each split and domain:

    <split>/<domain>/shard-00000.bin         little-endian uint16 (vocabulary <= 65,536) or uint32 token ids
    <split>/<domain>/shard-00000.index.npy   int64 start of each document, in tokens, then the end of the last
    index.json                               dtype, vocabulary, end-of-text id, totals by split and domain, mixture

Documents lie one after another, each ending with the end-of-text token. Needs numpy only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path, read_json, write_json
from modelmill.tasks.names import domain_name

SPLITS = ("train", "validation")


class Shard(NamedTuple):
    """One shard, memory-mapped: `tokens` of its documents and the `num_documents + 1` borders between them."""

    tokens: np.ndarray
    offsets: np.ndarray


class TokenShards:
    """Read access to one split of a `tokens` artifact; opening costs one small JSON file, shards map on first use.

    A domain's shards form one stream of documents (and of tokens), in the order of the index. Pickles as its path.

    Raises:
        InputError: the folder holds no token index, or not this split.
    """

    def __init__(self, folder: Path | str, split: str) -> None:
        self.folder = Path(folder)
        self.split = split
        path = self.folder / "index.json"
        if not path.is_file():
            raise InputError(f"no token index at {path}; expected a `tokens` artifact, which the tokenize stage writes")
        self.index: dict[str, Any] = read_json(path)
        if split not in self.index["splits"]:
            raise InputError(f"{path} has the splits {sorted(self.index['splits'])}, not {split!r}")
        self._domains: dict[str, dict[str, Any]] = self.index["splits"][split]
        self._streams: dict[str, _Stream] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenShards, (self.folder, self.split)

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored token ids."""
        return np.dtype(self.index["dtype"]).newbyteorder("<")

    @property
    def vocab_size(self) -> int:
        return self.index["vocab_size"]

    @property
    def eos_token_id(self) -> int:
        return self.index["eos_token_id"]

    @property
    def mixture(self) -> dict[str, float]:
        """Sampling weight of each domain that this split holds; sums to 1."""
        weights = {domain: self.index["mixture"].get(domain, 0.0) for domain in self.domains}
        total = sum(weights.values())
        return {domain: weight / total for domain, weight in weights.items()} if total else {}

    @property
    def domains(self) -> list[str]:
        """Names of the domains with at least one document, sorted."""
        return sorted(domain for domain, entry in self._domains.items() if entry["documents"])

    @property
    def total_tokens(self) -> int:
        return sum(self.num_tokens(domain) for domain in self.domains)

    def num_tokens(self, domain: str) -> int:
        """Tokens of a domain, end-of-text tokens included."""
        return self._entry(domain)["tokens"]

    def num_documents(self, domain: str) -> int:
        return self._entry(domain)["documents"]

    def num_bytes(self, domain: str) -> int:
        """UTF-8 bytes of a domain's text, for bits per byte."""
        return self._entry(domain)["bytes"]

    def document(self, domain: str, number: int) -> np.ndarray:
        """Token ids of one document of the domain's stream, its end-of-text token included."""
        starts = self.document_starts(domain)
        return self.window(domain, int(starts[number]), int(starts[number + 1] - starts[number]))

    def documents(self, domain: str) -> Iterator[np.ndarray]:
        """Every document of a domain, in order."""
        for shard in self._stream(domain).shards:
            for start, end in zip(shard.offsets[:-1], shard.offsets[1:], strict=True):
                yield shard.tokens[start:end]

    def document_starts(self, domain: str) -> np.ndarray:
        """Start of each document in the domain's stream, then its end: int64 [num_documents + 1]."""
        return self._stream(domain).starts

    def window(self, domain: str, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length) of the domain's stream: a view of the map where one shard holds them all."""
        return self._stream(domain).window(start, length)

    def _entry(self, domain: str) -> dict[str, Any]:
        if domain not in self._domains:
            raise InputError(f"no domain {domain!r} in {self.folder / self.split}; it has {self.domains}")
        return self._domains[domain]

    def _stream(self, domain: str) -> "_Stream":
        if domain not in self._streams:
            folder = domain_folder(self.folder, self.split, domain)
            shards = [read_shard(folder, name, self.dtype) for name in self._entry(domain)["shards"]]
            self._streams[domain] = _Stream(shards, self.dtype)
        return self._streams[domain]


class _Stream:
    """The shards of one domain, end to end."""

    def __init__(self, shards: list[Shard], dtype: np.dtype) -> None:
        self.shards = shards
        self.dtype = dtype
        self.borders = np.cumsum([0, *(len(shard.tokens) for shard in shards)])

    @cached_property
    def starts(self) -> np.ndarray:
        pieces = [shard.offsets[:-1] + border for shard, border in zip(self.shards, self.borders[:-1], strict=True)]
        return np.concatenate([*pieces, self.borders[-1:]]).astype(np.int64)

    def window(self, start: int, length: int) -> np.ndarray:
        end = start + length
        if not 0 <= start <= end <= self.borders[-1]:
            raise IndexError(f"window [{start}, {end}) is outside of the stream of {self.borders[-1]} tokens")
        first = int(np.searchsorted(self.borders, start, side="right")) - 1
        pieces = []
        for shard, border in zip(self.shards[first:], self.borders[first:], strict=False):
            if border >= end:
                break
            pieces.append(shard.tokens[max(start - border, 0) : end - border])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)


def domain_folder(folder: Path, split: str, domain: str) -> Path:
    """Where the shards of a domain are.

    Raises:
        InputError: the split or the domain is no plain name, so that the folder could be any of the machine.
    """
    try:
        return folder / domain_name(split) / domain_name(domain)
    except ValueError as error:
        raise InputError(f"a domain or split of {folder} cannot be a folder: {error}") from error


def read_shard(folder: Path, name: str, dtype: np.dtype) -> Shard:
    """Map one shard; an empty one (which cannot be mapped) becomes an empty array."""
    path = folder / f"{name}.bin"
    offsets = np.load(folder / f"{name}.index.npy")
    tokens = np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
    if offsets[-1] != len(tokens):
        raise InputError(f"{path} holds {len(tokens)} tokens, its index says {offsets[-1]}; build the tokens again")
    return Shard(tokens, offsets)


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest stored type that holds every id of the vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def write_shard(folder: Path, name: str, tokens: np.ndarray, offsets: np.ndarray) -> None:
    """Write one shard: token ids in their stored type, and document borders."""
    with atomic_path(folder / f"{name}.bin") as temporary:
        tokens.astype(tokens.dtype.newbyteorder("<"), copy=False).tofile(temporary)
    with atomic_path(folder / f"{name}.index.npy") as temporary, temporary.open("wb") as file:
        np.save(file, offsets.astype("<i8", copy=False))


def write_shards(
    folder: Path,
    split: str,
    domain: str,
    documents: Iterable[Sequence[int] | np.ndarray],
    *,
    vocab_size: int,
    num_bytes: int = 0,
    documents_per_shard: int = 10_000,
) -> dict[str, Any]:
    """Write a domain's documents (each already ending with end-of-text) as shards; returns its entry of the index."""
    place = domain_folder(folder, split, domain)
    dtype = token_dtype(vocab_size)
    rows = [np.asarray(document, dtype) for document in documents]
    names = []
    for number, first in enumerate(range(0, len(rows), documents_per_shard)):
        chunk = rows[first : first + documents_per_shard]
        offsets = np.cumsum([0, *(len(row) for row in chunk)], dtype=np.int64)
        names.append(f"shard-{number:05d}")
        write_shard(place, names[-1], np.concatenate(chunk), offsets)
    return {"tokens": sum(map(len, rows)), "documents": len(rows), "bytes": num_bytes, "shards": names}


def write_index(
    folder: Path,
    splits: Mapping[str, Mapping[str, Mapping[str, Any]]],
    *,
    vocab_size: int,
    eos_token_id: int,
    mixture: Mapping[str, float],
) -> None:
    """Write `index.json` over the entries that `write_shards` returned: {split: {domain: entry}}."""
    write_json(
        folder / "index.json",
        {
            "dtype": token_dtype(vocab_size).name,
            "vocab_size": vocab_size,
            "eos_token_id": eos_token_id,
            "splits": {split: dict(domains) for split, domains in splits.items()},
            "mixture": dict(mixture),
        },
    )
