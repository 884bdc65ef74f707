"""MinHash against what theory says of it, normalisation against unicodedata, and the union-find."""

import string
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.dedup.clusters import band_edges, components
from modelmill.tasks.dedup.config import MinHash
from modelmill.tasks.dedup.minhash import band_hashes, minhash_signatures
from modelmill.tasks.dedup.normalise import normalised
from modelmill.tasks.text.flat import characters, string_array


def planted_pairs(similarity: float, num_pairs: int, num_shingles: int = 300) -> tuple[list[str], float]:
    """Pairs of texts of one-word shingles with a given Jaccard similarity → texts, the exact similarity."""
    shared = round(num_shingles * 2 * similarity / (1 + similarity))
    texts = []
    for pair in range(num_pairs):
        common = [f"c{pair}x{i}" for i in range(shared)]
        for side in "ab":
            own = [f"{side}{pair}x{i}" for i in range(num_shingles - shared)]
            texts.append(" ".join(common + own))
    return texts, shared / (2 * num_shingles - shared)


@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (128, 16)])
@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_recall_follows_the_s_curve(bands: int, rows: int, similarity: float) -> None:
    num_pairs = 500 if bands == 14 else 150
    texts, exact = planted_pairs(similarity, num_pairs)
    hashes, _ = band_hashes(characters(pa.array(texts)), MinHash(bands=bands, rows=rows, shingle_words=1))
    found = np.mean(np.any(hashes[0::2] == hashes[1::2], axis=1))
    expected = 1 - (1 - exact**rows) ** bands
    # Four standard errors of a share measured on so many independent pairs.
    assert abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / num_pairs) + 0.005


def test_signatures_estimate_the_similarity() -> None:
    texts, exact = planted_pairs(0.6, 100)
    signatures, _ = minhash_signatures(characters(pa.array(texts)), MinHash(bands=16, rows=16, shingle_words=1))
    agreement = np.mean(signatures[0::2] == signatures[1::2])
    assert abs(agreement - exact) < 4 * np.sqrt(exact * (1 - exact) / (100 * 256)) + 0.005


def test_the_seed_changes_the_hashes_and_order_matters_in_shingles() -> None:
    texts = characters(pa.array(["one two three four five six", "six five four three two one"]))
    first, _ = band_hashes(texts, MinHash(seed=1))
    second, _ = band_hashes(texts, MinHash(seed=2))
    assert (first != second).all()
    assert (first[0] != first[1]).all()


def reference(text: str) -> str:
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).lower())
    removed = ("Cc", "Cf")
    plain = (
        " " if character.isspace() else character
        for character in folded
        if character.isspace()
        or not (character in string.punctuation or unicodedata.category(character)[0] == "P"
                or unicodedata.category(character) in removed)
    )  # fmt: skip
    return " ".join("".join(plain).split(" ")).strip(" ") if text else ""


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Co", "Cn"]), max_size=30))
def test_normalisation_is_that_of_unicode(text: str) -> None:
    expected = " ".join(part for part in reference(text).split(" ") if part)
    result = string_array(normalised(characters(pa.array([text])))).to_pylist()[0]
    # A final sigma is folded like any other, each character on its own; and a mark whose base was punctuation (as in
    # U+226E) joins the marks before it, in their order.
    assert result.replace("ς", "σ") == unicodedata.normalize("NFD", expected.replace("ς", "σ"))


def test_combining_marks_get_their_canonical_order() -> None:
    variants = ["ệ", "e\u0323\u0302", "e\u0302\u0323", "\u00ea\u0323"]
    assert len(set(string_array(normalised(characters(pa.array(variants)))).to_pylist())) == 1


def test_long_decompositions_fit() -> None:
    text = "\ufb03ΐ한\u1f82" * 200
    expected = unicodedata.normalize("NFD", text.lower())
    assert string_array(normalised(characters(pa.array([text])))).to_pylist() == [expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30), st.randoms())
def test_components_do_not_depend_on_the_order_of_edges(pairs: list[tuple[int, int]], generator) -> None:
    edges = np.array(pairs, np.int64).reshape(-1, 2)
    labels = components([edges], 20)
    shuffled = pairs[:]
    generator.shuffle(shuffled)
    again = np.array([(b, a) for a, b in shuffled], np.int64).reshape(-1, 2)
    assert components([again[:10], again[10:]], 20).tolist() == labels.tolist()
    assert all(labels[a] == labels[b] for a, b in pairs)
    assert all(labels[label] == label and label <= row for row, label in enumerate(labels))


def test_rows_with_one_hash_are_joined_to_the_smallest() -> None:
    hashes = np.array([5, 7, 5, 9, 7, 5], np.uint64)
    rows = np.array([4, 8, 2, 1, 3, 6])
    assert band_edges(hashes, rows).tolist() == [[2, 4], [2, 6], [3, 8]]
