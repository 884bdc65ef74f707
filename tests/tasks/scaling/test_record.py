from modelmill.tasks.scaling.record import cautions


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
