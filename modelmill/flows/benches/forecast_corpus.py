"""A folder of JSON-lines files → a corpus artifact as curate writes one: domains by file name, a part held out."""

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path, write_json

HELD_OUT = 20  # one document in so many is held out


def write_corpus(source: Path, folder: Path, longest: int = 20_000) -> dict[str, float]:
    """Write the documents (`text` of `<domain>_*.jsonl[.gz]`), and return the mixture: each domain's share of bytes.

    Documents longer than `longest` characters are cut into such: a book in the held-out part would be all of it.

    Raises:
        InputError: the folder has no such file.
    """
    files = sorted(path for path in source.glob("*_*.jsonl*") if path.name.endswith((".jsonl", ".jsonl.gz")))
    if not files:
        raise InputError(f"no <domain>_<name>.jsonl or .jsonl.gz in {source}; give a folder that has some")
    sizes: dict[str, int] = defaultdict(int)
    for number, path in enumerate(files):
        domain = path.name.partition("_")[0]
        texts = [text[at : at + longest] for text in _texts(path) for at in range(0, len(text), longest)]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        rows = {
            "text": texts,
            "language": ["und"] * len(texts),
            "domain": [domain] * len(texts),
            "split": ["validation" if digest[0] % HELD_OUT == 0 else "train" for digest in digests],
        }
        sizes[domain] += sum(len(text.encode()) for text in texts)
        with atomic_path(folder / "documents" / f"part-{number:05d}.parquet") as temporary:
            pq.write_table(pa.table(rows), temporary, compression="zstd")
    mixture = {domain: size / sum(sizes.values()) for domain, size in sorted(sizes.items())}
    write_json(folder / "mixture.json", mixture)
    return mixture


def _texts(path: Path) -> Iterator[str]:
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n"):
        if line:
            yield json.loads(line)["text"]
