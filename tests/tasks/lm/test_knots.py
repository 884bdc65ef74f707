import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.data import document_mixture, open_tokens
from modelmill.tasks.lm.knots import KnotRows, KnotsConfig, knot_tokens, split_row, tie
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.rows import Row

# ids of the test vocabulary: reserved tokens are 6 to 15
OPEN, CLOSE, OPEN_LIST, SEPARATOR, CLOSE_LIST = range(6, 11)
KNOTS = {11, 12, 13, 14}
PAD = 2


def read_tied(tokens: list[int]) -> tuple[dict[tuple[int, ...], list[int]], list[list[tuple[int, ...]]], list[bool]]:
    """What a reader sees of a tied row: chunks by identifier, closing lists, and whether each token is trained."""
    chunks: dict[tuple[int, ...], list[int]] = {}
    lists, trained, name, at = [], [], (), 0
    while at < len(tokens) and tokens[at] != PAD:
        token = tokens[at]
        if token in (OPEN, OPEN_LIST):
            closing = CLOSE if token == OPEN else CLOSE_LIST
            end = tokens.index(closing, at)
            inside = tokens[at + 1 : end + 1]
            trained += [False] + [token == OPEN_LIST] * len(inside)
            names = [tuple(inside[start : start + 6]) for start in range(0, len(inside), 7)]
            if token == OPEN:
                name = names[0]
                chunks[name] = []
            else:
                lists.append(names)
            at = end + 1
            continue
        trained.append(token not in KNOTS and bool(chunks[name]))
        if token not in KNOTS:
            chunks[name].append(token)
        at += 1
    return chunks, lists, trained


def test_lists_untie_a_row_and_only_what_can_be_known_is_trained(tokens_folder: Path) -> None:
    special = knot_tokens(open_tokens(tokens_folder), 3)
    documents = [np.arange(100 * number, 100 * number + 20) for number in range(1, 5)]
    cut = [
        np.split(document, [3, 11]) if number % 2 else np.split(document, [7])
        for number, document in enumerate(documents)
    ]
    orders = set()
    for seed in range(20):
        row = tie(cut, special, 400, np.random.default_rng(seed), PAD)
        tokens = row.tokens.tolist()
        chunks, lists, trained = read_tied(tokens)
        untied = sorted([token for name in names for token in chunks[name]] for names in lists)
        assert untied == [document.tolist() for document in documents]
        names = list(chunks)
        assert all([names.index(name) for name in each] == sorted(names.index(name) for name in each) for each in lists)
        assert chunks[names[-1]] == cut[-1][-1].tolist()
        assert len(chunks) == 10
        assert sum(token in KNOTS for token in tokens) == 2 * (1 + 2 + 1 + 2)
        labels = [token if kept else IGNORE for token, kept in zip(tokens, trained, strict=False)][1:]
        assert row.labels[: len(labels)].tolist() == labels
        assert (row.labels[len(labels) :] == IGNORE).all()
        assert row.positions.tolist() == list(range(400))
        orders.add(tuple(chunk[0] for chunk in chunks.values()))
        short = tie(cut, special, 50, np.random.default_rng(seed), PAD)
        assert (short.tokens == row.tokens[:50]).all()
        assert (short.labels == row.labels[:50]).all()
    assert len(orders) > 10


def test_rows_are_tied_by_their_share_and_whole_documents_stay_plain(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    source = document_mixture(tokens, seed=1)
    rows = KnotRows(source, KnotsConfig(share=0.3, chunk_weights=(1, 0, 1)), tokens, seed=4)
    tied = [number for number in range(400) if not same(rows.row(number, 96), source.row(number, 96))]
    assert 0.2 < len(tied) / 400 < 0.4
    again = KnotRows(source, KnotsConfig(share=0.3, chunk_weights=(1, 0, 1)), tokens, seed=4)
    assert same(again.row(tied[-1], 96), rows.row(tied[-1], 96))
    for number in tied[:20]:
        row, plain = rows.row(number, 96), source.row(number, 96)
        assert (row.positions == np.arange(96)).all()
        content = [token for token in row.tokens.tolist() if token in set(plain.tokens.tolist()) and token != PAD]
        assert len(content) > 30
        assert sum(map(len, split_row(plain, PAD))) == (plain.tokens != PAD).sum()


def same(one: Row, other: Row) -> bool:
    return bool((one.tokens == other.tokens).all() and (one.positions == other.positions).all())


def test_a_tokenizer_without_enough_reserved_tokens_is_refused(tokens_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"10 reserved tokens .* needs 11"):
        knot_tokens(open_tokens(tokens_folder), 4)
    shutil.copytree(tokens_folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if "reserved" not in token["content"]]
    for name in [name for name in content["model"]["vocab"] if "reserved" in name]:
        del content["model"]["vocab"][name]
    path.write_text(json.dumps(content))
    with pytest.raises(ContractError, match=r"0 reserved tokens .* needs 9"):
        knot_tokens(open_tokens(tmp_path), 3)
    with pytest.raises(ValidationError, match="no document is ever cut"):
        KnotsConfig(share=0.5, chunk_weights=(1, 0))
