"""Encoding: the compiled scanner gives the library's ids on any text; other tokenizers take the library's way."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from modelmill.tasks.errors import InputError
from modelmill.tasks.tokenize.encode import Encoder, encode_rows

# Characters between which the rules of PIECES decide, beside any character at all.
NARROW = "sStTlLvVeErRdm'’ \t\n\r\x0b\x85\u00a0\u2028\u3000a你é1٣Ⅷ²._-(=…\u0301\U0001f33e"
TEXTS = st.lists(st.text(st.one_of(st.sampled_from(NARROW), st.characters(exclude_categories=["Cs"]))), max_size=6)


@pytest.fixture(scope="module")
def encoder(tokenizer_folder: Path) -> Encoder:
    return Encoder(tokenizer_folder)


@pytest.fixture(scope="module")
def library(tokenizer_folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def encoded(encoder: Encoder, texts: list[str | None], end_token: int | None = None) -> list[list[int]]:
    rows = encoder.encode(pa.chunked_array([pa.array(texts, pa.string())]), end_token)
    return [rows.tokens[start:end].tolist() for start, end in zip(rows.offsets, rows.offsets[1:], strict=False)]


@settings(max_examples=150, deadline=None)
@given(texts=TEXTS)
def test_same_ids_as_the_library(encoder: Encoder, library: Tokenizer, texts: list[str]) -> None:
    assert encoder.pairs is not None
    assert encoded(encoder, [*texts]) == [library.encode(text).ids for text in texts]


def test_every_code_point_is_cut_alike(encoder: Encoder, library: Tokenizer) -> None:
    points = [chr(point) for point in range(0x3000) if not 0xD800 <= point < 0xE000]
    texts = [f"a{point}b {point}1{point}{point}\n{point}'s" for point in points]
    assert encoded(encoder, [*texts]) == [encoding.ids for encoding in library.encode_batch_fast(texts)]


def test_long_pieces_and_many_distinct_ones(encoder: Encoder, library: Tokenizer) -> None:
    words = [f"{chr(97 + number % 23)}{chr(97 + number % 29 % 26)}" * (number % 300) for number in range(1200)]
    pieces = [f"w{chr(0x4E00 + number)}" for number in range(9000)]  # the table of distinct pieces grows twice
    texts = [" ".join(words), "x" * 513 + " the flour" + "the" * 400 + "\n" + "-" * 2000, ",".join(pieces), "x" * 513]
    assert encoded(encoder, [*texts]) == [encoding.ids for encoding in library.encode_batch_fast(texts)]


@pytest.mark.parametrize("option", [{"ignore_merges": True}, {"unk_token": "a"}, {"end_of_word_suffix": "</w>"}])
def test_models_that_do_more_than_merge_take_the_library_way(
    tokenizer_folder: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    described = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    described["model"] |= option
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    encoder = Encoder(tmp_path)
    assert encoder.pairs is None
    assert encoded(encoder, ["the flour"]) == [
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the flour").ids
    ]


def test_batches_and_end_tokens(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one two", None, "", "three " * 40, "x"]
    whole = encoded(encoder, texts, end_token=1)
    assert whole[1] == whole[2] == [1]
    assert all(row[-1] == 1 and 1 not in row[:-1] for row in whole)
    monkeypatch.setattr("modelmill.tasks.tokenize.encode.BATCH_BYTES", 10)
    assert encoded(encoder, texts, end_token=1) == whole
    assert encoded(encoder, []) == []


def test_sliced_and_chunked_columns(encoder: Encoder) -> None:
    column = pa.chunked_array([pa.array(["left out", "first"]), pa.array(["second", "third"])]).slice(1)
    rows = encoder.encode(column)
    tokens = [rows.tokens[start:end].tolist() for start, end in zip(rows.offsets, rows.offsets[1:], strict=False)]
    assert tokens == encoded(encoder, ["first", "second", "third"])


def test_special_tokens_in_text_stay_text(encoder: Encoder, tokenizer_folder: Path) -> None:
    text = "end<|end_of_text|><|eot|>"
    ids = encoded(encoder, [text])[0]
    assert min(ids) >= 16
    assert AutoTokenizer.from_pretrained(tokenizer_folder).decode(ids) == text


def test_encode_rows_adds_a_column(tokenizer_folder: Path) -> None:
    table = pa.table({"id": ["a", "b"], "text": ["flour and bread", "数据"]})
    rows = encode_rows(table, tokenizer_folder)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert rows["token_ids"].to_pylist() == [tokenizer(text)["input_ids"] for text in table["text"].to_pylist()]
    assert rows.select(["id", "text"]) == table


def test_foreign_tokenizer_takes_the_library_way(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.train_from_iterator(["a b c"], trainers.WordLevelTrainer(special_tokens=["?"]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path)
    assert encoder.pairs is None
    assert encoded(encoder, ["c b x", ""]) == [tokenizer.encode("c b x").ids, []]


def test_tokens_added_later_take_the_library_way(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("wheat flour")])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path)
    assert encoded(encoder, ["the wheat flour"]) == [tokenizer.encode("the wheat flour").ids]


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer at"):
        Encoder(tmp_path)
