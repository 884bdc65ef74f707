"""The bench on a cluster of two nodes of this machine."""

from modelmill.flows.benches.dedup_scale import measure


def test_a_cluster_of_the_bench_gives_the_bytes_of_one_process() -> None:
    """Half a minute: three processes import the libraries, and two raylets start (on loopback: see conftest.py)."""
    rows = measure(megabytes=0.2, times=1, workers=(), nodes=2)
    assert [row.tool for row in rows] == ["one process", "Ray, 2 nodes of one core", "one process, 1 times the data"]
    assert [row.quality.get("same digest") for row in rows] == [1.0, 1.0, None]
