"""A sample of documents and a chat model → which of them meet the recipe's requirements: labels for the student.

Llama 3 (§3.1.1) lets a chat model decide for a sample whether a document meets written requirements, and trains a
small classifier on its answers, which then scores every document.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from modelmill.tasks.curate.config import Teacher
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path
from modelmill.tasks.stage import StageContext

TEMPLATE = Path(__file__).parent / "data" / "quality_prompt.txt"
REPLY_TOKENS = 8
# A document cut at a token and encoded again inside of the prompt may have a few tokens more.
SLACK_TOKENS = 32
NO_LABEL = -1


def teacher_labels(
    context: StageContext, teacher: Teacher, documents: Sequence[Path], surveys: Sequence[Path], outputs: Sequence[Path]
) -> None:
    """Write hash, label (1 good, 0 poor, -1 not read or no answer) and reply of every document, a file for each part.

    The sample are the documents with the smallest hashes. A part that is already written is not read again.

    Raises:
        InputError: the teacher's tokenizer has no chat template.
    """
    hashes = [pq.read_table(path, columns=["hash"])["hash"].to_numpy() for path in surveys]
    smallest = np.sort(np.concatenate(hashes))[: teacher.documents]
    tokenizer = AutoTokenizer.from_pretrained(teacher.model)
    if not tokenizer.chat_template:
        raise InputError(f"quality.teacher: {teacher.model} has no chat template; a teacher must be a chat model")
    done, loaded = 0, False
    for path, output, hash in zip(documents, outputs, hashes, strict=True):
        read = np.flatnonzero(hash <= smallest[-1])
        if not output.exists():
            texts = pq.read_table(path, columns=["text"])["text"].take(pa.array(read)).to_pylist()
            prompts = judge_prompts(tokenizer, teacher, texts)
            sampler = context.sampler()
            if not loaded:
                overhead = len(judge_prompts(tokenizer, teacher, [""])[0])
                sampler.load(Path(teacher.model), overhead + teacher.max_tokens + SLACK_TOKENS + REPLY_TOKENS)
                loaded = True
            stops = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
            sampled = sampler.sample(prompts, max_tokens=REPLY_TOKENS, stop_token_ids=stops) if prompts else []
            _write_labels(hash, read, [samples[0].text for samples in sampled], output)
        done += len(read)
        context.journal.progress("teacher", done, len(smallest), "documents")


def judge_prompts(tokenizer: PreTrainedTokenizerBase, teacher: Teacher, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of the question for each document, of which the teacher sees the first `max_tokens` tokens."""
    before, after = TEMPLATE.read_text(encoding="utf-8").split("{document}")
    before = before.replace("{requirements}", teacher.requirements.strip())
    turns = []
    for text in texts:
        tokens: Any = tokenizer(text, add_special_tokens=False, truncation=True, max_length=teacher.max_tokens)
        beginning = tokenizer.decode(tokens["input_ids"])
        turns.append([{"role": "user", "content": f"{before}{beginning}{after}"}])
    if not turns:
        return []
    encoded: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
    return encoded["input_ids"]


def label_of(reply: str) -> int:
    """1 where the first yes or no of a reply is yes, 0 where it is no, -1 where there is neither."""
    found = re.search(r"\b(yes|no)\b", reply.lower())
    return NO_LABEL if found is None else int(found[1] == "yes")


def _write_labels(hashes: np.ndarray, read: np.ndarray, replies: Sequence[str], output: Path) -> None:
    labels, answers = np.full(len(hashes), NO_LABEL, np.int8), np.full(len(hashes), None, object)
    for row, reply in zip(read, replies, strict=True):
        labels[row], answers[row] = label_of(reply), reply
    table = pa.table({"hash": hashes, "label": labels, "reply": pa.array(answers, pa.string())})
    with atomic_path(output) as temporary:
        pq.write_table(table, temporary, compression="zstd")
