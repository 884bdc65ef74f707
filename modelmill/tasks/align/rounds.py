"""A policy → the next one: sample, verify, reward model, rejection sampling, supervised step, preference step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelmill.tasks.align.chat import Example, loss_share, write_examples
from modelmill.tasks.align.config import SupervisedConfig
from modelmill.tasks.align.desk import Desk, Step
from modelmill.tasks.align.pairs import Reply, judge_samples, make_pairs, select_replies
from modelmill.tasks.align.preference import train_preference
from modelmill.tasks.align.records import read_replies, write_pairs, write_replies
from modelmill.tasks.align.reward import train_reward
from modelmill.tasks.align.supervised import train_supervised
from modelmill.tasks.files import read_json
from modelmill.tasks.verify.problem import Problem


def run_instructions(desk: Desk, base: Step) -> Step:
    """The first supervised step: problems with their reference answers."""
    problems = desk.problems("train", desk.config.instructions, "instructions")
    examples = desk.chat.examples([problem.prompt for problem in problems], [problem.answer for problem in problems])
    return _supervised(desk, "1-sft", base, examples, desk.config.supervised)


def run_round(desk: Desk, number: int, policy: Step) -> list[Step]:
    """One round; its supervised and its preference step (only the former when every sampled reply was right)."""
    problems = desk.problems("train", desk.config.sampling.prompts, f"round-{number}")
    sampled = desk.recorded(f"samples-{number}", lambda: _sample(desk, number, policy, problems))
    if sampled["pairs"]:
        desk.recorded(f"reward-{number}", lambda: _reward(desk, number, policy, problems))
    replies = read_replies(_folder(desk, number) / "replies.parquet")
    selected = _supervised(
        desk,
        f"{2 * number}-rejection-{number}",
        policy,
        _selection(desk, number, problems, replies),
        desk.config.rejection,
    )
    if not sampled["pairs"]:
        desk.context.journal.note(f"round {number}: every sampled reply was right, so there is nothing to prefer")
        return [selected]
    return [selected, _prefer(desk, number, selected)]


def _sample(desk: Desk, number: int, policy: Step, problems: Sequence[Problem]) -> dict[str, Any]:
    """Sample and verify replies, pair right with wrong ones; returns counts."""
    config = desk.config.sampling
    prompts = desk.chat.prompts([problem.prompt for problem in problems])
    samples = desk.sample(
        policy.model,
        prompts,
        num_samples=config.replies,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=desk.config.seed * 1000 + number,
    )
    replies = judge_samples(problems, prompts, samples)
    pairs = make_pairs(problems, replies, desk.chat, config.pairs_per_prompt, desk.config.seed * 1000 + number)
    write_replies(_folder(desk, number) / "replies.parquet", problems, replies)
    write_pairs(_folder(desk, number) / "pairs.parquet", problems, pairs)
    right = sum(reply.correct for reply in replies)
    edited = sum(pair.edited for pair in pairs)
    return {"replies": len(replies), "right": right, "pairs": len(pairs), "edited": edited}


def _reward(desk: Desk, number: int, policy: Step, problems: Sequence[Problem]) -> dict[str, Any]:
    """Train the reward model on all pairs so far and write its rewards beside the replies."""
    folder, work = _folder(desk, number), desk.work(f"reward-{number}")
    record = desk.context.pool.run(
        train_reward,
        {
            "start": policy.model,
            "pairs": [_folder(desk, each) / "pairs.parquet" for each in _rounds_with_pairs(desk, number)],
            "replies": folder / "replies.parquet",
            "output": folder / "reward-model.safetensors",
            "rewards": work / "rewards.json",
            "config": desk.config.reward,
        }
        | _common(desk, f"reward-{number}"),
        f"reward-{number}",
        desk.context.pool.layout,
    )
    rewards = read_json(work / "rewards.json")
    replies = read_replies(folder / "replies.parquet")
    scored = [replace(reply, reward=reward) for reply, reward in zip(replies, rewards, strict=True)]
    write_replies(folder / "replies.parquet", problems, scored)
    return record


def _selection(desk: Desk, number: int, problems: Sequence[Problem], replies: Sequence[Reply]) -> list[Example]:
    """The chosen reply of each problem, and fresh problems with reference answers beside them."""
    chosen, _ = select_replies(problems, replies, desk.chat)
    prompts = desk.chat.prompts([problem.prompt for problem in problems])
    examples = [([*p, *c], [0] * len(p) + [1] * len(c)) for p, c in zip(prompts, chosen, strict=True)]
    replayed = int(desk.config.replay * len(problems))
    if replayed:
        fresh = desk.problems("train", replayed, f"replay-{number}")
        examples += desk.chat.examples([problem.prompt for problem in fresh], [problem.answer for problem in fresh])
    return examples


def _supervised(desk: Desk, name: str, start: Step, examples: list[Example], config: SupervisedConfig) -> Step:
    """Train on examples and measure."""
    share = loss_share(examples, desk.config.loss_share)
    model = desk.context.output / "steps" / name / "model"

    def train() -> dict[str, Any]:
        write_examples(desk.work(name) / "examples.parquet", examples)
        arguments = {"start": start.model, "examples": desk.work(name) / "examples.parquet", "output": model}
        arguments |= {"tokenizer": desk.tokenizer, "config": config} | _common(desk, name)
        record = desk.context.pool.run(train_supervised, arguments, name, desk.context.pool.layout)
        return record | {"examples": len(examples), "loss_share": round(share, 6)}

    return desk.step(name, model, desk.recorded(name, train))


def _prefer(desk: Desk, number: int, start: Step) -> Step:
    """Train on the newest pairs (Llama 3.1 uses only the latest batches for DPO) and measure."""
    config = desk.config.preference
    name = f"{2 * number + 1}-{config.loss}-{number}"
    model = desk.context.output / "steps" / name / "model"
    arguments = {
        "start": start.model,
        "tokenizer": desk.tokenizer,
        "pairs": _folder(desk, number) / "pairs.parquet",
        "formatting": sorted(desk.chat.formatting),
        "output": model,
        "config": config,
    } | _common(desk, name)
    pool = desk.context.pool
    record = desk.recorded(name, lambda: pool.run(train_preference, arguments, name, pool.layout))
    return desk.step(name, model, record)


def _common(desk: Desk, name: str) -> dict[str, Any]:
    """Arguments that every training function takes."""
    context = desk.context
    return {
        "workspace": desk.work(name),
        "seed": desk.config.seed,
        "device": context.device,
        "journal": context.journal,
        "label": name,
    }


def _rounds_with_pairs(desk: Desk, number: int) -> list[int]:
    return [each for each in range(1, number + 1) if (_folder(desk, each) / "pairs.parquet").exists()]


def _folder(desk: Desk, number: int) -> Path:
    return desk.preference / f"round-{number}"
