"""A layout file → memory of single processes, bytes sent, FLOPs, and the least time that the hardware allows a step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelmill.tasks.lm.dry_run.build import BuiltRank, shard_weights, spread_stages
from modelmill.tasks.lm.dry_run.config import LayoutFile
from modelmill.tasks.lm.dry_run.costs import StageCosts, link_seconds, step_sent
from modelmill.tasks.lm.dry_run.fake import fake_ranks
from modelmill.tasks.lm.dry_run.layers import has_experts, trace_layers
from modelmill.tasks.lm.dry_run.memory import Memory, hidden_bytes, process_memory
from modelmill.tasks.lm.dry_run.order import Work, schedule_order, simulate
from modelmill.tasks.lm.dry_run.trace import LayerTrace
from modelmill.tasks.lm.parallel.layout import check_layout
from modelmill.tasks.lm.shape import count_parameters, flops_per_token


@dataclass(frozen=True)
class Speed:
    """Of one step. tflops: of the model, a process and second, 10^12. mfu: their share of the peak."""

    seconds: float
    tflops: float
    mfu: float


@dataclass(frozen=True)
class Estimate:
    """What `mill dry-run` prints. memory and sent (bytes a step, by dimension): of the first, a middle and the last
    pipeline rank. flops: of the model in one step, without those that checkpointing repeats. bubble: idle by busy time,
    from the schedule with a backward pass twice as long as a forward pass; bubble_formula: (P - 1) / (V · M).

    overlapped: every exchange hides behind computation, as far as links can carry it; no run is faster. in_line: no
    exchange hides: those within layers, between stages and of weights wait for computation, and it for them.
    """

    num_processes: int
    num_parameters: int
    num_micro_batches: int
    memory: list[Memory]
    sent: list[dict[str, float]]
    bubble: float
    bubble_formula: float
    flops: float
    overlapped: Speed
    in_line: Speed

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(file: LayoutFile) -> Estimate:
    """Build the first, a middle and the last pipeline rank, and add up.

    Raises:
        RecipeError: the layout does not fit the model, or the schedule not the batch.
    """
    check_layout(file.layout, file.shape)
    pipeline = file.layout.pipeline
    traces: dict[bool, LayerTrace] = {}
    built: list[BuiltRank] = []
    with fake_ranks(file.layout) as ranks:
        assert ranks.mesh is not None
        orders = schedule_order(file.layout.stages, file.num_micro_batches, ranks.mesh["pipeline"])
        for rank in sorted({0, pipeline // 2, pipeline - 1}):
            stages = spread_stages(file, ranks, rank)
            traces = trace_layers(stages, file, ranks) | traces
            kinds = {stage.part.index: [has_experts(layer) for layer in stage.model.layers] for stage in stages}
            parts = [stage.part for stage in stages]
            built.append(BuiltRank(rank, shard_weights(stages, ranks), parts, kinds))
    return _add_up(file, built, traces, orders)


def _add_up(
    file: LayoutFile, built: Sequence[BuiltRank], traces: dict[bool, LayerTrace], orders: Sequence[Sequence[Work]]
) -> Estimate:
    pipeline, chunks, number = file.layout.pipeline, file.layout.stages.num_chunks, file.num_micro_batches
    costs = StageCosts(file, traces)
    sent = [step_sent(file, each, costs) for each in built]
    overlapped = max(simulate(orders, costs.compute_seconds), *(link_seconds(file, each) for each in sent))
    in_line = simulate(
        orders,
        lambda work: costs.compute_seconds(work) + costs.exchange_seconds(work),
        hidden_bytes(file) / 1e9 / file.gb_per_s("pipeline"),
    )
    in_line += max(sum(each[name] / 1e9 / file.gb_per_s(name) for name in ("shard", "replicate")) for each in sent)
    flops = flops_per_token(file.shape, file.sequence_length) * file.batch_tokens
    return Estimate(
        num_processes=file.layout.num_processes,
        num_parameters=count_parameters(file.shape),
        num_micro_batches=number,
        memory=[process_memory(file, each, traces, orders[each.rank]) for each in built],
        sent=sent,
        bubble=simulate(orders, lambda work: 1.0 if work.forward else 2.0) / (3.0 * number * chunks) - 1.0,
        bubble_formula=(pipeline - 1) / (chunks * number),
        flops=flops,
        overlapped=_speed(file, flops, overlapped),
        in_line=_speed(file, flops, in_line),
    )


def _speed(file: LayoutFile, flops: float, seconds: float) -> Speed:
    tflops = flops / file.layout.num_processes / seconds / 1e12
    return Speed(seconds, tflops, tflops / file.hardware.peak_tflops)
