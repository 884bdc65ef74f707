from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.scaling.choice import ProxyRun
from modelmill.tasks.scaling.record import cautions, choice_cautions

SHAPE = ModelShape(
    vocab_size=256,
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    intermediate_size=48,
    max_sequence_length=64,
)


def law(**changes: float) -> dict:
    numbers = {"E": 1.7, "A": 400.0, "alpha": 0.34, "B": 410.0, "beta": 0.28} | changes
    noise = numbers.pop("relative_noise", 0.001)
    return {name: {"value": value} for name, value in numbers.items()} | {"relative_noise": noise}


def test_a_sound_law_needs_no_caution() -> None:
    assert cautions(law()) == []


def test_what_cannot_be_told_is_said() -> None:
    assert "effect of size" in cautions(law(alpha=3.0))[0]
    assert "effect of tokens" in cautions(law(B=0.0))[0]
    assert "E = 0" in cautions(law(E=0.0))[0]
    assert "3.0% off the law" in cautions(law(relative_noise=0.03))[0]


def test_a_far_forecast_and_short_runs_are_said() -> None:
    long, short = (ProxyRun(SHAPE, steps * 1024, 1e9, 3.0, 1e-3) for steps in (900, 190))
    assert choice_cautions({"compute_of_largest_proxy": 8.2}, [long], 1024) == []
    assert "50 times the compute" in choice_cautions({"compute_of_largest_proxy": 50.0}, [long], 1024)[0]
    assert "has 190 steps" in choice_cautions({"compute_of_largest_proxy": 8.2}, [long, short], 1024)[0]
