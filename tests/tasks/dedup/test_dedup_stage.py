"""The stage over shards: the same bytes whatever the order, the partitions or the interruptions."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from modelmill.tasks.dedup.config import Config, LineRule, MinHash
from modelmill.tasks.dedup.rows import SerialPool
from modelmill.tasks.errors import InputError

from .conftest import document, prose


def corpus() -> list[dict[str, str | None]]:
    """Documents with duplicates of every kind."""
    rows = [
        document(f"u{i:03}", f"Home | Menu\n{prose(i, 200)}", f"https://a.org/{i}", "2024-01-01") for i in range(40)
    ]
    rows += [document(f"v{i:03}", prose(900 + i, 200), f"https://a.org/{i}", "2025-01-01") for i in range(0, 40, 8)]
    rows += [document(f"x{i:03}", str(rows[i]["text"]).upper() + "!") for i in range(1, 40, 8)]
    rows += [document(f"n{i:03}", str(rows[i]["text"]) + f"\nmore {prose(500 + i, 10)}") for i in range(2, 40, 8)]
    return rows


CONFIGS = {
    rule: Config(
        lines=LineRule.model_validate({"rule": rule, "max_occurrences": 10}), rows_per_shard=20, rows_per_call=1
    )
    for rule in ("none", "llama", "dots")
}


@pytest.mark.parametrize("rule", CONFIGS)
def test_order_shards_and_partitions_do_not_show(rule: str, stage: Callable) -> None:
    rows = corpus()
    config = CONFIGS[rule]
    first = stage([rows], config)
    shuffled = rows[:]
    random.Random(3).shuffle(shuffled)
    other = config.model_copy(update={"rows_per_partition": 7})
    second = stage([shuffled[:5], shuffled[5:6], shuffled[6:]], other)
    assert second.bytes() == first.bytes()
    assert second.bytes("keys") == first.bytes("keys")
    assert len(first.bytes()) == 3
    assert second.result.dropped == first.result.dropped
    assert {"url": 5, "exact": 5, "minhash": 5}.items() <= first.result.dropped.items()


def test_kept_and_dropped_account_for_every_row(stage: Callable) -> None:
    run = stage([corpus()[:30], corpus()[30:]], CONFIGS["dots"])
    kept, dropped = run.table("documents"), run.table("dropped")
    assert run.result.rows_in == 55 == kept.num_rows + dropped.num_rows
    assert sorted(kept["id"].to_pylist() + dropped["id"].to_pylist()) == sorted(str(row["id"]) for row in corpus())
    assert set(dropped["survivor"].to_pylist()) <= set(kept["id"].to_pylist())
    for shard in run.bytes():
        assert shard.startswith("part-")
    # Lines are edited in the kept rows only.
    assert sum(text.startswith("Home | Menu") for text in kept["text"].to_pylist()) <= 10
    assert kept.column_names == [name for name in dropped.column_names if name not in ("reason", "survivor")]


class Interrupted(Exception):
    pass


class FragilePool(SerialPool):
    """Records results as the real pools do, and fails before the call of a given number."""

    def __init__(self) -> None:
        self.done: dict[tuple[str, str], Any] = {}
        self.fails_at = -1

    def map(self, function: Callable[..., Any], calls: Any, label: str) -> list[Any]:
        for call in calls:
            if (label, call.name) not in self.done:
                if len(self.done) == self.fails_at:
                    raise Interrupted
                self.done[label, call.name] = function(**call.arguments)
        return [self.done[label, call.name] for call in calls]


def test_a_run_that_was_interrupted_ends_with_the_same_bytes(stage: Callable, tmp_path) -> None:
    from .conftest import StageRun

    config = CONFIGS["dots"].model_copy(update={"rows_per_partition": 25})
    shards = [corpus()[:30], corpus()[30:]]
    whole = stage(shards, config)
    pool = FragilePool()
    for fails_at in range(1, 60, 3):
        pool.fails_at = fails_at
        # How many partitions and shards there are is placement: it may change between one try and the next.
        update = {"rows_per_partition": 20 + fails_at % 7, "rows_per_call": 1 + fails_at % 2 * 60}
        config = config.model_copy(update=update)
        try:
            again = StageRun(tmp_path / "again", shards, config, pool)
            break
        except Interrupted:
            continue
    else:
        pool.fails_at = -1
        again = StageRun(tmp_path / "again", shards, config, pool)
    assert again.bytes() == whole.bytes()


def test_the_real_pool_gives_the_same(stage: Callable, pool) -> None:
    config = CONFIGS["llama"]
    assert stage([corpus()], config, pool).bytes() == stage([corpus()], config).bytes()


def test_levels_can_be_switched_off(stage: Callable) -> None:
    off = Config(url=False, exact=False, lines=LineRule(rule="none"), minhash=MinHash(enabled=False))
    run = stage([corpus()], off)
    assert run.result.rows_out == 55
    assert run.result.dropped == {}


def test_an_empty_shard_among_others_changes_nothing(stage: Callable) -> None:
    rows = corpus()
    assert stage([[], rows[:9], [], rows[9:], []], CONFIGS["dots"]).bytes() == stage([rows], CONFIGS["dots"]).bytes()


def test_small_files_taken_together_change_nothing(stage: Callable) -> None:
    shards = [corpus()[:10], corpus()[10:30], corpus()[30:31], corpus()[31:]]
    pools = FragilePool(), FragilePool()
    alone = stage(shards, CONFIGS["dots"], pools[0])
    together = stage(shards, CONFIGS["dots"].model_copy(update={"rows_per_call": 40}), pools[1])
    assert [sum(label == "dedup rows" for label, _ in pool.done) for pool in pools] == [4, 3]
    for part in ("documents", "keys", "dropped"):
        assert together.bytes(part) == alone.bytes(part) != {}


def test_no_rows_is_an_error(stage: Callable) -> None:
    with pytest.raises(InputError, match="no document in the 1 shards"):
        stage([[]], Config())
