import numpy as np
import pytest

from modelmill.tasks.errors import InputError
from modelmill.tasks.scaling.mixture import MixtureLaw, choose_mixture, draw_mixtures, fit_mixture_law

DOMAINS = ("code", "en", "zh")
NATURAL = {"zh": 0.6, "en": 0.3, "code": 0.1}
FREE: dict[str, float] = dict.fromkeys(DOMAINS, 1.0)
PLANTED = MixtureLaw(
    DOMAINS,
    np.array([1.0, 2.0, 2.5]),
    np.array([0.8, 0.9, 0.5]),
    np.array([[-2.5, -0.4, 0.2], [-0.3, -1.5, 0.1], [0.1, 0.0, -1.2]]),
    0.0,
)


def test_a_planted_law_is_found_and_its_best_mixture_chosen() -> None:
    drawn = draw_mixtures(NATURAL, 16, FREE, seed=0)
    generator = np.random.default_rng(0)
    losses = PLANTED.losses(np.array(drawn)) * (1 + 0.0005 * generator.standard_normal((16, 3)))
    law = fit_mixture_law(DOMAINS, drawn, list(losses))
    unseen = np.array(draw_mixtures(NATURAL, 30, FREE, seed=9))
    np.testing.assert_allclose(law.losses(unseen).mean(axis=1), PLANTED.losses(unseen).mean(axis=1), rtol=0.004)
    found = choose_mixture(law, NATURAL, FREE, seed=0)
    assert not found.kept
    assert sum(found.weights.values()) == pytest.approx(1, abs=1e-5)
    weights = np.array([[found.weights[domain] for domain in DOMAINS]])
    everything = np.random.default_rng(1).dirichlet(np.ones(3), 20_000)
    lowest = PLANTED.losses(everything).mean(axis=1).min()
    assert PLANTED.losses(weights).mean() < lowest * 1.005
    assert found.weights["code"] > 2 * NATURAL["code"]


def test_a_gain_within_the_error_of_the_law_changes_nothing() -> None:
    drawn = draw_mixtures(NATURAL, 12, FREE, seed=0)
    losses = 3 * (1 + 0.01 * np.random.default_rng(0).standard_normal((12, 3)))
    found = choose_mixture(fit_mixture_law(DOMAINS, drawn, list(losses)), NATURAL, FREE, seed=0)
    assert found.kept
    assert found.weights == NATURAL


def test_no_mixture_repeats_a_domain_too_often() -> None:
    most = {"code": 0.15, "en": 0.5, "zh": 0.9}
    drawn = np.array(draw_mixtures(NATURAL, 200, most, seed=0))
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    assert (drawn >= 0).all()
    assert (drawn <= [0.15 + 1e-9, 0.5 + 1e-9, 0.9 + 1e-9]).all()


def test_too_few_mixtures_are_refused() -> None:
    drawn = draw_mixtures(NATURAL, 4, FREE, seed=0)
    with pytest.raises(InputError, match=r"Raise scaling\.mixtures"):
        fit_mixture_law(DOMAINS, drawn, [np.ones(3)] * 4)
