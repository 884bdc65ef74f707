"""Supervised, reward and preference training on toy data: the losses fall, masks hold, runs repeat bit by bit."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from modelmill.tasks.align.batches import PairBatches
from modelmill.tasks.align.chat import ChatFormat, write_examples
from modelmill.tasks.align.config import PreferenceConfig, RewardConfig, SupervisedConfig
from modelmill.tasks.align.pairs import Pair, Reply
from modelmill.tasks.align.preference import preference_objective, reference_logprobs, reply_logprobs, train_preference
from modelmill.tasks.align.records import write_pairs, write_replies
from modelmill.tasks.align.reward import train_reward
from modelmill.tasks.align.supervised import train_supervised
from modelmill.tasks.files import file_digest, read_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.lm.losses import IGNORE
from modelmill.tasks.lm.model import load_model, measure_batch
from modelmill.tasks.lm.parallel.layout import Layout
from modelmill.tasks.lm.parallel.ranks import Ranks
from modelmill.tasks.lm.pieces import open_pieces
from modelmill.tasks.verify.problems import problem_set
from tests.tasks.lm.compiling import needs_compiler, only_compiled, quiet


@pytest.fixture(autouse=True)
def one_thread():
    """Toy tensors are slower on several threads, and much slower when others compute beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toy_pairs(chat: ChatFormat, number: int) -> list[Pair]:
    """Replies of one digit; the even one is better."""
    prompts = chat.prompts([f"{i}" for i in range(number)])
    even, odd = ([*chat.tokenizer.encode(text), chat.end_of_turn] for text in ("4", "7"))
    return [Pair(i, prompt, even, odd, False) for i, prompt in enumerate(prompts)]


def common(folder: Path, label: str) -> dict[str, Any]:
    journal = Journal(folder / "journal.jsonl")
    where = {"workspace": folder / label, "device": "cpu", "journal": journal, "layout": Layout()}
    return where | {"seed": 1, "label": label}


def test_supervised_training_lowers_the_loss_and_repeats(
    chat: ChatFormat, tokenizer_folder: Path, base: Path, tmp_path: Path
):
    problems = problem_set("train", 60, seed=0, families=["edits"])
    write_examples(
        tmp_path / "examples.parquet", chat.examples([p.prompt for p in problems], [p.answer for p in problems])
    )
    config = SupervisedConfig(learning_rate=1e-2, batch_tokens=512, sequence_length=128, epochs=3)
    records = [
        train_supervised(
            start=base,
            tokenizer=tokenizer_folder,
            examples=tmp_path / "examples.parquet",
            output=tmp_path / name / "model",
            config=config,
            **common(tmp_path / name, "sft"),
        )
        for name in ("first", "second")
    ]
    assert records[0] == records[1]
    assert records[0]["curve"][-1]["loss"] < 0.6 * records[0]["curve"][0]["loss"]
    digests = [file_digest(tmp_path / name / "model" / "model.safetensors") for name in ("first", "second")]
    assert digests[0] == digests[1] != file_digest(base / "model.safetensors")


def test_only_the_reply_is_labelled_and_formatting_is_left_out_of_the_preference(chat: ChatFormat):
    [pair] = toy_pairs(chat, 1)
    batch = PairBatches([pair], seed=0, pad_token_id=2, batch_pairs=5, formatting=chat.formatting).take([0])
    chosen, rejected = batch.labels.view(2, -1)
    assert chosen[chosen != IGNORE].tolist() == pair.chosen
    assert rejected[rejected != IGNORE].tolist() == pair.rejected
    assert chosen[batch.preferred.view(2, -1)[0]].tolist() == pair.chosen[:-1]
    assert batch.sequences[0][0, batch.last[0, 0]] == chat.end_of_turn
    assert batch.weight == 1


def test_every_pair_of_a_step_is_trained_whatever_the_pieces(chat: ChatFormat, base: Path):
    batch = PairBatches(toy_pairs(chat, 5), seed=0, pad_token_id=2, batch_pairs=5).take(range(5))
    with open_pieces(load_model(base), 2, None) as pieces:
        assert pieces.backward(batch, 5, lambda _, piece: torch.tensor(piece.weight)) == 5


def test_reply_logprobs_are_those_of_the_whole_model(chat: ChatFormat, base: Path):
    model = load_model(base).eval()
    pairs = toy_pairs(chat, 3)
    batch = PairBatches(pairs, seed=0, pad_token_id=2, batch_pairs=5).take(range(3))
    with torch.no_grad():
        logprobs = measure_batch(model, batch, reply_logprobs)
        found, labels = (tensor.view(6, -1)[::2] for tensor in (logprobs, batch.labels))
        for row, pair in enumerate(pairs):
            tokens = torch.tensor([[*pair.prompt, *pair.chosen]])
            logprobs = model(tokens).logits[0, :-1].log_softmax(-1)
            expected = logprobs[torch.arange(len(logprobs)), tokens[0, 1:]][-len(pair.chosen) :]
            assert torch.allclose(found[row][labels[row] != IGNORE], expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_preference_step_starts_at_log_two_and_prefers_the_chosen(
    precision: Literal["fp32", "bf16"], chat: ChatFormat, tokenizer_folder: Path, base: Path, tmp_path: Path
):
    pairs = toy_pairs(chat, 40)
    model = load_model(base)
    batches = PairBatches(pairs, seed=0, pad_token_id=2, batch_pairs=5, formatting=chat.formatting)
    batches.reference = reference_logprobs(model, batches, Ranks())
    objective = preference_objective(PreferenceConfig(nll_weight=0.0), Ranks())
    loss = measure_batch(model, batches.take(range(40)), objective) / 40
    assert loss.item() == pytest.approx(0.6931, abs=1e-3)
    write_pairs(tmp_path / "pairs.parquet", problem_set("train", 40, seed=0), pairs)
    record = train_preference(
        start=base,
        tokenizer=tokenizer_folder,
        pairs=tmp_path / "pairs.parquet",
        formatting=sorted(chat.formatting),
        output=tmp_path / "model",
        config=PreferenceConfig(learning_rate=5e-3, batch_pairs=8, epochs=6, precision=precision),
        **common(tmp_path, "dpo"),
    )
    assert record["curve"][-1]["loss"] < 0.7 * record["curve"][0]["loss"]
    assert record["reward_chosen"] > 0 > record["reward_rejected"]


def test_averaging_with_the_start_halves_the_way(chat: ChatFormat, tokenizer_folder: Path, base: Path, tmp_path: Path):
    write_pairs(tmp_path / "pairs.parquet", problem_set("train", 8, seed=0), toy_pairs(chat, 8))
    for share in (0.0, 0.5):
        train_preference(
            start=base,
            tokenizer=tokenizer_folder,
            pairs=tmp_path / "pairs.parquet",
            formatting=[],
            output=tmp_path / f"model-{share}",
            config=PreferenceConfig(learning_rate=1e-3, batch_pairs=4, average_with_start=share),
            **common(tmp_path, f"dpo-{share}"),
        )
    name = "model.layers.0.mlp.up_proj.weight"
    start, whole, half = (
        load_model(folder).state_dict()[name] for folder in (base, tmp_path / "model-0.0", tmp_path / "model-0.5")
    )
    assert torch.allclose(half, (start + whole) / 2, atol=1e-7)
    assert not torch.allclose(whole, start, atol=1e-5)


@needs_compiler
@quiet
def test_compiled_steps_over_pairs_of_any_length_give_the_eager_curve(
    chat: ChatFormat, base: Path, tmp_path: Path
) -> None:
    problems = problem_set("train", 12, seed=0)
    replies = [[*chat.tokenizer.encode("47" * (1 + 4 * number)), chat.end_of_turn] for number in range(13)]
    pairs = [
        Pair(number, prompt, replies[number], replies[number + 1], False)
        for number, prompt in enumerate(chat.prompts([problem.prompt for problem in problems]))
    ]
    write_pairs(tmp_path / "pairs.parquet", problems, pairs)
    write_replies(tmp_path / "replies.parquet", problems, [Reply(0, pairs[0].prompt, replies[0], "", True)])
    with only_compiled():
        curves = [
            train_reward(
                start=base,
                pairs=[tmp_path / "pairs.parquet"],
                replies=tmp_path / "replies.parquet",
                output=tmp_path / f"{compiled}.safetensors",
                rewards=tmp_path / "rewards.json",
                config=RewardConfig(learning_rate=1e-3, batch_pairs=2, epochs=2, compile=compiled),
                **common(tmp_path, f"reward-{compiled}"),
            )["curve"]
            for compiled in (False, True)
        ]
    assert [line["loss"] for line in curves[1]] == pytest.approx([line["loss"] for line in curves[0]], rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_reward_model_tells_right_from_wrong(
    precision: Literal["fp32", "bf16"], chat: ChatFormat, base: Path, tmp_path: Path
):
    pairs = toy_pairs(chat, 60)
    problems = problem_set("train", 60, seed=0)
    replies = [
        Reply(pair.problem, pair.prompt, tokens, "", tokens == pair.chosen)
        for pair in pairs[:10]
        for tokens in (pair.chosen, pair.rejected)
    ]
    write_pairs(tmp_path / "pairs.parquet", problems, pairs)
    write_replies(tmp_path / "replies.parquet", problems, replies)
    record = train_reward(
        start=base,
        pairs=[tmp_path / "pairs.parquet"],
        replies=tmp_path / "replies.parquet",
        output=tmp_path / "reward.safetensors",
        rewards=tmp_path / "rewards.json",
        config=RewardConfig(learning_rate=5e-3, batch_pairs=8, epochs=4, precision=precision),
        **common(tmp_path, "reward"),
    )
    rewards = read_json(tmp_path / "rewards.json")
    assert record["curve"][-1]["loss"] < 0.5 * record["curve"][0]["loss"]
    assert record["pair_accuracy"] == 1.0 and record["held_out_pairs"] > 0
    assert all(rewards[i] > 0 > rewards[i + 1] for i in range(0, len(rewards), 2))
