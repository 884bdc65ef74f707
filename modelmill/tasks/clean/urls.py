"""Addresses → pages dropped for their domain or for a word in their address.

Lists of domains are files that a recipe names, so that they are updated by replacing the file: the stage's key follows
their content. Read are the formats in which lists are kept: one domain a line, hosts files (`0.0.0.0 example.com`),
wildcards (`*.example.com`) and blockers' rules (`||example.com^`), plain or compressed (.gz, .bz2, .xz, .zst).
"""

import functools
import lzma
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from modelmill.tasks.clean.config import UrlRules
from modelmill.tasks.clean.verdict import Verdict
from modelmill.tasks.errors import InputError

_SUFFIX = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+|[0-9a-fA-F:]*:[0-9a-fA-F:%\w]*")
_LOCAL = ("localhost", "localhost.localdomain", "local", "broadcasthost", "ip6-localhost", "ip6-loopback", "0.0.0.0")
_HOST = r"^[a-z][a-z0-9+.\-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/:?#]+)"


def url_verdict(urls: pa.ChunkedArray | pa.Array, rules: UrlRules) -> Verdict:
    """Judge pages by their address; a page without one passes."""
    series = pl.Series(pl.from_arrow(urls)).cast(pl.String).fill_null("").str.to_lowercase()
    hosts = series.str.extract(_HOST).fill_null("").str.strip_chars_end(".")
    verdict = Verdict(len(series))
    allowed = _named(hosts, frozenset(_normalised(rules.allowed_domains)))
    verdict.drop(_named(hosts, blocked_domains(rules)) & ~allowed, "url_blocked_domain")
    built_in = _built_in("blocked_url_words.txt") if rules.use_built_in_list else ()
    words = [*built_in, *_normalised(rules.blocked_words)]
    if words:
        pattern = rf"(?:^|[^a-z0-9])(?:{'|'.join(map(re.escape, words))})(?:$|[^a-z0-9])"
        verdict.drop(series.str.contains(pattern).to_numpy() & ~allowed, "url_blocked_word")
    return verdict


def blocked_domains(rules: UrlRules) -> frozenset[str]:
    """All domains that the recipe and its lists block."""
    domains = set(_normalised(rules.blocked_domains))
    if rules.use_built_in_list:
        domains.update(_built_in("blocked_domains.txt"))
    for name in rules.block_list_files:
        domains.update(listed_domains(Path(name)))
    return frozenset(domains)


def listed_domains(path: Path) -> list[str]:
    """The domains of a list in any of the formats named above.

    Raises:
        InputError: the file is not compressed as its name says, or not UTF-8.
    """
    try:
        with pa.input_stream(path, compression=_SUFFIX.get(path.suffix)) as file:
            content = file.read()
        text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode("utf-8")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(f"block list {path} cannot be read ({error}); expected UTF-8, compressed as named") from error
    return _normalised([_domain(line) for line in text.splitlines()])


def _domain(line: str) -> str:
    """The domain of one line, "" for a comment, an exception, or a rule about something else than a whole domain."""
    entry = line.split("#", 1)[0].strip()
    if entry.startswith("||"):
        domain, separator, rest = entry[2:].partition("^")
        return domain if separator and not rest and "/" not in domain and "*" not in domain else ""
    if entry.startswith(("!", "@@", "[")):
        return ""
    fields = entry.split()
    entry = fields[1] if len(fields) > 1 and _ADDRESS.fullmatch(fields[0]) else "".join(fields[:1])
    return "" if entry in _LOCAL else entry.removeprefix("*.")


def _named(hosts: pl.Series, domains: frozenset[str]) -> NDArray[np.bool_]:
    """Whether each host is one of the domains or below one. Looked up once for each different host."""
    unique = hosts.unique().to_list()
    named = [host for host in unique if host and any(suffix in domains for suffix in _suffixes(host))]
    return hosts.is_in(named).to_numpy()


def _suffixes(host: str) -> list[str]:
    labels = host.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]


def _normalised(names: Iterable[str]) -> list[str]:
    return [name.strip().lower().strip(".") for name in names if name.strip()]


def _entries(text: str) -> list[str]:
    return _normalised([line.split("#", 1)[0] for line in text.splitlines()])


@functools.cache
def _built_in(name: str) -> tuple[str, ...]:
    source = resources.files("modelmill.tasks.clean").joinpath(f"data/{name}")
    return tuple(_entries(source.read_text(encoding="utf-8")))
