"""A folder → a tiny but complete line of artifacts, a context for a stage over them, and a sampler on transformers."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelmill.services.compute import Compute, ComputeConfig
from modelmill.tasks.files import value_digest, write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, Sample, StageContext
from modelmill.tasks.tokenize.shards import write_index, write_shards
from tests.tasks.evaluate.tiny import TEXTS, write_model, write_tokenizer


class TransformersSampler:
    """The sampler protocol on transformers alone: slow, exact, and quick to start."""

    def __init__(self) -> None:
        self.loaded: list[Path] = []

    def load(self, folder: Path, max_length: int) -> None:
        self.loaded.append(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 64,
        stop_token_ids: Sequence[int] = (),
        seed: int = 0,
    ) -> list[list[Sample]]:
        assert temperature == 0.0 and num_samples == 1, "only greedy decoding is needed here"
        return [[self._continue(list(prompt), max_tokens, stop_token_ids)] for prompt in prompts]

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        scores = []
        for sequence in sequences:
            logprobs = self.model(torch.tensor([list(sequence)])).logits[0].log_softmax(-1)
            scores.append(logprobs[torch.arange(len(sequence) - 1), torch.tensor(list(sequence)[1:])].tolist())
        return scores

    def _continue(self, prompt: list[int], max_tokens: int, stop_token_ids: Sequence[int]) -> Sample:
        tokens: list[int] = []
        total = 0.0
        while len(tokens) < max_tokens and not (tokens and tokens[-1] in stop_token_ids):
            logprobs = self.model(torch.tensor([prompt + tokens])).logits[0, -1].log_softmax(-1)
            tokens.append(int(logprobs.argmax()))
            total += float(logprobs[tokens[-1]])
        finished = tokens[-1] in stop_token_ids
        text = self.tokenizer.decode(tokens[:-1] if finished else tokens)
        return Sample(tokens, text, total, finished)


def artifact(type: str, stage: str, path: Path, stage_id: str | None = None, **manifest: Any) -> Artifact:
    """An artifact over a folder, with as much of a manifest as the stages read."""
    digest = value_digest([type, stage_id or stage])
    content = {"type": type, "stage": stage, "id": stage_id or stage, "digest": digest, "key": digest[::-1], **manifest}
    write_json(path / "manifest.json", content)
    return Artifact(type, path, digest, stage_id or stage, content)


def tiny_line(home: Path) -> dict[str, list[Artifact]]:
    """tokens, fit, three checkpoints (the last two with a longer context) and a chat model of two steps."""
    return {
        "tokens": [write_tokens(home / "tokens")],
        "fit": [write_fit(home / "fit")],
        "checkpoint": [
            write_checkpoint(home / "pretrain", "pretrain", seed=1, max_length=64),
            write_checkpoint(home / "extend", "extend", seed=2, max_length=128, rope_theta=50_000.0),
            write_checkpoint(home / "anneal", "anneal", seed=3, max_length=128, rope_theta=50_000.0),
        ],
        "chat": [write_chat(home / "align")],
    }


def write_tokens(path: Path) -> Artifact:
    tokenizer: Any = write_tokenizer(path / "tokenizer")
    end = tokenizer.eos_token_id
    splits: dict[str, dict[str, Any]] = {"train": {}, "validation": {}}
    for split, texts in (("train", TEXTS), ("validation", TEXTS[:12])):
        for domain, part in (("web", texts[::2]), ("code", texts[1::2])):
            rows = [[*tokenizer.encode(text), end] for text in part]
            size = sum(len(text.encode()) for text in part)
            splits[split][domain] = write_shards(
                path, split, domain, rows, vocab_size=len(tokenizer), num_bytes=size, documents_per_shard=8
            )
    write_index(path, splits, vocab_size=len(tokenizer), eos_token_id=end, mixture={"web": 0.75, "code": 0.25})
    return artifact("tokens", "tokenize", path)


def write_fit(path: Path) -> Artifact:
    choice = {"hidden_size": 64, "num_layers": 2, "parameters": 90_000, "tokens": 100_000, "learning_rate": 0.004}
    write_json(path / "fit.json", {"choice": choice | {"predicted_loss": 2.5}, "budget_flops": 1e12})
    return artifact("fit", "scaling", path)


def write_checkpoint(path: Path, stage: str, seed: int, **shape: Any) -> Artifact:
    write_model(path / "model", seed=seed, **shape)
    training = {"tokens_seen": 100_000 * seed, "steps": 10, "sequence_length": shape["max_length"]}
    write_json(path / "training.json", training | {"validation_loss": 3.0 / seed})
    (path / "optimizer.safetensors").write_bytes(b"moments")
    config = {"optimizer": {"learning_rate": 0.004}}
    return artifact("checkpoint", stage, path, config=config)


def write_chat(path: Path) -> Artifact:
    for number, name in enumerate(("sft-1", "dpo-1"), start=1):
        folder = path / "steps" / f"{number}-{name}" / "model"
        write_model(folder, seed=10 + number, max_length=128, rope_theta=50_000.0)
    shutil.copytree(path / "steps" / "2-dpo-1" / "model", path / "model")
    score = {"accuracy": 0.0, "low": 0.0, "high": 0.32, "n": 8}
    write_json(path / "steps.json", [{"step": name} | score for name in ("base", "sft-1", "dpo-1")])
    return artifact("chat", "align", path, counts={"in": 40, "out": 37, "unit": "prompts", "dropped": {"malformed": 3}})


def context(config: Any, inputs: dict[str, list[Artifact]], workspace: Path, sampler: Any = None) -> StageContext:
    """What the runner gives to a stage, with everything in this process."""
    journal = Journal(workspace / "journal.jsonl")
    (workspace / "output").mkdir(parents=True, exist_ok=True)
    return StageContext(
        config=config,
        inputs=inputs,
        workspace=workspace,
        output=workspace / "output",
        pool=Compute(ComputeConfig(backend="process"), workspace).pool(workspace, journal),
        journal=journal,
        sampler=lambda: sampler,
    )
