"""Shards of pages → the domains whose text is dense with personal data, to be dropped whole (Llama 3 §3.1.1).

Each shard is counted by domain, then the counts of all shards are added up: memory grows with the number of domains
(four numbers and a name each), not with that of pages.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from modelmill.tasks.clean.config import DenseDomains
from modelmill.tasks.clean.personal.redact import found_in
from modelmill.tasks.clean.verdict import Verdict
from modelmill.tasks.text.flat import slices
from modelmill.tasks.text.shards import read_shard, write_shard

# What says who somebody is or how to reach them; a host's address or a key does not.
PERSONAL_KINDS = frozenset({"email", "phone", "card", "iban", "national_id"})
_HOST = r"^[a-z][a-z0-9+.\-]*://(?:[^/?#@]*@)?(?:www\.)?(\[[^\]]*\]|[^/:?#]+)"


def domains_of(urls: pa.ChunkedArray | pa.Array) -> pl.Series:
    """The host of each address without `www.`; empty where there is none."""
    series = pl.Series(pl.from_arrow(urls)).cast(pl.String).fill_null("").str.to_lowercase()
    return series.str.extract(_HOST).fill_null("").str.strip_chars_end(".")


def count_shard(source: Path | str, output: Path | str) -> int:
    """Documents, characters and pieces of personal data by domain in a shard of pages → their number of domains.

    Counts are of the text as it came, and of different values within a page: the same number twice counts once.
    """
    table = read_shard(Path(source), ["url", "text"])
    parts = [_counted(piece) for piece in slices(table, "text")] if "url" in table.column_names else []
    counts = _added(pl.concat(parts).lazy() if parts else _NOTHING.lazy()).collect()
    write_shard(counts.to_arrow(), Path(output))
    return counts.height


_NOTHING = pl.DataFrame(
    schema={"domain": pl.String, "documents": pl.Int64, "characters": pl.Int64, "personal_data": pl.Int64}
)


def _counted(table: pa.Table) -> pl.DataFrame:
    values = np.zeros(table.num_rows, np.int64)
    for row, text, begin, found in found_in(table["text"], PERSONAL_KINDS):
        values[row] = len({text[one.begin - begin : one.end - begin] for one in found})
    lengths = pl.Series(pl.from_arrow(table["text"])).cast(pl.String).fill_null("").str.len_chars()
    frame = pl.DataFrame({"domain": domains_of(table["url"]), "characters": lengths, "personal_data": values})
    frame = frame.filter(pl.col("domain") != "").with_columns(documents=pl.lit(1))
    return frame.select(_NOTHING.columns).cast({"documents": pl.Int64, "characters": pl.Int64})


def _added(counts: pl.LazyFrame) -> pl.LazyFrame:
    return counts.group_by("domain").agg(pl.exclude("domain").sum()).sort("domain")


def dense_domains(parts: Sequence[Path], rule: DenseDomains, allowed: Iterable[str] = ()) -> pl.DataFrame:
    """Domains to drop, from the counts of all shards: domain, documents, characters, personal_data and density.

    Domains that the recipe allows, and those below them, are never among them.
    """
    density = 1000 * pl.col("personal_data") / pl.col("characters")
    counts = _added(pl.scan_parquet(list(parts))).with_columns(density=density)
    chosen = counts.filter(pl.col("documents") >= rule.min_documents, pl.col("density") > rule.max_density)
    dense = chosen.collect(engine="streaming").sort("domain")
    for domain in allowed:
        dense = dense.filter(~(("." + pl.col("domain")).str.ends_with("." + domain.lower())))
    return dense


def dense_domain_verdict(urls: pa.ChunkedArray | pa.Array, domains: Path) -> Verdict:
    """Judge pages by the list that `dense_domains` made."""
    listed = pl.read_parquet(domains, columns=["domain"])["domain"]
    verdict = Verdict(len(urls))
    verdict.drop(domains_of(urls).is_in(listed.implode()).to_numpy(), "domain_personal_data")
    return verdict
