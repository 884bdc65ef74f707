"""Bytes and bits per token: what counting by hand gives, by language and domain, beside a reference vocabulary."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import read_json
from modelmill.tasks.stage import StageContext
from modelmill.tasks.tokenize.config import Config, external_digests
from modelmill.tasks.tokenize.reference import Tekken
from modelmill.tasks.tokenize.stage import run
from tests.tasks.tokenize.small_corpus import corpus_table


def test_report_is_what_counting_gives(make_context: Callable[..., StageContext], tokenizer_folder: Path) -> None:
    context = make_context(reference=str(tokenizer_folder))
    result = run(context)
    rows = {(row["language"], row["domain"]): row for row in read_json(context.output / "report" / "compression.json")}
    assert set(rows) == {("en", "prose"), ("en", "code"), (None, None)}
    held_out = [row for part in range(3) for row in corpus_table(part).to_pylist() if row["split"] == "validation"]
    for folder, vocabulary in ((context.output / "tokenizer", "own"), (tokenizer_folder, "reference")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for (_, domain), row in rows.items():
            texts = [each["text"] for each in held_out if domain in (None, each["domain"])]
            counts = Counter(token for text in texts for token in tokenizer(text)["input_ids"])
            size, total = sum(len(text.encode()) for text in texts), counts.total()
            bits = sum(count / total * math.log2(total / count) for count in counts.values())
            assert (row["documents"], row["bytes"], row[vocabulary]["tokens"]) == (len(texts), size, total)
            assert row[vocabulary]["bytes_per_token"] == pytest.approx(size / total, abs=1e-4)
            assert row[vocabulary]["bits_per_token"] == pytest.approx(bits, abs=1e-4)
            assert row[vocabulary]["bits_per_byte"] == pytest.approx(bits * total / size, abs=1e-4)
    assert result.metrics["bytes_per_token/reference"] == rows[None, None]["reference"]["bytes_per_token"]
    assert "(in brackets: tokenizer)" in result.summary


def test_tekken_needs_no_download() -> None:
    texts = ["Mistral's vocabulary, 131072 entries.", None, "数据经过清洗"]
    tekken = Tekken()
    rows = tekken.encode(pa.chunked_array([pa.array(["", *texts[::2]])]))
    decoded = [tekken.encoding.decode(row.tolist()) for row in np.split(rows.tokens, rows.offsets[1:-1])]
    assert decoded == ["", *texts[::2]]
    assert tekken.encoding.n_vocab > 130_000


def test_reference_enters_the_key(tokenizer_folder: Path) -> None:
    assert external_digests(Config(vocab_size=400)) == {}
    assert external_digests(Config(vocab_size=400, reference="tekken")) == {"reference": "tekken_240911.json"}
    assert len(external_digests(Config(vocab_size=400, reference=str(tokenizer_folder)))["reference"]) == 64
    with pytest.raises(InputError, match="no tokenizer at"):
        external_digests(Config(vocab_size=400, reference="nowhere"))
