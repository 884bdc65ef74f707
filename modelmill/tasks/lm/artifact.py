"""A trained model and its facts ↔ the folder of a checkpoint artifact.

model/                  Hugging Face folder with tokenizer and chat template
optimizer.safetensors   moments, for the next training stage
training.json           what was done and measured, without times
curve.jsonl             loss and learning rate by step, spikes
experts.json            mixture of experts only: load of each expert by layer and domain of the held-out tokens
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelmill.tasks.errors import ContractError
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.lm.checkpoints import export, save_moments, write_curve
from modelmill.tasks.lm.data import TokenFolder
from modelmill.tasks.lm.evaluate import ValidationSet
from modelmill.tasks.lm.model import read_shape
from modelmill.tasks.lm.moe import count_expert_layers, expert_loads
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.precision import forward_precision
from modelmill.tasks.lm.report import TrainReport
from modelmill.tasks.lm.settings import TrainSettings


def write_checkpoint(
    output: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    tokens: TokenFolder,
    training: dict[str, Any],
    curve: Sequence[dict[str, Any]],
    ranks: Ranks | None = None,
) -> None:
    """Write every file of a checkpoint artifact; every process of a run helps, the first one writes."""
    ranks = ranks or Ranks()
    export(model, tokens.tokenizer, output / "model", ranks)
    save_moments(output / "optimizer.safetensors", model, optimizer, ranks)
    if not ranks.is_first:
        return
    write_curve(output / "curve.jsonl", curve)
    write_json(output / "training.json", training)


def read_training(checkpoint: Path, tokens: TokenFolder) -> dict[str, Any]:
    """training.json of the checkpoint that a stage continues, after checking that it fits these tokens.

    Raises:
        ContractError: the model has another vocabulary than the tokens.
    """
    shape = read_shape(checkpoint / "model")
    if shape.vocab_size != tokens.vocab_size:
        raise ContractError(
            f"the checkpoint {checkpoint} has a vocabulary of {shape.vocab_size}, the tokens {tokens.path} one of "
            f"{tokens.vocab_size}; expected both from the same tokenizer. Rebuild from pretrain on (`mill run --from`)"
        )
    return read_json(checkpoint / "training.json")


def training_facts(
    report: TrainReport, *, learning_rate: float, sequence_length: int, rope_theta: float
) -> dict[str, Any]:
    """The part of training.json that every training stage writes: held-out figures before and after, sizes, steps."""
    before = {f"{name}_before": value for name, value in report.first.items() if "/" not in name}
    by_domain = {name.split("/", 1)[1]: value for name, value in report.last.items() if "/" in name}
    return {
        **before,
        **{name: value for name, value in report.last.items() if "/" not in name},
        "bits_per_byte_by_domain": by_domain,
        "learning_rate": learning_rate,
        "rope_theta": rope_theta,
        "sequence_length": sequence_length,
        "steps": report.steps,
        "tokens": report.tokens,
        "training_loss": report.loss,
        "spikes": [line for line in report.curve if "first_skipped" in line],
    }


def spike_sentences(training: dict[str, Any]) -> list[str]:
    """What a stage's summary says of loss spikes: nothing where there were none."""
    spikes = training.get("spikes")
    if not spikes:
        return []
    skipped = ", ".join(f"{spike['first_skipped']} to {spike['last_skipped']}" for spike in spikes)
    tokens = sum(spike["skipped_tokens"] for spike in spikes)
    return [f"{len(spikes)} loss spike(s): left out the batches of steps {skipped} ({tokens:,} tokens)."]


def write_expert_loads(
    output: Path, model: PreTrainedModel, held_out: ValidationSet, settings: TrainSettings, ranks: Ranks
) -> None:
    """Write `experts.json`: who gets which domain's tokens; nothing for a dense model. Every process of a run helps."""
    if not count_expert_layers(model):
        return
    with forward_precision(settings.precision, ranks.device):
        loads = expert_loads(model, held_out, ranks)
    if ranks.is_first:
        write_json(output / "experts.json", loads)


def fell(report: TrainReport) -> bool:
    """Whether the held-out loss is lower after the run than before."""
    return report.last["validation_loss"] < report.first["validation_loss"]
