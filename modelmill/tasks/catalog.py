"""The stages by name: what each consumes, what it produces, which libraries shape its output.

By convention stage `x` has its configuration in `modelmill.tasks.x.config.Config` (light to import), its entry
point in `modelmill.tasks.x.stage.run(context) -> StageResult`, and, when it reads files from outside the line, their
digests in `modelmill.tasks.x.config.external_digests(config) -> dict[str, str]`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageSpec:
    """One kind of stage. `consumes` takes the latest artifact of each type, `consumes_all` every one of its types,
    of which the line must have one at least.

    on_device: its models run on the accelerator, if the compute has one.
    """

    name: str
    produces: str
    consumes: tuple[str, ...] = ()
    consumes_all: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    on_device: bool = False

    @property
    def config_module(self) -> str:
        return f"modelmill.tasks.{self.name}.config"

    @property
    def entry_module(self) -> str:
        return f"modelmill.tasks.{self.name}.stage"


_SPECS = (
    StageSpec("ingest", "pages", libraries=("resiliparse", "trafilatura", "fastwarc", "courlan")),
    StageSpec("clean", "documents", ("pages",), libraries=("eldc", "numba", "polars")),
    StageSpec("dedup", "unique", ("documents",), libraries=("numba", "numpy", "jieba", "polars")),
    StageSpec("curate", "corpus", ("unique",), libraries=("scikit-learn", "scipy", "numba", "numpy")),
    StageSpec("tokenize", "tokens", ("corpus",), libraries=("tokenizers", "transformers")),
    StageSpec("scaling", "fit", ("tokens",), libraries=("torch", "transformers", "scipy"), on_device=True),
    StageSpec("pretrain", "checkpoint", ("tokens", "fit"), libraries=("torch", "transformers"), on_device=True),
    StageSpec("extend", "checkpoint", ("checkpoint", "tokens"), libraries=("torch", "transformers"), on_device=True),
    StageSpec("anneal", "checkpoint", ("checkpoint", "tokens"), libraries=("torch", "transformers"), on_device=True),
    StageSpec("align", "chat", ("checkpoint", "tokens"), libraries=("torch", "transformers"), on_device=True),
    StageSpec(
        "evaluate",
        "scorecard",
        ("tokens",),
        consumes_all=("checkpoint", "chat"),
        libraries=("torch", "transformers", "lm-eval"),
        on_device=True,
    ),
    StageSpec("release", "release", ("scorecard", "fit"), consumes_all=("checkpoint", "chat"), libraries=()),
)

STAGES: dict[str, StageSpec] = {spec.name: spec for spec in _SPECS}
