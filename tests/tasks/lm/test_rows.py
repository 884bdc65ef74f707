from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from modelmill.tasks.errors import ContractError, RecipeError
from modelmill.tasks.lm.data import RowBatches, check_epochs, count_epochs, document_mixture, open_tokens
from modelmill.tasks.lm.knots import KnotRows, KnotsConfig
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.mixture import MixtureRows
from modelmill.tasks.lm.packing import PackingKind
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.rows import DomainRows, MaskedRows

PLAN = Plan(
    total_tokens=64 * 40, batch_tokens=64 * 4, sequence_length=64, schedule=Schedule(kind="constant", learning_rate=1)
)
NO_ROWS: dict = {"a": None, "b": None, "c": None}


def domain_rows(folder: Path, packing: PackingKind, **changes) -> DomainRows:
    tokens = open_tokens(folder)
    values = {"seed": 3, "packing": packing, "begin_token_id": 0, "pad_token_id": 2} | changes
    return DomainRows(tokens.shards("train"), "prose", **values)


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_an_epoch_trains_on_every_token_once(tokens_folder: Path, packing: PackingKind) -> None:
    source = domain_rows(tokens_folder, packing)
    labels = Counter()
    for number in range(source.num_rows(64)):
        labels.update(source.row(number, 64).labels.tolist())
    labels.pop(IGNORE, None)
    expected = Counter(np.concatenate(list(source.shards.documents("prose"))).tolist())
    assert labels == expected


def test_labels_follow_inputs_within_a_document(tokens_folder: Path) -> None:
    row = domain_rows(tokens_folder, "best_fit").row(5, 64)
    continues = (row.positions[1:] > row.positions[:-1]) & (row.labels[:-1] != IGNORE)
    assert (row.labels[:-1][continues] == row.tokens[1:][continues]).all()
    assert row.positions[0] == 0
    assert (row.labels[row.tokens == 1] == IGNORE).all()


def test_epochs_differ_and_rows_do_not_depend_on_history(tokens_folder: Path) -> None:
    source, fresh = domain_rows(tokens_folder, "best_fit"), domain_rows(tokens_folder, "best_fit")
    count = source.num_rows(64)
    rows = [source.row(number, 64) for number in range(2 * count)]
    assert (fresh.row(2 * count - 1, 64).tokens == rows[-1].tokens).all()
    assert (fresh.row(0, 64).tokens == rows[0].tokens).all()
    assert any((rows[number].tokens != rows[number + count].tokens).any() for number in range(count))


def test_long_documents_come_more_often(tokens_folder: Path) -> None:
    plain, upsampled = domain_rows(tokens_folder, "stream"), domain_rows(tokens_folder, "stream", repeat_long=(200, 3))
    sizes = np.diff(plain.starts) + 1
    assert upsampled.num_rows(64) == -(-int((sizes * np.where(sizes - 1 >= 200, 3, 1)).sum()) // 64)


def test_batches_are_a_pure_function_of_seed_and_step(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    points = list(PLAN.points())
    forward = RowBatches(document_mixture(tokens, seed=5))
    in_order = [forward.batch(point) for point in points]
    backward = RowBatches(document_mixture(tokens, seed=5))
    for point in reversed(points):
        assert torch.equal(backward.batch(point).input_ids, in_order[point.step].input_ids)
    other = RowBatches(document_mixture(tokens, seed=6)).batch(points[0])
    assert not torch.equal(other.input_ids, in_order[0].input_ids)


def test_mixture_meets_its_weights_and_counts() -> None:
    mixture = MixtureRows(NO_ROWS, {"a": 0.5, "b": 0.3, "c": 0.2, "d": 1.0}, seed=1)
    draws = [mixture.draw(number, 64) for number in range(3000)]
    for name in "abc":
        assert [index for source, index in draws if source == name] == list(range(mixture.counts(3000, 64)[name]))
    assert mixture.counts(1024, 64) == pytest.approx({"a": 512, "b": 307, "c": 205}, abs=1)
    pair = [MixtureRows(NO_ROWS, {"a": 1, "b": 2}, seed=1) for _ in range(2)]
    assert pair[0].draw(2500, 64) == pair[1].draw(2500, 64)


def test_a_mixture_changes_at_a_row_and_sources_go_on() -> None:
    changes = {64: [(1500, {"b": 0.75, "c": 0.25}), (4000, {"a": 1.0})], 128: [(0, {"c": 1.0})]}
    mixture = MixtureRows(NO_ROWS, {"a": 0.5, "b": 0.5}, seed=1, changes=changes)
    draws = [mixture.draw(number, 64) for number in range(5000)]
    assert draws == [
        MixtureRows(NO_ROWS, {"a": 0.5, "b": 0.5}, seed=1, changes=changes).draw(n, 64) for n in range(5000)
    ]
    shares = [Counter(name for name, _ in draws[start:end]) for start, end in ((0, 1500), (1500, 4000), (4000, 5000))]
    assert shares[0] == pytest.approx({"a": 750, "b": 750}, abs=20)
    assert shares[1] == pytest.approx({"b": 1875, "c": 625}, abs=20)
    assert shares[2] == {"a": 1000}
    for name in "abc":
        numbers = [index for source, index in draws if source == name]
        assert numbers == list(range(mixture.counts(5000, 64)[name]))
    assert mixture.counts(1024, 32) == {"a": 512, "b": 512, "c": 0}
    assert mixture.counts(10, 128) == {"a": 0, "b": 0, "c": 10}


def test_masked_examples_train_on_the_marked_tokens_only() -> None:
    examples = [([10, 11, 12, 13], [0, 0, 1, 1]), ([20, 21, 22], [0, 1, 1]), ([30, 31], [0, 1])]
    source = MaskedRows(examples, seed=0, pad_token_id=2)
    assert source.num_rows(8) == 2
    for epoch in range(2):
        rows = [source.row(epoch * 2 + number, 8) for number in range(2)]
        labels = [label for row in rows for label in row.labels.tolist() if label != IGNORE]
        assert sorted(labels) == [12, 13, 21, 22, 31]
        assert [row.positions[0] for row in rows] == [0, 0]


def test_examples_that_cannot_be_trained_on_are_refused() -> None:
    with pytest.raises(ContractError, match="found no training example"):
        MaskedRows([], seed=0, pad_token_id=2)
    with pytest.raises(ContractError, match="masked out"):
        MaskedRows([([1, 2], [0, 0])], seed=0, pad_token_id=2)
    with pytest.raises(ContractError, match="longest example has 3 tokens"):
        MaskedRows([([1, 2, 3], [0, 1, 1])], seed=0, pad_token_id=2).row(0, 2)


def test_epochs_are_counted_over_all_lengths_and_limited(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    mixture = document_mixture(tokens, seed=1)
    epochs = count_epochs(mixture, PLAN)
    assert set(epochs) == {"prose", "counts"}
    ramp = PLAN.model_copy(update={"sequence_ramp": ((64 * 20, 128),)})
    rows = Counter()
    for point in ramp.points():
        for number in range(point.first_row, point.first_row + point.num_rows):
            rows[mixture.draw(number, point.sequence_length)[0], point.sequence_length] += 1
    assert {length for _, length in rows} == {64, 128}
    for domain, count in count_epochs(mixture, ramp).items():
        source = mixture.sources[domain]
        assert isinstance(source, DomainRows)
        assert count == pytest.approx(sum(rows[domain, length] / source.num_rows(length) for length in (64, 128)))
    upsampled = document_mixture(tokens, seed=1, repeat_long=(200, 3))
    tied, drawn = KnotRows(upsampled, KnotsConfig(share=1), tokens, seed=1), upsampled.counts(10, 64)["prose"]
    packed = domain_rows(tokens_folder, "best_fit", repeat_long=(200, 3))
    assert tied.epochs(10, 64)["prose"] == pytest.approx(3 * drawn / packed.num_rows(64))
    check_epochs(epochs, 4)
    with pytest.raises(RecipeError, match="max_epochs"):
        check_epochs(epochs, 0.01)
    with pytest.raises(RecipeError, match="'poetry'"):
        document_mixture(tokens, seed=1, weights={"poetry": 1.0})
    with pytest.raises(RecipeError, match="'poetry'"):
        document_mixture(tokens, seed=1, plan=PLAN.model_copy(update={"mixture_ramp": ((9, {"poetry": 1.0}),)}))


def test_a_plan_changes_the_mixture_of_documents_but_not_the_share_of_others(tokens_folder: Path) -> None:
    examples = MaskedRows([([10, 11], [0, 1])], seed=0, pad_token_id=2)
    ramp = {"sequence_ramp": ((64 * 12, 128),), "mixture_ramp": ((64 * 24, {"prose": 1.0}),), "total_tokens": 64 * 4000}
    plan = PLAN.model_copy(update=ramp)
    weights = {"prose": 1.0, "counts": 3.0}
    mixture = document_mixture(
        open_tokens(tokens_folder), seed=5, weights=weights, plan=plan, others={"task rows": (examples, 0.2)}
    )
    drawn: dict[str, Counter] = {"before": Counter(), "after": Counter()}
    for point in plan.points():
        for number in range(point.first_row, point.first_row + point.num_rows):
            name, _ = mixture.draw(number, point.sequence_length)
            drawn["before" if point.tokens < 64 * 24 else "after"][name] += 1
    assert drawn["after"].keys() == {"prose", "task rows"}
    assert drawn["before"].keys() == {"prose", "counts", "task rows"}
    assert drawn["after"]["task rows"] / drawn["after"].total() == pytest.approx(0.2, abs=0.01)
