"""English contractions and abbreviations → words that are cut, or left whole, against the general rules."""

import functools
from itertools import product

import numpy as np
from numpy.typing import NDArray

MAX_LENGTH = 13
_PERSONS = {"i": "'m 'll 'd 've", "you": "'re 'll 'd 've", "we": "'re 'll 'd 've", "they": "'re 'll 'd 've"}
_SINGULAR = "'s 'll 'd"
_QUESTIONS = "who what when where why how there these those that this"
_NEGATED = "ai are ca could dare did does do had has have is may might must need ought sha should was were wo would"
_WITH_HAVE = ["could", "might", "must", "should", "would"]
# A plain spelling without its apostrophe that is a word of its own is not cut.
_AMBIGUOUS = set(["well", "were", "ill", "shell", "hell", "shed", "its", "lets"])
_SHORTENED = ["doin", "goin", "havin", "lovin", "nothin", "nuthin", "somethin", "ol"]
_MONTHS = "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec."
_TITLES = "Mr. Mrs. Ms. Dr. Prof. Rev. Gen. Gov. Rep. Sen. Adm. St. Mt. Jr. Sr. Messrs. Ph.D."
_STATES = (
    "Ak. Ala. Ariz. Ark. Calif. Colo. Conn. D.C. Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Md. Mich. "
    "Minn. Miss. Mo. Mont. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Okla. Ore. Pa. S.C. Tenn. Va. Wash. Wis."
)
_OTHERS = "Bros. Co. Corp. Inc. Ltd. E.g. E.G. e.g. I.e. I.E. i.e. vs. v.s. C++ a.m. p.m. and/or o'clock ma'am ''"
_LETTERS = " ".join(f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz")
# Smileys from their parts: eyes, nose, mouth; and mouth first.
_SMILEYS = [f":{nose}{mouth}" for nose in ("", "-") for mouth in "()*/013>DOPXopx|]}"]
_SMILEYS += [f"{eyes}{mouth}" for eyes in "=8;" for mouth in ")D"] + [f"={mouth}" for mouth in "(/3[]|"]
_SMILEYS += [f"{mouth}{nose}{eyes}" for mouth in "([" for nose in ("", "-") for eyes in ":="]
_SMILEYS += ["):", ")-:", "(;", ";-)"]


@functools.cache
def exceptions() -> dict[str, tuple[int, ...]]:
    """Each exceptional string with the lengths of the words that it is cut into."""
    cuts: dict[str, tuple[int, ...]] = {word: (len(word),) for word in _whole_words()}
    for parts in _contractions():
        for spelling in _spellings(parts):
            cuts[spelling] = tuple(len(part) for part in _split_like(spelling, parts))
    for word in _SHORTENED:
        for form in (word, word.capitalize()):
            cuts |= {form + mark: (len(form) + len(mark),) for mark in ("", "'", "’")}
    for hour, (first, second) in product(range(1, 13), (("am", "a.m."), ("pm", "p.m."))):
        cuts |= {f"{hour}{half}": (len(str(hour)), len(half)) for half in (first, second)}
    return {word: lengths for word, lengths in cuts.items() if len(word) <= MAX_LENGTH}


def _whole_words() -> list[str]:
    return f"{_MONTHS} {_TITLES} {_STATES} {_OTHERS} {_LETTERS}".split() + _SMILEYS


def _contractions() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [("can", "not"), ("gon", "na"), ("got", "ta"), ("let", "'s")]
    found += [(person, ending) for person, endings in _PERSONS.items() for ending in endings.split()]
    found += [(person, ending) for person in ("he", "she", "it") for ending in _SINGULAR.split()]
    found += [(word, ending) for word in _QUESTIONS.split() for ending in ["'s", "'ll", "'d", "'re", "'ve"]]
    found += [(word, "n't") for word in _NEGATED.split()]
    found += [(word, "'ve") for word in _WITH_HAVE]
    found += [(*parts, "'ve") for parts in found if parts[-1] in ("n't", "'d", "'ll")]
    return found


def _spellings(parts: tuple[str, ...]) -> list[str]:
    plain = "".join(parts)
    bare = plain.replace("'", "")
    forms = [plain, plain.replace("'", "’")] + ([bare] if bare not in _AMBIGUOUS else [])
    return forms + [form.capitalize() for form in forms]


def _split_like(spelling: str, parts: tuple[str, ...]) -> list[str]:
    has_marks = "'" in spelling or "’" in spelling
    lengths = [len(part if has_marks else part.replace("'", "")) for part in parts]
    starts = np.cumsum([0, *lengths])
    return [spelling[start : start + length] for start, length in zip(starts, lengths, strict=False)]


@functools.cache
def exception_table() -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The exceptions for compiled code: sorted rows of code points padded with 0, and up to three lengths each."""
    words = sorted(exceptions())
    codes = np.zeros((len(words), MAX_LENGTH), np.uint32)
    lengths = np.zeros((len(words), 3), np.int64)
    for row, word in enumerate(words):
        codes[row, : len(word)] = [ord(character) for character in word]
        lengths[row, : len(exceptions()[word])] = exceptions()[word]
    return codes, lengths
