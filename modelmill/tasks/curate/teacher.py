"""A sample of documents and a chat model → its labels of them, for a student to learn from.

Llama 3 (§3.1.1) lets a chat model decide for a sample whether a document meets written requirements, and trains a
small classifier on its answers, which then scores every document. Categories are asked for in two steps, the topic and
then the category within it: two short lists instead of one of 200 entries with each document.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from modelmill.tasks.curate.config import Categories, QualityTeacher, Teacher
from modelmill.tasks.curate.labels import load_labels
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path
from modelmill.tasks.models.load import load_tokenizer
from modelmill.tasks.stage import Sampler, StageContext

QUALITY_PROMPT = Path(__file__).parent / "data" / "quality_prompt.txt"
CATEGORY_PROMPT = Path(__file__).parent / "data" / "category_prompt.txt"
REPLY_TOKENS = 16
# A document cut at a token and encoded again inside of the prompt may have a few tokens more.
SLACK_TOKENS = 32
NO_LABEL = -1

# Questions, and a document for each → the replies.
Ask = Callable[[Sequence[str], Sequence[str]], list[str]]


def teacher_labels(
    context: StageContext,
    teacher: QualityTeacher,
    documents: Sequence[Path],
    surveys: Sequence[Path],
    outputs: Sequence[Path],
) -> None:
    """Write hash, label (1 good, 0 poor, -1 not read or no answer) and reply of every document, a file for each part.

    The sample are the documents with the smallest hashes. A part that is already written is not read again.

    Raises:
        InputError: the teacher's tokenizer has no chat template.
    """
    question = QUALITY_PROMPT.read_text(encoding="utf-8").replace("{requirements}", teacher.requirements.strip())

    def write(ask: Ask, texts: Sequence[str], hashes: np.ndarray, read: np.ndarray, output: Path) -> None:
        replies = ask([question] * len(texts), texts)
        labels, answers = np.full(len(hashes), NO_LABEL, np.int8), np.full(len(hashes), None, object)
        labels[read], answers[read] = [label_of(reply) for reply in replies], replies
        _write({"hash": hashes, "label": labels, "reply": pa.array(answers, pa.string())}, output)

    _read_sample(context, teacher, "quality", [question], documents, surveys, outputs, write)


def teacher_categories(
    context: StageContext,
    categories: Categories,
    documents: Sequence[Path],
    surveys: Sequence[Path],
    outputs: Sequence[Path],
) -> None:
    """Write hash, category (null: not read, or none was named) and both replies of every document, as above."""
    labels = load_labels(categories.labels)
    by_topic = {topic: category_question(listed) for topic, listed in labels.items()}
    first = category_question({topic: ", ".join(listed) for topic, listed in labels.items()})

    def write(ask: Ask, texts: Sequence[str], hashes: np.ndarray, read: np.ndarray, output: Path) -> None:
        replies = ask([first] * len(texts), texts)
        topics = [named_of(reply, labels) for reply in replies]
        asked = [number for number, topic in enumerate(topics) if topic is not None]
        seconds = ask([by_topic[topics[number] or ""] for number in asked], [texts[number] for number in asked])
        found, answers = np.full(len(hashes), None, object), np.full(len(hashes), None, object)
        answers[read] = replies
        for number, reply in zip(asked, seconds, strict=True):
            name = named_of(reply, labels[topics[number] or ""])
            found[read[number]] = None if name is None else f"{topics[number]}/{name}"
            answers[read[number]] = f"{replies[number]}\n{reply}"
        columns = {"hash": hashes, "category": pa.array(found, pa.string()), "reply": pa.array(answers, pa.string())}
        _write(columns, output)

    assert categories.teacher is not None
    questions = [first, *by_topic.values()]
    _read_sample(context, categories.teacher, "categories", questions, documents, surveys, outputs, write)


def _read_sample(
    context: StageContext, teacher: Teacher, what: str, questions: Sequence[str], documents: Sequence[Path],
    surveys: Sequence[Path], outputs: Sequence[Path], write: Callable[..., None],
) -> None:  # fmt: skip
    """Let `write` label each part's share of the sample; `questions`: all that may be asked, for their length."""
    hashes = [pq.read_table(path, columns=["hash"])["hash"].to_numpy() for path in surveys]
    smallest = np.sort(np.concatenate(hashes))[: teacher.documents]
    tokenizer = load_tokenizer(teacher.model)
    if not tokenizer.chat_template:
        raise InputError(f"{what}.teacher: {teacher.model} has no chat template; a teacher must be a chat model")
    overhead = max(map(len, judge_prompts(tokenizer, teacher.max_tokens, questions, [""] * len(questions))))
    length = overhead + teacher.max_tokens + SLACK_TOKENS + REPLY_TOKENS
    ask, done = None, 0
    for path, output, hash in zip(documents, outputs, hashes, strict=True):
        read = np.flatnonzero(hash <= smallest[-1])
        if not output.exists():
            ask = ask or _asking(context.sampler(), teacher, tokenizer, length)
            texts = pq.read_table(path, columns=["text"])["text"].take(pa.array(read)).to_pylist()
            write(ask, texts, hash, read, output)
        done += len(read)
        context.journal.progress(f"teacher of {what}", done, len(smallest), "documents")


def _asking(sampler: Sampler, teacher: Teacher, tokenizer: PreTrainedTokenizerBase, length: int) -> Ask:
    """Load the teacher → how to ask it."""
    sampler.load(Path(teacher.model), length)
    stops: Any = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def ask(questions: Sequence[str], texts: Sequence[str]) -> list[str]:
        prompts = judge_prompts(tokenizer, teacher.max_tokens, questions, texts)
        sampled = sampler.sample(prompts, max_tokens=REPLY_TOKENS, stop_token_ids=stops) if prompts else []
        return [samples[0].text for samples in sampled]

    return ask


def judge_prompts(
    tokenizer: PreTrainedTokenizerBase, max_tokens: int, questions: Sequence[str], texts: Sequence[str]
) -> list[list[int]]:
    """Token ids of each question about its document, of which the teacher sees the first `max_tokens` tokens."""
    turns = []
    for question, text in zip(questions, texts, strict=True):
        before, after = question.rsplit("{document}", 1)
        tokens: Any = tokenizer(text, add_special_tokens=False, truncation=True, max_length=max_tokens)
        beginning = tokenizer.decode(tokens["input_ids"])
        turns.append([{"role": "user", "content": f"{before}{beginning}{after}"}])
    if not turns:
        return []
    encoded: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)
    return encoded["input_ids"]


def category_question(listed: Mapping[str, str]) -> str:
    """The question which of the names a document belongs to."""
    lines = "\n".join(f"{name}: {text}" for name, text in listed.items())
    return CATEGORY_PROMPT.read_text(encoding="utf-8").replace("{names}", lines)


def label_of(reply: str) -> int:
    """1 where the first yes or no of a reply is yes, 0 where it is no, -1 where there is neither."""
    found = re.search(r"\b(yes|no)\b", reply.lower())
    return NO_LABEL if found is None else int(found[1] == "yes")


def named_of(reply: str, names: Mapping[str, Any]) -> str | None:
    """The name that a reply has first, of several at one place the longest; None where it has none."""
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    found = re.search(rf"(?<![\w-])({pattern})(?![\w-])", reply.lower())
    return None if found is None else found[1]


def _write(columns: Mapping[str, Any], output: Path) -> None:
    with atomic_path(output) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary, compression="zstd")
