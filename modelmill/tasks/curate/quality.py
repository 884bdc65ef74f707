"""Labelled documents → a linear student, its cross-validated AUC, and a quality score for any document.

The student sees hashed words and word pairs, so it learns what the documents that rules or a teacher call good say and
how, and carries that judgement to documents on which they are silent (Llama 3 §3.1.1 and dots.llm1 C.3 do it with
larger students). Averaged stochastic gradient descent in one thread: the same weights wherever it runs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sparse
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score

from modelmill.tasks.curate.features import hashed_features
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path

MIN_OF_EACH_LABEL = 10


def train_quality(
    documents: list[str], labels: list[str], output: str, folds: int, max_documents: int, seed: int
) -> dict[str, Any]:
    """Sample labelled documents, measure the AUC over folds, fit on all of them and write the weights.

    labels: for each file of documents one with the columns `hash` and `label` (1 good, 0 poor, -1 neither).

    Raises:
        InputError: the recipe's rules leave too few documents of one label.
    """
    texts, verdicts, hashes = _training_sample(documents, labels, max_documents)
    features = hashed_features(texts)
    # bits that the choice of the sample did not use
    auc = cross_validated_auc(features, verdicts, (hashes % np.uint64(1 << 32) % np.uint64(folds)).astype(int), seed)
    model = _fitted(features, verdicts, seed)
    with atomic_path(Path(output)) as temporary, temporary.open("wb") as file:
        np.savez(file, weights=model.coef_[0].astype(np.float32), bias=np.float32(model.intercept_[0]))
    return {"positive": int(verdicts.sum()), "negative": int((1 - verdicts).sum()), "auc": auc}


def cross_validated_auc(features: sparse.csr_matrix, labels: np.ndarray, fold: np.ndarray, seed: int) -> dict[str, Any]:
    """AUC on each fold of a student trained on the others; folds that hold one label only are left out."""
    areas = []
    for number in range(int(fold.max()) + 1):
        held_out = fold == number
        if len(np.unique(labels[held_out])) == 2 and len(np.unique(labels[~held_out])) == 2:
            scores = _fitted(features[~held_out], labels[~held_out], seed).decision_function(features[held_out])
            areas.append(round(float(roc_auc_score(labels[held_out], scores)), 4))
    return {"folds": areas, "mean": round(float(np.mean(areas)), 4) if areas else None}


def quality_scores(features: sparse.csr_matrix, model: Path) -> np.ndarray:
    """Probability that the teacher would call each text good, float32 in 0..1 (four digits)."""
    with np.load(model) as file:
        weights, bias = file["weights"], file["bias"]
    logits = features @ weights + bias
    return np.round(1 / (1 + np.exp(-logits.astype(np.float64))), 4).astype(np.float32)


def _fitted(features: sparse.csr_matrix, labels: np.ndarray, seed: int) -> Any:
    # alpha: on 911 documentation pages the AUC is flat (0.976) from 1e-6 to 1e-4; the largest spreads the scores most
    model: Any = SGDClassifier(
        loss="log_loss",
        alpha=1e-4,
        max_iter=20,
        tol=None,  # pyright: ignore[reportArgumentType] (the stub knows no None: all of max_iter)
        average=True,
        class_weight="balanced",
        random_state=seed,
    )
    return model.fit(features, labels)


def _training_sample(
    documents: list[str], label_files: list[str], max_documents: int
) -> tuple[pa.ChunkedArray, np.ndarray, np.ndarray]:
    """Texts, labels and id hashes of the labelled documents with the smallest hashes, at most half of each label."""
    tables = [pq.read_table(path, columns=["hash", "label"]) for path in label_files]
    part = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    every = pa.concat_tables(tables)
    hashes, labels = every["hash"].to_numpy(), every["label"].to_numpy()
    chosen = []
    for label, name in ((1, "positive"), (0, "negative")):
        found = np.flatnonzero(labels == label)
        if len(found) < MIN_OF_EACH_LABEL:
            raise InputError(
                f"quality.{name} holds for {len(found)} of {len(labels)} documents, too few to learn from (at least "
                f"{MIN_OF_EACH_LABEL}); widen the rule (with a teacher: its requirements, or let it read more), or "
                "leave `quality` out to keep every document"
            )
        chosen.append(found[np.argsort(hashes[found], kind="stable")[: max_documents // 2]])
    picked = np.sort(np.concatenate(chosen))
    texts = [
        pq.read_table(documents[number], columns=["text"])["text"].take(row[picked[part[picked] == number]])
        for number in np.unique(part[picked])
    ]
    return pa.chunked_array([chunk for text in texts for chunk in text.chunks]), labels[picked], hashes[picked]
