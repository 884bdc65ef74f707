"""Random numbers and a difficulty → a problem, one function a family.

Difficulty 1 suits models of a few million parameters.
Letters stand apart and numbers are small, so that what is measured is the task and not the tokenizer.
"""

from collections.abc import Callable, Sequence
from random import Random

from modelmill.tasks.verify.problem import Generator, Problem

_LETTERS = "abcdefghkmnprstw"
_LETTER = "[A-Za-z]"


def arithmetic(rng: Random, difficulty: int) -> Problem:
    """Sums and differences of `difficulty` + 1 terms; no running total leaves 0..10 * difficulty - 1."""
    limit = 10 * difficulty
    total = rng.randrange(limit)
    expression = str(total)
    for _ in range(difficulty):
        if rng.random() < 0.5:
            term = rng.randint(0, limit - 1 - total)
            total, expression = total + term, f"{expression} + {term}"
        else:
            term = rng.randint(0, total)
            total, expression = total - term, f"{expression} - {term}"
    wording = rng.choice(("Compute {}.", "What is {}?", "Work out {}."))
    return Problem("arithmetic", wording.format(expression), str(total), expression, r"-?\d+")


def sorting(rng: Random, difficulty: int) -> Problem:
    """Order digits or letters."""
    length = rng.randint(3, 2 + difficulty)
    items = _draw(rng, "0123456789" if rng.random() < 0.5 else _LETTERS, length)
    falling = rng.random() < 0.5
    order = "descending" if falling else "ascending"
    answer = " ".join(sorted(items, reverse=falling))
    prompt = f"Sort in {order} order: {' '.join(items)}"
    return Problem("sorting", prompt, answer, f"{order} {' '.join(items)}", rf"\w( \w){{{length - 1}}}")


def counting(rng: Random, difficulty: int) -> Problem:
    """Count one letter, or all items."""
    length = rng.randint(2, 3 + difficulty)
    few = rng.sample(_LETTERS, 3)
    items = [rng.choice(few) for _ in range(length)]
    if rng.random() < 0.3:
        return Problem(
            "counting", f"How many letters: {' '.join(items)}", str(length), f"all {' '.join(items)}", r"\d+"
        )
    wanted = rng.choice(few)
    prompt = f"How many {wanted} in: {' '.join(items)}"
    return Problem("counting", prompt, str(items.count(wanted)), f"{wanted} {' '.join(items)}", r"\d+")


def edits(rng: Random, difficulty: int) -> Problem:
    """Change a row of letters."""
    items = _draw(rng, _LETTERS, rng.randint(2, 2 + difficulty))
    name, edit = rng.choice(_EDITS)
    before, after = " ".join(items), " ".join(edit(items))
    return Problem("edits", f"{name}: {before}", after, f"{name} {before}", rf"{_LETTER}( {_LETTER})*")


_EDITS: Sequence[tuple[str, Callable[[list[str]], list[str]]]] = (
    ("Copy", lambda items: items),
    ("Reverse", lambda items: items[::-1]),
    ("Remove the first letter", lambda items: items[1:]),
    ("Remove the last letter", lambda items: items[:-1]),
    ("Write the last letter twice", lambda items: [*items, items[-1]]),
    ("Write in capitals", lambda items: [item.upper() for item in items]),
)


def formats(rng: Random, difficulty: int) -> Problem:
    """Write given letters in a given form."""
    items = _draw(rng, _LETTERS, rng.randint(1, 1 + difficulty))
    name, template, form = rng.choice(_FORMATS)
    spoken = " and ".join(items)
    answer = template.format(comma=", ".join(items), dash=" - ".join(items), lines="; ".join(items))
    return Problem("formats", f"Write {spoken} {name}.", answer, f"{name} {spoken}", form)


_FORMATS: Sequence[tuple[str, str, str]] = (
    ("in brackets", "[{comma}]", r"\[[^\]]*\]"),
    ("as a call of f", "f({comma})", r"f\([^)]*\)"),
    ("joined by dashes", "- {dash} -", r"- .* -"),
    ("as an answer", "Answer: {comma}", r"Answer: .*"),
    ("between stars", "* {lines} *", r"\* .* \*"),
)


def python(rng: Random, difficulty: int) -> Problem:
    """The value of a Python expression over a short list."""
    items = [rng.randrange(10) for _ in range(rng.randint(2, 2 + difficulty))]
    template = rng.choice(_EXPRESSIONS)
    expression = template.format(items=items, index=rng.randrange(len(items)))
    # The expression is made here from the templates below, so evaluating it is safe.
    value = eval(expression, {"__builtins__": {}}, {"len": len, "max": max, "min": min, "sorted": sorted})
    return Problem("python", f"Evaluate {expression}", repr(value), expression, r"\d+|\[[\d,]*\]")


_EXPRESSIONS = ("len({items})", "max({items})", "min({items})", "sorted({items})", "{items}[{index}]", "{items}[-1]")


def _draw(rng: Random, pool: str, length: int) -> list[str]:
    return [rng.choice(pool) for _ in range(length)]


FAMILIES: dict[str, Generator] = {
    "arithmetic": arithmetic,
    "sorting": sorting,
    "counting": counting,
    "edits": edits,
    "formats": formats,
    "python": python,
}
