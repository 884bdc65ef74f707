"""The release stage's part of a recipe → a validated, frozen model."""

from modelmill.tasks.names import FileName
from modelmill.tasks.stage import StageConfig


class Config(StageConfig):
    """What the released model is called and what its card must say beside the facts of the line."""

    name: FileName
    """Name of the model: in its card, its server and the registry."""
    summary: str = ""
    """One or two sentences at the top of the card."""
    license: str = "other"
    """Licence of the weights, as Hugging Face's identifiers spell it."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639-1 codes of the languages that the model was trained for."""
    limits: tuple[str, ...] = ()
    """What users must know that no measurement of the line shows, one sentence each."""
