"""A model and the validation split → bits per byte by domain."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.evaluate import score_domains, summary, validation_set

DIGITS = 5


def bits_per_byte(
    folder: Path, tokens: Path, sequence_length: int, tokens_per_domain: int, device: str
) -> dict[str, float]:
    """Bits per UTF-8 byte of each domain's fixed slice, and of all of them together as `all`."""
    logging.disable_progress_bar()
    held_out = validation_set(
        open_tokens(tokens), sequence_length=sequence_length, max_tokens_per_domain=tokens_per_domain
    )
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.to(device).eval()
    scores = score_domains(model, held_out)
    figures = {domain: round(score.bits_per_byte, DIGITS) for domain, score in sorted(scores.items())}
    return {"all": round(summary(scores)["validation_bits_per_byte"], DIGITS)} | figures
