"""Places → telephone numbers: international, national forms that are telling by themselves, others after a word."""

import re
from collections.abc import Iterator

from modelmill.tasks.clean.personal.candidates import MIN_DIGITS
from modelmill.tasks.clean.personal.finding import Found, Place, digits_of

# ITU-T E.164 calling codes; a code is known by its first one to three digits.
_CALLING_CODES = frozenset(
    map(
        str,
        (1, 7, 20, 27, *range(30, 35), 36, *range(39, 42), *range(43, 50), *range(51, 59), *range(60, 67), 81, 82, 84,
         86, *range(90, 96), 98, 211, 212, 213, 216, 218, *range(220, 259), *range(260, 270), 290, 291, 297, 298, 299,
         *range(350, 360), *range(370, 384), 385, 386, 387, 389, 420, 421, 423, *range(500, 510), *range(590, 600),
         670, *range(672, 684), *range(685, 693), 800, 808, 850, 852, 853, 855, 856, 870, *range(880, 884), 886, 888,
         *range(960, 969), *range(970, 978), 979, *range(992, 997), 998),
    )
)  # fmt: skip
# Fewest and most digits after the calling code, where a number plan fixes them; elsewhere 6 to 12, at least 8 in all.
_PLANS = {
    "1": (10, 10), "7": (10, 10), "20": (8, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9), "33": (9, 9),
    "34": (9, 9), "36": (8, 9), "39": (6, 11), "40": (9, 9), "41": (9, 9), "43": (7, 13), "44": (9, 10), "45": (8, 8),
    "46": (7, 10), "47": (8, 8), "48": (9, 9), "49": (6, 12), "51": (8, 9), "52": (10, 11), "54": (10, 11),
    "55": (10, 11), "56": (9, 9), "57": (8, 10), "60": (8, 10), "61": (9, 9), "62": (8, 12), "63": (8, 10),
    "64": (8, 10), "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 10), "84": (9, 10), "86": (9, 11),
    "90": (10, 10), "91": (10, 10), "92": (9, 10), "351": (9, 9), "353": (7, 9), "358": (6, 11), "380": (9, 9),
    "420": (9, 9), "421": (9, 9), "852": (8, 8), "853": (8, 8), "886": (8, 9), "966": (8, 9), "971": (8, 9),
    "972": (8, 9),
}  # fmt: skip
_OTHER_PLAN = (6, 12)

_END = rb"(?![\w\x81=%]|[.\-/,]\d)"
# Every joint begins with what is no digit, so that there is one way only to read a number.
_GROUPS = rb"(?:(?:\)[ .\-/]?| ?\(|[ .\-/]| [/\-] )\d{1,14}){0,8}"
_INTERNATIONAL = re.compile(
    rb"(?<![\w\x81+.])(?P<prefix>\(?\+ ?|00 ?(?=[1-9]\d{0,2}[ \-./(]))[1-9]\d{0,14}" + _GROUPS + rb"(?![\w\x81=%])"
)
# Forms that are telling by themselves. None begins within a word, a longer number, an address or after a sign of money.
_BEGIN = rb"(?<![\w\x81.+\-/=@#&$%])(?<!\d[:,(])(?:(?<!\d )|(?=\())"
_NATIONAL = re.compile(
    _BEGIN + rb"(?:(?P<america>(?:1[ .\-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.\-])[2-9]\d\d[.\-]\d{4}"
    rb"|\([2-9]\d\d\) [2-9]\d\d \d{4})"  # North America
    rb"|(?P<chinese_line>\(?0(?:10|2[0-57-9]|[3-9]\d\d)(?:\)[ \-]?|-)[2-8]\d{6,7}|400-\d{3}-?\d{4}"
    rb"|400\d-\d{3}-\d{3})"  # China
    rb"|0[1-9](?P<f>[ .\-])\d\d(?P=f)\d\d(?P=f)\d\d(?P=f)\d\d"  # France
    rb"|\(?0(?:20\)? [378]\d{3} \d{4}|1\d{3}\)? \d{6}|1\d1\)? \d{3} \d{4}|7\d{3} \d{6}"
    rb"|7\d{3} \d{3} \d{3})"  # United Kingdom
    rb"|0120-\d{3}-\d{3}"
    rb"|0(?:[36]-[3-9]\d{3}-\d{4}|[1-9]\d-\d{3}-\d{4}|[1-9]\d\d-\d\d-\d{4}|[5789]0-\d{4}-\d{4})"  # Japan
    rb"|0(?:2-\d{3,4}-\d{4}|1[016-9]-\d{3,4}-\d{4})"  # Korea
    rb"|[78] ?\(\d{3,5}\) ?\d{1,3}-\d\d-\d\d"  # Russia
    rb"|\(\d\d\) ?9?\d{4}-\d{4}"  # Brazil
    rb"|\(0[2378]\) \d{4} \d{4}|04\d\d \d{3} \d{3}"  # Australia
    rb"|(?P<chinese_mobile>1[3-9]\d(?:\d{8}|(?P<c>[ \-])\d{4}(?P=c)\d{4})))" + _END
)
# Any row of digits as people group them, for after a word such as `Tel.`
_AFTER_WORD = re.compile(rb"(?<![\w\x81#$])\(?\d{1,14}" + _GROUPS + _END)
_WORDS = re.compile(
    r"(?:\b(?:tel|tele|telephone|phones?|ph|fax|mob|mobile|cell|call|text|sms|dial|whatsapp|hotline|toll[ \-]free"
    r"|fon|telefon|telefax|handy|mobil|rufnummer|tél|téléphone|teléfono|telefone|telefono|móvil|celular|cellulare|fijo"
    r"|telefoon|mobiel|gsm|puhelin|puh|τηλ|тел|телефон|факс|моб|هاتف|फ़ोन)\b"
    r"|电话|電話|手机|手機|傳真|传真|联系方式|热线|専用|전화|휴대폰|☎|📞|📱|☏|✆)[^\d\n]{0,14}"
    # another number may stand between
    r"(?:[+\d][\d .\-/()]{5,20}(?:[,;/|、]|and|or|und|oder|et|ou|y|o|и|或)? ?)?\Z"
)
_WORD_CHARACTERS = 64
_AMONG_CHINESE = re.compile(r"[\u3400-\u9fff][^\n]{0,12}$")
_DATE = re.compile(r"(?:19|20)\d\d[01]\d[0-3]\d$|[0-3]?\d[01]?\d(?:19|20)\d\d$|(?:19|20)\d\d(?:19|20)\d\d$")
_LAST_GROUP = re.compile(rb"(?:^|[ .\-/()]+)\d+$")
_MAX_DIGITS = 14


def phones(place: Place) -> Iterator[Found]:
    """Telephone numbers."""
    position = place.begin
    while position < place.end:
        found = _international(place, position) or _national(place, position)
        word = _after_word(place, position)
        if found is None or (word is not None and word[0] < found[0]):
            found = word
        if found is None:
            return
        yield Found("phone", *found)
        position = found[1]


def _international(place: Place, begin: int) -> tuple[int, int] | None:
    for match in _INTERNATIONAL.finditer(place.view, begin, place.end + 4):
        end = _planned_end(match)
        if match.start() < place.end and end:
            return match.start(), end
    return None


def _planned_end(match: re.Match[bytes]) -> int | None:
    """Where the number ends once groups that its number plan has no room for are left out; None if it has none."""
    text = match.group()[len(match["prefix"]) :]
    digits = digits_of(text)
    code = next((digits[:length] for length in (1, 2, 3) if digits[:length] in _CALLING_CODES), None)
    if code is None:
        return None
    fewest, most = _PLANS.get(code, _OTHER_PLAN)
    while text:
        rest = digits_of(re.sub(rb"\(0\)", b"", text))[len(code) :]
        if len(rest) <= most:
            enough = len(rest) >= fewest and len(rest) + len(code) >= 8 and len(set(rest)) > 1
            enough = enough and (code != "1" or _is_american(rest))
            return match.start() + len(match["prefix"]) + len(text) if enough else None
        text = _LAST_GROUP.sub(b"", text)
    return None


def _is_american(digits: str) -> bool:
    """Whether the North American plan has such area codes and exchanges."""
    area, exchange = digits[:3], digits[3:6]
    return area[0] not in "01" and area[1] != "9" and area[1:] != "11" and exchange[0] not in "01"


def _national(place: Place, begin: int) -> tuple[int, int] | None:
    for match in _NATIONAL.finditer(place.view, begin, place.end + 4):
        if match.start() >= place.end:
            return None
        digits = digits_of(match.group())
        if match["america"] and not _is_american(digits[-10:]):
            continue
        # Eleven digits alone are a mobile number among Chinese, or after a word; elsewhere they count something.
        bare = match["chinese_mobile"] and len(match.group()) == 11
        if bare and not _AMONG_CHINESE.search(place.before(match.start(), 16)):
            continue
        return match.span()
    return None


def _is_table(text: bytes) -> bool:
    """Whether it is decimals or single digits in a row."""
    num_groups = len(re.findall(rb"\d+", text))
    return 2 * num_groups > len(digits_of(text)) or bool(re.search(rb"^\d+\.\d+$|\d\.\d+ +\d+\.", text))


def _after_word(place: Place, begin: int) -> tuple[int, int] | None:
    for match in _AFTER_WORD.finditer(place.view, begin, place.end + 4):
        if match.start() >= place.end:
            return None
        text = match.group()
        while len(digits_of(text)) > _MAX_DIGITS:
            text = _LAST_GROUP.sub(b"", text)
        digits = digits_of(text)
        if len(digits) < MIN_DIGITS or _DATE.match(digits) or len(set(digits)) < 3 or _is_table(text):
            continue
        if _WORDS.search(place.before(match.start(), _WORD_CHARACTERS)):
            return match.start(), match.start() + len(text)
    return None
