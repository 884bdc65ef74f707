"""Proxy runs → how many an hour trains: in the queue of a worker process, and each in a fresh process.

A worker of the scaling stage imports torch, maps the tokens and packs them once, however many proxies it trains. Times
are CPU-seconds of one-threaded processes: every core adds a worker's rate, fresh processes one after another use one.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modelmill.flows.benches.measured import Measured
from modelmill.flows.benches.tokens import generated_texts
from modelmill.services.compute import ComputeConfig, ProcessExecutor, RecordedPool
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig
from modelmill.tasks.scaling.proxy import train_proxy
from modelmill.tasks.scaling.shapes import shape_for
from modelmill.tasks.stage import Call
from modelmill.tasks.tokenize.encode import Encoder
from modelmill.tasks.tokenize.merges import trained_bpe
from modelmill.tasks.tokenize.shards import write_index, write_shards
from modelmill.tasks.tokenize.train import save_tokenizer

VOCAB_SIZE = 512
PARAMETERS = 50_000
BATCH_TOKENS = 512
_MODULE = "modelmill.flows.benches.proxies"


def measure(
    num_runs: int = 12, num_fresh: int = 3, token_counts: tuple[int, ...] = (16_384, 131_072)
) -> list[Measured]:
    """Runs an hour of one core, for proxies of these lengths; the machine's rate is that of its cores together.

    `of_fresh_core` compares core with core, `of_fresh_machine` all cores with fresh processes one after another.
    """
    cores, found = len(os.sched_getaffinity(0)), []
    with tempfile.TemporaryDirectory(prefix="mill-bench-") as folder:
        tokens = _write_tokens(Path(folder))
        for count in token_counts:
            step = f"proxies of {PARAMETERS:,} parameters, {count:,} tokens"
            fresh = _seconds_a_run(tokens, count, 1, num_fresh)
            queued = _seconds_a_run(tokens, count, num_runs, 1)
            ratios = {"of_fresh_core": fresh / queued, "of_fresh_machine": cores * fresh / queued, "cores": cores}
            quality = {name: round(value, 2) for name, value in ratios.items()}
            found += [
                Measured(step, "modelmill", 3600 / queued, "runs/h", quality, f"{num_runs} runs a worker"),
                Measured(step, "fresh processes", 3600 / fresh, "runs/h"),
            ]
    return found


def _seconds_a_run(tokens: Path, count: int, num_runs: int, num_processes: int) -> float:
    """CPU-seconds a run of processes that train so many runs each, from their start to their end."""
    before = _children_seconds()
    for number in range(num_processes):
        command = [sys.executable, "-m", _MODULE]
        arguments = [str(tokens), str(count), str(num_runs), str(tokens / f"work-{count}-{num_runs}-{number}")]
        subprocess.run([*command, *arguments], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return (_children_seconds() - before) / (num_runs * num_processes)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _write_tokens(folder: Path) -> Path:
    """A tokens artifact of made-up words, a million bytes and more."""
    texts = generated_texts(2_000_000)
    save_tokenizer(trained_bpe(texts[:200], VOCAB_SIZE, 2, 32), folder / "tokenizer")
    encoded = Encoder(folder / "tokenizer").encode(pa.chunked_array([pa.array(texts, pa.large_string())]), 1)
    rows = np.split(encoded.tokens, encoded.offsets[1:-1])
    splits = {
        split: {"words": write_shards(folder, split, "words", part, vocab_size=VOCAB_SIZE)}
        for split, part in (("train", rows[20:]), ("validation", rows[:20]))
    }
    write_index(folder, splits, vocab_size=VOCAB_SIZE, eos_token_id=1, mixture={"words": 1.0})
    return folder


def _calls(tokens: Path, count: int, num_runs: int, journal: Journal) -> list[Call]:
    shared: dict[str, Any] = {
        "tokens_folder": str(tokens),
        "shape": shape_for(PARAMETERS, VOCAB_SIZE).model_dump(),
        "token_counts": [count],
        "batch_tokens": BATCH_TOKENS,
        "sequence_length": 128,
        "warmup_tokens": count // 5,
        "decay_share": 0.2,
        "validation_tokens_per_domain": 4096,
        "mixture": None,
        "suite": None,
        "initialisation": InitialisationConfig().model_dump(),
        "optimizer": OptimizerConfig().model_dump(),
        "seed": 0,
        "journal": journal,
        "label": "bench",
    }
    return [Call(f"run-{number}", shared | {"learning_rate": 4e-3 / (1 + number)}) for number in range(num_runs)]


def main() -> None:
    """Train the runs one after another in this process, through the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("num_runs", type=int)
    parser.add_argument("workspace", type=Path)
    arguments = parser.parse_args()
    journal = Journal(arguments.workspace / "journal.jsonl")
    pool = RecordedPool(ProcessExecutor(), ComputeConfig(backend="process"), arguments.workspace, journal)
    pool.map(train_proxy, _calls(arguments.tokens, arguments.count, arguments.num_runs, journal), "proxies")


if __name__ == "__main__":
    main()
