"""Checkpoint and chat artifacts → the models of the line, in its order, each with an id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest, value_digest
from modelmill.tasks.models.folder import check_config
from modelmill.tasks.stage import Artifact


@dataclass(frozen=True)
class LineModel:
    """One set of weights of the line. `shape` is the digest of its configuration: engines of one shape swap weights."""

    id: str
    stage: str
    folder: Path
    max_length: int
    shape: str
    weights: str

    @property
    def fingerprint(self) -> str:
        """Equal for models that answer alike: a chat model is one of its steps, and is measured once."""
        return value_digest([self.shape, self.weights])[:16]


def line_models(inputs: Mapping[str, Sequence[Artifact]]) -> list[LineModel]:
    """Every model of the line: the checkpoints, then each step of each chat artifact, then the chat model itself.

    The chat model is left out when it is byte for byte that of its last step.
    """
    models = [
        line_model(artifact.stage_id, artifact, artifact.path / "model") for artifact in inputs.get("checkpoint", ())
    ]
    for artifact in inputs.get("chat", ()):
        steps = [
            line_model(f"{artifact.stage_id}/{folder.name.partition('-')[2]}", artifact, folder / "model")
            for folder in sorted((artifact.path / "steps").glob("*-*"), key=step_number)
        ]
        final = line_model(artifact.stage_id, artifact, artifact.path / "model")
        same_as_last = bool(steps) and steps[-1].weights == final.weights
        models += steps if same_as_last else [*steps, final]
    if not models:
        raise InputError("the line has no checkpoint and no chat model before evaluate; there is nothing to evaluate")
    return models


def step_number(folder: Path) -> int:
    """The n of a step's folder `<n>-<name>`."""
    return int(folder.name.partition("-")[0])


def line_model(model_id: str, artifact: Artifact, folder: Path) -> LineModel:
    """What the stage needs to know of one Hugging Face folder."""
    config = check_config(folder)
    return LineModel(
        id=model_id,
        stage=artifact.manifest.get("stage", artifact.stage_id),
        folder=folder,
        max_length=int(config["max_position_embeddings"]),
        shape=value_digest(config),
        weights=value_digest([file_digest(path) for path in sorted(folder.glob("*.safetensors"))]),
    )


def selected(models: Sequence[LineModel], *patterns: Sequence[str]) -> list[LineModel]:
    """The models whose id matches one pattern of every group.

    Raises:
        InputError: a pattern fits no model of the line, which is most likely a mistyped id.
    """
    for pattern in (each for group in patterns for each in group):
        if not any(fnmatchcase(model.id, pattern) for model in models):
            ids = ", ".join(model.id for model in models)
            raise InputError(f"no model of the line has an id like {pattern!r}; the ids are {ids}")
    return [
        model for model in models if all(any(fnmatchcase(model.id, pattern) for pattern in group) for group in patterns)
    ]


def by_shape(models: Sequence[LineModel]) -> list[LineModel]:
    """The same models with those of one shape next to each other, so that an inference engine starts once per shape.

    The shape of the last model comes first: the engine still holds it when align has just ended.
    """
    last = {model.shape: number for number, model in enumerate(models)}
    return sorted(models, key=lambda model: -last[model.shape])
