"""Texts → MinHash deduplication end to end beside its peers, and recall beside the S-curve of theory."""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelmill.flows.benches.measured import Measured, cpu_seconds, peer
from modelmill.tasks.dedup.config import Config, LineRule, MinHash
from modelmill.tasks.dedup.minhash import band_hashes
from modelmill.tasks.dedup.rows import SerialPool
from modelmill.tasks.dedup.stage import run
from modelmill.tasks.files import remove_path
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, Pool, StageContext
from modelmill.tasks.text.flat import Characters
from modelmill.tasks.text.shards import read_shard, shard_rows, write_shard

STEP = "MinHash end to end"
WORD_LETTERS = 5
NUM_WORDS = 26**WORD_LETTERS
SIMILARITIES = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))


def measure(
    texts: Sequence[str] | None = None, bands: int = 14, rows: int = 8, num_pairs: int = 40_000
) -> list[Measured]:
    """Read Parquet → shingles of five words → signatures → bands → clusters → write Parquet, in MB of UTF-8 text.

    datasketch takes part with its MinHash and MinHashLSH in memory, datatrove with its four steps over files. Texts
    that nobody gives are generated, a fifth of them near duplicates.
    """
    texts = generated_texts(2_000) if texts is None else texts
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as name:
        folder = Path(name)
        table = pa.table({"id": [f"{i:09d}" for i in range(len(texts))], "text": pa.array(texts, pa.large_string())})
        write_shard(table, folder / "input" / "documents" / "part-00000.parquet")

        def row(tool: str, deduplicate: Callable[[Path, int, int], None], repeats: int = 1) -> Measured:
            seconds = cpu_seconds(lambda: deduplicate(folder, bands, rows), repeats)
            kept = sum(shard_rows(path) for path in (folder / tool).rglob("*.parquet"))
            quality = {"documents kept": float(kept), "of": float(len(texts))}
            return Measured(STEP, tool, megabytes / seconds, "MB/s", quality)

        measured = [
            row("modelmill", _modelmill, repeats=3),
            peer(STEP, "datasketch", "datasketch", lambda: row("datasketch", _datasketch)),
            peer(STEP, "datatrove", "datatrove spacy", lambda: row("datatrove", _datatrove)),
        ]
    return [*measured, recall(bands, rows, num_pairs)]


def generated_texts(num_documents: int, seed: int = 0, num_words: int = 500) -> list[str]:
    """Texts of words drawn by Zipf's law; every fifth is the one before it with a few words exchanged."""
    generator = np.random.default_rng(seed)
    letters = generator.integers(97, 123, (20_000, 8), dtype=np.uint8)
    lengths = generator.integers(2, 9, len(letters))
    words = [bytes(row[:length]).decode() for row, length in zip(letters, lengths, strict=True)]
    texts: list[str] = []
    numbers = np.zeros(0, np.int64)
    for document in range(num_documents):
        if document % 5 == 4:
            numbers = numbers.copy()
            numbers[generator.integers(0, num_words, 6)] = generator.integers(0, len(words), 6)
        else:
            numbers = np.minimum(generator.zipf(1.2, num_words), len(words)) - 1
        texts.append(" ".join([words[number] for number in numbers]))
    return texts


def _modelmill(folder: Path, bands: int, rows: int) -> None:
    for name in ("modelmill", "work"):
        remove_path(folder / name)
    config = Config(url=False, exact=False, lines=LineRule(rule="none"), minhash=MinHash(bands=bands, rows=rows))
    run(stage_context(folder / "input", folder / "work", config))
    (folder / "work" / "output" / "documents").rename(folder / "modelmill")


def stage_context(source: Path, workspace: Path, config: Config, pool: Pool | None = None) -> StageContext:
    """The context of a dedup stage over `source`/documents, one call after another unless a pool is given."""
    inputs = {"documents": [Artifact("documents", source, "0" * 64, "clean", {})]}
    journal = Journal(workspace / "journal.jsonl")
    return StageContext(config, inputs, workspace, workspace / "output", pool or SerialPool(), journal, _no_sampler)


def _no_sampler():
    raise AssertionError("dedup samples from no model")


def _datasketch(folder: Path, bands: int, rows: int) -> None:
    """Greedy: a document that collides with one kept before it goes."""
    import datasketch  # pyright: ignore[reportMissingImports]

    table = read_shard(folder / "input" / "documents" / "part-00000.parquet")
    index = datasketch.MinHashLSH(num_perm=bands * rows, params=(bands, rows))
    kept = []
    for number, text in enumerate(table["text"].to_pylist()):
        words = re.findall(r"\w+", text.lower())
        shingles = {" ".join(words[i : i + 5]).encode() for i in range(max(len(words) - 4, 1))}
        signature = datasketch.MinHash(num_perm=bands * rows)
        signature.update_batch(list(shingles))
        if not index.query(signature):
            index.insert(number, signature)
            kept.append(number)
    write_shard(table.take(pa.array(kept)), folder / "datasketch" / "part-00000.parquet")


def _datatrove(folder: Path, bands: int, rows: int) -> None:
    """The four steps as datatrove's own example runs them, with SHA-1: its xxhash64 fails with xxhash 3.8 and later."""
    from datatrove.executor import LocalPipelineExecutor  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline import dedup  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.readers import ParquetReader  # pyright: ignore[reportMissingImports]
    from datatrove.pipeline.writers import ParquetWriter  # pyright: ignore[reportMissingImports]
    from datatrove.utils.hashing import HashConfig  # pyright: ignore[reportMissingImports]
    from loguru import logger  # pyright: ignore[reportMissingImports]

    logger.remove()
    work, output = folder / "datatrove-work", folder / "datatrove"
    for path in (work, output):
        remove_path(path)
    reader = ParquetReader(str(folder / "input" / "documents"))
    config = dedup.MinhashConfig(num_buckets=bands, hashes_per_bucket=rows, hash_config=HashConfig(hash_fc="sha1"))
    signatures, buckets, removed = (str(work / name) for name in ("signatures", "buckets", "removed"))
    steps = [
        ([reader, dedup.MinhashDedupSignature(signatures, config=config)], 1),
        ([dedup.MinhashDedupBuckets(signatures, buckets, config=config)], bands),
        ([dedup.MinhashDedupCluster(buckets, removed, config=config)], 1),
        ([reader, dedup.MinhashDedupFilter(removed), ParquetWriter(str(output))], 1),
    ]
    for number, (pipeline, tasks) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / f"logs-{number}")).run()


def recall(bands: int, rows: int, num_pairs: int, num_shingles: int = 100) -> Measured:
    """Share of planted pairs that agree in a band at each Jaccard similarity, and how far theory lies from it."""
    config = MinHash(bands=bands, rows=rows, shingle_words=1)
    quality, deviations, block = {}, [], 4_000
    for similarity in SIMILARITIES:
        found, exact = 0, similarity
        for first in range(0, num_pairs, block):
            texts, exact = planted_pairs(similarity, first, block, num_shingles)
            hashes, _ = band_hashes(texts, config)
            found += int(np.any(hashes[0::2] == hashes[1::2], axis=1).sum())
        theory = 1 - (1 - exact**rows) ** bands
        quality[f"recall at {similarity:.2f}"] = found / num_pairs
        deviations.append(abs(found / num_pairs - theory))
    quality["largest deviation"] = max(deviations)
    return Measured(
        f"recall of {bands} × {rows}",
        "modelmill",
        quality=quality,
        note=f"{num_pairs:,} pairs each; deviation from theory",
    )


def planted_pairs(similarity: float, first: int, num_pairs: int, num_shingles: int) -> tuple[Characters, float]:
    """Pairs of texts of `num_shingles` different words with a given Jaccard similarity → texts, exact similarity.

    The pairs are numbered from `first` on; of one pair to the next all words change.
    """
    shared = round(num_shingles * 2 * similarity / (1 + similarity))
    own = num_shingles - shared
    union = shared + 2 * own
    # A stride without common factor with the number of words visits all of them before it repeats one.
    numbers = (np.arange(first * union, (first + num_pairs) * union) * 7_368_787 % NUM_WORDS).reshape(-1, 1, union)
    sides = [numbers[..., : shared + own], np.concatenate([numbers[..., :shared], numbers[..., shared + own :]], -1)]
    words = np.concatenate(sides, axis=1).reshape(-1)
    codes = np.full((len(words), WORD_LETTERS + 1), 32, np.uint32)
    for letter in range(WORD_LETTERS):
        codes[:, letter] = 97 + words // 26**letter % 26
    offsets = np.arange(2 * num_pairs + 1) * num_shingles * (WORD_LETTERS + 1)
    return Characters(codes.reshape(-1), offsets), shared / union
