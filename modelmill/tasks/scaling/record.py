"""Laws and choice → the plain values of fit.json and runs.json, and a summary for people."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from modelmill.tasks.lm.shape import ModelShape, count_matmul_parameters, count_parameters
from modelmill.tasks.scaling.choice import COUNTS, Candidate, CountedLaw, ProxyRun
from modelmill.tasks.scaling.config import Config
from modelmill.tasks.scaling.isoflop import BudgetLosses, IsoFlop
from modelmill.tasks.scaling.laws import EXPONENT_RANGE, Interval
from modelmill.tasks.scaling.learning_rate import RateLaw, RateTrial
from modelmill.tasks.scaling.shapes import body_parameters

LARGE_NOISE = 0.01  # ten times the 0.1 % at which forecasts at 100 times the compute stay within 0.5 %


def law_record(law: CountedLaw) -> dict[str, Any]:
    """The law's numbers with 95 % intervals, how N is counted, and how well it fits."""
    numbers = {name: asdict(interval) for name, interval in law.fitted.intervals().items()}
    return {
        "form": "L(N, D) = E + A / N^alpha + B / D^beta, nats per token",
        "parameter_count": law.count,
        "parameter_count_means": COUNTS[law.count],
        "relative_error_by_count": law.errors,
        "relative_noise": law.fitted.noise,
        **numbers,
    }


def iso_flop_record(iso_flop: IsoFlop, budgets: Sequence[BudgetLosses]) -> dict[str, Any]:
    """Measured points, parabolas and the laws of the optimum; a missing valley is null."""
    curves = [
        _without_nan(asdict(parabola)) | {"parameters": list(budget.parameters), "losses": list(budget.losses)}
        for parabola, budget in zip(iso_flop.parabolas, budgets, strict=True)
    ]
    laws = {name: getattr(iso_flop, name) for name in ("parameters_law", "tokens_law")}
    return {"curves": curves} | {name: _without_nan(asdict(law)) if law else None for name, law in laws.items()}


def rate_record(law: RateLaw, trials: Sequence[RateTrial]) -> dict[str, Any]:
    """The learning-rate law, what it rests on, and whether its exponent was measured."""
    return {
        "form": "learning_rate(width) = base_rate * (width / base_width)^exponent",
        **asdict(law),
        "trials": [asdict(trial) for trial in trials],
    }


def choice_record(
    config: Config, chosen: Candidate, forecast: Interval, learning_rate: float, warmup_tokens: int
) -> dict[str, Any]:
    """What pretrain reads."""
    return {
        **shape_record(chosen.shape),
        "tokens": chosen.tokens,
        "flops": 6 * count_matmul_parameters(chosen.shape) * chosen.tokens,
        "learning_rate": learning_rate,
        "batch_tokens": config.batch_tokens,
        "sequence_length": config.sequence_length,
        "warmup_tokens": warmup_tokens,
        "decay_share": config.decay_share,
        "validation_tokens_per_domain": config.validation_tokens_per_domain,
        "predicted_loss": forecast.value,
        "interval": [forecast.low, forecast.high],
    }


def runs_record(runs: Sequence[ProxyRun]) -> list[dict[str, Any]]:
    """One entry a proxy run."""
    return [
        {
            **shape_record(run.shape),
            "tokens": run.tokens,
            "budget_flops": run.flops,
            "flops": 6 * count_matmul_parameters(run.shape) * run.tokens,
            "learning_rate": run.learning_rate,
            "loss": run.loss,
        }
        for run in runs
    ]


def shape_record(shape: ModelShape) -> dict[str, Any]:
    """Sizes and both counts of parameters."""
    names = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "intermediate_size", "tie_embeddings")
    sizes = {name: getattr(shape, name) for name in names}
    return sizes | {"parameters": count_parameters(shape), "body_parameters": body_parameters(shape)}


def cautions(law: dict[str, Any]) -> list[str]:
    """What a reader must know before trusting the law outside of the runs; empty when nothing is odd."""
    found = []
    for name, scale, what in (("alpha", "A", "size"), ("beta", "B", "tokens")):
        edge = law[name]["value"] <= 1.01 * EXPONENT_RANGE[0] or law[name]["value"] >= 0.99 * EXPONENT_RANGE[1]
        if edge or law[scale]["value"] == 0:
            found.append(f"the effect of {what} cannot be told from these runs ({name} = {law[name]['value']:.2g})")
    if law["E"]["value"] == 0:
        found.append("no floor of the loss is seen yet (E = 0): these runs end before the law's usual range")
    if law["relative_noise"] > LARGE_NOISE:
        found.append(f"runs lie {law['relative_noise']:.1%} off the law; forecasts far beyond them will miss")
    return found


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
        f"width ({exponent}).\n\n"
        f"Chosen for {fit['budget_flops']:.3g} FLOPs: {choice['parameters']:,} parameters "
        f"({choice['num_layers']} layers of {choice['hidden_size']}), {choice['tokens']:,} tokens, learning rate "
        f"{choice['learning_rate']:.2g}. {fit['choice_limited_by']} "
        f"Forecast after decay: {choice['predicted_loss']:.3f} ({low:.3f} – {high:.3f}) nats per token."
        + "".join(f"\n\nCaution: {caution}." for caution in fit["cautions"])
    )


def _without_nan(value: Any) -> Any:
    """NaN (no interval: no bootstrap copy had a valley) is null in JSON."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
