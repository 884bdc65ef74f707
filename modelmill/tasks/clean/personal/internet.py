"""Places → e-mail addresses and public IP addresses."""

import ipaddress
import re
from collections.abc import Iterator

from modelmill.tasks.clean.personal.finding import Found, Place

_USER = re.compile(rb"[A-Za-z0-9_\x81](?:[A-Za-z0-9_.+%\-'\x81]{0,63})\Z")
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\x81](?:[A-Za-z0-9\-\x81]{0,61}[A-Za-z0-9\x81])?\.)+"
    rb"(?:xn--[a-z0-9\-]{2,50}|[A-Za-z\x81]{2,24})(?![A-Za-z0-9\x81])"
)
# `logo@2x.png` is a picture, `getty@tty1.service` a unit of systemd; the names of RFC 2606 and 6761 are examples.
_NOT_MAIL = re.compile(
    rb"(?i)(?:^|[.@])(?:example|example\.(?:com|org|net|edu)|test|invalid|localhost|local"
    rb"|png|jpe?g|gif|svg|webp|avif|ico|css|js|html?|php"
    rb"|service|socket|timer|target|mount|device)$"
)


def emails(place: Place) -> Iterator[Found]:
    """E-mail addresses. Those of the domains that are reserved for examples stay."""
    at = place.view.index(b"@", place.begin, place.end)
    user = place.view[place.begin : at].lstrip(b".%+-'")
    if not user or len(user) > 64 or user.endswith(b".") or b".." in user or user == b"git":
        return
    begin = at - len(user)
    if place.view[begin - 3 : begin] == b"://":
        return  # a user name in an address of the web
    host = _HOST.match(place.view, at + 1, place.end)
    if host and _USER.match(user) and not _NOT_MAIL.search(host.group()):
        yield Found("email", begin, host.end())


# What stands before a number with dots that counts chapters or versions, not hosts.
_NUMBERING = re.compile(
    r"(?:\bv|section|sections|sec\.|version|versions|firmware|driver|build|chapter|release|figure|table|appendix"
    r"|§|章|节|節|版本|版)[\s:]*$"
)
# Nor is a network (10.0.0.0/8), a name for reverse look-ups or a pinned version (==1.2.3.4) one host.
_IPV4 = re.compile(rb"(?<![\w\x81.\-/])(?<!==)(?:\d{1,3}\.){3}\d{1,3}(?![\w\x81\-]|\.[a-z\d]|/\d)")
# Four small numbers are a section or a version more often than a host.
_SMALL = 32
_HOST_WORDS = re.compile(
    r"\b(?:ip|hosts?|servers?|addr|address|addresses|dns|ping|resolvers?|nameserver)\b|地址|服务器|主机"
)


def ip_addresses(place: Place) -> Iterator[Found]:
    """Public IPv4 addresses; those of private, loopback and documentation networks (RFC 5737) stay."""
    for match in place.matches(_IPV4):
        if not _is_public(match.group()) or _NUMBERING.search(place.before(match.start(), 12)):
            continue
        small = all(int(number) < _SMALL for number in match.group().split(b"."))
        heading = place.before(match.start(), 1) in ("", "\n") and place.view[match.end() : match.end() + 2] == b". "
        if not small or (not heading and _HOST_WORDS.search(place.before(match.start()))):
            yield Found("ip", match.start(), match.end())


def ipv6_addresses(place: Place) -> Iterator[Found]:
    """Public IPv6 addresses."""
    text = place.view[place.begin : place.end].rstrip(b":") or b":"
    if place.view[place.begin : place.end].endswith(b"::"):
        text += b"::"
    edges = place.view[place.begin - 1 : place.begin] + place.view[place.end : place.end + 1]
    # C++ scopes and times look like IPv6; global unicast addresses begin with 2 or 3 and four digits.
    if re.match(rb"[23][0-9A-Fa-f]{3}:", text) and not re.search(rb"[\w\x81./]", edges) and _is_public(text):
        yield Found("ip", place.begin, place.begin + len(text))


def _is_public(text: bytes) -> bool:
    try:
        address = ipaddress.ip_address(text.decode("ascii"))
    except ValueError:
        return False
    return address.is_global and not address.is_multicast
