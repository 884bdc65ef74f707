"""Shares: caps hold at once, proportions are reached, and a document's fate depends on its id alone."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmill.tasks.curate.balance import capped_rates, keep_rates
from modelmill.tasks.curate.config import Shares


def left(sizes: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    kept = {name: size * rates.get(name, 1.0) for name, size in sizes.items()}
    return {name: size / sum(kept.values()) for name, size in kept.items()}


def test_a_group_over_its_share_comes_down_to_it() -> None:
    sizes = {"arts": 60.0, "science": 30.0, "news": 10.0}
    assert left(sizes, capped_rates(sizes, {"arts": 0.2, "news": 0.5})) == pytest.approx(
        {"arts": 0.2, "science": 0.6, "news": 0.2}
    )
    assert capped_rates(sizes, {"arts": 0.6}) == {}
    # news is under its share until arts has gone
    assert left(sizes, capped_rates(sizes, {"arts": 0.2, "news": 0.12}))["news"] == pytest.approx(0.12)


def test_all_groups_named_are_proportions() -> None:
    sizes = {"arts": 60.0, "science": 30.0, "news": 10.0}
    assert left(sizes, capped_rates(sizes, {"arts": 0.1, "science": 0.2, "news": 0.1})) == pytest.approx(
        {"arts": 0.25, "science": 0.5, "news": 0.25}
    )
    assert capped_rates({"arts": 5.0}, {"arts": 0.5}) == {}


SIZES = st.dictionaries(st.sampled_from("abcde"), st.floats(1, 1000), min_size=1)
CAPS = st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 1), min_size=1)


@settings(deadline=None)
@given(sizes=SIZES, shares=CAPS)
def test_no_group_stays_over_and_no_more_goes_than_must(sizes: dict[str, float], shares: dict[str, float]) -> None:
    rates = capped_rates(sizes, shares)
    assert all(0 < rate < 1 for rate in rates.values())
    total = sum(shares.get(name, 1.0) for name in sizes)
    wanted = {name: share / min(total, 1.0) for name, share in shares.items()}
    for name, share in left(sizes, rates).items():
        assert share <= wanted.get(name, 1.0) * (1 + 1e-6)
        if name in rates:
            assert share == pytest.approx(wanted[name], rel=1e-6)


def test_shares_of_two_columns_hold_together() -> None:
    cells = pl.DataFrame(
        {
            "page_type": ["product", "product", "article", "article"],
            "topic": ["arts", "science", "arts", "science"],
            "bytes": [500, 100, 300, 100],
        }
    )
    shares = Shares(page_type={"product": 0.3}, topic={"arts": 0.4})
    rates = keep_rates(cells, shares)
    kept = [
        size * rates["page_type"].get(kind, 1) * rates["topic"].get(topic, 1)
        for kind, topic, size in cells.select("page_type", "topic", "bytes").iter_rows()
    ]
    assert (kept[0] + kept[1]) / sum(kept) == pytest.approx(0.3, abs=0.01)
    assert (kept[0] + kept[2]) / sum(kept) == pytest.approx(0.4, abs=0.01)
