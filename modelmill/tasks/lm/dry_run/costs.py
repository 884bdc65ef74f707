"""A layout and traces of its layers → FLOPs, bytes and seconds of each stage's passes, and the bytes of a step."""

from modelmill.tasks.lm.dry_run.build import BuiltRank
from modelmill.tasks.lm.dry_run.config import DIMENSIONS, LayoutFile
from modelmill.tasks.lm.dry_run.memory import GATHERED, REDUCED, hidden_bytes
from modelmill.tasks.lm.dry_run.order import Work
from modelmill.tasks.lm.dry_run.trace import LayerTrace
from modelmill.tasks.lm.pipeline.split import StagePart, stage_parts


class StageCosts:
    """Of one micro-batch on one process in each stage."""

    def __init__(self, file: LayoutFile, traces: dict[bool, LayerTrace]) -> None:
        self.file = file
        num_stages = file.layout.pipeline * file.layout.stages.num_chunks
        parts = stage_parts(file.shape, num_stages, file.sequence_length, file.layout.stages.balance)
        self.layers = {part.index: [traces[has] for has in _kinds(file, part)] for part in parts}
        tokens = file.layout.stages.micro_batch_rows * file.sequence_length / file.layout.context / file.layout.tensor
        self.head_flops = 2.0 * file.shape.vocab_size * file.shape.hidden_size * tokens
        self.last = parts[-1].index

    def flops(self, work: Work) -> float:
        """Of one pass; full checkpointing repeats the forward pass, selective checkpointing none of its products."""
        repeats = self.file.checkpointing == "full"
        total = self.head_flops * (1 if work.forward else 2) * (work.stage == self.last)
        for layer in self.layers[work.stage]:
            total += layer.forward_flops if work.forward else layer.backward_flops + repeats * layer.forward_flops
        return total

    def sent(self, work: Work) -> dict[str, float]:
        """Bytes of one pass in tensor, context and expert groups, with those that checkpointing sends again."""
        total: dict[str, float] = {}
        for layer in self.layers[work.stage]:
            passes = [layer.forward_sent] if work.forward else [layer.backward_sent]
            if not work.forward and self.file.checkpointing != "none":
                passes.append(layer.forward_sent if self.file.checkpointing == "full" else layer.repeated_sent)
            for each in passes:
                for name, size in each.items():
                    total[name] = total.get(name, 0.0) + size
        return total

    def compute_seconds(self, work: Work) -> float:
        return self.flops(work) / (self.file.hardware.peak_tflops * 1e12 * self.file.hardware.efficiency)

    def exchange_seconds(self, work: Work) -> float:
        """What the exchanges within layers take, one after another."""
        return sum(size / 1e9 / self.file.gb_per_s(name) for name, size in self.sent(work).items())


def _kinds(file: LayoutFile, part: StagePart) -> list[bool]:
    num_dense = file.shape.experts.first_dense_layers if file.shape.experts else file.shape.num_layers
    return [number >= num_dense for number in range(part.first, part.end)]


def step_sent(file: LayoutFile, built: BuiltRank, costs: StageCosts) -> dict[str, float]:
    """Bytes that a process sends in one step, by dimension.

    FSDP in a pipeline gathers weights and scatters gradients once a step; without one, it gathers them for every
    forward and every backward pass, and scatters after the latter.
    """
    layout, weights, number = file.layout, built.weights, file.num_micro_batches
    total = dict.fromkeys(DIMENSIONS, 0.0)
    for part in built.parts:
        for forward in (True, False):
            for name, size in costs.sent(Work(part.index, 0, forward)).items():
                total[name] += size * number
    gathers, scatters = (1, 1) if layout.pipeline > 1 else (2 * number, number)
    total["shard"] = float((weights.gathered - weights.sharded) * (GATHERED * gathers + REDUCED * scatters))
    total["replicate"] = 2.0 * weights.sharded * REDUCED * (1 - 1 / layout.data_replicate) * scatters
    ends = sum((not part.has_embedding) + (not part.has_head) for part in built.parts)
    total["pipeline"] = float(ends * number * hidden_bytes(file))
    return total


def link_seconds(file: LayoutFile, sent: dict[str, float]) -> float:
    """How long the busier kind of links, those within a node or those between nodes, must carry bytes of a process."""
    busy: dict[float, float] = {}
    for name, size in sent.items():
        speed = file.gb_per_s(name)
        busy[speed] = busy.get(speed, 0.0) + size / 1e9 / speed
    return max(busy.values())
