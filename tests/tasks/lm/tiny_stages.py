"""A training stage and its configuration → its artifact and result, on the real pool in this process."""

from importlib import import_module
from pathlib import Path
from typing import Any

from modelmill.services.compute import ComputeConfig, ProcessExecutor, RecordedPool
from modelmill.tasks.files import write_json
from modelmill.tasks.journal import Journal
from modelmill.tasks.stage import Artifact, StageContext, StageResult

CHOICE = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "intermediate_size": 48,
    "tokens": 5120,
    "learning_rate": 1e-2,
    "batch_tokens": 256,
    "sequence_length": 64,
    "warmup_tokens": 512,
    "decay_share": 0.2,
    "validation_tokens_per_domain": 512,
    "predicted_loss": 5.0,
    "interval": [4.0, 6.0],
}


def artifact(type: str, path: Path) -> Artifact:
    return Artifact(type, path, "0" * 64, type, {})


def write_fit(folder: Path, **changes: Any) -> Artifact:
    """A scaling fit that chooses a tiny model."""
    write_json(folder / "fit.json", {"choice": CHOICE | changes})
    return artifact("fit", folder)


def run_stage(
    name: str, config: dict[str, Any], inputs: list[Artifact], folder: Path, pool: RecordedPool | None = None
) -> tuple[Artifact, StageResult]:
    """Run a stage as the line does, in `folder`; without a pool, in this process."""
    journal = Journal(folder / "journal.jsonl")
    context = StageContext(
        config=import_module(f"modelmill.tasks.{name}.config").Config(**config),
        inputs={item.type: [item] for item in inputs},
        workspace=folder / "workspace",
        output=folder / "output",
        pool=pool or RecordedPool(ProcessExecutor(), ComputeConfig(backend="process"), folder / "workspace", journal),
        journal=journal,
        sampler=_no_sampler,
    )
    result = import_module(f"modelmill.tasks.{name}.stage").run(context)
    return artifact("checkpoint", context.output), result


def _no_sampler() -> Any:
    raise AssertionError("training stages do not sample")


def pretrained(tokens_folder: Path, folder: Path, **changes: Any) -> Artifact:
    """A base model, for the stages that continue one; `changes` of its recipe."""
    config = {"forecast_branch": False, "total_tokens": 2560} | changes
    inputs = [artifact("tokens", tokens_folder), write_fit(folder / "fit")]
    return run_stage("pretrain", config, inputs, folder)[0]
