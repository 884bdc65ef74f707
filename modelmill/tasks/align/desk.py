"""A stage context → what every step of align needs: paths, records of finished steps, measured accuracies."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from modelmill.tasks.align.chat import ChatFormat
from modelmill.tasks.align.config import Config
from modelmill.tasks.align.contamination import SuiteIndices, suite_indices, uncontaminated
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.stage import Sample, StageContext
from modelmill.tasks.verify.problem import Problem, Split
from modelmill.tasks.verify.problems import problem_set
from modelmill.tasks.verify.scores import score_replies

_CHEAP_LENGTH = 4096


@dataclass(frozen=True)
class Step:
    """A model on the way. test and validation: `score_replies` of held-out problems; training: its run's record."""

    name: str
    model: Path
    test: dict[str, Any]
    validation: dict[str, Any]
    training: dict[str, Any]


class Desk:
    """One run of the stage. Finished work is recorded under the workspace and not repeated after a kill."""

    def __init__(self, context: StageContext, chat: ChatFormat, tokenizer: Path) -> None:
        self.context = context
        self.config: Config = context.config
        self.chat = chat
        self.tokenizer = tokenizer
        self.removed: dict[str, list[dict[str, Any]]] = {}
        self._loaded: Path | None = None

    @property
    def preference(self) -> Path:
        """Where replies, pairs and reward models go."""
        return self.context.output / "preference"

    def work(self, name: str) -> Path:
        """Where a step keeps what only it needs."""
        return self.context.workspace / "align" / name

    def recorded(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of a piece of work; computed unless an earlier run has finished it."""
        path = self.context.workspace / "records" / f"{name}.json"
        if not path.exists():
            write_json(path, compute())
        return read_json(path)

    def problems(self, split: Split, number: int, purpose: str) -> list[Problem]:
        """Distinct problems; another purpose draws others. Of those to train on, the ones that a suite has are left out
        and listed in `removed` by purpose."""
        config = self.config
        seed = f"{config.seed}/{purpose}"
        drawn = problem_set(split, number, seed=seed, difficulty=config.difficulty, families=config.families)
        if split != "train":
            return drawn
        kept, self.removed[purpose] = uncontaminated(drawn, self.suites)
        return kept

    @cached_property
    def suites(self) -> SuiteIndices:
        """The recipe's suites, indexed."""
        return suite_indices(self.config.suites)

    def sample(self, model: Path, prompts: list[list[int]], **options: Any) -> list[list[Sample]]:
        """Continue prompts with a model; a reply ends with its turn or its text."""
        sampler = self.context.sampler()
        if self._loaded != model:
            sampler.load(model, sampling_length(model, self.config))
            self._loaded = model
        stops = [self.chat.end_of_turn, *self.chat.end_of_text]
        return sampler.sample(prompts, max_tokens=self.config.max_reply_tokens, stop_token_ids=stops, **options)

    def step(self, name: str, model: Path, training: dict[str, Any]) -> Step:
        """Measure a model on the held-out problems, reply by greedy decoding."""
        scores = self.recorded(f"accuracy-{name}", lambda: self._measure(model))
        values = {f"accuracy/{split}": scores[split]["accuracy"] for split in scores}
        self.context.journal.metrics(_number(name), values | {"malformed": scores["test"]["malformed"]})
        return Step(name, model, scores["test"], scores["validation"], training)

    def _measure(self, model: Path) -> dict[str, Any]:
        test, validation = self._held_out
        prompts = self.chat.prompts([problem.prompt for problem in test + validation])
        texts = [sample.text for [sample] in self.sample(model, prompts)]
        return {
            "test": score_replies(test, texts[: len(test)]),
            "validation": score_replies(validation, texts[len(test) :]),
        }

    @cached_property
    def _held_out(self) -> tuple[list[Problem], list[Problem]]:
        return (
            self.problems("test", self.config.test_problems, "test"),
            self.problems("validation", self.config.validation_problems, "validation"),
        )


def _number(name: str) -> int:
    """The step's number in its name; the base comes first."""
    head = name.split("-")[0]
    return int(head) if head.isdigit() else 0


def sampling_length(model: Path, config: Config) -> int:
    """Tokens that the sampler must hold: a whole conversation of training, but no more than the model has positions.

    Lengths that cost next to nothing are all taken, so that evaluate can go on with the same engine.
    """
    positions = int(read_json(model / "config.json")["max_position_embeddings"])
    return min(max(config.supervised.sequence_length, _CHEAP_LENGTH), positions)
