"""The values of fit.json → markdown for people: the law, the learning rate, the choice, and what limits it."""

from collections.abc import Iterator
from typing import Any


def summary(fit: dict[str, Any], num_runs: int) -> str:
    """Markdown: the law, the learning rate, the choice, and what limits it."""
    law, choice, rate = fit["law"], fit["choice"], fit["learning_rate"]
    low, high = choice["interval"]
    exponent = "fitted" if rate["exponent_fitted"] else "assumed, not fitted"
    valleys = sum(curve["inside"] for curve in fit["iso_flop"]["curves"])
    table = "\n".join(
        f"| {name} | {law[name]['value']:.4g} | {law[name]['low']:.4g} – {law[name]['high']:.4g} |"
        for name in ("E", "A", "alpha", "B", "beta")
    )
    return (
        f"{num_runs} proxy runs, law within {law['relative_error_by_count'][law['parameter_count']]:.2%} of them "
        f"(N = {law['parameter_count_means']}); a valley inside the sizes at {valleys} of "
        f"{len(fit['iso_flop']['curves'])} budgets.\n\n"
        f"| | value | 95 % interval |\n|---|---|---|\n{table}\n\n"
        f"Learning rate {rate['base_rate']:.2g} at width {rate['base_width']:.0f}, power {rate['exponent']:.2g} of the "
        f"width ({exponent}){_power_of_compute(rate)}.\n\n"
        + "".join(f"{line}\n\n" for line in _experiments(fit))
        + f"Chosen for {fit['budget_flops']:.3g} FLOPs: {choice['parameters']:,} parameters "
        f"({choice['num_layers']} layers of {choice['hidden_size']}), {choice['tokens']:,} tokens, learning rate "
        f"{choice['learning_rate']:.2g}. {fit['choice_limited_by']} "
        f"Forecast after decay, at {choice['compute_of_largest_proxy']:.3g} times the largest proxy's compute: "
        f"{choice['predicted_loss']:.3f} ({low:.3f} – {high:.3f}) nats per token."
        + "".join(f"\n\nCaution: {caution}." for caution in fit["cautions"])
    )


def _power_of_compute(rate: dict[str, Any]) -> str:
    if not rate["compute_exponent"]:
        return ""
    origin = "fitted" if rate["compute_exponent_fitted"] else "assumed, not fitted"
    return f", power {rate['compute_exponent']:.2g} of the FLOPs ({origin})"


def _experiments(fit: dict[str, Any]) -> Iterator[str]:
    """A sentence for each experiment that the recipe asked for."""
    if "transfer" in fit:
        yield fit["transfer"]["verdict"]
    if "batch" in fit:
        yield from _batch(fit["batch"])
    if "mixture" in fit:
        yield _mixture(fit["mixture"])
    if "suite" in fit:
        nll, accuracy = (fit["choice"][name] for name in ("predicted_answer_nll", "predicted_accuracy"))
        yield (
            f"Forecast on the suite: {nll['value']:.3f} ({nll['low']:.3f} – {nll['high']:.3f}) nats per character of "
            f"the right answers, accuracy {accuracy['value']:.1%} ({accuracy['low']:.1%} – {accuracy['high']:.1%}; "
            f"chance {fit['suite']['chance']:.1%})."
        )


def _batch(batch: dict[str, Any]) -> Iterator[str]:
    for name, unit in (("by_compute", "FLOPs"), ("by_loss", "loss")):
        law = batch[name] and batch[name]["parameters_law"]
        if law:
            low, high = law["exponent_low"], law["exponent_high"]
            interval = f" ({low:.2g} – {high:.2g})" if low is not None and high is not None else ""
            yield (f"Best batch = {law['coefficient']:.3g} · {unit}^{law['exponent']:.3g}{interval} tokens a step.")


def _mixture(mixture: dict[str, Any]) -> str:
    shares = ", ".join(f"{domain} {share:.1%}" for domain, share in mixture["weights"].items())
    what = "stays" if mixture["kept"] else "is the best of the fitted law"
    return (
        f"Of {len(mixture['tried'])} mixtures: {shares} {what} (the law's best saves {mixture['gain']:.2%} of the mean "
        f"loss over domains; it errs by {mixture['left_out_error']:.2%} on mixtures that it did not see)."
    )
