import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from modelmill.tasks.errors import MillError
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.checkpoints import load_moments, save_moments, snapshots
from modelmill.tasks.lm.data import Batch, RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.model import build_model, output_head
from modelmill.tasks.lm.optim import build_optimizer, moments
from modelmill.tasks.lm.parallel.states import state_folders
from modelmill.tasks.lm.plan import Plan, Schedule, StepPoint
from modelmill.tasks.lm.rows import MaskedRows
from modelmill.tasks.lm.settings import OptimizerConfig, TrainSettings
from tests.tasks.lm.compiling import needs_compiler, quiet
from tests.tasks.lm.tiny_run import PLAN, SHAPE, run


@quiet
@pytest.mark.parametrize(
    "compile",
    [pytest.param(False, id="eager"), pytest.param(True, id="compiled", marks=needs_compiler)],
)
@pytest.mark.timeout(900)  # four runs that compile, on a busy machine
def test_a_killed_run_ends_with_the_same_bits(compile: bool, tokens_folder: Path, tmp_path: Path) -> None:
    digest, whole = run(tokens_folder, tmp_path / "whole", compile=compile)
    command = [sys.executable, "-m", "tests.tasks.lm.tiny_run", tokens_folder, tmp_path / "killed", "1", "10"]
    assert subprocess.run([*command, *["compile"] * compile], check=False).returncode == -signal.SIGKILL
    if compile:
        torch.compiler.reset()  # as in a new process: nothing is left of the shapes that came before
    # on two threads this time: pieces are added in order, so the number of threads changes no bit
    resumed_digest, resumed = run(tokens_folder, tmp_path / "killed", num_threads=2, compile=compile)
    # the state after 8 steps was perhaps still being written
    assert resumed.resumed_at_step in (4, 8)
    assert resumed_digest == digest
    assert resumed.curve == whole.curve
    assert resumed.first == whole.first
    assert resumed.last == whole.last
    again_digest, again = run(tokens_folder, tmp_path / "killed", compile=compile)
    assert (again_digest, again.curve, again.resumed_at_step) == (digest, whole.curve, 20)
    assert whole.last["validation_loss"] < whole.first["validation_loss"]
    assert len(snapshots(tmp_path / "killed" / "snapshots")) == 5
    assert len(state_folders(tmp_path / "killed" / "states")) == 2


def trainee(seed: int = 1) -> tuple[PreTrainedModel, torch.optim.Optimizer]:
    model = build_model(SHAPE, seed=seed)
    return model, build_optimizer(model, OptimizerConfig())


def test_pieces_and_micro_batches_give_the_whole_batch_s_gradient(tokens_folder: Path) -> None:
    losses = []
    for settings in (TrainSettings(), TrainSettings(micro_batch_rows=1), TrainSettings(num_pieces=4)):
        batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
        report = train(*trainee(), PLAN, batches, settings.model_copy(update={"log_every_steps": 1}), end_tokens=1024)
        losses.append([line["loss"] for line in report.curve])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_layers_that_are_computed_twice_give_the_same_bits(tokens_folder: Path) -> None:
    found = []
    for kind in ("none", "selective", "full"):
        model, optimizer = trainee()
        settings = TrainSettings(num_pieces=2, activation_checkpointing=kind)
        batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
        report = train(model, optimizer, PLAN, batches, settings, end_tokens=1024)
        found.append((report.curve, [parameter.tolist() for parameter in model.parameters()]))
        assert not any("forward" in vars(layer) for layer in model.model.layers)  # pyright: ignore
    assert found[0] == found[1] == found[2]


def test_two_parts_are_the_whole(tokens_folder: Path) -> None:
    batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
    whole, parts = trainee(), trainee()
    train(*whole, PLAN, batches, TrainSettings())
    train(*parts, PLAN, batches, TrainSettings(), end_tokens=2560)
    train(*parts, PLAN, batches, TrainSettings(), start_tokens=2560)
    for one, other in zip(whole[0].parameters(), parts[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_instruction_examples_train_in_the_same_loop(tmp_path: Path) -> None:
    examples = [([0, 30 + number, 40, 60 + number], [0, 0, 0, 1]) for number in range(8)]
    plan = Plan(
        total_tokens=64 * 60,
        batch_tokens=64,
        sequence_length=32,
        schedule=Schedule(kind="constant", learning_rate=1e-2),
    )
    journal = Journal(tmp_path / "journal.jsonl")
    batches = RowBatches(MaskedRows(examples, seed=0, pad_token_id=2))
    report = train(*trainee(), plan, batches, TrainSettings(), journal=journal)
    assert report.curve[0]["loss"] > 2
    assert report.loss < 0.5
    assert '"tokens_per_second"' in journal.path.read_text()


def test_a_loss_that_is_not_a_number_stops_with_advice(tokens_folder: Path) -> None:
    model, optimizer = trainee()
    with torch.no_grad():
        output_head(model)[50:] = math.nan
    batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
    with pytest.raises(MillError, match="Lower the learning rate"):
        train(model, optimizer, PLAN, batches, TrainSettings(log_every_steps=1))


def test_sigterm_saves_the_state_and_the_run_goes_on(tokens_folder: Path, tmp_path: Path) -> None:
    class Terminating(RowBatches):
        armed = True

        def batch(self, point: StepPoint) -> Batch:
            if point.step == 5 and self.armed:
                signal.raise_signal(signal.SIGTERM)
            return super().batch(point)

    batches = Terminating(document_mixture(open_tokens(tokens_folder), seed=1))
    with pytest.raises(SystemExit, match="143"):
        train(*trainee(), PLAN, batches, TrainSettings(), workspace=tmp_path)
    batches.armed = False
    resumed = trainee()
    assert train(*resumed, PLAN, batches, TrainSettings(), workspace=tmp_path).resumed_at_step == 6
    whole = trainee()
    train(*whole, PLAN, batches, TrainSettings())
    for one, other in zip(whole[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_moments_go_on_in_the_next_stage(tokens_folder: Path, tmp_path: Path) -> None:
    batches = RowBatches(document_mixture(open_tokens(tokens_folder), seed=1))
    model, optimizer = trainee()
    train(model, optimizer, PLAN, batches, TrainSettings(), end_tokens=512)
    save_moments(tmp_path / "optimizer.safetensors", model, optimizer)
    later = build_optimizer(model, OptimizerConfig())
    load_moments(tmp_path / "optimizer.safetensors", model, later)
    for name, tensor in moments(optimizer, model).items():
        assert torch.equal(tensor, moments(later, model)[name])


def test_groups_hold_weight_decay_and_mup_rates() -> None:
    model, _ = trainee()
    optimizer = build_optimizer(model, OptimizerConfig(mup_base_width=8))
    by_id = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {name: by_id[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["model.norm.weight"]["weight_decay"] == 0
    assert found["model.layers.0.mlp.up_proj.weight"]["weight_decay"] == 0.1
    assert found["model.layers.0.mlp.up_proj.weight"]["rate_factor"] == 0.25
    assert found["model.embed_tokens.weight"]["rate_factor"] == 1
