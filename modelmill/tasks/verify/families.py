"""Random numbers and a difficulty → a problem, one function a family.

Difficulty 1 suits models of a few million parameters: three digits at a time, which any tokenizer that keeps digits
single sees as three tokens. From difficulty 2 on rows are longer and may be of letters.
"""

from collections.abc import Callable, Sequence
from random import Random

from modelmill.tasks.verify.problem import Generator, Problem

_DIGITS = "0123456789"
_LETTERS = "abcdefghkmnprstw"


def arithmetic(rng: Random, difficulty: int) -> Problem:
    """Sums and differences of `difficulty` + 2 terms; no running total leaves 0..9 (then 0..99, 0..999, ...)."""
    limit = 10**difficulty
    total = rng.randrange(limit)
    expression = str(total)
    for _ in range(difficulty + 1):
        if rng.random() < 0.5:
            term = rng.randint(0, limit - 1 - total)
            total, expression = total + term, f"{expression}+{term}"
        else:
            term = rng.randint(0, total)
            total, expression = total - term, f"{expression}-{term}"
    return Problem("arithmetic", f"Compute {expression}", str(total), expression, r"-?\d+")


def sorting(rng: Random, difficulty: int) -> Problem:
    """Order a row of digits or letters."""
    items = _row(rng, difficulty)
    falling = rng.random() < 0.5
    answer = "".join(sorted(items, reverse=falling))
    name = "Sort down" if falling else "Sort up"
    return Problem("sorting", f"{name}: {items}", answer, f"{name} {items}", rf"\w{{{len(items)}}}")


def counting(rng: Random, difficulty: int) -> Problem:
    """Count one digit or letter in a row that has only a few different ones."""
    pool = rng.choice(_pools(difficulty))
    few = rng.sample(pool, 2)
    items = "".join(rng.choice(few) for _ in range(2 + difficulty))
    wanted = rng.choice(few)
    return Problem("counting", f"Count {wanted} in {items}", str(items.count(wanted)), f"{wanted} in {items}", r"\d+")


def edits(rng: Random, difficulty: int) -> Problem:
    """Change a row of digits or letters."""
    items = _row(rng, difficulty)
    name, edit = rng.choice(_EDITS)
    return Problem("edits", f"{name}: {items}", edit(items), f"{name} {items}", r"\w+")


_EDITS: Sequence[tuple[str, Callable[[str], str]]] = (
    ("Copy", lambda items: items),
    ("Reverse", lambda items: items[::-1]),
    ("First", lambda items: items[0]),
    ("Last", lambda items: items[-1]),
    ("Remove first", lambda items: items[1:]),
    ("Remove last", lambda items: items[:-1]),
)


def formats(rng: Random, difficulty: int) -> Problem:
    """Write a row in a given form."""
    items = _row(rng, difficulty)
    name, template, separator, form = rng.choice(_FORMATS)
    answer = template.format(separator.join(items))
    return Problem("formats", f"{name}: {items}", answer, f"{name} {items}", form)


_FORMATS: Sequence[tuple[str, str, str, str]] = (
    ("List", "[{}]", ", ", r"\[[^\]]*\]"),
    ("Tuple", "({})", ", ", r"\([^)]*\)"),
    ("Call f", "f({})", ", ", r"f\([^)]*\)"),
    ("String", "'{}'", "", r"'.*'"),
    ("Return", "return {}", "", r"return .*"),
)


def python(rng: Random, difficulty: int) -> Problem:
    """The value of a Python expression over a short list."""
    items = [rng.randrange(10) for _ in range(2 + difficulty)]
    expression = rng.choice(_EXPRESSIONS).format(items=items, index=rng.randrange(len(items)))
    # The expression is made here from the templates below, so evaluating it is safe.
    value = eval(expression, {"__builtins__": {}}, {"len": len, "max": max, "min": min, "sorted": sorted})
    return Problem("python", expression, repr(value), expression, r"\d+|\[[\d,]*\]")


_EXPRESSIONS = ("max({items})", "min({items})", "sorted({items})", "{items}[{index}]", "{items}[:2]", "{items}[1:]")


def _row(rng: Random, difficulty: int) -> str:
    pool = rng.choice(_pools(difficulty))
    return "".join(rng.choice(pool) for _ in range(2 + difficulty))


def _pools(difficulty: int) -> tuple[str, ...]:
    return (_DIGITS,) if difficulty == 1 else (_DIGITS, _LETTERS)


FAMILIES: dict[str, Generator] = {
    "arithmetic": arithmetic,
    "sorting": sorting,
    "counting": counting,
    "edits": edits,
    "formats": formats,
    "python": python,
}
