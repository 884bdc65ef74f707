"""A file on an HTTP(S) server → the same file here, fetched in as many pieces as its server and the network make of it.

A broken connection or a body that is too short goes on by a range request where it broke; `If-Range` makes sure that it
is still the same file. Servers that ask to slow down (Common Crawl answers 403, 429 and 503) are given time.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from modelmill.tasks.errors import InputError, ResourceError
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.ingest.addresses import Reach
from modelmill.tasks.ingest.files import is_http
from modelmill.tasks.ingest.guarded_client import Download, GuardedClient, RefusedError
from modelmill.tasks.ingest.schema import row_id
from modelmill.tasks.placeholders import redacted

_BUSY = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class _AgainError(Exception):
    """Worth another attempt, after `wait` seconds if the server named a time."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


@contextlib.contextmanager
def local_copy(
    address: str, folder: Path, settings: Download, reach: Reach, *, most_bytes: int | None = None
) -> Iterator[str]:
    """Path of the file while it is read; then it is removed, so that a worker holds one at a time.

    What a killed worker left is finished. Addresses that are not HTTP(S) are given back. Of a file of more than
    `most_bytes` no more than these need come.

    Raises:
        InputError: there is no such file, it is too large, or it is on a host that the recipe does not allow.
        ResourceError: the server gave no byte in `attempts` attempts.
    """
    if not is_http(address):
        yield address
        return
    path = folder / row_id(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    fetch(address, path, settings, reach, most_bytes=most_bytes)
    yield str(path)
    path.unlink()
    _tag_path(path).unlink(missing_ok=True)


def fetch(address: str, path: Path, settings: Download, reach: Reach, *, most_bytes: int | None = None) -> None:
    """Fetch a file whole, or its first bytes, from where an earlier attempt or run ended. Raises as `local_copy`."""
    shown = redacted(address)
    failures, furthest = 0, _size(path)
    with GuardedClient(settings, reach) as client:
        while True:
            try:
                _attempt(client, address, path, most_bytes or settings.max_gigabytes * 1e9, most_bytes is not None)
                return
            except (_AgainError, httpx.TransportError) as error:
                problem, asked = f"{type(error).__name__.removeprefix('_')}: {error}", getattr(error, "wait", 0.0)
            except RefusedError as error:
                path.unlink(missing_ok=True)
                raise InputError(f"{shown} cannot be read: {error}") from None
            failures = 0 if _size(path) > furthest else failures + 1
            furthest = max(furthest, _size(path))
            if failures >= settings.attempts:
                raise ResourceError(
                    f"{shown} gave no byte in {failures} attempts; the last one: {problem}. {_size(path)} bytes are "
                    "here. Wait, or name a mirror as the source's `prefix`, and run again: it goes on where it ended."
                )
            backoff = settings.backoff_seconds * 2.0 ** max(failures - 1, 0)
            time.sleep(min(max(asked, backoff), settings.longest_wait_seconds))


def _attempt(client: GuardedClient, address: str, path: Path, most_bytes: float, is_enough: bool) -> None:
    """One request for what is missing, up to `most_bytes`, which are all that is wanted or more than is allowed.

    Raises:
        _AgainError: something is still missing.
        InputError: the server says that there is no such file.
        RefusedError: the file is larger than is allowed, or lies where it may not be read.
    """
    tag = _tag(path)
    size = _size(path) if tag else 0
    # Also for the first byte: the answer then names the size of the file, whatever length its body claims.
    ranged = {"Range": f"bytes={size}-"} | ({"If-Range": tag} if size else {})
    with client.get(address, ranged) as response:
        if response.status_code in _BUSY:
            raise _AgainError(f"HTTP status {response.status_code}", _seconds(response.headers.get("retry-after", "")))
        if response.status_code == 416:
            _check_end(response, path, size)
            return
        if response.status_code not in (200, 206):
            raise InputError(
                f"found no file at {redacted(address)}: HTTP status {response.status_code}. Expected a file there: "
                "correct the source's `paths`, `prefix` or `crawl`, and run again."
            )
        start, total = _extent(response)
        if not is_enough and (total or 0) > most_bytes:
            raise _too_large(f"it has {total:,} bytes", most_bytes)
        if start not in (0, size):
            raise _AgainError(f"bytes from {start} on where {size} were asked for")
        write_json(_tag_path(path), {"tag": _validator(response)})
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            for chunk in response.iter_raw():
                file.write(chunk)
                if file.tell() >= most_bytes:
                    break
            if is_enough and file.tell() >= most_bytes:
                return
            if file.tell() > most_bytes:
                raise _too_large("it goes on", most_bytes)
    if total is not None and _size(path) != total:
        raise _AgainError(f"{_size(path)} of {total} bytes")


def _too_large(found: str, most_bytes: float) -> RefusedError:
    return RefusedError(
        f"{found}, and at most {most_bytes / 1e9:g} GB are fetched of one file. Split it, or raise the source's "
        "`download.max_gigabytes`, and run again."
    )


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """The offset of the first byte that comes, and the size of the whole file where it is named."""
    if response.status_code == 200:
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdecimal() else None
    found = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if found is None or found[1] is None:
        raise _AgainError("a part of the file without a usable Content-Range")
    return int(found[1]), int(found[2]) if found[2] != "*" else None


def _check_end(response: httpx.Response, path: Path, size: int) -> None:
    """Nothing lies behind what is here: the file is whole, or another one than before, which is fetched anew."""
    found = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if found is None or found[2] != str(size):
        path.unlink(missing_ok=True)
        raise _AgainError(f"nothing behind byte {size}")
    path.touch()


def _validator(response: httpx.Response) -> str:
    """What `If-Range` may name (RFC 9110 section 13.1.5): a strong entity tag, else the date of the file."""
    tag = response.headers.get("etag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("last-modified", "")


def _tag_path(path: Path) -> Path:
    return path.with_suffix(".tag.json")


def _tag(path: Path) -> str:
    return read_json(_tag_path(path))["tag"] if _tag_path(path).exists() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.strip().isdecimal() else 0.0
