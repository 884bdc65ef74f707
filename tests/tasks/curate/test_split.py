"""Split and mixture: shares hold, small domains keep some of each side, weights are the recipe's."""

import numpy as np
import pytest
from pydantic import ValidationError

from modelmill.tasks.curate.config import Config, Mixture
from modelmill.tasks.curate.split import is_validation, mixture_weights, validation_border
from modelmill.tasks.errors import InputError


def draw(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 1), (5, 2), (9, 4), (30, 4)])
def test_small_domains_hold_some_out(count: int, held_out: int) -> None:
    hashes = draw(count)
    border = validation_border(np.sort(hashes)[:4].tolist(), count, 0.001, 4)
    assert is_validation(hashes, border).sum() == held_out


def test_large_domains_hold_the_share_out_and_grow_without_moving_documents() -> None:
    hashes = draw(100_000)
    borders = [validation_border(np.sort(hashes[:count])[:4].tolist(), count, 0.02, 4) for count in (50_000, 100_000)]
    assert borders[0] == borders[1]
    assert is_validation(hashes, borders[0]).mean() == pytest.approx(0.02, abs=0.002)


def test_mixture() -> None:
    sizes = {"a": 900, "b": 100}
    assert mixture_weights(Mixture(), sizes) == pytest.approx({"a": 0.9, "b": 0.1})
    assert mixture_weights(Mixture(temperature=2), sizes) == pytest.approx({"a": 0.75, "b": 0.25})
    assert mixture_weights(Mixture(weights={"a": 1, "c": 5}), sizes) == {"a": 1.0, "b": 0.0}
    with pytest.raises(InputError, match="no weight to any domain that has documents"):
        mixture_weights(Mixture(weights={"c": 5}), sizes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mixture": {"weights": {"poetry": 1}}}, "names poetry; the domains are other"),
        ({"mixture": {"weights": {"other": 0}}}, "one must be above 0"),
        ({"domains": {"Two Words": {}}}, "small letters"),
        ({"domains": {"a": {"urls": ["("]}}}, "not a regular expression"),
        ({"domains": {"a": {"url": ["x"]}}}, "Extra inputs"),
    ],
)
def test_config_refuses(config: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(config)
