import numpy as np
import pytest

from modelmill.tasks.ingest.main_text.train import _arrays

FEATURES = 9


def grown(generator: np.random.Generator, leaves: int) -> dict:
    """A random tree as LightGBM dumps it."""
    if leaves == 1:
        return {"leaf_value": float(generator.normal())}
    left = int(generator.integers(1, leaves))
    return {
        "split_feature": int(generator.integers(FEATURES)),
        "threshold": float(generator.integers(-3, 4) / 2),
        "left_child": grown(generator, left),
        "right_child": grown(generator, leaves - left),
    }


def walked(node: dict, row: np.ndarray) -> float:
    while "leaf_value" not in node:
        goes_left = row[node["split_feature"]] <= node["threshold"]
        node = node["left_child"] if goes_left else node["right_child"]
    return node["leaf_value"]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("num_rows", [1, 64, 150])
def test_sums_are_those_of_a_walk(classes: int, num_rows: int) -> None:
    generator = np.random.default_rng(0)
    trees = [grown(generator, leaves) for leaves in (1, 2, 17, 40, 63, 64)]
    rows = (generator.integers(-4, 5, (num_rows, FEATURES)) / 2).astype(np.float32)
    expected = np.zeros((num_rows, classes))
    for number, tree in enumerate(trees):
        expected[:, number % classes] += [walked(tree, row) for row in rows]
    arrays = _arrays([{"tree_structure": tree} for tree in trees])
    np.testing.assert_allclose(arrays.sums(rows, classes), expected, rtol=1e-5, atol=1e-5)
