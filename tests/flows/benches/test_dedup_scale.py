"""The bench on a cluster of two nodes: the bytes of one process, and no socket beyond loopback."""

from modelmill.flows.benches.dedup_scale import measure
from tests.listening import ListeningWatch


def test_a_cluster_of_the_bench_gives_the_same_bytes_and_stays_on_loopback() -> None:
    """Half a minute: three processes import the libraries, and two raylets start."""
    watch = ListeningWatch()
    watch.start()
    try:
        rows = measure(megabytes=0.2, times=1, workers=(), nodes=2)
    finally:
        exposed = watch.stop()
    assert [row.tool for row in rows] == ["one process", "Ray, 2 nodes of one core", "one process, 1 times the data"]
    assert [row.quality.get("same digest") for row in rows] == [1.0, 1.0, None]
    assert exposed == []
