"""A layout → the groups of its first process, on torch's fake backend, which sends nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore  # the backend has no public module

from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks


@contextmanager
def fake_ranks(layout: Layout) -> Iterator[Ranks]:
    """Within it, this process is the first one of the layout, in groups as `parallel.ranks.join_layout` makes them.

    Collective operations return at once with what was in their buffers. The first process has the largest shards.
    """
    dist.init_process_group("fake", rank=0, world_size=layout.num_processes, store=FakeStore())
    try:
        outer = (layout.pipeline, layout.data_replicate)
        names = ("pipeline", "replicate", "shard")
        mesh = init_device_mesh("cpu", (*outer, layout.shard_size, layout.tensor), mesh_dim_names=(*names, "tensor"))
        expert_mesh = context_mesh = None
        if layout.expert > 1:
            sizes = (*outer, layout.shard_size // layout.expert, layout.expert)
            expert_mesh = init_device_mesh("cpu", sizes, mesh_dim_names=(*names, "expert"))
        if layout.context > 1:
            sizes = (*outer, layout.data_shard, layout.context, layout.tensor)
            whole = init_device_mesh("cpu", sizes, mesh_dim_names=(*names, "context", "tensor"))
            context_mesh = whole["context"]
        yield Ranks(layout, 0, "meta", mesh, expert_mesh, context_mesh)
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # DTensor remembers the groups of equal meshes


def dimension_names(ranks: Ranks) -> dict[str, str]:
    """The dimension of each group by the name that torch gave the group."""
    assert ranks.mesh is not None
    names = ranks.mesh.mesh_dim_names or ()
    found = {str(ranks.mesh[name].get_group().group_name): name for name in names}
    if ranks.expert_mesh is not None:
        found[ranks.expert_mesh["expert"].get_group().group_name] = "expert"
    if ranks.context_mesh is not None:
        found[ranks.context_mesh.get_group().group_name] = "context"
    return found
