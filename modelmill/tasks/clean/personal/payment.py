"""Places → payment cards and IBANs whose length, issuer and check digits are right."""

import re
from collections.abc import Iterator

from modelmill.tasks.clean.personal.checksums import luhn, mod_97
from modelmill.tasks.clean.personal.finding import Found, Place, digits_of

# One group, or groups of four (American Express: 4-6-5) with the same separator all through.
_CARD = re.compile(
    rb"(?<![\w\x81.+\-/=#])(?:\d{13,19}|\d{4}(?P<a>[ \-])\d{4}(?P=a)\d{4}(?P=a)\d{4}(?:(?P=a)\d{3})?"
    rb"|3[47]\d\d(?P<b>[ \-])\d{6}(?P=b)\d{5})(?![\w\x81=]|[\-.,/]\d| \d{4})"
)
# First digits (from, to) and lengths of the issuers: ISO/IEC 7812 ranges as the networks publish them.
_ISSUERS = (
    ("34", "34", (15,)), ("37", "37", (15,)),  # American Express
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)), ("2221", "2720", (16,)),  # Mastercard
    ("6011", "6011", (16, 19)), ("644", "659", (16, 19)),  # Discover
    ("62", "62", (16, 17, 18, 19)), ("81", "81", (16,)),  # UnionPay
    ("3528", "3589", (16,)),  # JCB
    ("300", "305", (14,)), ("36", "36", (14,)), ("38", "39", (14,)),  # Diners Club
    ("2200", "2204", (16,)),  # Mir
    ("50", "50", (16, 18, 19)), ("6304", "6304", (16, 18, 19)), ("6759", "6763", (16, 18, 19)),  # Maestro
)  # fmt: skip
# Numbers that payment services publish for tests: nobody's card.
_TEST_CARDS = frozenset((
    "4111111111111111", "4242424242424242", "4000056655665556", "4012888888881881", "4222222222222",
    "5555555555554444", "5105105105105100", "2223003122003222", "5200828282828210", "378282246310005",
    "371449635398431", "6011111111111117", "6011000990139424", "3530111333300000", "3566002020360505",
    "30569309025904", "38520000023237", "4000000000000002"
))  # fmt: skip
# Bare numbers of these lengths are more often keys of a database than cards: a word must say what they are.
_CARD_WORDS = re.compile(r"card|credit|debit|visa|mastercard|amex|karte|carte|tarjeta|cartão|卡")


def cards(place: Place) -> Iterator[Found]:
    """Payment cards; the test numbers that payment services publish stay."""
    if place.end - place.begin < 13:
        return
    for match in place.matches(_CARD):
        digits = digits_of(match.group())
        if not is_card(digits) or digits in _TEST_CARDS:
            continue
        bare = match.end() - match.start() == len(digits)
        if not bare or _CARD_WORDS.search(place.before(match.start())):
            yield Found("card", match.start(), match.end())


def is_card(digits: str) -> bool:
    """Whether an issuer has cards of this length with these first digits, and the check digit is right."""
    known = any(low <= digits[: len(low)] <= high and len(digits) in lengths for low, high, lengths in _ISSUERS)
    return known and luhn(digits)


_IBAN = re.compile(
    rb"(?<![\w\x81.\-/=])[A-Z]{2}\d{2}(?:[A-Z0-9]{11,30}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9\x81])"
)
# Country and length, from the SWIFT IBAN registry.
_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 "
    "LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 "
    "SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _LENGTHS.split()}


def ibans(place: Place) -> Iterator[Found]:
    """International bank account numbers (ISO 13616), together or in groups of four."""
    for match in place.matches(_IBAN, after=44):
        compact = match.group().replace(b" ", b"").decode()
        length = _IBAN_LENGTHS.get(compact[:2], 0)
        # In groups, a word in capitals after the number may have been taken for its last group.
        if length and len(compact) >= length and is_iban(compact[:length]):
            end = _end_of(match, length)
            if end is not None:
                yield Found("iban", match.start(), end)


def is_iban(compact: str) -> bool:
    """Whether the length is the country's and the check digits are right."""
    return len(compact) == _IBAN_LENGTHS.get(compact[:2]) and mod_97(compact[4:] + compact[:4])


def _end_of(match: re.Match[bytes], length: int) -> int | None:
    """Where the number's last character ends, if no other letter or digit follows it."""
    seen = 0
    for index, byte in enumerate(match.group(), 1):
        seen += byte != 32
        if seen == length:
            end = match.start() + index
            return end if end == match.end() or match.string[end] == 32 else None
    return None
