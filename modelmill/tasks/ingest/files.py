"""Paths, globs and URLs of a recipe → the list of files they name, each with a name that holds on every machine."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from modelmill.tasks.errors import InputError
from modelmill.tasks.placeholders import placeholders

# Their clients read what the machine's settings say (credentials, endpoint) and follow no redirect to another host.
OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf")
_GLOB_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: `address` is a local path or URL, `name` is the part that is no placement."""

    name: str
    address: str


def is_remote(address: str) -> bool:
    """Whether an address is a URL rather than a local path."""
    return "://" in address


def is_http(address: str) -> bool:
    """Whether an address is a file on an HTTP(S) server."""
    return address.lower().startswith(("http://", "https://"))


def address_problem(address: str) -> str | None:
    """Why nothing can be read from an address, or None. What is no URL is a local path, and any path will do."""
    if not is_remote(address):
        return None
    scheme = address.partition("://")[0].lower()
    if scheme in OBJECT_STORES:
        return None if "::" not in address else "expected one URL, found a chain of them (`::`)"
    if not is_http(address):
        return f"expected a local path, an http(s) URL or an s3:// URL, found the scheme {scheme[:20]!r}"
    try:
        parsed = urlsplit(address)
        host, _ = parsed.hostname or "", parsed.port
    except ValueError:
        host = ""
    if not host or not set(host).isdisjoint("${} "):
        return "expected the name or address of a host behind ://; a secret goes before it, into the path or the query"
    if "${" in _written(address):
        return "a secret is written ${NAME}, in capital letters, digits and `_`"
    return None


def _written(address: str) -> str:
    """The address without its placeholders."""
    for name in placeholders(address):
        address = address.replace(f"${{{name}}}", "")
    return address


def expand(paths: Iterable[str], source: str) -> list[SourceFile]:
    """The files that paths, globs, folders and URLs name: sorted by name, each address once.

    A file below a folder or glob is named by its path below it, a single file by its own name, a URL by itself.

    Raises:
        InputError: a path or glob names nothing.
    """
    files: dict[str, SourceFile] = {}
    for path in paths:
        found = [SourceFile(path, path)] if is_remote(path) else _local_files(path, source)
        files.update({file.address: file for file in found})
    return _distinctly_named(sorted(files.values(), key=lambda file: file.name))


def _local_files(path: str, source: str) -> list[SourceFile]:
    if not _GLOB_CHARACTERS.isdisjoint(path):
        parts = _fixed_parts(Path(path))
        root = Path(*parts)
        matches = list(root.glob(str(Path(*Path(path).parts[len(parts) :]))))
    else:
        root = Path(path) if Path(path).is_dir() else Path(path).parent
        matches = list(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]
    named = [(match.relative_to(root), match) for match in matches if match.is_file()]
    files = [
        SourceFile(name.as_posix(), str(match))
        for name, match in named
        if not any(part.startswith(".") for part in name.parts)  # editors and file systems leave such files
    ]
    if not files:
        raise InputError(
            f"source {source!r}: found no file at {path} (looked from {Path.cwd()}). "
            "Expected a file, a folder with files, or a glob that matches some: correct `paths` in the recipe."
        )
    return files


def _fixed_parts(pattern: Path) -> list[str]:
    parts = []
    for part in pattern.parts:
        if not _GLOB_CHARACTERS.isdisjoint(part):
            break
        parts.append(part)
    return parts


def _distinctly_named(files: list[SourceFile]) -> list[SourceFile]:
    """Two folders may hold files of one name: the later ones get a number, in the order of the recipe."""
    seen: dict[str, int] = {}
    named = []
    for file in files:
        count = seen.get(file.name, 0)
        seen[file.name] = count + 1
        named.append(SourceFile(f"{file.name}#{count}" if count else file.name, file.address))
    return named
