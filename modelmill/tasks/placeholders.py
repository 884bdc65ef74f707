"""Addresses with `${NAME}` in place of a secret → checked in a recipe, completed at a request, redacted in messages.

What is written in a recipe ends in keys, manifests, MLflow, Prefect and rows. So a recipe names a secret, and only the
request that needs it knows its value: that of the environment variable MILL_SECRET_NAME, or of the file
`secrets/sources/NAME` of the home. The prefix keeps a recipe of somebody else's from naming any other variable.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from modelmill.tasks.errors import InputError, RecipeError

PREFIX = "MILL_SECRET_"
FOLDER = "secrets/sources"  # of the home
_PLACEHOLDER = re.compile(r"\$\{([A-Z][A-Z0-9_]{0,63})\}")
_HIDDEN = "***"
# Quotation marks and brackets, too: httpx takes them in a password, and a server gets it.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://\S+")
_ONE_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,20}://.*", re.DOTALL)
_USER_INFO = re.compile(r"(?<=://)[^/?#]*@")
# An address with a password whose scheme is missing or mistyped: its error would print it.
_WITHOUT_SCHEME = re.compile(r"((?:^|[\s\"'])(?:https?:/?|//)(?!/))(?!\$\{)[^/?#\s:@]+:(?!\$\{)[^/?#\s@]+@")
_PARAMETER = re.compile(r"(?<=[?&;#])([^=&;#?]+)=([^&;#]*)")
# As words of a parameter's name, between `-`, `_`, `.` and changes of case: X-Amz-Signature, access_token, sig.
_WORDS = frozenset(
    (
        *("auth", "authorization", "bearer", "credential", "credentials", "jwt", "passwd", "password", "pwd", "sas"),
        *("secret", "sig", "signature", "token", "apikey", "accesskey", "accesstoken", "authtoken", "sastoken"),
        *(
            "awsaccesskeyid",
            "googleaccessid",
            "hmac",
            "hdnea",
            "hdnts",
            "passphrase",
            "sessionid",
            "jsessionid",
            "phpsessid",
        ),
    )
)
# Ends of names in one word: clientsecret, apitoken, secretkey.
_ENDS = (
    *("token", "secret", "password", "passwd", "signature", "credential", "credentials", "apikey", "authkey"),
    *("accesskey", "accountkey", "privatekey", "secretkey", "subscriptionkey", "clientkey"),
)
_WHOLE_NAMES = frozenset(
    ("key", "pass", "pw", "api_key", "access_key", "account_key", "private_key", "subscription_key")
)
_PAGING = frozenset(("page", "next", "continuation", "cursor", "csrf", "sort"))  # next_page_token is no secret
_NAME_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
# Tokens that are known by their form: of Hugging Face, GitHub, GitLab, AWS, Google, Slack, OpenAI and JWT.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{50,}|glpat-[\w-]{20,}|A[KS]IA[0-9A-Z]{16}"
    r"|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}|xox[abprs]-[\w-]{20,}|sk-[A-Za-z0-9]{20,}|sk-(?:proj|ant|svcacct)-[\w-]{20,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
)
_LEAST_CHARACTERS = 4
_MOST_ESCAPES = 4  # of an address within an address within an address
# A regular expression rather than a value: a class or group with a count, an escape, an alternative.
_PATTERN = re.compile(r"[\])}][+*?{]|\\|\||\.[*+]|\(\?")
_IN_URL = re.compile(r"(?:[A-Za-z0-9._~!$'()*+,;=:@/?&-]|%[0-9A-Fa-f]{2})*")
_MOST_BYTES = 64_000


def literal_secret(text: str) -> str | None:
    """Which part of a text looks like a secret written out (in words that do not tell it), or None."""
    if _TOKEN.search(text):
        return "an access token"
    if _WITHOUT_SCHEME.search(text):
        return "a password"
    # What begins as an address is one whole: httpx escapes a space in it.
    for address in [text.strip()] if _ONE_ADDRESS.fullmatch(text) else _ADDRESS.findall(text):
        if (found := _secret_part(address)) is not None:
            return found
    return None


def _secret_part(address: str) -> str | None:
    user_info = _USER_INFO.search(address)
    if user_info and not address.lower().startswith("file:"):
        user, colon, password = user_info.group()[:-1].partition(":")
        secret = password if colon else user
        if not _PLACEHOLDER.search(secret) or _is_value(secret):
            return "a password" if colon else "a user name or token before the host"
    for name, value in _PARAMETER.findall(address):
        if _is_value(value) and _is_secret_name(unquote_plus(name)):
            return f"a value of {unquote_plus(name)}"
    nested = address
    for _ in range(_MOST_ESCAPES):
        plain = unquote(nested)
        if plain == nested:
            break
        nested = plain
        if (found := literal_secret(nested[nested.index("://") + 3 :])) is not None:
            return found
    return None


def _is_secret_name(name: str) -> bool:
    words = {word.lower() for word in _NAME_PARTS.findall(name)}
    joined = name.lower().replace("-", "_").removeprefix("x_").removeprefix("ocp_apim_")
    is_secret = joined in _WHOLE_NAMES or joined in _WORDS or not _WORDS.isdisjoint(words) or joined.endswith(_ENDS)
    return is_secret and _PAGING.isdisjoint(words)


def _is_value(text: str) -> bool:
    """Whether something stands there that may be a secret: not placeholders alone, no regular expression."""
    text = _PLACEHOLDER.sub("", text)
    return len(text) >= _LEAST_CHARACTERS and not _PATTERN.search(text)


def literal_secrets(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """(place, what it looks like) of each secret that is written out in a recipe's values."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from literal_secrets(item, f"{place}.{key}" if literal_secret(str(key)) is None else place)
            if (found := literal_secret(str(key))) is not None:
                yield place, found
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            label = item.get("name") if isinstance(item, dict) else None
            yield from literal_secrets(item, f"{place}.{label if isinstance(label, str) else number}")
    elif isinstance(value, str) and (found := literal_secret(value)) is not None:
        yield place, found


def redacted(text: str) -> str:
    """The text without what looks like a secret in its addresses."""
    text = _WITHOUT_SCHEME.sub(rf"\1{_HIDDEN}@", text)
    return _TOKEN.sub(_HIDDEN, _ADDRESS.sub(lambda match: _redacted_address(match.group()), text))


def _redacted_address(address: str) -> str:
    if _secret_part(address) is None:
        return address
    address = _USER_INFO.sub(f"{_HIDDEN}@", address)
    shown = _PARAMETER.sub(
        lambda match: f"{match[1]}={_HIDDEN}" if _is_secret_name(unquote_plus(match[1])) else match[0], address
    )
    is_nested = _secret_part(shown.replace(_HIDDEN, "${X}")) is not None
    return f"{re.split('[?#]', shown)[0]}?{_HIDDEN}" if is_nested else shown


def placeholders(text: str) -> list[str]:
    """Names of the secrets that a text leaves open."""
    return _PLACEHOLDER.findall(text)


def completed(address: str) -> str:
    """The address with its secrets, for a request and nothing else.

    A value is escaped unless it is part of a URL already: as it stands in a signed URL, or as it was given out.

    Raises:
        InputError: a secret is named and not there.
    """
    head, mark, rest = _split_user_info(address)
    head = _PLACEHOLDER.sub(lambda match: quote(secret_value(match[1]), safe=""), head)
    return head + mark + _PLACEHOLDER.sub(lambda match: _url_text(secret_value(match[1])), rest)


def _split_user_info(address: str) -> tuple[str, str, str]:
    found = _USER_INFO.search(address)
    if found is None:
        return "", "", address
    return address[: found.end() - 1], "@", address[found.end() :]


def _url_text(value: str) -> str:
    return value if _IN_URL.fullmatch(value) else quote(value, safe="")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes that send no request."""
    return {name: value for name, value in environment.items() if not name.startswith(PREFIX)}


def secret_value(name: str) -> str:
    """The secret of this name.

    Raises:
        InputError: there is none, or it is empty.
    """
    value = os.environ.get(PREFIX + name, "")
    home = os.environ.get("MILL_HOME", "")
    file = Path(home) / FOLDER / name
    if not value and home and file.is_file():
        value = file.read_bytes()[:_MOST_BYTES].decode("utf-8", errors="replace")
    value = value.strip()
    if not value:
        where = f"or write it to {file} (mode 0600)" if home else f"or write it to {FOLDER}/{name} of the home"
        raise InputError(
            f"an address of the recipe names the secret ${{{name}}}, and this process has none of that name: set the "
            f"environment variable {PREFIX}{name} before the run, {where}, and run again"
        )
    return value


def refuse_literal_secrets(values: Any, overrides: Sequence[str], origin: str) -> None:
    """Check a recipe before any of it is recorded.

    Raises:
        RecipeError: a secret is written out in the recipe or in an override; the message does not tell it.
    """
    found = list(literal_secrets(values, origin))
    for override in overrides:
        target, _, text = override.partition("=")
        if (what := literal_secret(text)) is not None:
            found.append((f"--set {redacted(target)}", what))
    if found:
        place, what = found[0]
        raise RecipeError(
            f"{place} holds {what}, which every record of a run would keep: write ${{NAME}} in its place, and give its "
            f"value by the environment variable {PREFIX}NAME, or in the file {FOLDER}/NAME of the home (mode 0600)"
        )
