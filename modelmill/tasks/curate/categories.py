"""Labelled documents → a linear student over categories, its k-fold accuracy, and a category for any document.

dots.llm1 (C.3) balances its corpus by a classifier of 200 categories, Llama 3 (§3.1.2) by one of kinds of knowledge.
The student sees the quality student's features, folded to fewer columns so that 200 classes fit into memory.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sparse

from modelmill.tasks.curate.features import hashed_features
from modelmill.tasks.curate.labels import check_labels, reference_rows
from modelmill.tasks.curate.softmax import fitted_softmax, softmax
from modelmill.tasks.curate.words import string_hashes
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import atomic_path

# 2^18 columns brought 1 point on 57 subjects of MMLU and nothing on two other sets.
NUM_COLUMNS = 1 << 16
# What a document is about shows early, a teacher reads no more, and ten kilobytes cost more than twice as much.
MAX_CHARACTERS = 3000
MIN_OF_EACH_CATEGORY = 5
NUM_CONFUSIONS = 20
ROWS_AT_A_TIME = 1024


def train_categories(
    documents: list[str], labels: list[str], reference: str | None, label_list: str, output: str, folds: int,
    max_documents: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Fit on the labelled documents, or on the reference file, measure by k-fold, write the weights.

    labels: for each file of documents one with the columns `hash` and `category` (null where there is none).

    Raises:
        InputError: a label is in no list, or fewer than two categories have enough documents.
    """
    if reference is not None:
        texts, names, hashes = _reference(Path(reference), label_list)
    else:
        texts, names, hashes = _labelled(documents, labels)
    count = Counter(names.tolist())
    known = np.array(sorted(name for name in count if count[name] >= MIN_OF_EACH_CATEGORY), object)
    if len(known) < 2:
        raise InputError(
            f"categories: {len(names)} documents have a category, and {len(known)} categories have at least "
            f"{MIN_OF_EACH_CATEGORY} of them, too few to learn from; let the teacher read more, or label more"
        )
    chosen = np.flatnonzero(np.isin(names, known))
    chosen = chosen[np.argsort(hashes[chosen], kind="stable")[:max_documents]]
    columns = category_features(texts.take(pa.array(chosen)))
    classes = np.searchsorted(known.astype(str), names[chosen].astype(str))
    predicted = _cross_validated(columns, classes, (hashes[chosen] % np.uint64(folds)).astype(int), len(known), seed)
    weights, biases = fitted_softmax(columns, classes, len(known), seed)
    with atomic_path(Path(output)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, weights=weights, biases=biases, names=known.astype(str))
    too_few = sorted(set(count) - set(known))
    return {"documents": len(chosen), "categories": len(known), "too_few": too_few, "folds": folds} | agreement(
        known.astype(str), classes, predicted
    )


def agreement(names: np.ndarray, classes: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Accuracy over documents, the mean over categories, that of topics, and the commonest confusions."""
    right = predicted == classes
    by_class = np.bincount(classes, weights=right, minlength=len(names)) / np.bincount(classes, minlength=len(names))
    topics = np.array([name.split("/")[0] for name in names])
    wrong = Counter(zip(names[classes[~right]].tolist(), names[predicted[~right]].tolist(), strict=True))
    common = sorted(wrong.items(), key=lambda each: (-each[1], each[0]))[:NUM_CONFUSIONS]
    return {
        "accuracy": round(float(right.mean()), 4),
        "mean_accuracy_of_categories": round(float(by_class.mean()), 4),
        "topic_accuracy": round(float((topics[classes] == topics[predicted]).mean()), 4),
        "accuracy_of_category": {
            name: round(float(share), 4) for name, share in zip(names.tolist(), by_class, strict=True)
        },
        "confusions": [{"is": true, "taken_for": other, "documents": number} for (true, other), number in common],
    }


def category_columns(texts: pa.ChunkedArray, model: Path) -> pa.Table:
    """Columns topic, category and category_score (its probability, float32 with four digits) of each row."""
    with np.load(model) as file:
        weights, biases, names = file["weights"], file["biases"], file["names"]
    best, score = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.float32)
    columns = category_features(texts)
    for start in range(0, len(texts), ROWS_AT_A_TIME):
        shares = softmax(columns[start : start + ROWS_AT_A_TIME] @ weights + biases)
        best[start : start + len(shares)] = shares.argmax(axis=1)
        score[start : start + len(shares)] = np.round(shares.max(axis=1), 4)
    topics = pa.array([name.split("/")[0] for name in names.tolist()], pa.string())
    categories = pa.array(names.tolist(), pa.string())
    return pa.table(
        {"topic": topics.take(pa.array(best)), "category": categories.take(pa.array(best)), "category_score": score}
    )


def category_features(texts: pa.ChunkedArray) -> sparse.csr_matrix:
    """float32 [num_documents, NUM_COLUMNS]: the quality student's features of each beginning, with the column numbers'
    low bits only; what falls together is summed."""
    beginnings = pc.utf8_slice_codeunits(texts, 0, MAX_CHARACTERS)  # pyright: ignore[reportAttributeAccessIssue]
    features = hashed_features(beginnings)
    matrix = sparse.csr_matrix(
        (features.data, features.indices & (NUM_COLUMNS - 1), features.indptr), (len(texts), NUM_COLUMNS)
    )
    matrix.sum_duplicates()
    return matrix


def _cross_validated(
    columns: sparse.csr_matrix, classes: np.ndarray, fold: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
    """Each document's class as a student says that was trained without its fold."""
    predicted = np.full(len(classes), -1)
    for number in np.unique(fold):
        held_out = fold == number
        weights, biases = fitted_softmax(columns[~held_out], classes[~held_out], num_classes, seed)
        predicted[held_out] = np.argmax(columns[held_out] @ weights + biases, axis=1)
    return predicted


def _reference(path: Path, label_list: str) -> tuple[pa.ChunkedArray, np.ndarray, np.ndarray]:
    texts, names = reference_rows(path)
    check_labels(label_list, f"the label of a row of {path}", sorted(set(names)))
    column = pa.chunked_array([pa.array(texts, pa.large_string())])
    return column, np.array(names, object), string_hashes(column, 0)


def _labelled(documents: list[str], labels: list[str]) -> tuple[pa.ChunkedArray, np.ndarray, np.ndarray]:
    texts, names, hashes = [], [], []
    for path, label in zip(documents, labels, strict=True):
        table = pq.read_table(label)
        rows = pa.array(np.flatnonzero(table["category"].is_valid().to_numpy()))
        texts += pq.read_table(path, columns=["text"])["text"].take(rows).cast(pa.large_string()).chunks
        names += table["category"].take(rows).to_pylist()
        hashes.append(table["hash"].take(rows).to_numpy())
    return pa.chunked_array(texts, pa.large_string()), np.array(names, object), np.concatenate(hashes)
