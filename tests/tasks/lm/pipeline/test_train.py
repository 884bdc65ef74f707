"""Two processes with a pipeline, started once: pretrain's stage, a loss spike and SIGTERM, as on one process."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import read_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import load_moments, weights
from modelmill.tasks.lm.data import Batch, RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.model import build_model, load_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks, join_layout
from modelmill.tasks.lm.pipeline.config import PipelineConfig
from modelmill.tasks.lm.plan import StepPoint
from modelmill.tasks.lm.settings import OptimizerConfig, SpikeConfig, TrainSettings
from modelmill.tasks.pretrain.config import Config
from modelmill.tasks.pretrain.resolve import resolve
from modelmill.tasks.pretrain.stage import train_base
from tests.tasks.lm.gloo_processes import on_processes
from tests.tasks.lm.tiny_run import PLAN, SHAPE
from tests.tasks.lm.tiny_stages import CHOICE

LAYOUT = Layout(pipeline=2)
IN_BF16 = [LAYOUT, Layout(tensor=2), Layout(context=2), Layout(data_shard=2)]
EXPERTS = {"num_routed": 4, "num_shared": 1, "top_k": 2, "intermediate_size": 16}
SIZES = {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 48}
# A gradient near zero is all rounding, and an epsilon far below it would make a whole step of that.
ADAM: dict[str, Any] = {"eps": 1e-4}
PRETRAIN: dict[str, Any] = {
    "shape": SIZES | {"experts": EXPERTS},
    "tie_embeddings": False,
    "sequence_ramp": [[2048, 32], [3072, 64]],
    "batch_ramp": [[1024, 512]],
    "rope_ramp": [[2048, 4e4]],
    "optimizer": ADAM,
    "train": {"log_every_steps": 1, "snapshot_every_tokens": 1024},
}
SPIKES = SpikeConfig(min_steps=6, window=6, deviations=2, min_rise=1.0, patience=2)


def pretrained(tokens_folder: Path, folder: Path, layout: Layout, **changes: Any) -> Path:
    """Pretrain with ramps and a forecast branch; its checkpoint."""
    config = Config.model_validate(PRETRAIN | changes)
    resolved = resolve(config, CHOICE, open_tokens(tokens_folder))
    journal = Journal(folder / "journal.jsonl")
    train_base(config, resolved, tokens_folder, folder / "work", folder / "output", journal, "cpu", layout)
    return folder / "output"


class Wrong(RowBatches):
    """Batches of three steps teach one wrong token; one process is told to stop at another step."""

    stop_at: int | None = None

    def batch(self, point: StepPoint) -> Batch:
        if point.step == self.stop_at:
            signal.raise_signal(signal.SIGTERM)
        batch = super().batch(point)
        if point.step in (10, 11, 12):
            batch = Batch(batch.input_ids, torch.full_like(batch.labels, 300), batch.position_ids)
        return batch


def with_spike(tokens_folder: Path, workspace: Path, ranks: Ranks, stop_at: int | None = None) -> list[dict[str, Any]]:
    """The curve of a run whose loss spikes."""
    model = build_model(SHAPE.model_copy(update={"tie_embeddings": False}), seed=1, ranks=ranks)
    batches = Wrong(document_mixture(open_tokens(tokens_folder), seed=1))
    batches.stop_at = stop_at
    settings = TrainSettings(log_every_steps=1, checkpoint_every_steps=4, keep_checkpoints=3, spikes=SPIKES)
    optimizer = build_optimizer(model, OptimizerConfig(**ADAM))
    return train(model, optimizer, PLAN, batches, settings, workspace=workspace, ranks=ranks).curve


def in_bf16(tokens_folder: Path, ranks: Ranks) -> list[float]:
    """Losses of two steps under autocast."""
    shape = SHAPE.model_copy(update={"tie_embeddings": False, "num_kv_heads": 2})
    model = build_model(shape, seed=1, ranks=ranks, compute_dtype=torch.bfloat16)
    batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
    settings = TrainSettings(log_every_steps=1, precision="bf16", activation_checkpointing="selective")
    optimizer = build_optimizer(model, OptimizerConfig(**ADAM))
    report = train(model, optimizer, PLAN, batches, settings, end_tokens=512, ranks=ranks)
    return [line["loss"] for line in report.curve]


def on_two(tokens_folder: Path, folder: Path) -> tuple[list[dict[str, Any]], list[list[float]]]:
    ranks = join_layout(LAYOUT)
    with pytest.raises(SystemExit):
        with_spike(tokens_folder, folder / "spike", ranks, stop_at=14 if dist.get_rank() == 1 else None)
    curve = with_spike(tokens_folder, folder / "spike", ranks)
    pretrained(tokens_folder, folder, LAYOUT)
    return curve, [in_bf16(tokens_folder, join_layout(layout)) for layout in IN_BF16]


def test_a_pipeline_trains_as_one_process_does(tokens_folder: Path, tmp_path: Path) -> None:
    curve, rounded = on_processes(2, on_two, tmp_path, tokens_folder, tmp_path / "two")
    alone = in_bf16(tokens_folder, Ranks())
    assert rounded == [pytest.approx(alone, rel=2**-8)] * len(IN_BF16)  # bf16 keeps eight binary digits
    expected = with_spike(tokens_folder, tmp_path / "alone" / "spike", Ranks())
    assert sum("first_skipped" in line for line in curve) == 1
    assert curve == [pytest.approx(line, rel=1e-4) for line in expected]

    one, two = pretrained(tokens_folder, tmp_path / "alone", Layout()), tmp_path / "two" / "output"
    assert sorted(file.name for file in two.rglob("*")) == sorted(file.name for file in one.rglob("*"))
    for file in ("model/model.safetensors", "optimizer.safetensors"):
        found, wanted = load_file(two / file), load_file(one / file)
        assert found.keys() == wanted.keys()
        assert max(float((found[name] - tensor).abs().mean()) for name, tensor in wanted.items()) < 1e-5
    training, facts = read_json(two / "training.json"), read_json(one / "training.json")
    for name in ("validation_loss_before", "validation_loss", "validation_bits_per_byte", "decayed_loss"):
        assert training[name] == pytest.approx(facts[name], rel=1e-5)
    snapshots = sorted((tmp_path / "two" / "work" / "rest" / "snapshots").iterdir())
    assert load_file(snapshots[-1]).keys() == weights(load_model(two / "model")).keys()
    loaded: Any = AutoModelForCausalLM.from_pretrained(two / "model", output_loading_info=True)
    model, loading = loaded
    assert not loading["missing_keys"]
    load_moments(two / "optimizer.safetensors", model, build_optimizer(model, OptimizerConfig(**ADAM)))


def test_batches_that_a_layout_cannot_carry_are_refused_before_anything_starts(
    tokens_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"batches of 1 rows \(after 1,024 tokens\): found 1 micro-batches for 1f1b"):
        pretrained(tokens_folder, tmp_path, LAYOUT, batch_ramp=[[1024, 64]])
    three = Layout(pipeline=2, stages=PipelineConfig(micro_batch_rows=3))
    with pytest.raises(RecipeError, match="found 4 rows for a pipeline and 3 rows in a micro-batch"):
        pretrained(tokens_folder, tmp_path, three)
    with pytest.raises(RecipeError, match=r"batches of 4 rows \(after 0 tokens\) do not divide by the 3 processes"):
        pretrained(tokens_folder, tmp_path, Layout(data_shard=3))
    with pytest.raises(RecipeError, match="found tie_embeddings with a pipeline"):
        pretrained(tokens_folder, tmp_path, LAYOUT, tie_embeddings=True)
    assert not (tmp_path / "work").exists()
