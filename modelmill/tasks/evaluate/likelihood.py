"""A model, the validation split and texts of one's own → bits per byte by domain and text."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.evaluate.config import HeldOutText
from modelmill.tasks.lm.data import Batch, TokenFolder, open_tokens, stack
from modelmill.tasks.lm.evaluate import ValidationSet, score_domains, summary, validation_set
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.model import load_model
from modelmill.tasks.lm.rows import Row
from modelmill.tasks.models.load import load_tokenizer

DIGITS = 5


def bits_per_byte(
    folder: Path,
    tokens: Path,
    sequence_length: int,
    tokens_per_domain: int,
    texts: Sequence[HeldOutText],
    device: str,
) -> dict[str, float]:
    """Bits per UTF-8 byte of each domain's fixed slice, of these together as `all`, and of each text.

    Raises:
        RecipeError: a text has the name of a domain.
    """
    opened = open_tokens(tokens)
    held_out = validation_set(opened, sequence_length=sequence_length, max_tokens_per_domain=tokens_per_domain)
    if taken := {text.name for text in texts} & set(held_out.batches):
        raise RecipeError(f"evaluate.bits_per_byte.texts: {sorted(taken)} are domains; give the texts other names")
    model = load_model(folder, device=device).eval()
    scores = score_domains(model, held_out)
    own = {text.name: text_rows(opened, read_documents(Path(text.path)), sequence_length) for text in texts}
    further = ValidationSet(own, held_out.token_bytes, held_out.rows_per_forward)
    figures = sorted(scores.items()) + list(score_domains(model, further).items())
    total = summary(scores)["validation_bits_per_byte"]
    return {"all": round(total, DIGITS)} | {name: round(score.bits_per_byte, DIGITS) for name, score in figures}


def read_documents(path: Path) -> list[str]:
    """The texts of a file: one document of a .txt, one a line of a .jsonl; either may be compressed with gzip."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    if path.name.endswith((".txt", ".txt.gz")):
        return [text]
    return [json.loads(line)["text"] for line in text.split("\n") if line.strip()]


def text_rows(tokens: TokenFolder, documents: Sequence[str], length: int) -> Batch:
    """Documents → rows of one length, in which every token of theirs is a label once, within its document.

    As in the validation windows a document begins with the begin token and ends with the end token.
    """
    tokenizer = load_tokenizer(tokens.tokenizer)
    begin, end = tokens.begin_token_id, tokens.end_token_id
    encoded = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    pieces = [np.array([begin, *ids, end], np.int64) for ids in encoded]
    inputs = np.concatenate([piece[:-1] for piece in pieces])
    labels = np.concatenate([piece[1:] for piece in pieces])
    padding = -len(inputs) % length
    inputs = np.pad(inputs, (0, padding), constant_values=tokens.pad_token_id).reshape(-1, length)
    labels = np.pad(labels, (0, padding), constant_values=IGNORE).reshape(-1, length)
    places = np.arange(length)
    # A row in the middle of a document begins at position 0, as a cut document does in training.
    starts = np.maximum.accumulate(np.where(inputs == begin, places, 0), axis=1)
    return stack([Row(*row) for row in zip(inputs, labels, places - starts, strict=True)])
