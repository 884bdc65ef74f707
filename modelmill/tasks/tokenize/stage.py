"""Corpus → a tokenizer trained on its mixture, and its documents as memory-mapped token shards by split and domain."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import read_json, write_json
from modelmill.tasks.stage import Call, StageContext, StageResult
from modelmill.tasks.tokenize.compression import (
    OWN,
    REFERENCE,
    compression_rows,
    compression_table,
    measure_compression,
)
from modelmill.tasks.tokenize.config import Config
from modelmill.tasks.tokenize.parts import TRAIN, encode_part, measure_part, sample_part
from modelmill.tasks.tokenize.shards import SPLITS, write_index
from modelmill.tasks.tokenize.train import train_tokenizer
from modelmill.tasks.tokenize.vocabulary import END_OF_TEXT, SPECIAL_TOKENS

Sizes = dict[str, dict[str, dict[str, Any]]]  # split → domain → tokens, documents, bytes, shards


def run(context: StageContext) -> StageResult:
    """Measure → sample → train → encode → compare; all but the training over the parts side by side."""
    corpus = context.latest("corpus").path
    documents = sorted((corpus / "documents").glob("part-*.parquet"))
    mixture: dict[str, float] = read_json(corpus / "mixture.json")

    sizes: list[Sizes] = context.pool.map(
        measure_part, [Call(path.stem, {"documents": str(path)}) for path in documents], "measure"
    )
    samples = _sample(context, documents, sizes, mixture)
    tokenizer = context.output / "tokenizer"
    vocab_size = _train(context, samples, tokenizer)
    end_token = SPECIAL_TOKENS.index(END_OF_TEXT)
    calls = [
        Call(
            path.stem,
            {
                "documents": str(path),
                "tokenizer": str(tokenizer),
                "output": str(context.output),
                "name": f"shard-{number:05d}",
                "end_token": end_token,
            },
        )
        for number, path in enumerate(documents)
    ]
    entries = _merged(context.pool.map(encode_part, calls, "encode"))
    write_index(context.output, entries, vocab_size=vocab_size, eos_token_id=end_token, mixture=mixture)
    compression = _compression(context, documents, tokenizer)
    write_json(context.output / "report" / "compression.json", compression)
    return _result(entries, mixture, vocab_size, context.config, compression)


def sample_rates(
    sizes: Mapping[str, Mapping[str, int]], mixture: Mapping[str, float], sample: float
) -> dict[str, float]:
    """How often each domain's training documents enter the tokenizer's sample of `sample` bytes.

    The sample follows the mixture, so a lifted domain is repeated and merges serve what the model will read. It is
    never larger than the corpus.

    Raises:
        InputError: no domain that the mixture weighs has training documents.
    """
    present = {domain: mixture.get(domain, 0.0) for domain, entry in sizes.items() if entry["bytes"]}
    total = sum(present.values())
    if total <= 0:
        raise InputError(
            f"no training text to learn a tokenizer from: the corpus has {sorted(sizes)}, the mixture weighs "
            f"{ {domain: weight for domain, weight in mixture.items() if weight} }; check curate's mixture"
        )
    sample = min(sample, sum(sizes[domain]["bytes"] for domain in present))
    return {domain: sample * weight / total / sizes[domain]["bytes"] for domain, weight in present.items()}


def _sample(
    context: StageContext, documents: Sequence[Path], sizes: Sequence[Sizes], mixture: Mapping[str, float]
) -> list[str]:
    """Paths of the sampled texts, one file a part."""
    totals: dict[str, dict[str, int]] = defaultdict(lambda: {"documents": 0, "bytes": 0})
    firsts = []
    for part in sizes:
        firsts.append({domain: entry["documents"] for domain, entry in totals.items()})
        for domain, entry in part[TRAIN].items():
            totals[domain]["documents"] += entry["documents"]
            totals[domain]["bytes"] += entry["bytes"]
    rates = sample_rates(totals, mixture, context.config.sample_megabytes * 1e6)
    paths = [str(context.workspace / "sample" / path.name) for path in documents]
    calls = [
        Call(
            path.stem,
            {
                "documents": str(path),
                "output": output,
                "rates": rates,
                "firsts": {domain: first.get(domain, 0) for domain in rates},
            },
        )
        for path, output, first in zip(documents, paths, firsts, strict=True)
    ]
    context.pool.map(sample_part, calls, "sample")
    return paths


def _train(context: StageContext, samples: Sequence[str], output: Path) -> int:
    """Train the tokenizer; returns the size of its vocabulary."""
    config: Config = context.config
    arguments = {
        "samples": list(samples),
        "output": str(output),
        "vocab_size": config.vocab_size,
        "min_frequency": config.min_frequency,
        "max_token_bytes": config.max_token_bytes,
    }
    size = context.pool.map(train_tokenizer, [Call("tokenizer", arguments)], "train")[0]["vocab_size"]
    if size < config.vocab_size:
        context.journal.note(f"the sample gave {size} tokens, not {config.vocab_size}: no pair is left to merge")
    return size


def _compression(context: StageContext, documents: Sequence[Path], tokenizer: Path) -> list[dict[str, Any]]:
    """How densely the vocabulary, and the recipe's reference, hold the validation documents."""
    config: Config = context.config
    tokenizers = {OWN: str(tokenizer)} | ({} if config.reference is None else {REFERENCE: config.reference})
    outputs = [str(context.workspace / "compression" / path.name) for path in documents]
    calls = [
        Call(path.stem, {"documents": str(path), "tokenizers": tokenizers, "output": output})
        for path, output in zip(documents, outputs, strict=True)
    ]
    return compression_rows(context.pool.map(measure_compression, calls, "compare"), outputs)


def _merged(parts: Sequence[Sizes]) -> Sizes:
    merged: Sizes = {split: {} for split in SPLITS}
    for split in SPLITS:
        for domain in sorted({domain for part in parts for domain in part[split]}):
            found = [part[split][domain] for part in parts if domain in part[split]]
            merged[split][domain] = {
                name: sum((entry[name] for entry in found), [] if name == "shards" else 0) for name in found[0]
            }
    return merged


def _result(
    entries: Sizes,
    mixture: Mapping[str, float],
    vocab_size: int,
    config: Config,
    compression: Sequence[Mapping[str, Any]],
) -> StageResult:
    metrics: dict[str, float] = {"vocab_size": vocab_size}
    lines = ["| domain | split | documents | tokens | bytes per token | weight |", "|---|---|---:|---:|---:|---:|"]
    for split, domains in entries.items():
        for domain, entry in domains.items():
            ratio = entry["bytes"] / (entry["tokens"] - entry["documents"] or 1)
            metrics |= {f"tokens/{split}/{domain}": entry["tokens"], f"bytes_per_token/{split}/{domain}": ratio}
            lines.append(
                f"| {domain} | {split} | {entry['documents']:,} | {entry['tokens']:,} | {ratio:.2f} "
                f"| {mixture.get(domain, 0):.3f} |"
            )
        metrics[f"tokens/{split}"] = sum(entry["tokens"] for entry in domains.values())
    documents = sum(entry["documents"] for domains in entries.values() for entry in domains.values())
    summary = f"Byte-level BPE of {vocab_size:,} tokens ({config.vocab_size:,} asked for).\n\n" + "\n".join(lines)
    if compression:
        for vocabulary in (OWN, REFERENCE):
            figures = compression[-1].get(vocabulary, {})
            metrics |= {f"{name}/{vocabulary}": value for name, value in figures.items() if name != "tokens"}
        summary += f"\n\nValidation documents{_reference_words(config)}:\n\n{compression_table(compression)}"
    return StageResult(documents, documents, "documents", metrics=metrics, summary=summary)


def _reference_words(config: Config) -> str:
    return "" if config.reference is None else f" (in brackets: {Path(config.reference).name})"
