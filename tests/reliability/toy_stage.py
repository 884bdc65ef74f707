"""A stage of the real runner that takes no time; what happens meanwhile is for a test to say."""

from collections.abc import Callable
from pathlib import Path

from modelmill.tasks.catalog import StageSpec
from modelmill.tasks.files import atomic_path
from modelmill.tasks.stage import StageConfig, StageContext, StageResult

MEANWHILE: list[Callable[[str], None]] = []
_BUILDS: list[int] = []


class Config(StageConfig):
    """Versions 2n and 2n+1 make the same content."""

    stage: str
    version: int = 0
    earlier: str | None = None


class ToySpec(StageSpec):
    """A kind of stage whose code is this module."""

    @property
    def config_module(self) -> str:
        return __name__

    @property
    def entry_module(self) -> str:
        return __name__


def external_digests(config: Config) -> dict[str, str]:
    return {"earlier": config.earlier} if config.earlier else {}


def run(context: StageContext) -> StageResult:
    for action in MEANWHILE:
        action(context.config.stage)
    inputs = [artifact for group in context.inputs.values() for artifact in group]
    texts = [(artifact.path / "content").read_text() for artifact in inputs]
    if context.config.earlier:
        home: Path = context.workspace.parents[1]
        texts.append((home / "artifacts" / context.config.earlier / "content").read_text())
    _BUILDS.append(1)
    files = {
        "content": f"{context.config.stage} {context.config.version // 2} {texts}",
        "report/build": str(len(_BUILDS)),
    }
    for name, text in files.items():
        with atomic_path(context.output / name) as temporary:
            temporary.write_text(text)
    return StageResult(1, 1, "rows", summary=files["report/build"])
