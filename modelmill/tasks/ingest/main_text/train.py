"""A table of labelled pages → weights of the main-text model and its cross-validated figures.

    python -m modelmill.tasks.ingest.main_text.train PAGES.parquet WEIGHTS.npz

PAGES has the columns html (bytes), main_content, page_type, url and, for the figures, must_have and must_not: WCXB's
form. Needs LightGBM (`pip install modelmill[extractor]`), which the product itself does not. About ten minutes on two
cores.
"""

import argparse
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier

from modelmill.tasks.ingest.decode import decoded_text
from modelmill.tasks.ingest.main_text.blocks import Blocks, found_blocks
from modelmill.tasks.ingest.main_text.joined import block_texts, joined_text
from modelmill.tasks.ingest.main_text.labels import has_snippet, true_shares, word_f1, words
from modelmill.tasks.ingest.main_text.lexicon import TABLE_BITS, headings_above, name_hashes, word_hashes
from modelmill.tasks.ingest.main_text.model import (
    PAGE_TYPES,
    Model,
    block_rows,
    linear_scores,
    main_blocks,
    write_model,
)
from modelmill.tasks.ingest.main_text.page_features import page_features
from modelmill.tasks.ingest.main_text.parse import Markup, parsed
from modelmill.tasks.ingest.main_text.trees import MAX_LEAVES, Trees

_FOLDS = 5
_BLOCKS_OF_A_PAGE = 450  # more are sampled: pages of thousands of links would fill the training set
_TABLE = 1 << TABLE_BITS
_SHARED: dict[str, Any] = {
    "verbosity": -1, "num_threads": 2, "max_bin": 63, "seed": 0, "deterministic": True, "force_col_wise": True,
    "feature_fraction": 0.25, "bagging_fraction": 0.6, "bagging_freq": 1, "lambda_l2": 5,
}  # fmt: skip
_BLOCK = _SHARED | {"objective": "binary", "num_leaves": 40, "learning_rate": 0.07, "min_data_in_leaf": 60}
_BLOCK_ROUNDS = 220
_PAGE = _SHARED | {
    "objective": "multiclass", "num_class": len(PAGE_TYPES), "num_leaves": 8, "learning_rate": 0.1,
    "min_data_in_leaf": 8,
}  # fmt: skip
_PAGE_ROUNDS = 80


@dataclass
class Labelled:
    """A page with what is known of it. shares: of each block's words that are main text; weights: of each block."""

    page: Markup
    blocks: Blocks
    type: int
    host: str
    truth: Counter[str]
    must_have: list[str]
    must_not: list[str]
    shares: NDArray[np.float64]
    weights: NDArray[np.float64]
    sample: NDArray[np.int64]
    names: scipy.sparse.csr_matrix
    texts: scipy.sparse.csr_matrix


def read_pages(path: Path) -> list[Labelled]:
    """Parse and label every page."""
    generator = np.random.default_rng(5)
    pages = []
    for row in pq.read_table(path).to_pylist():
        page = parsed(decoded_text(row["html"], None).encode("utf-8", "replace"))
        pages.append(_labelled(row, page, found_blocks(page), generator))
    return pages


def _labelled(row: dict[str, Any], page: Markup, blocks: Blocks, generator: np.random.Generator) -> Labelled:
    truth = words(row["main_content"])
    of_blocks = [words(text) for text in block_texts(page, blocks, np.arange(len(blocks)))]
    count = len(blocks)
    sample = np.arange(count)
    if count > _BLOCKS_OF_A_PAGE:
        sample = np.sort(generator.choice(count, _BLOCKS_OF_A_PAGE, replace=False))
    # Every page counts alike, its blocks by the root of their part in its text.
    of_page = np.array([len(block) for block in of_blocks]) / max(len(truth), 50)
    weights = np.sqrt(np.minimum(of_page, 0.25)) * count / max(len(sample), 1)
    host = re.sub(r"^\w+://", "", row["url"] or str(row["id"])).split("/")[0].split(":")[0].split(".")
    return Labelled(
        page,
        blocks,
        PAGE_TYPES.index(row["page_type"]),
        ".".join(host[-3:] if len(host) > 2 and len(host[-2]) <= 3 else host[-2:]),
        Counter(truth),
        row.get("must_have") or [],
        row.get("must_not") or [],
        true_shares(of_blocks, truth),
        weights,
        sample,
        _names_matrix(page, blocks, sample),
        _texts_matrix(page, blocks, sample),
    )


def _names_matrix(page: Markup, blocks: Blocks, sample: NDArray[np.int64]) -> scipy.sparse.csr_matrix:
    """Counts of the names on the way to each sampled block, over the root of their number, as `chain_scores` sums."""
    offsets, hashes = name_hashes(page)
    rows = []
    for element in blocks.inner[sample]:
        chain = []
        while element > 0:
            chain.append(hashes[offsets[element] : offsets[element + 1]])
            element = page.parent[element]
        chain.append(hashes[: offsets[1]])
        rows.append(np.concatenate(chain))
    return _matrix(rows)


def _texts_matrix(page: Markup, blocks: Blocks, sample: NDArray[np.int64]) -> scipy.sparse.csr_matrix:
    """Counts of each block's words, and beside them those of the heading above it, as `text_scores` sums them."""
    offsets, hashes = word_hashes(page, blocks)
    above = headings_above(page, blocks)
    own = [hashes[offsets[block] : offsets[block + 1]] for block in sample]
    headings = [hashes[offsets[block] : offsets[block + 1]] if block >= 0 else hashes[:0] for block in above[sample]]
    return scipy.sparse.csr_matrix(scipy.sparse.hstack([_matrix(own), _matrix(headings)]))


def _matrix(rows: list[NDArray[np.uint32]]) -> scipy.sparse.csr_matrix:
    lengths = np.array([len(row) for row in rows], np.int64)
    indices = np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32)
    values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
    matrix = scipy.sparse.csr_matrix(
        (values, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(rows), _TABLE)
    )
    matrix.sum_duplicates()
    return matrix


def folds_by_host(pages: list[Labelled], count: int, seed: int) -> NDArray[np.int64]:
    """A fold for each page; pages of one host share it, so that no template is trained and measured on."""
    hosts = sorted({page.host for page in pages})
    drawn = dict(zip(hosts, np.random.default_rng(seed).integers(0, count, len(hosts)), strict=True))
    return np.array([drawn[page.host] for page in pages])


def fitted(pages: list[Labelled]) -> Model:
    """Fit all parts. The trees learn from scores of linear models that have not seen the page's host."""
    folds = folds_by_host(pages, _FOLDS, seed=1)
    types = np.zeros((len(pages), len(PAGE_TYPES)), np.float32)
    linear: list[tuple[NDArray[np.float32], NDArray[np.float32]] | None] = [None] * len(pages)
    features = np.array([page_features(page.page, page.blocks) for page in pages])
    for fold in range(_FOLDS):
        rest = [page for page, of_page in zip(pages, folds, strict=True) if of_page != fold]
        tables = _linear_tables(rest)
        page_trees = _page_trees(features[folds != fold], rest)
        for number in np.flatnonzero(folds == fold):
            linear[number] = linear_scores(pages[number].page, pages[number].blocks, *tables)
            sums = page_trees.sums(features[number][None], len(PAGE_TYPES))[0]
            types[number] = np.exp(sums - sums.max()) / np.exp(sums - sums.max()).sum()
    rows = np.concatenate(
        [
            block_rows(page.page, page.blocks, types[number], *(linear[number] or ()))[page.sample]
            for number, page in enumerate(pages)
        ]
    )
    labels, weights = _targets(pages)
    block_trees = _trees(rows, labels, weights, _BLOCK, _BLOCK_ROUNDS)
    return Model(*_linear_tables(pages), _page_trees(features, pages), block_trees)


def _targets(pages: list[Labelled]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels = np.concatenate([page.shares[page.sample] >= 0.5 for page in pages])
    weights = np.concatenate([page.weights[page.sample] for page in pages])
    return labels, weights / weights.mean()


def _linear_tables(pages: list[Labelled]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    labels, weights = _targets(pages)

    def table(rows: list[scipy.sparse.csr_matrix]) -> NDArray[np.float32]:
        model = SGDClassifier(loss="log_loss", alpha=2e-5, max_iter=6, average=True, random_state=0)
        model.set_params(tol=None)  # all rounds, without a look at the loss
        model.fit(scipy.sparse.vstack(rows).tocsr(), labels, sample_weight=weights)
        # As they will be stored.
        return np.asarray(model.coef_)[0].astype(np.float16).astype(np.float32)

    of_texts = table([page.texts for page in pages])
    return table([page.names for page in pages]), of_texts[:_TABLE], of_texts[_TABLE:]


def _page_trees(features: NDArray[np.float32], pages: list[Labelled]) -> Trees:
    return _trees(features, np.array([page.type for page in pages]), None, _PAGE, _PAGE_ROUNDS)


def _trees(
    rows: NDArray[np.float32], labels: NDArray, weights: NDArray | None, parameters: dict[str, Any], rounds: int
) -> Trees:
    import lightgbm  # pyright: ignore[reportMissingImports]

    data = lightgbm.Dataset(rows, labels, weight=weights, params=parameters)
    return _arrays(lightgbm.train(parameters, data, num_boost_round=rounds).dump_model()["tree_info"])


def _arrays(trees: list[dict[str, Any]]) -> Trees:
    """LightGBM's dump as flat arrays."""
    nodes: list[tuple[int, np.float32, int]] = []
    ends: list[int] = []
    values: list[list[float]] = []
    for tree in trees:
        values.append([])
        _add(tree["tree_structure"], nodes, values[-1])
        ends.append(len(nodes))
    feature, threshold, left = zip(*nodes, strict=True)
    value = np.zeros((len(values), max(map(len, values))), np.float32)
    for row, of_tree in zip(value, values, strict=True):
        row[: len(of_tree)] = of_tree
    return Trees(
        np.array(feature, np.int16),
        np.array(threshold, np.float32),
        np.array(left, np.uint64),
        np.array(ends, np.int32),
        value,
    )


def _add(structure: dict[str, Any], nodes: list, values: list[float]) -> int:
    """Add a node and what is below it → the bits of its leaves."""
    if "leaf_value" in structure:
        values.append(structure["leaf_value"])
        return 1 << (len(values) - 1)
    number = len(nodes)
    nodes.append(())
    threshold = np.float32(structure["threshold"])
    if threshold > structure["threshold"]:  # features have single precision: the largest number that still goes left
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    left = _add(structure["left_child"], nodes, values)
    nodes[number] = (structure["split_feature"], threshold, ((1 << MAX_LEAVES) - 1) & ~left)
    return left | _add(structure["right_child"], nodes, values)


def figures(pages: list[Labelled], models: list[Model], folds: NDArray[np.int64]) -> dict[str, Any]:
    """Word F1, share of must-have snippets kept and of must-not ones leaked; each page by the model that
    has seen no page of its host."""
    scores, types, kept, leaked = [], [], [], []
    for page, fold in zip(pages, folds, strict=True):
        of_type = models[fold].type_probabilities(page.page, page.blocks)
        scored = models[fold].scores(page.page, page.blocks, of_type)
        selected = main_blocks(page.blocks, scored)
        text = joined_text(page.page, page.blocks, selected)
        scores.append(word_f1(Counter(words(text)), page.truth))
        types.append(int(of_type.argmax()) == page.type)
        kept += [has_snippet(text, snippet) for snippet in page.must_have]
        leaked += [has_snippet(text, snippet) for snippet in page.must_not]
    of_types = np.array([page.type for page in pages])
    found = np.array(scores)
    return {
        "pages": len(pages),
        "word_f1": round(float(found.mean()), 4),
        "word_f1_by_type": {
            name: round(float(found[of_types == number].mean()), 3) for number, name in enumerate(PAGE_TYPES)
        },
        "page_type_accuracy": round(float(np.mean(types)), 3),
        "snippets_kept": round(float(np.mean(kept)), 3),
        "snippets_leaked": round(float(np.mean(leaked)), 3),
    }


def main() -> None:
    """Cross-validate, then fit on all pages and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--without-validation", action="store_true", help="only fit")
    arguments = parser.parse_args()
    pages = read_pages(arguments.pages)
    if not arguments.without_validation:
        folds = folds_by_host(pages, _FOLDS, seed=0)
        models = [
            fitted([page for page, of_page in zip(pages, folds, strict=True) if of_page != fold])
            for fold in range(_FOLDS)
        ]
        print(json.dumps(figures(pages, models, folds), indent=1))  # noqa: T201  # a command's result
    write_model(fitted(pages), arguments.weights)


if __name__ == "__main__":
    main()
