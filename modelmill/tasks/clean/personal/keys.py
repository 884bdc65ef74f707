"""Places → keys, tokens and passwords: the forms that services issue, and values given to names such as `password`."""

import math
import re
from collections import Counter
from collections.abc import Iterator

from modelmill.tasks.clean.personal.finding import Found, Place

# Published by the services that issue them (their documentation of tokens, and of secret scanning).
_ISSUED = re.compile(
    rb"(?<![A-Za-z0-9_\-])(?:(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    rb"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,244}"
    rb"|glpat-[A-Za-z0-9_\-]{20,64}"  # GitLab
    rb"|xox[abprs]-[A-Za-z0-9\-]{20,250}|xapp-[A-Za-z0-9\-]{30,250}"  # Slack
    rb"|AIza[A-Za-z0-9_\-]{35}|GOCSPX-[A-Za-z0-9_\-]{28}"  # Google
    rb"|[sr]k_(?:live|test)_[A-Za-z0-9]{20,250}|whsec_[A-Za-z0-9]{24,64}"  # Stripe
    rb"|sk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_\-]{32,250}"  # OpenAI, Anthropic
    rb"|hf_[A-Za-z0-9]{34,40}|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_\-]{50,250}"
    rb"|dop_v1_[a-f0-9]{64}|shpat_[a-fA-F0-9]{32}|SG\.[A-Za-z0-9_\-]{16,32}\.[A-Za-z0-9_\-]{16,64}"
    rb"|eyJ[A-Za-z0-9_\-]{10,2000}\.eyJ[A-Za-z0-9_\-]{10,4000}\.[A-Za-z0-9_\-]{20,1000}"  # JWT
    rb")(?![A-Za-z0-9_])"
)
# How far before a mark such as `pat_` the key may begin.
_REACH = 12
_BEFORE_MARK = re.compile(rb"[A-Za-z0-9_\-]+\Z")
# Bits a character that a key's random part has at least; words and `xxxxxxxx` have fewer.
_MIN_BITS = 3.0
_PLACEHOLDER = re.compile(
    rb"(?i)x{5}|\*{3}|\.{3}|1234567890?|abcdefgh|example|your|test_?key|placeholder|changeme|redacted"
)


def issued_keys(place: Place) -> Iterator[Found]:
    """Keys of the forms that services issue. Samples such as `ghp_xxxxxxxx` stay."""
    before = _BEFORE_MARK.search(place.view, max(place.begin - _REACH, place.row_begin), place.begin)
    match = _ISSUED.match(place.view, before.start() if before else place.begin)
    if match and is_varied(match.group()):
        yield Found("key", match.start(), match.end())


_PEM = re.compile(
    rb"-----BEGIN (?P<what>(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?)-----"
    rb"(?:[A-Za-z0-9+/=\s:,.()]|-(?!----)){100,20000}"
    rb"-----END (?P=what)-----"
)


def private_keys(place: Place) -> Iterator[Found]:
    """PEM and PGP blocks of private keys."""
    match = _PEM.match(place.view, place.begin)
    if match:
        yield Found("key", match.start(), match.end())


_NAME = re.compile(
    r"(?:passwo?r?d|passwd|pwd|passphrase|secret|token|api[_\- ]?key|access[_\- ]?key|auth[_\- ]?key|private[_\- ]?key"
    r"|client[_\- ]?secret|account[_\- ]?key|credentials?|bearer|密码|密碼|口令|密钥)[\"'`\])]{0,2}\s*$"
)
_VALUE = re.compile(rb"[:=]>?[ ]{0,2}[\"'`]?(?P<value>[A-Za-z0-9_\-+/.~!@#$%^&*=]{8,200})(?![A-Za-z0-9(\[{])")
_DIGIT_AND_LETTER = re.compile(rb"(?=.*\d).*[A-Za-z]")
# What makes a value code rather than a secret: a call, a member, a variable, a path, an address.
_CODE = re.compile(rb"(?:^[$%&./]|^https?:|^[A-Za-z_]+[.\-/][A-Za-z_]|://|\.(?:com|org|net|html|json|txt)\b)")


def assigned_secrets(place: Place) -> Iterator[Found]:
    """Values of high entropy given to a name such as password, token or api_key."""
    if not _NAME.search(place.before(place.begin, 24)):
        return
    match = _VALUE.match(place.view, place.begin)
    if not match:
        return
    value = match.group("value").rstrip(b".!,")
    if len(value) >= 12 and _DIGIT_AND_LETTER.match(value) and not _CODE.search(value) and is_varied(value):
        yield Found("key", match.start("value"), match.start("value") + len(value))


def is_varied(value: bytes) -> bool:
    """Whether the characters of a value carry at least 3 bits each and hold no sample's words."""
    return not _PLACEHOLDER.search(value) and entropy(value) >= _MIN_BITS


def entropy(value: bytes) -> float:
    """Shannon entropy of the characters, in bits a character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
