"""A multiple-choice suite and a model → nats per character of the right answers, and the share answered right.

Llama 3 §3.2.1 forecasts the first from compute and the second from the first. Asked as the evaluate stage asks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.data import TokenFolder
from modelmill.tasks.lm.model import hidden_states, output_head
from modelmill.tasks.lm.parallel.vocabulary import logits_of
from modelmill.tasks.suites.reader import load_suite, question_prompt

_ROWS = 64  # sequences scored side by side


@dataclass(frozen=True)
class SuiteQuestions:
    """Every choice of every item as one sequence, sorted by length; `item` and `right` belong to the sequence.

    tokens: int64 arrays; answer_start: where the choice begins; characters: its length.
    """

    tokens: tuple[np.ndarray, ...]
    answer_start: tuple[int, ...]
    characters: tuple[int, ...]
    item: np.ndarray
    right: np.ndarray
    pad_token_id: int


def suite_questions(suite: str, folder: TokenFolder) -> SuiteQuestions:
    """Tokenise a suite's questions with each of its choices.

    Raises:
        RecipeError: the suite has no choices, so that a proxy cannot be scored by likelihood.
    """
    loaded = load_suite(suite)
    if loaded.kind != "multiple_choice":
        raise RecipeError(
            f"scaling.suite: {suite} asks for generated answers; proxies are scored by the likelihood of choices. "
            "Name a multiple-choice suite."
        )
    tokenizer = Tokenizer.from_file(str(folder.tokenizer / "tokenizer.json"))
    rows = []
    for number, item in enumerate(loaded.items):
        prompt = [folder.begin_token_id, *tokenizer.encode(question_prompt(item.question)).ids]
        for index, choice in enumerate(item.choices):
            answer = tokenizer.encode(f" {choice}").ids
            rows.append((np.array(prompt + answer), len(prompt), len(choice), number, index == item.answer))
    rows.sort(key=lambda row: len(row[0]))
    tokens, starts, characters, items, right = zip(*rows, strict=True)
    return SuiteQuestions(tokens, starts, characters, np.array(items), np.array(right), folder.pad_token_id)


@torch.no_grad()
def score_suite(model: PreTrainedModel, questions: SuiteQuestions) -> dict[str, float]:
    """`answer_nll`: mean over items of nats per character of the right choice; `accuracy`: share of items whose
    likeliest choice, by nats per character, is the right one."""
    nll = np.concatenate(
        [_answer_nll(model, questions, slice(first, first + _ROWS)) for first in range(0, len(questions.tokens), _ROWS)]
    )
    per_character = nll / np.maximum(questions.characters, 1)
    best = np.full(questions.item.max() + 1, np.inf)
    np.minimum.at(best, questions.item, per_character)
    right = per_character[questions.right]
    return {
        "answer_nll": float(right.mean()),
        "accuracy": float(np.mean(right <= best[questions.item[questions.right]])),
    }


def _answer_nll(model: PreTrainedModel, questions: SuiteQuestions, rows: slice) -> np.ndarray:
    """Nats of the choice in each of these sequences."""
    device = next(model.parameters()).device
    tokens, starts = questions.tokens[rows], questions.answer_start[rows]
    length = max(map(len, tokens))
    ids = torch.full((len(tokens), length), questions.pad_token_id)
    wanted = torch.zeros((len(tokens), length), dtype=torch.bool)
    for row, (sequence, start) in enumerate(zip(tokens, starts, strict=True)):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
        wanted[row, start : len(sequence)] = True
    positions = torch.arange(length).expand(len(tokens), -1)
    hidden = hidden_states(model, ids.to(device), positions.to(device))
    row, column = wanted.nonzero(as_tuple=True)
    logits = logits_of(hidden[row, column - 1], output_head(model))
    lost = torch.nn.functional.cross_entropy(logits.float(), ids[row, column].to(device), reduction="none")
    return np.bincount(row.numpy(), lost.cpu().double().numpy(), minlength=len(tokens))
