"""A folder → in it the losses of every case of a pipeline on four gloo processes; a program that tests start.

The processes are forked after the imports, which would cost 5 s of CPU in each.

Usage: python -m tests.tasks.lm.pipeline.program FOLDER
"""

import json
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh

from modelmill.tasks.lm.checkpoints import weights
from modelmill.tasks.lm.data import Batch
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer, set_learning_rate
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.pipeline.run import Pipeline, clip_gradients, own_parts, own_stages
from modelmill.tasks.lm.pipeline.shard import shard_stages
from modelmill.tasks.lm.plan import Plan, Schedule, StepPoint
from modelmill.tasks.lm.settings import OptimizerConfig
from modelmill.tasks.lm.shape import Experts, ModelShape

LENGTH, ROWS, STEPS, CLIP = 32, 8, 3, 0.5
PLAN = Plan(
    total_tokens=STEPS * ROWS * LENGTH,
    batch_tokens=ROWS * LENGTH,
    sequence_length=LENGTH,
    schedule=Schedule(kind="constant", learning_rate=1e-2),
)
SHAPES = {
    "dense": ModelShape(
        vocab_size=96,
        hidden_size=32,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=48,
        max_sequence_length=LENGTH,
        tie_embeddings=False,
    )
}
SHAPES["moe"] = SHAPES["dense"].model_copy(
    update={"experts": Experts(num_routed=8, num_shared=1, top_k=2, intermediate_size=16, first_dense_layers=1)}
)


@dataclass(frozen=True)
class Case:
    """`data` · `size` processes; a process belongs to one of the pipelines that the mesh makes of all."""

    shape: str
    config: PipelineConfig
    size: int
    data: int = 1

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.config.schedule}-{self.size}x{self.data}"


ONE, LIGHT = PipelineConfig(), PipelineConfig(schedule="gpipe", balance="light_ends", micro_batch_rows=2)
CHUNKS = PipelineConfig(schedule="interleaved-1f1b", num_chunks=2, balance="light_ends")
CASES = [
    Case("dense", LIGHT, 2),
    Case("dense", CHUNKS, 2),
    Case("dense", ONE, 4),
    Case("dense", CHUNKS, 4),  # stage 0 has the embedding only, stage 7 norm and head only
    Case("moe", ONE, 2),
    Case("dense", ONE, 2, data=2),
    Case("moe", CHUNKS, 2, data=2),
]


class Documents:
    """Random rows of several documents each, with a few positions that have no label."""

    def batch(self, point: StepPoint) -> Batch:
        generator = torch.Generator().manual_seed(point.step)
        tokens = torch.randint(96, (point.num_rows, LENGTH + 1), generator=generator)
        labels = tokens[:, 1:].clone()
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
        positions = torch.arange(LENGTH).repeat(point.num_rows, 1)
        for row, border in enumerate(torch.randint(4, LENGTH - 4, (point.num_rows,), generator=generator).tolist()):
            positions[row, border:] -= border
        return Batch(tokens[:, :-1], labels, positions)


def run(case: Case, folder: Path) -> dict[str, list[float]]:
    """Losses and gradient norms of a few optimiser steps, and a checkpoint in the folder."""
    mesh = init_device_mesh("cpu", (4 // case.size, case.size), mesh_dim_names=("data", "pipeline"))
    rank, group = mesh["pipeline"].get_local_rank(), mesh["pipeline"].get_group()
    parts = own_parts(SHAPES[case.shape], case.config, LENGTH, rank, case.size)
    stages = own_stages(build_model(SHAPES[case.shape], seed=1), parts)
    if case.data > 1:
        shard_stages(stages, mesh["data"])
    modules = torch.nn.ModuleList(stages)
    modules.config = stages[0].config  # pyright: ignore
    optimizer, pipeline = build_optimizer(modules, OptimizerConfig()), Pipeline(stages, case.config, group)
    losses, norms = [], []
    for point in PLAN.points(0):
        batch = Documents().batch(point)
        own = slice(mesh["data"].get_local_rank(), None, case.data) if case.data > 1 else slice(None)
        piece = Batch(batch.input_ids[own], batch.labels[own], batch.position_ids[own])
        loss = pipeline.backward(piece, batch.weight)
        if case.data > 1:
            dist.all_reduce(loss, group=mesh["data"].get_group())
        norms.append(float(clip_gradients(stages, CLIP, group)))
        set_learning_rate(optimizer, point.learning_rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss))
    state = {name: tensor for stage in stages for name, tensor in weights(stage).items()}
    save(state, checkpoint_id=folder / case.name)
    return {"losses": losses, "norms": norms}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=4)
    results = {case.name: run(case, folder) for case in CASES}
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def main() -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, Path(sys.argv[1]))) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))


if __name__ == "__main__":
    main()
