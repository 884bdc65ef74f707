"""Recorded figures of every model → the scorecard as data, as a table for people, and as final metrics."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelmill.tasks.evaluate.config import Config
from modelmill.tasks.evaluate.models import LineModel

DIGITS = 6
Z95 = 1.96


def build_scorecard(
    models: Sequence[LineModel],
    records: Mapping[str, Mapping[str, Any]],
    config: Config,
    overlaps: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """{models: [...], comparisons: [...], contamination: {...}, settings: {...}}; see the functions below."""
    threshold = config.contamination.threshold if config.contamination else 1.0
    return {
        "models": [model_entry(model, records[model.id], overlaps, threshold) for model in models],
        "comparisons": comparisons(models, records),
        "contamination": {
            name: {
                "items": len(shares),
                "contaminated": sum(share > threshold for share in shares),
                "mean_overlap": round(sum(shares) / len(shares), DIGITS),
                "ngram": config.contamination.ngram if config.contamination else 0,
                "threshold": threshold,
            }
            for name, shares in sorted(overlaps.items())
        },
        "settings": config.model_dump(mode="json"),
    }


def model_entry(
    model: LineModel, record: Mapping[str, Any], overlaps: Mapping[str, Sequence[float]], threshold: float
) -> dict[str, Any]:
    """One model's row; parts that were not measured are absent."""
    entry: dict[str, Any] = {
        "id": model.id,
        "stage": model.stage,
        "max_length": model.max_length,
        "weights": model.weights,
    }
    if "bits_per_byte" in record:
        entry["bits_per_byte"] = record["bits_per_byte"]
    if "verified" in record:
        entry["verified"] = record["verified"]["score"]
    if "needle" in record:
        entry["needle"] = record["needle"]
    tasks: dict[str, Any] = {}
    for scores in (value for name, value in record.items() if name.startswith("task-")):
        for name, score in scores.items():
            tasks[name] = {key: value for key, value in score.items() if key != "correct"}
            if name in overlaps and score["correct"]:
                tasks[name]["uncontaminated"] = clean_part(score["correct"], overlaps[name], threshold)
    return entry | ({"tasks": tasks} if tasks else {})


def clean_part(correct: Sequence[float], overlaps: Sequence[float], threshold: float) -> dict[str, float]:
    """The main metric on the items that are not contaminated."""
    kept = [value for value, overlap in zip(correct, overlaps, strict=False) if overlap <= threshold]
    return {"n": len(kept), "value": round(sum(kept) / len(kept), DIGITS) if kept else 0.0}


def comparisons(models: Sequence[LineModel], records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Changes of the verified accuracy from each model to the next, and from the first to the last.

    Both answered the same problems, so the 95 % interval is that of the mean of the paired differences, which is
    narrower than what two separate intervals suggest.
    """
    measured = [model for model in models if "verified" in records[model.id]]
    pairs = list(itertools.pairwise(measured))
    if len(measured) > 2:
        pairs.append((measured[0], measured[-1]))
    return [
        {"measure": "verified", "from": before.id, "to": after.id}
        | paired_difference(records[before.id]["verified"]["correct"], records[after.id]["verified"]["correct"])
        for before, after in pairs
    ]


def paired_difference(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Mean of after - before over the same items, with its 95 % interval."""
    differences = [new - old for old, new in zip(before, after, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    variance = sum((difference - mean) ** 2 for difference in differences) / max(count - 1, 1)
    half = Z95 * math.sqrt(variance / count)
    return {
        "difference": round(mean, DIGITS),
        "low": round(mean - half, DIGITS),
        "high": round(mean + half, DIGITS),
        "n": count,
    }


def final_metrics(scorecard: Mapping[str, Any]) -> dict[str, float]:
    """The figures as one flat mapping, for tracking: `verified/<model>`, `bits_per_byte/<model>`, ..."""
    metrics: dict[str, float] = {}
    for model in scorecard["models"]:
        if "bits_per_byte" in model:
            metrics[f"bits_per_byte/{model['id']}"] = model["bits_per_byte"]["all"]
        if "verified" in model:
            metrics[f"verified/{model['id']}"] = model["verified"]["accuracy"]
        if model.get("needle"):
            metrics[f"needle/{model['id']}"] = needle_mean(model["needle"])
        for name, task in model.get("tasks", {}).items():
            metrics |= {f"{name}/{metric}/{model['id']}": each["value"] for metric, each in task["metrics"].items()}
    return metrics


def scorecard_markdown(scorecard: Mapping[str, Any]) -> str:
    """The scorecard for people: one row a model, then needles, changes and contamination."""
    parts = ["## Scorecard", table(main_header(scorecard), [main_row(scorecard, row) for row in scorecard["models"]])]
    if any(model.get("needle") for model in scorecard["models"]):
        parts += ["### Needle: share found, by context length × depth", needle_table(scorecard["models"])]
    if scorecard["comparisons"]:
        rows = [
            [each["from"], each["to"], f"{each['difference']:+.1%}", f"{each['low']:+.1%} … {each['high']:+.1%}"]
            for each in scorecard["comparisons"]
        ]
        header = ["from", "to", "change of verified accuracy", "95 % interval"]
        parts += ["### Changes on the same problems", table(header, rows)]
    if scorecard["contamination"]:
        rows = [
            [name, each["items"], each["contaminated"], f"{each['mean_overlap']:.1%}"]
            for name, each in scorecard["contamination"].items()
        ]
        parts += ["### Contamination", table(["suite", "items", "contaminated", "mean overlap"], rows)]
    return "\n\n".join(parts) + "\n"


def main_header(scorecard: Mapping[str, Any]) -> list[str]:
    """What sums a model up comes first, the single domains last: a narrow page shows the beginning."""
    domains = [f"bits/byte {domain}" for domain in measured_domains(scorecard)]
    header = ["model", *domains[:1]]
    if any("verified" in model for model in scorecard["models"]):
        header.append("verified, 95 %")
    if any(model.get("needle") for model in scorecard["models"]):
        header.append("needle")
    return header + [f"{name}, 95 %" for name in measured_tasks(scorecard)] + domains[1:]


def main_row(scorecard: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    """A model's figures under `main_header`."""
    domains = [number(model.get("bits_per_byte", {}).get(domain)) for domain in measured_domains(scorecard)]
    cells = [model["id"], *domains[:1]]
    if any("verified" in each for each in scorecard["models"]):
        score = model.get("verified")
        cells.append(interval(score["accuracy"], score["low"], score["high"]) if score else "–")
    if any(each.get("needle") for each in scorecard["models"]):
        cells.append(f"{needle_mean(model['needle']):.0%}" if model.get("needle") else "–")
    for name in measured_tasks(scorecard):
        task = model.get("tasks", {}).get(name)
        score = task["metrics"].get(task["main_metric"]) if task else None
        cells.append(interval(score["value"], score.get("low"), score.get("high")) if score else "–")
    return cells + domains[1:]


def measured_domains(scorecard: Mapping[str, Any]) -> list[str]:
    """All domains together first, then each."""
    names = {name for model in scorecard["models"] for name in model.get("bits_per_byte", {})}
    return sorted(names, key=lambda name: (name != "all", name))


def measured_tasks(scorecard: Mapping[str, Any]) -> list[str]:
    return sorted({name for model in scorecard["models"] for name in model.get("tasks", {})})


def needle_mean(grid: Sequence[Mapping[str, float]]) -> float:
    """Mean over all lengths and depths."""
    return round(sum(cell["accuracy"] for cell in grid) / len(grid), DIGITS)


def needle_table(models: Sequence[Mapping[str, Any]]) -> str:
    cells = {
        (model["id"], cell["length"], cell["depth"]): cell["accuracy"]
        for model in models
        for cell in model.get("needle", ())
    }
    columns = sorted({(length, depth) for _, length, depth in cells})
    rows = [
        [model["id"], *(percent(cells.get((model["id"], length, depth))) for length, depth in columns)]
        for model in models
        if model.get("needle")
    ]
    return table(["model", *(f"{length} × {depth:g}" for length, depth in columns)], rows)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def interval(value: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.1%} ({low:.1%}–{high:.1%})"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; every column but the first is aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
