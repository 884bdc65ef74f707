"""What a stage is: a frozen configuration and input artifacts → files in one output folder, counts and metrics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from modelmill.tasks.journal import Journal

# Part of an artifact that holds what a later build with other thresholds need not compute again.
SCORES = "scores"

# Parts of an artifact that document how it was made (dropped rows, raw crawl records with their
# times of day, plots, scores before thresholds). They are kept, but do not enter the digest that downstream keys use.
EVIDENCE = ("dropped", "warc", "report", SCORES)

# What many settings are; pydantic refuses others, and Prefect's forms show the limits.
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class StageConfig(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, the string under a field is its help text.

    A field that says only *where* something lies or runs carries `json_schema_extra={"placement": True}`
    and never enters a stage's key. One that a stage applies to finished scores (a threshold, a weight) carries
    `json_schema_extra={"after_scores": True}`: a build that differs in nothing else takes an earlier one's scores.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class Artifact:
    """A finished output of a stage: an immutable folder with its manifest."""

    type: str
    path: Path
    digest: str
    stage_id: str
    manifest: dict[str, Any] = field(repr=False, hash=False)


@dataclass
class StageResult:
    """What a stage reports when its output folder is complete.

    `dropped` maps a reason to a number of rows; `metrics` are the final figures; `summary` is markdown for people.
    """

    rows_in: int
    rows_out: int
    unit: str
    dropped: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    summary: str = ""
    waivers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One call of a fanned-out function: a name that is stable across reruns, and its keyword arguments."""

    name: str
    arguments: dict[str, Any]


class Pool(Protocol):
    """Runs functions of tasks/ somewhere: in this process, on local Ray workers, on a cluster."""

    num_workers: int
    layout: Any
    """The processes of a training run (`modelmill.tasks.lm.parallel.layout.Layout`); None where none can run."""

    def map(self, function: Callable[..., Any], calls: Sequence[Call], label: str) -> list[Any]:
        """Call the module-level `function(**call.arguments)` for each call; results in the order of the calls.

        Each result must be JSON-serialisable and is recorded under the workspace when it arrives: after a kill
        or a failure the same `map` skips the calls that finished. Files that the function writes must be
        written with `atomic_path`.
        """
        ...

    def run(self, function: Callable[..., Any], arguments: dict[str, Any], label: str, layout: Any = None) -> Any:
        """One long call with all of the compute's cores and devices (a training run); not recorded as done.

        With a layout each of its processes makes the same call, `function(**arguments, layout=layout)`, and finds its
        place in RANK, WORLD_SIZE and MASTER_ADDR as under torchrun; the first one's result is returned. After the loss
        of workers the layout may be a smaller one, where the compute allows that.
        """
        ...


@dataclass(frozen=True)
class Sample:
    """One sampled continuation: token ids without the prompt, their text, and the sum of log-probabilities (nats)."""

    token_ids: list[int]
    text: str
    logprob: float
    finished: bool


class Sampler(Protocol):
    """An inference engine that holds one model at a time and swaps weights."""

    def load(self, folder: Path, max_length: int) -> None:
        """Serve the Hugging Face folder from now on (an engine of the same shape is kept and gets new weights)."""
        ...

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        num_samples: int = 1,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 64,
        stop_token_ids: Sequence[int] = (),
        seed: int = 0,
    ) -> list[list[Sample]]:
        """Continue each prompt (token ids) `num_samples` times; deterministic for a given seed."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (nats) of each token given the ones before it; one shorter than its sequence."""
        ...


@dataclass(frozen=True)
class StageContext:
    """All that a stage may touch while it runs.

    config: the stage's own configuration model.
    inputs: artifacts by type, in line order; `ctx.latest("tokens")` is the usual access.
    workspace: folder that survives kills; resume from what lies there. It is deleted after publishing.
    output: folder inside the workspace that becomes the artifact. Write with `atomic_path`.
    device: "cpu" or "cuda" (placement; must not change the result of a data stage).
    scored: the folder `scores` of an earlier build of this stage that differs in `after_scores` fields alone.
    """

    config: Any
    inputs: dict[str, list[Artifact]]
    workspace: Path
    output: Path
    pool: Pool
    journal: Journal
    sampler: Callable[[], Sampler]
    device: str = "cpu"
    scored: Path | None = None

    def latest(self, type: str) -> Artifact:
        """The last artifact of this type before the stage on the line."""
        return self.inputs[type][-1]
