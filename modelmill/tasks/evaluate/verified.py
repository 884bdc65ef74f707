"""A sampler with a model loaded → share of held-out problems whose reply a program accepts, with 95 % intervals."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from modelmill.tasks.evaluate.config import Verified
from modelmill.tasks.stage import Sampler
from modelmill.tasks.verify.problem import verify
from modelmill.tasks.verify.problems import problem_set
from modelmill.tasks.verify.scores import score_replies


def verified_accuracy(
    sampler: Sampler, tokenizer: PreTrainedTokenizerBase, part: Verified, stop_token_ids: list[int], seed: int
) -> dict[str, Any]:
    """Ask each problem once in the chat template, without sampling noise (temperature 0), and verify the replies.

    Returns {score: see `score_replies`, with a question of each family as `examples`, correct: 1.0 or 0.0 per problem}.
    """
    problems = problem_set("test", part.items, seed=seed, difficulty=part.difficulty, families=part.families)
    prompts = [chat_prompt(tokenizer, problem.prompt) for problem in problems]
    replies = sampler.sample(prompts, max_tokens=part.max_new_tokens, stop_token_ids=stop_token_ids)
    texts = [sample.text for (sample, *_) in replies]
    correct = [float(verify(problem, text)) for problem, text in zip(problems, texts, strict=True)]
    examples = {problem.family: problem.prompt for problem in reversed(problems)}
    return {"score": score_replies(problems, texts) | {"examples": examples}, "correct": correct}


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of one user message and the header of the reply to it."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer.encode(str(rendered), add_special_tokens=False)
