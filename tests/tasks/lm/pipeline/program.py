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

from modelmill.tasks.lm.checkpoints import weights
from modelmill.tasks.lm.data import Batch
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer, set_learning_rate
from modelmill.tasks.lm.parallel.clip import clip_gradients
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import join_layout
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.pipeline.run import Pipeline, own_parts, own_stages
from modelmill.tasks.lm.pipeline.shard import shard_stages
from modelmill.tasks.lm.plan import Plan, Schedule, StepPoint
from modelmill.tasks.lm.settings import OptimizerConfig
from modelmill.tasks.lm.shape import Experts, ModelShape

LENGTH, ROWS, STEPS, CLIP = 32, 8, 3, 0.5
# A gradient near zero is all rounding, and an epsilon far below it would make a whole step of that.
ADAM = OptimizerConfig(eps=1e-4)
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
    """One training run on as many processes as the layout has."""

    shape: str
    config: PipelineConfig
    layout: Layout

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.config.schedule}-{self.layout.pipeline}x{self.layout.data_shard}"


TWO, FOUR, TWO_BY_TWO = Layout(pipeline=2), Layout(pipeline=4), Layout(pipeline=2, data_shard=2)
ONE, LIGHT = PipelineConfig(), PipelineConfig(schedule="gpipe", balance="light_ends", micro_batch_rows=2)
CHUNKS = PipelineConfig(schedule="interleaved-1f1b", num_chunks=2, balance="light_ends")
CASES = [
    Case("dense", LIGHT, TWO),
    Case("dense", CHUNKS, TWO),
    Case("moe", ONE, TWO),
    Case("dense", ONE, FOUR),
    Case("dense", CHUNKS, FOUR),  # stage 0 has the embedding only, stage 7 norm and head only
    Case("dense", ONE, TWO_BY_TWO),
    Case("moe", CHUNKS, TWO_BY_TWO),
]


class Documents:
    """Random rows of several documents each, with a few positions that have no label."""

    def batch(self, point: StepPoint) -> Batch:
        generator = torch.Generator().manual_seed(point.step)
        tokens = torch.randint(96, (ROWS, LENGTH + 1), generator=generator)
        labels = tokens[:, 1:].clone()
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
        positions = torch.arange(LENGTH).repeat(ROWS, 1)
        for row, border in enumerate(torch.randint(4, LENGTH - 4, (ROWS,), generator=generator).tolist()):
            positions[row, border:] -= border
        own = slice(point.first_row % ROWS, point.first_row % ROWS + point.num_rows)
        return Batch(tokens[own, :-1], labels[own], positions[own])


def run(case: Case, folder: Path) -> dict[str, list[float]]:
    """Losses and gradient norms of a few optimiser steps, and a checkpoint in the folder."""
    ranks = join_layout(case.layout)
    assert ranks.mesh is not None
    place = ranks.mesh["pipeline"]
    parts = own_parts(SHAPES[case.shape], case.config, LENGTH, place.get_local_rank(), place.size())
    stages = own_stages(build_model(SHAPES[case.shape], seed=1), parts)
    if case.layout.data_shard > 1:
        shard_stages(stages, ranks.mesh["shard"])
    modules = torch.nn.ModuleList(stages)
    modules.config = stages[0].config  # pyright: ignore
    optimizer = build_optimizer(modules, ADAM)
    pipeline = Pipeline(stages, case.config, place.get_group())
    losses, norms = [], []
    for point in PLAN.points(0):
        batch = Documents().batch(ranks.own_rows(point))
        weight = ranks.sum(batch.weight) / case.layout.pipeline
        loss = pipeline.backward(batch, weight)
        losses.append(ranks.sum(float(loss)) / case.layout.pipeline)
        norms.append(float(clip_gradients(modules, CLIP, ranks)))
        set_learning_rate(optimizer, point.learning_rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    state = {name: tensor for stage in stages for name, tensor in weights(stage).items()}
    save(state, checkpoint_id=folder / case.name)
    return {"losses": losses, "norms": norms}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for size in (2, 4):
        if rank < size:
            dist.init_process_group("gloo", init_method=f"file://{folder}/{size}", rank=rank, world_size=size)
            cases = [case for case in CASES if case.layout.num_processes == size]
            results |= {case.name: run(case, folder) for case in cases}
            dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(results))


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
