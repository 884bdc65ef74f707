import math
from pathlib import Path

import numpy as np
import pytest
import torch

from modelmill.tasks.errors import ContractError
from modelmill.tasks.lm.data import open_tokens
from modelmill.tasks.lm.evaluate import score_domains, summary, validation_set
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.model import build_model
from modelmill.tasks.lm.needle import Haystack, NeedleRows, needle_prompt, needle_scores
from modelmill.tasks.lm.settings import NeedleConfig
from tests.tasks.lm.tiny_run import SHAPE

NEEDLES = NeedleConfig(sentence="{key} is {value}.", keys=("red", "oven", "grain"), num_digits=2)


def test_a_uniform_model_scores_log_vocabulary_and_bytes_add_up(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    held_out = validation_set(tokens, sequence_length=64, max_tokens_per_domain=1_000_000)
    model = build_model(SHAPE, seed=0).eval()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    shards = tokens.shards("validation")
    for domain, score in score_domains(model, held_out).items():
        assert score.tokens == shards.num_tokens(domain)
        assert score.bytes == shards.num_bytes(domain)
        assert score.loss == pytest.approx(math.log(384), rel=1e-5)
        assert score.bits_per_byte == pytest.approx(math.log2(384) * score.tokens / score.bytes, rel=1e-5)
    figures = summary(score_domains(model, held_out))
    assert figures["validation_loss"] == pytest.approx(math.log(384), rel=1e-5)


def test_needle_rows_train_answers_and_text_but_not_the_facts(tokens_folder: Path) -> None:
    tokens = open_tokens(tokens_folder)
    rows = NeedleRows(tokens, NEEDLES, seed=4)
    row = rows.row(3, 256)
    assert (row.tokens == rows.row(3, 256).tokens).all()
    assert len(row.tokens) == len(row.labels) == 256
    assert (row.positions == np.arange(256)).all()
    kept = row.labels != IGNORE
    assert (row.labels[:-1][kept[:-1]] == row.tokens[1:][kept[:-1]]).all()
    answers = [digit for digit in rows.haystack.digits if digit in row.labels[kept]]
    assert answers
    assert 0.3 < kept.mean() < 0.9


def test_prompts_have_their_length_and_hold_the_fact_at_its_depth(tokens_folder: Path) -> None:
    haystack = Haystack(open_tokens(tokens_folder), "validation", NEEDLES)
    for depth in (0.0, 0.5, 1.0):
        prompt, answer = needle_prompt(haystack, 200, depth, 1)
        assert len(prompt) + len(answer) == 200
        place = next(at for at in range(len(prompt)) if prompt[at : at + len(answer)] == answer)
        assert place / 200 == pytest.approx(depth * 0.9, abs=0.12)
    with pytest.raises(ContractError, match="too few"):
        needle_prompt(haystack, 10, 0.5, 0)


def test_an_untrained_model_finds_nothing(tokens_folder: Path) -> None:
    haystack = Haystack(open_tokens(tokens_folder), "validation", NEEDLES)
    scores = needle_scores(build_model(SHAPE, seed=0), haystack, lengths=[64, 128], depths=[0.0, 1.0], num_samples=4)
    assert [(score.length, score.depth) for score in scores] == [(64, 0.0), (64, 1.0), (128, 0.0), (128, 1.0)]
    assert max(score.accuracy for score in scores) <= 0.5
