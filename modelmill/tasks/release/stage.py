"""Chat model, scorecard, checkpoints and scaling fit → release: a Hugging Face folder with its card, release.json."""

import shutil
from pathlib import Path
from typing import Any

from modelmill.tasks.evaluate.end_tokens import end_token_ids
from modelmill.tasks.evaluate.models import line_model
from modelmill.tasks.files import atomic_path, file_digest, read_json, write_json
from modelmill.tasks.models.load import load_tokenizer
from modelmill.tasks.release.card import Facts, alignment_rows, model_card, training_rows, waivers
from modelmill.tasks.release.config import Config
from modelmill.tasks.release.contract import (
    chat_template_digest,
    check_contract,
    check_scored,
    read_tensors,
    released_model,
    tokenizer_digest,
)
from modelmill.tasks.release.lineage import line_manifests
from modelmill.tasks.stage import Artifact, StageContext, StageResult

# What of a model folder is given away; anything else (optimiser moments, logs) stays.
RELEASED = ("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer*.json", "special_tokens_map.json",
            "chat_template.jinja")  # fmt: skip


def run(context: StageContext) -> StageResult:
    """Check that everything fits together, then write model/ with README.md, and release.json."""
    config: Config = context.config
    artifact, folder = released_model(context.inputs)
    scorecard_artifact = context.latest("scorecard")
    tensors = check_contract(context.inputs, folder)
    model = line_model(artifact.stage_id, artifact, folder)
    score = check_scored(read_json(scorecard_artifact.path / "scorecard.json"), model)
    manifests = line_manifests(each for group in context.inputs.values() for each in group)
    facts = Facts(
        config=config,
        model_config=read_json(folder / "config.json"),
        parameters=tensors.parameters,
        score=score,
        scorecard_table=score_tables(scorecard_artifact),
        manifests=manifests,
        training=training_rows(context.inputs.get("checkpoint", ())),
        alignment=alignment_rows(context.inputs.get("chat", ())),
        choice=scaling_choice(context.inputs.get("fit", [])),
    )
    write_model_folder(folder, context.output / "model", model_card(facts))
    record = release_record(facts, artifact, context)
    write_json(context.output / "release.json", record)
    return StageResult(
        rows_in=1,
        rows_out=1,
        unit="models",
        metrics={"parameters": float(tensors.parameters)} | headline(score),
        summary=summary(record),
        waivers=waivers(manifests),
    )


def write_model_folder(source: Path, target: Path, card: str) -> None:
    """Copy what is released, with a generation config that ends replies where the chat template does."""
    with atomic_path(target) as temporary:
        temporary.mkdir(parents=True)
        for path in sorted({path for pattern in RELEASED for path in source.glob(pattern)}):
            shutil.copyfile(path, temporary / path.name)
        write_json(temporary / "generation_config.json", generation_config(source))
        (temporary / "README.md").write_text(card, encoding="utf-8")


def generation_config(source: Path) -> dict[str, Any]:
    """The source's generation config with every id that ends a reply; sampling is left to who asks."""
    path = source / "generation_config.json"
    settings: dict[str, Any] = read_json(path) if path.is_file() else {}
    tokenizer = load_tokenizer(source)
    return settings | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end_token_ids(tokenizer, settings.get("eos_token_id")),
        "pad_token_id": tokenizer.pad_token_id,
    }


def release_record(facts: Facts, artifact: Artifact, context: StageContext) -> dict[str, Any]:
    """release.json: what was released, from which artifacts, with which scores and waivers."""
    folder = context.output / "model"
    return {
        "name": facts.config.name,
        "model": facts.score["id"],
        "stage": artifact.stage_id,
        "parameters": facts.parameters,
        "dtypes": sorted(read_tensors(folder).dtypes),
        "max_length": facts.model_config["max_position_embeddings"],
        "tokenizer": tokenizer_digest(folder),
        "chat_template": chat_template_digest(folder),
        "scores": facts.score,
        "waivers": waivers(facts.manifests),
        "inputs": [
            {"type": each.type, "stage": each.stage_id, "digest": each.digest, "key": each.manifest["key"]}
            for group in context.inputs.values()
            for each in group
        ],
        "files": {path.name: file_digest(path) for path in sorted(folder.iterdir())},
    }


def score_tables(scorecard: Artifact) -> str:
    """The scorecard's tables without its title, its headings one level down."""
    text = (scorecard.path / "scorecard.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("## ")]
    return "\n".join(lines).strip()


def scaling_choice(fits: list[Artifact]) -> dict[str, Any]:
    """What the scaling stage chose for pretraining; empty for a line without one."""
    return read_json(fits[-1].path / "fit.json")["choice"] if fits else {}


def headline(score: dict[str, Any]) -> dict[str, float]:
    """The released model's main figures."""
    figures: dict[str, float] = {}
    if "verified" in score:
        figures["verified"] = score["verified"]["accuracy"]
    if "bits_per_byte" in score:
        figures["bits_per_byte"] = score["bits_per_byte"]["all"]
    return figures


def summary(record: dict[str, Any]) -> str:
    """A paragraph for the flow's page."""
    figures = ", ".join(f"{name} {value:.3f}" for name, value in headline(record["scores"]).items())
    return (
        f"**{record['name']}**: {record['model']}, {record['parameters']:,} parameters, context "
        f"{record['max_length']:,} tokens; {figures or 'no scores'}. Try it with `mill chat`."
    )
