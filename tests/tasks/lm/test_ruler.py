from pathlib import Path

import pytest
import torch

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.needle import Haystack, right_shares
from modelmill.tasks.lm.ruler import RULER_TASKS, ruler_prompt, ruler_scores
from modelmill.tasks.lm.settings import NeedleConfig
from modelmill.tasks.lm.shape import ModelShape

KEYS = ("red", "oven", "mill", "stone", "water", "wheel", "river", "bread")


@pytest.fixture
def haystack(tokens_folder: Path) -> Haystack:
    return Haystack(open_tokens(tokens_folder), "validation", NeedleConfig(sentence="{key} is {value}.", keys=KEYS))


def test_prompts_hold_their_answers_and_are_always_the_same(haystack: Haystack) -> None:
    for task in RULER_TASKS:
        prompt = ruler_prompt(task, haystack, 256, 3)
        assert prompt == ruler_prompt(task, haystack, 256, 3)
        assert prompt != ruler_prompt(task, haystack, 256, 4)
        assert len(prompt.tokens) + sum(map(len, prompt.items)) == 256
        text, answers = haystack.tokenizer.decode(prompt.tokens), [haystack.tokenizer.decode(i) for i in prompt.items]
        question = text.splitlines()[-1]
        facts = [line for line in text.splitlines()[:-1] if line.startswith(question) or line.startswith("VAR ")]
        if task == "multi_key":
            assert facts == [f"{question}{answers[0]}."]
            assert sum(line.endswith(".") and " is " in line for line in text.splitlines()) >= 7
        if task == "multi_value":
            assert facts == [f"{question}{answer.removeprefix(', ')}." for answer in answers]
        if task == "variables":
            value, names = question.split()[4], []
            for line in facts:
                _, name, _, source = line.rstrip(".").split()
                names += [name] if source in (value, *names) else []
            assert answers == [f" {name}" for name in names]
        if task == "common_words":
            words = text.split("Words:")[1].split("\n")[0].split()
            counts = {key: words.count(key) for key in KEYS}
            assert answers == [f" {key}" for key in sorted(sorted(counts, key=lambda key: -counts[key])[:3])]
    with pytest.raises(ContractError, match="40 tokens are too few for the task variables"):
        ruler_prompt("variables", haystack, 40, 0)


def test_an_item_counts_when_all_its_tokens_are_the_most_likely(haystack: Haystack) -> None:
    shape = ModelShape(
        vocab_size=384,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        intermediate_size=32,
        max_sequence_length=256,
    )
    model = build_model(shape, seed=0)
    prompt = ruler_prompt("multi_value", haystack, 256, 0)
    tokens = list(prompt.tokens)
    for _ in range(7):
        logits = model(torch.tensor([tokens])).logits
        tokens.append(int(logits[0, -1].argmax()))
    greedy = tokens[len(prompt.tokens) :]
    first, second, third = greedy[:2], greedy[2:3], greedy[3:7]
    wrong = [*second[:-1], (second[-1] + 1) % 384]
    right = prompt._replace(items=[first, second, third])
    assert right_shares(model, [right] * 3, tokens_per_forward=300) == [1.0, 1.0, 1.0]
    assert right_shares(model, [prompt._replace(items=[first, wrong])]) == [0.5]
    scores = ruler_scores(model, haystack, lengths=[64, 256], num_samples=2)
    assert [score.task for score in scores if score.length == 256] == list(RULER_TASKS)
    assert [score.task for score in scores if score.length == 64] == ["multi_key", "multi_value", "common_words"]
