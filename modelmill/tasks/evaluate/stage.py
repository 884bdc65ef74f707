"""Tokens, checkpoints and chat models → scorecard: every model of the line measured the same way.

Each figure of each model is recorded in the workspace, so a run that was killed goes on with the next one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from modelmill.tasks.evaluate.adapter import SamplerLM
from modelmill.tasks.evaluate.config import BitsPerByte, Config, Part
from modelmill.tasks.evaluate.contamination import item_shares
from modelmill.tasks.evaluate.end_tokens import end_token_ids
from modelmill.tasks.evaluate.harness import harness_scores
from modelmill.tasks.evaluate.likelihood import bits_per_byte
from modelmill.tasks.evaluate.models import LineModel, by_shape, line_models, selected
from modelmill.tasks.evaluate.needle import needle_grid
from modelmill.tasks.evaluate.scorecard import build_scorecard, final_metrics, scorecard_markdown
from modelmill.tasks.evaluate.verified import verified_accuracy
from modelmill.tasks.files import atomic_path, read_json, write_json
from modelmill.tasks.models.load import load_tokenizer
from modelmill.tasks.stage import Call, Sampler, StageContext, StageResult

Record = dict[str, Any]


@dataclass(frozen=True)
class Served:
    """A model that the sampler holds."""

    model: LineModel
    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    max_length: int


@dataclass(frozen=True)
class Measurement:
    """One figure of the scorecard: its name in the records, the models it is taken of, and how."""

    name: str
    part: Part
    measure: Callable[[Served], Any]


def run(context: StageContext) -> StageResult:
    """Measure every selected model and write scorecard.json and scorecard.md."""
    config: Config = context.config
    models = selected(line_models(context.inputs), config.models)
    records: dict[str, Record] = {model.id: {} for model in models}
    measure_likelihood(context, models, records)
    measure_sampled(context, models, records)
    scorecard = build_scorecard(models, records, config, measure_contamination(context))
    write_json(context.output / "scorecard.json", scorecard)
    markdown = scorecard_markdown(scorecard)
    with atomic_path(context.output / "scorecard.md") as temporary:
        temporary.write_text(markdown, encoding="utf-8")
    return StageResult(
        rows_in=len(models),
        rows_out=len(models),
        unit="models",
        metrics=final_metrics(scorecard),
        summary=markdown,
    )


def measure_likelihood(context: StageContext, models: list[LineModel], records: dict[str, Record]) -> None:
    """Bits per byte of every model on the same windows: side by side on CPUs, one after another on a GPU."""
    part: BitsPerByte | None = context.config.bits_per_byte
    if part is None:
        return
    wanted = selected(models, part.models)
    length = part.sequence_length or min(model.max_length for model in wanted)
    shared = {
        "tokens": context.latest("tokens").path,
        "sequence_length": length,
        "tokens_per_domain": part.tokens_per_domain,
        "texts": part.texts,
        "device": context.device,
    }
    distinct = list({model.fingerprint: model for model in wanted}.values())
    calls = [Call(model.fingerprint, shared | {"folder": model.folder}) for model in distinct]
    if context.device == "cpu":
        results = context.pool.map(bits_per_byte, calls, "bits per byte")
    else:
        results = [likelihood_alone(context, model, call) for model, call in zip(distinct, calls, strict=True)]
    found = {model.fingerprint: result for model, result in zip(distinct, results, strict=True)}
    for model in wanted:
        records[model.id]["bits_per_byte"] = found[model.fingerprint]


def likelihood_alone(context: StageContext, model: LineModel, call: Call) -> dict[str, float]:
    """One model's bits per byte with all of the compute, recorded."""
    path = record_path(context, model, "bits_per_byte")
    if not path.exists():
        write_json(path, context.pool.run(bits_per_byte, call.arguments, "bits per byte"))
    return read_json(path)


def measure_sampled(context: StageContext, models: list[LineModel], records: dict[str, Record]) -> None:
    """Everything that the inference engine measures, model by model."""
    parts = measurements(context.config, context.latest("tokens").path)
    wanted = {each.name: {model.id for model in selected(models, each.part.models)} for each in parts}
    total = sum(len(ids) for ids in wanted.values())
    done = 0
    sampler: Sampler | None = None
    for model in by_shape(models):
        served: Served | None = None
        for each in parts:
            if model.id not in wanted[each.name]:
                continue
            path = record_path(context, model, each.name)
            if not path.exists():
                sampler = sampler or context.sampler()
                served = served or serve(sampler, model, context.config.max_length)
                write_json(path, each.measure(served))
            records[model.id][each.name] = read_json(path)
            done += 1
            context.journal.progress("sampled measurements", done, total)


def measurements(config: Config, tokens: Path) -> list[Measurement]:
    """What the recipe asks of the inference engine, in the order of the scorecard."""
    found: list[Measurement] = []
    if (verified := config.verified) is not None:
        found.append(
            Measurement(
                "verified",
                verified,
                lambda served: verified_accuracy(
                    served.sampler, served.tokenizer, verified, end_token_ids(served.tokenizer), config.seed
                ),
            )
        )
    if (needle := config.needle) is not None:
        found.append(
            Measurement(
                "needle",
                needle,
                lambda served: needle_grid(served.sampler, needle, tokens, served.max_length),
            )
        )
    for number, task in enumerate(config.tasks):
        found.append(Measurement(f"task-{number}", task, lambda served, task=task: harness_scores(lm(served), task)))
    return found


def serve(sampler: Sampler, model: LineModel, max_length: int | None) -> Served:
    """Have the line's sampler hold this model."""
    length = min(model.max_length, max_length or model.max_length)
    sampler.load(model.folder, length)
    return Served(model, sampler, load_tokenizer(model.folder), length)


def lm(served: Served) -> SamplerLM:
    """The served model as lm-eval sees one."""
    return SamplerLM(served.sampler, served.tokenizer, served.max_length, served.model.id)


def measure_contamination(context: StageContext) -> dict[str, list[float]]:
    """Of each suite that lm-eval runs: every item's overlap with the training tokens."""
    config: Config = context.config
    if config.contamination is None:
        return {}
    suites = [source for kind, source in (task.source() for task in config.tasks) if kind == "suite"]
    tokens = context.latest("tokens").path
    return item_shares(suites, tokens, config.contamination.ngram, context.pool, context.workspace)


def record_path(context: StageContext, model: LineModel, name: str) -> Path:
    """Where one figure of one model is recorded."""
    return context.workspace / "measured" / model.fingerprint / f"{name}.json"
