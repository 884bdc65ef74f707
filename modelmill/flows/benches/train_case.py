"""The name of a case and of a trainer → what that trainer did in this process, as JSON on the last line of its output.

Every trainer gets the same transformers class with the same initial weights, the same tokens, AdamW and clipping.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from modelmill.tasks.lm.data import Batch
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.plan import Plan, Schedule, StepPoint
from modelmill.tasks.lm.settings import OptimizerConfig, TrainSettings
from modelmill.tasks.lm.shape import Experts, ModelShape, flops_per_token

LEARNING_RATE = 1e-3
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A800": 312e12, "A100": 312e12}
"""Dense bf16 FLOPs a second by name of GPU (vendor's data sheets)."""


@dataclass(frozen=True)
class Case:
    """A shape and the batch that it is trained on: rows of `length` tokens, `steps` measured after `warm_up`."""

    shape: ModelShape
    rows: int
    length: int
    steps: int
    warm_up: int = 2


def _dense(width: int, layers: int, heads: int, feed_forward: int, vocabulary: int, length: int) -> ModelShape:
    return ModelShape(
        vocab_size=vocabulary,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        intermediate_size=feed_forward,
        max_sequence_length=length,
    )


CASES = {
    "2m": Case(_dense(128, 6, 4, 384, 4096, 256), rows=8, length=256, steps=10),
    "17m": Case(_dense(384, 8, 6, 1024, 8192, 512), rows=4, length=512, steps=3),
    "0.12b": Case(_dense(768, 12, 12, 2048, 50_304, 2048), rows=16, length=2048, steps=20, warm_up=5),
    "1b": Case(_dense(2048, 16, 16, 8192, 32_768, 4096), rows=4, length=4096, steps=12, warm_up=4),
    "3b": Case(_dense(3072, 26, 24, 8192, 32_768, 4096), rows=2, length=4096, steps=8, warm_up=3),
    "moe": Case(
        _dense(256, 4, 4, 688, 4096, 256).model_copy(
            update={"experts": Experts(num_routed=128, num_shared=2, top_k=6, intermediate_size=64)}
        ),
        rows=8,
        length=256,
        steps=4,
    ),
}
"""CPU: 2m, 17m, moe. One H100 (or more memory): the others."""


@dataclass(frozen=True)
class RandomBatches:
    """Rows of random tokens; `documents` to a row, so that masks have something to do."""

    case: Case
    documents: int = 1

    def batch(self, point: StepPoint) -> Batch:
        generator = torch.Generator().manual_seed(point.step)
        size = (self.case.rows, self.case.length)
        tokens = torch.randint(0, self.case.shape.vocab_size, size, generator=generator)
        # The peers know no token after a row's last, so nobody is asked for it.
        labels = F.pad(tokens[:, 1:], (0, 1), value=IGNORE)
        return Batch(tokens, labels, self._positions())

    def _positions(self) -> Tensor:
        row = torch.arange(self.case.length) % -(-self.case.length // self.documents)
        return row.expand(self.case.rows, -1).contiguous()


class Clock:
    """Seconds of work: of a CPU's cores, all threads together; of a GPU, waiting for it to finish."""

    def __init__(self, device: str) -> None:
        self.device = device

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


Figures = dict[str, Any]
Trainer = Callable[[Case, str, Clock], tuple[float, float]]
"""(case, device, clock) → seconds of the measured steps, loss of the first step."""


def modelmill(case: Case, device: str, clock: Clock) -> tuple[float, float]:
    """The engine as every stage runs it, without documents in a row."""
    return _engine(case, device, clock, documents=1)


def modelmill_documents(case: Case, device: str, clock: Clock) -> tuple[float, float]:
    """The engine with eight documents to a row and attention kept inside each."""
    return _engine(case, device, clock, documents=8)


def modelmill_compiled(case: Case, device: str, clock: Clock) -> tuple[float, float]:
    """The engine with compiled layers, without documents in a row; compilation is part of the warm-up."""
    return _engine(case, device, clock, documents=1, compile=True)


def modelmill_eager_experts(case: Case, device: str, clock: Clock) -> tuple[float, float]:
    """The engine with transformers' loop over experts in place of the grouped product."""
    return _engine(case, device, clock, documents=1, experts="eager")


def _engine(
    case: Case, device: str, clock: Clock, *, documents: int, experts: str | None = None, compile: bool = False
) -> tuple[float, float]:
    model = _model(case, device)
    if experts:
        model.set_experts_implementation(experts)
    optimizer = build_optimizer(model, OptimizerConfig())
    tokens = case.rows * case.length
    plan = Plan(
        total_tokens=(case.warm_up + case.steps) * tokens,
        batch_tokens=tokens,
        sequence_length=case.length,
        schedule=Schedule(kind="constant", learning_rate=LEARNING_RATE),
    )
    precision = "fp32" if device == "cpu" else "bf16"
    settings = TrainSettings(num_threads=1, log_every_steps=1, precision=precision, compile=compile)
    batches, border = RandomBatches(case, documents), case.warm_up * tokens
    first = train(model, optimizer, plan, batches, settings, end_tokens=border)
    started = clock.now()
    train(model, optimizer, plan, batches, settings, start_tokens=border)
    return clock.now() - started, first.curve[0]["loss"]


def plain_loop(case: Case, device: str, clock: Clock, compile: bool = False) -> tuple[float, float]:
    """The loop of a tutorial: the class's own loss, AdamW, clipping."""
    model = _model(case, device)
    if compile:
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    batches, losses, started = RandomBatches(case), [], 0.0
    for step in range(case.warm_up + case.steps):
        if step == case.warm_up:
            started = clock.now()
        batch = batches.batch(_point(case, step)).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            loss: Tensor = model(input_ids=batch.input_ids, labels=batch.input_ids).loss  # pyright: ignore
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return clock.now() - started, float(losses[0])


def compiled_loop(case: Case, device: str, clock: Clock) -> tuple[float, float]:
    """The same loop around `torch.compile(model)`."""
    return plain_loop(case, device, clock, compile=True)


def hugging_face_trainer(case: Case, device: str, clock: Clock) -> tuple[float, float]:
    """transformers' Trainer with its defaults, logging and saving off."""
    from transformers import Trainer as HuggingFaceTrainer
    from transformers import TrainerCallback, TrainingArguments

    class Timer(TrainerCallback):
        started = seconds = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == case.warm_up:
                self.started = clock.now()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds = clock.now() - self.started

    steps = case.warm_up + case.steps
    batches = RandomBatches(case)
    rows = [row for step in range(steps) for row in batches.batch(_point(case, step)).input_ids]
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=case.rows,
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            weight_decay=0.1,
            max_grad_norm=1.0,
            bf16=device != "cpu",
            use_cpu=device == "cpu",
            logging_strategy="steps",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        )
        timer = Timer()
        data: Any = [{"input_ids": row, "labels": row} for row in rows]
        trainer = HuggingFaceTrainer(_model(case, device), arguments, train_dataset=data, callbacks=[timer])
        trainer.train()
    return timer.seconds, trainer.state.log_history[0]["loss"]


TRAINERS: dict[str, Trainer] = {
    "modelmill": modelmill,
    "modelmill, documents": modelmill_documents,
    "modelmill, compiled": modelmill_compiled,
    "modelmill, eager experts": modelmill_eager_experts,
    "plain loop": plain_loop,
    "plain loop, compiled": compiled_loop,
    "HF Trainer": hugging_face_trainer,
}


def measured(name: str, trainer: str, device: str) -> Figures:
    """Tokens a second (per core on a CPU), memory and, where the GPU's peak is known, MFU."""
    case = CASES[name]
    torch.set_num_threads(1)
    seconds, loss = TRAINERS[trainer](case, device, Clock(device))
    rate = case.steps * case.rows * case.length / seconds
    figures: Figures = {"rate": rate, "loss": loss}
    if device == "cpu":
        return figures | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    name = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
    figures |= {"memory": torch.cuda.max_memory_allocated(), "gpu": name}
    return figures | ({"mfu": rate * flops_per_token(case.shape, case.length) / peak} if peak else {})


def main() -> None:
    """Measure one pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("trainer", choices=TRAINERS)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(measured(arguments.case, arguments.trainer, arguments.device)) + "\n")


def _point(case: Case, step: int) -> StepPoint:
    return StepPoint(step, step * case.rows * case.length, LEARNING_RATE, case.length, case.rows, step * case.rows)


def _model(case: Case, device: str) -> PreTrainedModel:
    return build_model(case.shape, seed=0, device=device)


if __name__ == "__main__":
    main()
