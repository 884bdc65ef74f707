"""The bench of the loss law: exact without noise, within half a percent at 100 times the compute with it."""

from modelmill.flows.benches.planted_laws import measure


def test_planted_laws_are_found_and_forecast():
    ours, robust, peer, copies = measure(num_seeds=2)
    for row in (ours, robust, peer):
        assert row.quality["recovery"] < 1e-6
        assert 0 < row.quality["forecast_median"] <= row.quality["forecast_worst"] < 0.005
    assert all(row.rate for row in (ours, robust, peer, copies))
