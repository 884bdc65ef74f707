"""Arguments → one short training run in a workspace; a program of its own so that a test can kill it.

Usage: python -m tests.tasks.lm.tiny_run TOKENS WORKSPACE NUM_THREADS KILL_AT_STEP [compile]
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from modelmill.tasks.lm.checkpoints import weights
from modelmill.tasks.lm.data import Batch, RowBatches, document_mixture, open_tokens
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.evaluate import validation_metrics, validation_set
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.plan import Plan, Schedule, StepPoint
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.settings import OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import ModelShape

SHAPE = ModelShape(
    vocab_size=384,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=48,
    max_sequence_length=64,
)
PLAN = Plan(
    total_tokens=20 * 256,
    batch_tokens=256,
    sequence_length=64,
    schedule=Schedule(kind="wsd", learning_rate=1e-2, warmup_tokens=512, decay_tokens=1024),
    sequence_ramp=((3 * 256, 32),),
)
SETTINGS = TrainSettings(log_every_steps=3, checkpoint_every_steps=4, num_pieces=2, snapshot_every_tokens=1024)


class KillingBatches(RowBatches):
    """Kills its own process when asked for the batch of one step, as a lost machine would."""

    kill_at: int | None = None

    def batch(self, point: StepPoint) -> Batch:
        if point.step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(point)


def run(
    tokens_folder: Path, workspace: Path, num_threads: int = 1, kill_at: int | None = None, compile: bool = False
) -> tuple[str, TrainReport]:
    """Digest of the weights, and the report. Rows become shorter on the way, since compiled layers might mind."""
    tokens = open_tokens(tokens_folder)
    model = build_model(SHAPE, seed=1, special_tokens=tokens.special_tokens)
    optimizer = build_optimizer(model, OptimizerConfig())
    batches = KillingBatches(document_mixture(tokens, seed=1))
    batches.kill_at = kill_at
    held_out = validation_set(tokens, sequence_length=64, max_tokens_per_domain=512)
    settings = SETTINGS.model_copy(update={"num_threads": num_threads, "compile": compile})
    report = train(
        model, optimizer, PLAN, batches, settings, workspace=workspace, validate=validation_metrics(held_out)
    )
    content = b"".join(tensor.numpy().tobytes() for tensor in weights(model).values())
    return hashlib.sha256(content).hexdigest(), report


if __name__ == "__main__":
    tokens, workspace, threads, kill_at, *options = sys.argv[1:]
    digest, report = run(Path(tokens), Path(workspace), int(threads), int(kill_at), "compile" in options)
    print(json.dumps({"digest": digest, "curve": report.curve, "resumed_at": report.resumed_at_step}))  # noqa: T201
