"""Surveyed documents and a recipe → the students of quality and of categories, trained, and what was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelmill.tasks.curate.categories import train_categories
from modelmill.tasks.curate.quality import train_quality
from modelmill.tasks.curate.teacher import teacher_categories, teacher_labels
from modelmill.tasks.stage import SCORES, Call, StageContext


def trained_quality(
    context: StageContext, documents: Sequence[Path], surveys: Sequence[Path]
) -> tuple[str | None, dict[str, Any]]:
    """Path of the quality student's weights, and what its training measured."""
    quality = context.config.quality
    if quality is None:
        return None, {}
    model = str(context.output / SCORES / "quality.npz")
    labels = surveys
    if quality.teacher is not None:
        labels = [context.output / SCORES / "labels" / path.name for path in documents]
        teacher_labels(context, quality.teacher, documents, surveys, labels)
    arguments = {
        "documents": [str(path) for path in documents],
        "labels": [str(path) for path in labels],
        "output": model,
        "folds": quality.folds,
        "max_documents": quality.max_training_documents,
        "seed": context.config.seed,
    }
    return model, context.pool.map(train_quality, [Call("student", arguments)], "quality")[0]


def trained_categories(
    context: StageContext, documents: Sequence[Path], surveys: Sequence[Path]
) -> tuple[str | None, dict[str, Any]]:
    """Path of the category student's weights, and what its training measured."""
    categories = context.config.categories
    if categories is None:
        return None, {}
    model = str(context.output / SCORES / "categories.npz")
    labels: list[Path] = []
    if categories.teacher is not None:
        labels = [context.output / SCORES / "category-labels" / path.name for path in documents]
        teacher_categories(context, categories, documents, surveys, labels)
    arguments = {
        "documents": [str(path) for path in documents] if labels else [],
        "labels": [str(path) for path in labels],
        "reference": categories.reference,
        "label_list": categories.labels,
        "output": model,
        "folds": categories.folds,
        "max_documents": categories.max_training_documents,
        "seed": context.config.seed,
    }
    return model, context.pool.map(train_categories, [Call("student", arguments)], "categories")[0]
