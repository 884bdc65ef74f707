"""Formulas beside what really applied shardings, real layers and torch's schedules give, at small size."""

import pytest

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.dry_run.build import shard_weights, spread_stages
from modelmill.tasks.lm.dry_run.config import LayoutFile
from modelmill.tasks.lm.dry_run.estimate import estimate
from modelmill.tasks.lm.dry_run.fake import fake_ranks
from modelmill.tasks.lm.dry_run.layers import trace_layers
from modelmill.tasks.lm.dry_run.order import peak, schedule_order, simulate
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.pipeline.split import unit_costs

TOKENS = 512
DENSE = LayoutFile(
    model="llama-3.1-8b",
    layout=Layout(tensor=2, context=2, data_shard=2, pipeline=4, stages=PipelineConfig(balance="light_ends")),
    sequence_length=TOKENS,
    batch_tokens=16 * TOKENS,
)
MOE = LayoutFile(
    model="dots.llm1",
    layout=Layout(expert=4, data_shard=8, pipeline=4),
    sequence_length=TOKENS,
    batch_tokens=64 * TOKENS,
)
MATRICES = 2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 14_336  # of a layer of the 8B


def test_a_dense_layer_holds_computes_and_sends_what_formulas_say() -> None:
    with fake_ranks(DENSE.layout) as ranks:
        stages = spread_stages(DENSE, ranks, 1)
        trace = trace_layers(stages, DENSE, ranks)[False]
        weights = shard_weights(stages, ranks)
    layers = stages[0].part.num_layers
    assert weights.gathered == layers * (MATRICES // 2 + 2 * 4096)
    assert weights.sharded == weights.gathered // 4  # FSDP cuts over data_shard x context
    share = unit_costs(DENSE.shape, TOKENS, "cost")[1] * TOKENS / 4
    assert trace.forward_flops + trace.backward_flops == share
    assert trace.backward_flops == 2 * trace.forward_flops
    hidden = TOKENS // 4 * 4096 * 2  # bytes of this process's tokens
    assert trace.input_bytes == hidden
    # Tokens are gathered before attention and feed-forward layer, and partial sums dealt out behind each.
    assert trace.forward_sent["tensor"] == trace.backward_sent["tensor"] == 4 * hidden
    assert trace.repeated_sent["tensor"] == 2 * hidden
    # queries, keys, values and outputs of this process's heads: half of each goes to the other process
    assert trace.forward_sent["context"] == TOKENS // 2 * 128 * (16 + 4 + 4 + 16) * 2 / 2
    assert trace.input_bytes < trace.kept_bytes("selective") < trace.saved_bytes


def test_experts_are_dealt_out_and_every_token_travels_to_six() -> None:
    with fake_ranks(MOE.layout) as ranks:
        stages = spread_stages(MOE, ranks, 0)
        traces = trace_layers(stages, MOE, ranks)
        weights = shard_weights(stages, ranks)
    width, sparse_layers = 4096, stages[0].part.num_layers - 1
    attention = 4 * width * width + 2 * 128 + 2 * width
    shared, routed = 3 * width * 1408 * 2 + 128 * width, 3 * width * 1408 * 128
    common = 152_064 * width + attention + 3 * width * 10_944 + sparse_layers * (attention + shared)
    experts = sparse_layers * routed // 4
    assert weights.gathered == common + experts
    assert weights.sharded == common // 8 + experts // 2
    pairs = TOKENS * 6 * width * 2
    for sent in (traces[True].forward_sent, traces[True].backward_sent):
        assert sent["expert"] == 2 * pairs * 3 / 4
    costs = unit_costs(MOE.shape, TOKENS, "cost")
    for has_experts, layer in ((False, 1), (True, 2)):
        trace = traces[has_experts]
        assert trace.forward_flops + trace.backward_flops == costs[layer] * TOKENS


@pytest.mark.parametrize(("schedule", "chunks"), [("gpipe", 1), ("1f1b", 1), ("interleaved-1f1b", 4)])
def test_schedules_idle_and_keep_as_known(schedule: str, chunks: int) -> None:
    config = PipelineConfig.model_validate({"schedule": schedule, "num_chunks": chunks})
    with fake_ranks(Layout(pipeline=4)) as ranks:
        assert ranks.mesh is not None
        orders = schedule_order(config, 8, ranks.mesh["pipeline"])
    busy = 3.0 * 8 * chunks
    assert simulate(orders, lambda work: 1.0 if work.forward else 2.0) / busy - 1 == pytest.approx(3 / (8 * chunks))
    expected = {
        "gpipe": [8] * 4,
        "1f1b": [4, 3, 2, 1],
        # warm-up of (V - 1) P + 2 (P - rank - 1) passes, and the one that the first backward pass follows
        "interleaved-1f1b": [12 + 2 * (3 - rank) + 1 for rank in range(4)],
    }
    assert [peak(order, lambda _: 1.0) for order in orders] == expected[schedule]


def test_layouts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RecipeError, match="num_kv_heads 8"):
        estimate(DENSE.model_copy(update={"layout": Layout(tensor=16, pipeline=2)}))
    with pytest.raises(RecipeError, match="2 micro-batches for 1f1b on 4"):
        estimate(DENSE.model_copy(update={"batch_tokens": 4 * TOKENS}))
    with pytest.raises(ValueError, match="multiple of 1024"):
        LayoutFile.model_validate(DENSE.model_dump() | {"batch_tokens": 1000})
