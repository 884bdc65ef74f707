"""The name of a case and of a trainer → what that trainer did in this process, as JSON on the last line of its output.

Every trainer gets the same transformers class with the same initial weights, the same tokens, AdamW and clipping.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from modelmill.flows.benches.train import LITGPT
from modelmill.tasks.errors import MillError
from modelmill.tasks.lm.data import Batch
from modelmill.tasks.lm.engine import train
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.optim import build_optimizer
from modelmill.tasks.lm.plan import Plan, Schedule, StepPoint
from modelmill.tasks.lm.settings import OptimizerConfig, Precision, TrainSettings
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

    @property
    def batch_tokens(self) -> int:
        """Tokens of one step."""
        return self.rows * self.length

    def plan(self, num_steps: int) -> Plan:
        """So many steps at one rate."""
        return Plan(
            total_tokens=num_steps * self.batch_tokens,
            batch_tokens=self.batch_tokens,
            sequence_length=self.length,
            schedule=Schedule(kind="constant", learning_rate=LEARNING_RATE),
        )


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


def _with_experts(shape: ModelShape, width: int) -> ModelShape:
    """As many as dots.llm1 has, each so wide."""
    experts = Experts(num_routed=128, num_shared=2, top_k=6, intermediate_size=width)
    return shape.model_copy(update={"experts": experts})


CASES = {
    "2m": Case(_dense(128, 6, 4, 384, 4096, 256), rows=8, length=256, steps=10),
    "17m": Case(_dense(384, 8, 6, 1024, 8192, 512), rows=4, length=512, steps=3),
    "0.12b": Case(_dense(768, 12, 12, 2048, 50_304, 2048), rows=16, length=2048, steps=20, warm_up=5),
    "1b": Case(_dense(2048, 16, 16, 8192, 32_768, 4096), rows=4, length=4096, steps=12, warm_up=4),
    "3b": Case(_dense(3072, 26, 24, 8192, 32_768, 4096), rows=2, length=4096, steps=8, warm_up=3),
    "moe": Case(_with_experts(_dense(256, 4, 4, 688, 4096, 256), 64), rows=8, length=256, steps=4),
    "moe-2.5b": Case(
        _with_experts(_dense(1024, 12, 16, 4096, 32_768, 4096), 512), rows=4, length=4096, steps=12, warm_up=4
    ),
}
"""CPU: 2m, 17m, moe. One H100 (or more memory): the others."""


def dense_twin(case: Case) -> Case:
    """The case without experts: feed-forward layers as wide as all experts that a token passes through."""
    experts = case.shape.experts
    assert experts is not None
    width = experts.intermediate_size * (experts.num_shared + experts.top_k)
    return replace(case, shape=case.shape.model_copy(update={"experts": None, "intermediate_size": width}))


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


class Turn(NamedTuple):
    """Seconds of the measured steps, loss of the first step, and the bytes that a process of its own took."""

    seconds: float
    loss: float
    memory: int | None = None


Figures = dict[str, Any]
Trainer = Callable[[Case, str, Clock], Turn]
"""(case, device, clock) → its turn."""


def modelmill(case: Case, device: str, clock: Clock) -> Turn:
    """The engine as every stage runs it, without documents in a row."""
    return _engine(case, device, clock, documents=1)


def modelmill_documents(case: Case, device: str, clock: Clock) -> Turn:
    """The engine with eight documents to a row and attention kept inside each."""
    return _engine(case, device, clock, documents=8)


def modelmill_compiled(case: Case, device: str, clock: Clock) -> Turn:
    """The engine with compiled layers, without documents in a row; compilation is part of the warm-up."""
    return _engine(case, device, clock, documents=1, compile=True)


def modelmill_documents_compiled(case: Case, device: str, clock: Clock) -> Turn:
    """The engine with eight documents to a row and compiled layers."""
    return _engine(case, device, clock, documents=8, compile=True)


def modelmill_float8(case: Case, device: str, clock: Clock) -> Turn:
    """The engine with compiled layers that multiply in 8 bits."""
    return _engine(case, device, clock, documents=1, compile=True, precision="fp8")


def modelmill_dense_twin(case: Case, device: str, clock: Clock) -> Turn:
    """The engine with a dense model in place of one with experts."""
    return _engine(dense_twin(case), device, clock, documents=1)


def modelmill_eager_experts(case: Case, device: str, clock: Clock) -> Turn:
    """The engine with transformers' loop over experts in place of the grouped product."""
    return _engine(case, device, clock, documents=1, experts="eager")


def _engine(
    case: Case,
    device: str,
    clock: Clock,
    *,
    documents: int,
    experts: str | None = None,
    compile: bool = False,
    precision: Precision | None = None,
) -> Turn:
    model = _model(case, device)
    if experts:
        model.set_experts_implementation(experts)
    optimizer = build_optimizer(model, OptimizerConfig())
    plan = case.plan(case.warm_up + case.steps)
    precision = precision or ("fp32" if device == "cpu" else "bf16")
    settings = TrainSettings(num_threads=1, log_every_steps=1, precision=precision, compile=compile)
    batches, border = RandomBatches(case, documents), case.warm_up * case.batch_tokens
    first = train(model, optimizer, plan, batches, settings, end_tokens=border)
    started = clock.now()
    train(model, optimizer, plan, batches, settings, start_tokens=border)
    return Turn(clock.now() - started, first.curve[0]["loss"])


def plain_loop(case: Case, device: str, clock: Clock, compile: bool = False) -> Turn:
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
    return Turn(clock.now() - started, float(losses[0]))


def compiled_loop(case: Case, device: str, clock: Clock) -> Turn:
    """The same loop around `torch.compile(model)`."""
    return plain_loop(case, device, clock, compile=True)


def hugging_face_trainer(case: Case, device: str, clock: Clock) -> Turn:
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
    return Turn(timer.seconds, trainer.state.log_history[0]["loss"])


def litgpt(case: Case, device: str, python: str, compile: bool) -> Turn:
    """litgpt's model in the loop of its pretraining, by the Python of an environment that has it.

    Raises:
        MillError: it failed.
    """
    facts = case.shape.model_dump() | {"rows": case.rows, "length": case.length, "steps": case.steps}
    facts |= {"warm_up": case.warm_up, "device": device, "compile": compile, "learning_rate": LEARNING_RATE}
    command = [python, str(Path(__file__).with_name("litgpt_case.py")), json.dumps(facts)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise MillError((done.stderr.strip().splitlines() or [f"litgpt ended with code {done.returncode}"])[-1])
    return Turn(**json.loads(done.stdout.strip().splitlines()[-1]))


TRAINERS: dict[str, Trainer] = {
    "modelmill": modelmill,
    "modelmill, documents": modelmill_documents,
    "modelmill, compiled": modelmill_compiled,
    "modelmill, documents compiled": modelmill_documents_compiled,
    "modelmill, fp8 compiled": modelmill_float8,
    "modelmill, dense twin": modelmill_dense_twin,
    "modelmill, eager experts": modelmill_eager_experts,
    "plain loop": plain_loop,
    "plain loop, compiled": compiled_loop,
    "HF Trainer": hugging_face_trainer,
}


def measured(name: str, trainer: str, device: str, python: str | None) -> Figures:
    """Tokens a second (per core on a CPU), memory and, where the GPU's peak is known, MFU."""
    case = CASES[name]
    torch.set_num_threads(1)
    if trainer in LITGPT:
        turn = litgpt(case, device, python or sys.executable, compile=trainer == LITGPT[1])
    else:
        turn = TRAINERS[trainer](case, device, Clock(device))
    rate = case.steps * case.batch_tokens / turn.seconds
    figures: Figures = {"rate": rate, "loss": turn.loss}
    if device == "cpu":
        return figures | {"memory": turn.memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    gpu = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in gpu), None)
    shape = (dense_twin(case) if trainer == "modelmill, dense twin" else case).shape
    figures |= {"memory": turn.memory or torch.cuda.max_memory_allocated(), "gpu": gpu}
    return figures | ({"mfu": rate * flops_per_token(shape, case.length) / peak} if peak else {})


def main() -> None:
    """Measure one pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("trainer", choices=[*TRAINERS, *LITGPT])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--litgpt", metavar="PYTHON")
    arguments = parser.parse_args()
    found = measured(arguments.case, arguments.trainer, arguments.device, arguments.litgpt)
    sys.stdout.write(json.dumps(found) + "\n")


def _point(case: Case, step: int) -> StepPoint:
    return StepPoint(step, step * case.batch_tokens, LEARNING_RATE, case.length, case.rows, step * case.rows)


def _model(case: Case, device: str) -> PreTrainedModel:
    return build_model(case.shape, seed=0, device=device)


if __name__ == "__main__":
    main()
