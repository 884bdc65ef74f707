"""Scored parts → the same with the reason `semantic` for documents that mean what a better one of their cluster means.

Embed → k-means on a sample → nearest centre of every document → within each cluster, from the best document down, drop
what reaches the threshold to one kept before it (dots.llm1 C.3: BGE-M3, k-means, cosine 0.95). Best: by quality, then
length, then a hash. Every step is a map over parts or clusters whose files the next one reads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from modelmill.tasks.curate.clusters import greedy_survivors, kmeans_centres, nearest_centres
from modelmill.tasks.curate.config import Config, SemanticDedup
from modelmill.tasks.curate.embeddings import document_frequencies, model_embeddings, word_embeddings
from modelmill.tasks.curate.parts import kept_counts
from modelmill.tasks.files import atomic_path
from modelmill.tasks.stage import Call, StageContext

SEMANTIC = "semantic"
ROWS_PER_CENTRE = 64  # of the sample that k-means sees; more moves the centres little
MAX_SAMPLE_ROWS = 200_000


def semantic_scores(
    context: StageContext, documents: Sequence[Path], surveys: Sequence[Path], scores: Sequence[Path]
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Run all steps → the new score files, and what `select_part` returns for each."""
    wanted: SemanticDedup = context.config.semantic
    folder = context.workspace / "semantic"
    parts = [Part(number, *paths, folder) for number, paths in enumerate(zip(documents, surveys, scores, strict=True))]
    frequencies = folder / "frequencies.npy"
    if wanted.model is None:
        _over(context, parts, count_part)
        sources = [part.file("count_part") for part in parts]
        context.pool.map(sum_counts, [Call("all", {"sources": sources, "output": frequencies})], "semantic frequencies")
    counts = _over(context, parts, embed_part, frequencies=frequencies, config=wanted, device=context.device)
    num_clusters = max(1, -(-sum(counts) // wanted.documents_per_cluster))
    centres = folder / "centres.npy"
    arguments = {"parts": parts, "num_clusters": num_clusters, "output": centres}
    context.pool.map(train_centres, [Call("all", arguments)], "semantic centres")
    _over(context, parts, assign_part, centres=centres)
    groups = range(0, num_clusters, wanted.clusters_per_call)
    size = wanted.clusters_per_call  # placement: a run that goes on with another must not take the first one's files
    found = [folder / f"dropped-{size}" / f"{first:08d}.parquet" for first in groups]
    calls = [
        Call(f"{path.stem}-{size}", {"parts": parts, "first": first, "config": wanted, "output": path})
        for first, path in zip(groups, found, strict=True)
    ]
    context.pool.map(compare_clusters, calls, "semantic pairs")
    kept = _over(context, parts, mark_part, dropped=found, config=context.config)
    return [part.file("mark_part") for part in parts], kept


@dataclass(frozen=True)
class Part:
    """One part of the documents: its number, what the steps before this one left of it, and the folder of this one."""

    number: int
    documents: Path
    survey: Path
    scores: Path
    folder: Path

    def file(self, step: str) -> Path:
        """The file that a step leaves of this part."""
        return self.folder / step / self.documents.name


def _over(context: StageContext, parts: Sequence[Part], function: Callable[..., Any], **shared: object) -> list[Any]:
    calls = [Call(part.documents.stem, {"part": part, **shared}) for part in parts]
    return context.pool.map(function, calls, f"semantic {function.__name__}")


def count_part(part: Part) -> int:
    """In how many kept documents of a part each hashed word occurs."""
    texts, rows = _kept(part, ["text"])
    _save(part.file("count_part"), np.append(document_frequencies(texts["text"]), len(rows)))
    return len(rows)


def sum_counts(sources: Sequence[Path], output: Path) -> int:
    """The same over all parts; the last number is that of the documents."""
    total = np.load(sources[0])
    for path in sources[1:]:
        total += np.load(path)
    _save(output, total)
    return int(total[-1])


def embed_part(part: Part, frequencies: Path, config: SemanticDedup, device: str) -> int:
    """Embeddings of a part's kept documents, and what says which of two is better."""
    table, rows = _kept(part, ["id", "text"])
    if config.model is None:
        *counts, num_documents = np.load(frequencies)
        embeddings = word_embeddings(table["text"], np.array(counts), int(num_documents))
    else:
        embeddings = model_embeddings(table["text"], config.model, config.max_tokens, device)
    quality = pq.read_table(part.scores, columns=["quality"])["quality"].to_numpy()[rows]
    hashes = pq.read_table(part.survey, columns=["hash"])["hash"].to_numpy()[rows]
    lengths = pl.Series(pl.from_arrow(table["text"])).str.len_chars().to_numpy()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    columns = {"row": rows, "id": table["id"], "hash": hashes, "quality": quality, "length": lengths}
    _write(pa.table({**columns, "embedding": vectors}), part.file("embed_part"))
    return len(rows)


def train_centres(parts: Sequence[Part], num_clusters: int, output: Path) -> int:
    """Centres from the documents with the smallest hashes: a sample that does not depend on how parts are cut."""
    wanted = min(num_clusters * ROWS_PER_CENTRE, max(MAX_SAMPLE_ROWS, num_clusters))
    frames = [
        pl.read_parquet(part.file("embed_part"), columns=["hash", "row"]).with_columns(part=pl.lit(part.number))
        for part in parts
    ]
    sample = pl.concat(frames).sort("hash", "part", "row").head(wanted).with_row_index("place")
    chosen = []
    for part in parts:
        group = sample.filter(pl.col("part") == part.number)
        table = pq.read_table(part.file("embed_part"), columns=["row", "embedding"])
        at = np.searchsorted(table["row"].to_numpy(), group["row"].to_numpy())
        chosen.append((group["place"].to_numpy(), _vectors(table)[at]))
    places, vectors = (
        np.concatenate(pieces) for pieces in zip(*(each for each in chosen if len(each[0])), strict=True)
    )
    _save(output, kmeans_centres(vectors[np.argsort(places)], num_clusters))
    return len(vectors)


def assign_part(part: Part, centres: Path) -> int:
    """A part's documents with their cluster, in its order: a reader of few clusters reads few row groups."""
    table = pq.read_table(part.file("embed_part"))
    labels = nearest_centres(_vectors(table), np.load(centres))
    numbers = pa.array(np.full(len(labels), part.number))
    table = table.append_column("cluster", pa.array(labels)).append_column("part", numbers)
    _write(table.take(pa.array(np.argsort(labels, kind="stable"))), part.file("assign_part"), row_group_size=2_000)
    return len(labels)


def compare_clusters(parts: Sequence[Part], first: int, config: SemanticDedup, output: Path) -> int:
    """Rows to drop in some consecutive clusters: part, row, survivor (an id)."""
    clusters = [("cluster", ">=", first), ("cluster", "<", first + config.clusters_per_call)]
    table = pa.concat_tables([pq.read_table(part.file("assign_part"), filters=clusters) for part in parts])
    order = [("cluster", "ascending"), ("quality", "descending"), ("length", "descending"), ("hash", "ascending")]
    table = table.sort_by([*order, ("id", "ascending")])
    vectors, labels = _vectors(table), table["cluster"].to_numpy()
    bounds = np.append(np.unique(labels, return_index=True)[1], len(labels))
    survivors = np.arange(len(labels))
    for start, stop in pairwise(bounds):
        survivors[start:stop] = start + greedy_survivors(vectors[start:stop], config.threshold)
    gone = np.flatnonzero(survivors != np.arange(len(survivors)))
    dropped = table.select(["part", "row"]).take(pa.array(gone))
    _write(dropped.append_column("survivor", table["id"].take(pa.array(survivors[gone]))), output)
    return len(gone)


def mark_part(part: Part, dropped: Sequence[Path], config: Config) -> dict[str, Any]:
    """A part's scores with the reason and the survivor of what is dropped here; returns what `select_part` does."""
    scored = pl.read_parquet(part.scores).with_row_index("row").cast({"row": pl.Int64})
    gone = pl.concat([pl.read_parquet(path).filter(pl.col("part") == part.number) for path in dropped])
    marked = scored.join(gone.select("row", "survivor"), on="row", how="left", maintain_order="left")
    reason = pl.when(pl.col("survivor").is_null()).then(pl.col("reason")).otherwise(pl.lit(SEMANTIC))
    table = marked.with_columns(reason=reason).drop("row").to_arrow()
    _write(table, part.file("mark_part"))
    return {"kept": kept_counts(pq.read_table(part.survey), table["reason"], config.min_validation_documents)}


def _kept(part: Part, columns: list[str]) -> tuple[pa.Table, np.ndarray]:
    """The rows of a part that are still kept, and their numbers."""
    kept = pq.read_table(part.scores, columns=["reason"])["reason"].is_null().to_numpy()
    rows = np.flatnonzero(kept)
    return pq.read_table(part.documents, columns=columns).take(pa.array(rows)), rows


def _vectors(table: pa.Table) -> np.ndarray:
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1) if len(column) else np.zeros((0, 1), np.int8)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def _write(table: pa.Table, path: Path, row_group_size: int | None = None) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=row_group_size)
