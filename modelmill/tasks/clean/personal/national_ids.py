"""Places → national ids whose form, dates and check digits are right; weak forms only after a word that names them."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelmill.tasks.clean.personal.checksums import cpf, luhn, mod_11_2, verhoeff, weighted
from modelmill.tasks.clean.personal.finding import Found, Place


@dataclass(frozen=True)
class NationalId:
    """Where its form alone is not telling enough, `words` must stand shortly before it."""

    country: str
    form: bytes
    is_valid: Callable[[str], bool]
    words: str = ""


def _is_date(year: int, month: int, day: int) -> bool:
    return 1900 <= year <= 2099 and 1 <= month <= 12 and 1 <= day <= 31


# First two digits of the administrative codes of GB/T 2260.
_PROVINCES = frozenset(
    (*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83)
)


def _is_us(compact: str) -> bool:
    """Social Security numbers as issued since 2011; two that were printed in advertisements are nobody's."""
    area, group, serial = compact[:3], compact[3:5], compact[5:]
    void = area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000"
    return not void and compact not in ("078051120", "219099999", "123456789")


def _is_chinese(compact: str) -> bool:
    """GB 11643: province, date of birth, serial, MOD 11-2."""
    province, birth = int(compact[:2]), compact[6:14]
    known = province in _PROVINCES
    return known and _is_date(int(birth[:4]), int(birth[4:6]), int(birth[6:])) and mod_11_2(compact)


def _is_spanish(compact: str) -> bool:
    """DNI, and NIE with its first letter for a digit: a letter for the number modulo 23."""
    number = compact[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


# Of the characters 0 to 9 and A to Z in odd places.
_ODD_VALUES = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14)
_ODD_VALUES += (16, 10, 22, 25, 24, 23)


def _is_italian(compact: str) -> bool:
    """Codice fiscale: the check letter of the decree of 23 December 1976."""
    even = sum(int(character, 36) - (10 if character.isalpha() else 0) for character in compact[1:15:2])
    odd = sum(_ODD_VALUES[int(character, 36)] for character in compact[0:15:2])
    return chr(ord("A") + (even + odd) % 26) == compact[15]


def _is_french(compact: str) -> bool:
    """NIR: 97 less the number modulo 97; Corsica's departments count as 19 and 18."""
    number = compact[:13].replace("2A", "19").replace("2B", "18")
    month = int(compact[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42) and 97 - int(number) % 97 == int(compact[13:])


def _is_polish(compact: str) -> bool:
    """PESEL: date with the century in the month, weights 1, 3, 7, 9."""
    month = int(compact[2:4]) % 20
    rest = weighted(compact, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), 10)
    return 1 <= month <= 12 and 1 <= int(compact[4:6]) <= 31 and rest == 0


def _is_dutch(compact: str) -> bool:
    """BSN: the elfproef with -1 for the last digit."""
    return weighted(compact, (9, 8, 7, 6, 5, 4, 3, 2, -1), 11) == 0 and compact != "000000000"


def _is_korean(compact: str) -> bool:
    """Resident registration number: date and check digit (numbers issued since October 2020 have none)."""
    dated = 1 <= int(compact[2:4]) <= 12 and 1 <= int(compact[4:6]) <= 31
    rest = weighted(compact, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), 11)
    return dated and compact[6] in "12345678" and (11 - rest) % 10 == int(compact[12])


def _is_swedish(compact: str) -> bool:
    """Personnummer: date and Luhn."""
    return 1 <= int(compact[2:4]) <= 12 and 1 <= int(compact[4:6]) % 60 <= 31 and luhn(compact)


def _is_indian(compact: str) -> bool:
    """Aadhaar: Verhoeff; none begins with 0 or 1."""
    return compact[0] not in "01" and verhoeff(compact)


def _is_british(compact: str) -> bool:
    """National Insurance number: prefixes that HMRC gives out, and a suffix A to D."""
    return compact[:2] not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ") and compact[1] != "O"


def _alone(form: bytes) -> re.Pattern[bytes]:
    """The form where no letter, digit or sign joins it to something longer."""
    return re.compile(rb"(?<![\w\x81.+\-/=#&$])(?:" + form + rb")(?![\w\x81=]|[.\-/]\d)")


NATIONAL_IDS = (
    NationalId("CN", rb"[1-8]\d{16}[\dXx]", _is_chinese),
    NationalId("IT", rb"[A-Z]{6}\d\d[A-EHLMPRST][0-7]\d[A-Z]\d{3}[A-Z]", _is_italian),
    NationalId(
        "FR",
        rb"[12]\d\d(?:[0-4]\d)(?:\d\d|2[AB])\d{8}|[12] \d\d [0-4]\d (?:\d\d|2[AB]) \d{3} \d{3} \d\d",
        _is_french,
    ),
    NationalId("BR", rb"\d{3}\.\d{3}\.\d{3}-\d\d", cpf),
    NationalId("KR", rb"\d{6}-[1-8]\d{6}", _is_korean),
    NationalId("US", rb"\d{3}-\d\d-\d{4}", _is_us),
    NationalId(
        "US", rb"\d{3} \d\d \d{4}|\d{9}", _is_us, r"\bssn\b|social security (?:number|no|#)"
    ),
    NationalId(
        "ES",
        rb"\d{8}[ \-]?[A-Z]|[XYZ][ \-]?\d{7}[ \-]?[A-Z]",
        _is_spanish,
        r"\b(?:dni|nie|nif)\b|d\.n\.i",
    ),
    NationalId("BR", rb"\d{11}", cpf, r"\bcpf\b"),
    NationalId("IN", rb"\d{4}(?: \d{4} |-\d{4}-|\d{4})\d{4}", _is_indian, r"aadhaa?r|\buid(?:ai)?\b|आधार"),
    NationalId("PL", rb"\d{11}", _is_polish, r"\bpesel"),
    NationalId("NL", rb"\d{9}|\d{4}[. ]\d\d[. ]\d{3}", _is_dutch, r"\bbsn\b|burgerservice|sofi"),
    NationalId("SE", rb"\d{6}[\-+]\d{4}", _is_swedish, r"person(?:nummer|nr)|\bpnr\b"),
    NationalId(
        "GB",
        rb"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]",
        _is_british,
        r"national insurance|\bnino\b|\bni (?:number|no)",
    ),
)  # fmt: skip


# One search for all, since nearly every number is none.
_ANY = _alone(b"|".join(kind.form for kind in NATIONAL_IDS))
_PATTERNS = {kind: _alone(kind.form) for kind in NATIONAL_IDS}
_LONGEST = 24


@functools.cache
def _after_words(words: str) -> re.Pattern[str]:
    """One of the words and then no digit."""
    return re.compile(rf"(?:{words})[^0-9]*\Z")


def national_ids(place: Place) -> Iterator[Found]:
    """National ids of the countries in `NATIONAL_IDS`."""
    if next(place.matches(_ANY, _LONGEST), None) is None:
        return
    for kind in NATIONAL_IDS:
        for match in place.matches(_PATTERNS[kind], _LONGEST):
            compact = re.sub(rb"[ .\-+]", b"", match.group()).decode().upper()
            if kind.is_valid(compact) and (
                not kind.words or _after_words(kind.words).search(place.before(match.start()))
            ):
                yield Found("national_id", match.start(), match.end())
