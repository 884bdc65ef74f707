"""Names of artifacts that earlier runs of dedup left → their folders and digests, if their keys can be compared.

`keys/` of an artifact is all that a later crawl needs of an earlier one. It holds no text, 16 to 24 bytes an entry:

    header.json          levels, MinHash settings, and hashes of a probe text
    url-00000.arrow      hash of an address, survivor
    exact-00000.arrow    128 bits of a normalised text, survivor
    bands-00000.arrow    hash of a band, survivor
    ids-00000.arrow      survivor, id

A survivor is the 64-bit hash of the id of the document that stands for the key. Files are cut at equal steps of the
hash and sorted by it, so that a partition maps just its own stretch of each.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import read_json

HEADER = "header.json"
# Kind of key → its columns; the first is the one that files are cut and sorted by.
KINDS = {
    "url": ("hash", "survivor"),
    "exact": ("hash", "high", "survivor"),
    "bands": ("hash", "survivor"),
    "ids": ("hash", "id"),
}


def earlier_folder(name: str) -> Path:
    """The folder of an artifact given by its digest (in this home) or by its path.

    Raises:
        InputError: there is no artifact of dedup with keys.
    """
    folder = Path(name)
    if re.fullmatch(r"[0-9a-f]{64}", name):
        folder = Path(os.environ.get("MILL_HOME", "")) / "artifacts" / name
    if not (folder / "keys" / HEADER).is_file() or not (folder / "manifest.json").is_file():
        raise InputError(
            f"dedup.earlier names {name}, and {folder} is no artifact of dedup with its keys/; give the digest of one "
            "in this home (`mill show` prints it) or the path of its folder"
        )
    return folder


def earlier_digests(names: Sequence[str]) -> dict[str, str]:
    """Content digest of each artifact: where it lies and in which order they are named does not count."""
    digests = [_digest(earlier_folder(name)) for name in names]
    return {f"earlier {digest[:16]}": digest for digest in sorted(digests)}


def _digest(folder: Path) -> str:
    try:
        return str(read_json(folder / "manifest.json")["digest"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder / 'manifest.json'} cannot be read, so what dedup.earlier names is unknown. "
            "`mill verify --all --repair` writes it anew where the artifact belongs to this home."
        ) from error


def usable_folders(names: Sequence[str], levels: dict[str, Any]) -> list[Path]:
    """The folders of earlier artifacts whose keys can be compared with those that `levels` describes.

    Raises:
        InputError: an artifact lacks a level that this run has, or made its keys in another way.
    """
    folders = {_digest(folder): folder for folder in map(earlier_folder, names)}
    for folder in folders.values():
        found = read_json(folder / "keys" / HEADER)
        for level, settings in levels.items():
            if found["levels"].get(level) != settings:
                raise InputError(
                    f"the keys of {folder} cannot be compared at level {level}: they were made with "
                    f"{found['levels'].get(level)}, this run has {settings}. Use the same settings, or run the earlier "
                    "dedup again with these."
                )
    return [folders[digest] for digest in sorted(folders)]


def earlier_documents(folders: Sequence[Path]) -> int:
    """How many documents earlier artifacts have keys of."""
    return sum(read_json(folder / "keys" / HEADER)["documents"] for folder in folders)
