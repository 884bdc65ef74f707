"""The evaluate stage's part of a recipe → a validated, frozen model."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from modelmill.tasks.errors import InputError
from modelmill.tasks.evaluate.task_code import ADVICE, code_of_registry_task, code_of_task_file
from modelmill.tasks.files import file_digest
from modelmill.tasks.lm.settings import NeedleConfig
from modelmill.tasks.stage import StageConfig
from modelmill.tasks.suites.reader import SUFFIXES, shipped_suites, suite_digest, suite_name, suite_path
from modelmill.tasks.verify.families import FAMILIES

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
TASK_FILES = (".yaml", ".yml")
TEXT_FILES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")


class Part(StageConfig):
    """One kind of measurement."""

    models: tuple[str, ...] = ("*",)
    """For which models, as patterns of their ids: a stage's id (`pretrain`), or `align/sft-1` for a step of align."""


class HeldOutText(StageConfig):
    """A text of one's own that every model is measured on, such as WikiText-2's test part."""

    name: str
    """Its column in the scorecard."""
    path: str = Field(json_schema_extra={"placement": True})
    """.txt or .txt.gz (one document), .jsonl or .jsonl.gz (documents in `text`); its content enters the stage's key."""

    @field_validator("path")
    @classmethod
    def _readable(cls, path: str) -> str:
        if not path.endswith(TEXT_FILES):
            raise ValueError(f"found {path!r}; expected a file that ends in {', '.join(TEXT_FILES)}")
        return path


class BitsPerByte(Part):
    """Held-out loss per domain, in bits per UTF-8 byte."""

    sequence_length: Count | None = None
    """Window in tokens, the same for every model; none for the shortest context among them."""
    tokens_per_domain: Count = 32_768
    """Tokens of each domain's validation split that are scored, the same ones for every model."""
    texts: tuple[HeldOutText, ...] = ()
    """Further texts, scored whole; they do not enter the mean over the domains."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "BitsPerByte":
        names = [text.name for text in self.texts]
        if "all" in names or len(set(names)) < len(names):
            raise ValueError(f"found texts named {', '.join(names)}; expected different names, none of them `all`")
        return self


class Verified(Part):
    """Answers to held-out prompts, checked by a program."""

    items: Count = 200
    """Held-out prompts (of the test split, which no training sees), spread evenly over the families."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Families of tasks; what align trains on should be among them."""
    difficulty: Count = 1
    """The same as align's."""
    max_new_tokens: Count = 48
    """Longest answer, in tokens."""


class Needle(Part):
    """A fact hidden at some depth of a long context, asked for at its end."""

    lengths: tuple[Count, ...] = (128, 256, 512)
    """Context lengths in tokens; those beyond a model's own are left out."""
    depths: tuple[Share, ...] = (0.0, 0.5, 1.0)
    """Where the fact is hidden: 0 is the beginning of the context."""
    trials: Count = 8
    """Contexts per length and depth."""
    facts: NeedleConfig = NeedleConfig()
    """What is hidden; the same as extend's."""


class HarnessTask(Part):
    """One task run by lm-eval."""

    task: str = Field(json_schema_extra={"placement": True})
    """A shipped suite's name, a .jsonl suite, an lm-eval task file (.yaml; all of its folder enters the stage's key),
    or the name of a task, group or tag of lm-eval's own registry."""
    limit: Count | None = None
    """Only the first so many items of each task; none for all."""
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    """Solved examples before each question."""
    chat_template: bool = False
    """Ask in the chat template."""
    hub: bool = False
    """Let lm-eval fetch data sets from the Hugging Face hub; otherwise only local files and the machine's cache."""
    allow_code: bool = False
    """Let the task run programs with your permissions: Python functions of a task file, or, in HumanEval and its kin,
    what the model writes. Without it such a task is refused before anything runs; a file's templates are sandboxed."""

    @model_validator(mode="after")
    def _code_is_allowed(self) -> "HarnessTask":
        kind, source = self.source()
        if kind == "suite" or self.allow_code:
            return self
        try:
            found = code_of_registry_task(source) if kind == "registry" else code_of_task_file(Path(source))
        except InputError as error:
            raise ValueError(str(error)) from error
        if found:
            raise ValueError(f"{found}; {ADVICE}")
        return self

    def source(self) -> tuple[Literal["suite", "file", "registry"], str]:
        """What `task` names: the kind, and the name or path."""
        if self.task.endswith(SUFFIXES) or self.task in shipped_suites():
            return "suite", self.task
        return ("file" if self.task.endswith(TASK_FILES) else "registry"), self.task


class Contamination(StageConfig):
    """How much of each suite the training tokens hold."""

    ngram: Count = 8
    """Length of the token sequences that are looked up (8 in Llama 3)."""
    threshold: Share = 0.5
    """An item is contaminated if more than this share of its tokens lies in such sequences."""


class Config(StageConfig):
    """Which measurements are made, for which models. A part that is null is left out."""

    models: tuple[str, ...] = ("*",)
    """Which models of the line are evaluated, as patterns of their ids; `mill show evaluate` lists the ids."""
    max_length: Count | None = None
    """Longest sequence given to a model; none for each model's own context."""
    bits_per_byte: BitsPerByte | None = BitsPerByte()
    verified: Verified | None = Verified()
    needle: Needle | None = Needle()
    tasks: tuple[HarnessTask, ...] = (HarnessTask(task="python-library", limit=120),)
    """Tasks that lm-eval runs."""
    contamination: Contamination | None = Contamination()
    seed: int = Field(default=0, ge=0)
    """Of the held-out prompts."""


def external_digests(config: Config) -> dict[str, str]:
    """What each task and text is, by its name: the digest of every local file that it reads, or lm-eval's own.

    Raises:
        InputError: a text is not there.
    """
    digests: dict[str, str] = {}
    for text in config.bits_per_byte.texts if config.bits_per_byte else ():
        if not Path(text.path).is_file():
            raise InputError(f"evaluate.bits_per_byte.texts: found no file {text.path}; give {text.name!r} its path")
        digests[f"text {text.name}"] = file_digest(Path(text.path))
    for index, task in enumerate(config.tasks):
        kind, source = task.source()
        if kind == "suite":
            digests[f"tasks[{index}] {suite_name(suite_path(source))}"] = suite_digest(source)
        elif kind == "file":
            digests |= folder_digests(f"tasks[{index}] {Path(source).name}", Path(source))
        else:
            digests[f"tasks[{index}] {source}"] = "lm-eval"
    return digests


def folder_digests(name: str, task_file: Path) -> dict[str, str]:
    """Digest of each file in a task file's folder: its data, the files that it includes, its Python functions."""
    if not task_file.is_file():
        return {name: "missing"}
    return {
        f"{name}:{path.relative_to(task_file.parent).as_posix()}": file_digest(path)
        for path in sorted(task_file.parent.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
