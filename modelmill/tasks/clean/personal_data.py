"""Texts → texts with e-mail addresses, phone numbers and public IP addresses replaced by placeholders, counted."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from modelmill.tasks.clean.config import PersonalData


@dataclass(frozen=True)
class Kind:
    """One kind of personal data: `candidate` (Rust syntax) selects texts, `pattern` finds, `is_valid` confirms."""

    name: str
    placeholder: str
    candidate: str
    pattern: re.Pattern[str]
    is_valid: Callable[[re.Match[str]], bool]


# What stands before a number with dots that counts chapters or versions, not hosts.
_NUMBERING = re.compile(
    r"(?:section|sections|sec\.|version|versions|chapter|release|figure|table|appendix|§|章|节|版本|版)\s*$", re.I
)


def _is_public_address(match: re.Match[str]) -> bool:
    text = match.group()
    if _NUMBERING.search(match.string, max(match.start() - 12, 0), match.start()):
        return False
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    # C++ scopes and times look like IPv6: ask for at least four groups and one digit.
    if address.version == 6 and (text.count(":") < 4 or not any(character.isdigit() for character in text)):
        return False
    return address.is_global and not address.is_multicast


def _has_phone_length(match: re.Match[str]) -> bool:
    # ITU-T E.164: at most 15 digits; fewer than 8 are too often something else.
    digits = sum(character.isdigit() for character in match.group())
    return 8 <= digits <= 15


# In ASCII mode, since an address may stand right between Chinese characters.
_PHONE = r"""(?xa)(?<![\w.+\-/=:@\#]) (?:
    \+\d{1,3}[\s.\-]?(?:\(\d{1,4}\)[\s.\-]?)?\d{1,4}(?:[\s.\-]?\d{2,4}){1,4}  # international
  | (?:1[\s.\-])?(?:\([2-9]\d{2}\)\s?|[2-9]\d{2}[\s.\-])\d{3}[.\-]\d{4}       # North America
  | 1[3-9]\d(?:\d{8}|[\s\-]\d{4}[\s\-]\d{4})                                  # Chinese mobile
  | 0\d{2,3}-\d{7,8}                                                          # Chinese landline
) (?![\w\-/=]|\.\w)"""

_EMAIL = (
    r"(?a)(?<![\w.+%\-])[A-Za-z0-9_+%\-][A-Za-z0-9_.+%\-]{0,63}@(?:[A-Za-z0-9][A-Za-z0-9\-]{0,62}\.)+[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9\-])"
)
_ADDRESS = r"(?a)(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)|(?:[0-9A-Fa-f]{0,4}:){4,7}[0-9A-Fa-f]{0,4}(?![\w:]))"

KINDS = (
    Kind("email", "<email>", r"[A-Za-z0-9]@[A-Za-z0-9]", re.compile(_EMAIL), lambda match: ".." not in match.group()),
    Kind(
        "public_ip",
        "<ip>",
        r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:",
        re.compile(_ADDRESS),
        _is_public_address,
    ),
    Kind(
        "phone",
        "<phone>",
        r"[0-9]{3}[ .)\-]{1,2}[0-9]{3,8}|\+[0-9]|1[3-9][0-9]{9}",
        re.compile(_PHONE),
        _has_phone_length,
    ),
)


def redact(texts: pa.ChunkedArray | pa.Array, config: PersonalData) -> tuple[pa.Array, dict[str, int]]:
    """Replace personal data in place → the texts and how many of each kind were replaced.

    Only texts that a fast search selects are looked at closely.
    """
    series = pl.Series(pl.from_arrow(texts)).cast(pl.String)
    counts = {}
    for kind in KINDS:
        if getattr(config, kind.name):
            series, counts[kind.name] = _redact_kind(series, kind)
    return series.to_arrow(), counts


def _redact_kind(series: pl.Series, kind: Kind) -> tuple[pl.Series, int]:
    rows = series.str.contains(kind.candidate).fill_null(False).arg_true()
    replaced, total = [], 0
    for text in series.gather(rows).to_list():
        text, count = _redact_text(text, kind)
        replaced.append(text)
        total += count
    return (series.clone().scatter(rows, replaced) if total else series), total


def _redact_text(text: str, kind: Kind) -> tuple[str, int]:
    count = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal count
        if not kind.is_valid(match):
            return match.group()
        count += 1
        return kind.placeholder

    return kind.pattern.sub(replacement, text), count
