"""A layout and the fewest processes that may do → the layouts that a run goes on with when workers are lost."""

from collections.abc import Iterator
from math import gcd

from modelmill.tasks.lm.parallel.layout import Layout


def fallback_layouts(layout: Layout, min_processes: int | None) -> Iterator[Layout]:
    """The layout, then smaller ones in the order in which they are tried; without `min_processes` the layout alone.

    Copies of the model go first, since each process then holds what it held; then the weights are cut over fewer
    processes. Only divisors are taken: rows that the processes shared evenly they share evenly again, and the
    batch stays. What cuts matrices, rows or layers stays; experts are dealt out over fewer processes where they must.
    """
    for shard in _divisors(layout.data_shard):
        for replicate in _divisors(layout.data_replicate):
            expert = gcd(layout.expert, shard * layout.context)
            sizes = {"data_shard": shard, "data_replicate": replicate, "expert": expert}
            smaller = Layout.model_validate(layout.model_dump() | sizes)
            if smaller == layout or (min_processes is not None and smaller.num_processes >= min_processes):
                yield smaller


def _divisors(number: int) -> list[int]:
    """Largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]
