"""Laws and choice → the plain values of fit.json and runs.json."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from modelmill.tasks.lm.shape import ModelShape, count_matmul_parameters, count_parameters
from modelmill.tasks.scaling.batch import BatchLaws
from modelmill.tasks.scaling.choice import COUNTS, Candidate, CountedLaw, ProxyRun
from modelmill.tasks.scaling.config import Config
from modelmill.tasks.scaling.downstream import TwoSteps
from modelmill.tasks.scaling.isoflop import BudgetLosses, IsoFlop
from modelmill.tasks.scaling.laws import EXPONENT_RANGE, Interval
from modelmill.tasks.scaling.learning_rate import RateLaw, RateTrial
from modelmill.tasks.scaling.results import MixtureTrials, Results, TransferTrials
from modelmill.tasks.scaling.shapes import body_parameters

LARGE_NOISE = 0.01  # ten times the 0.1 % at which forecasts at 100 times the compute stay within 0.5 %
FAR = (
    10.0  # times the largest proxy's compute; at 8 times a forecast was 0.5 % off, at 50 times 12 % (docs/training.md)
)
FEW_STEPS = 400  # runs from 450 steps on lay 1.1 % off their law, with some of 170 steps among them 2.9 % (there too)


def fit_record(results: Results) -> dict[str, Any]:
    """What was fitted; parts that the recipe did not ask for are absent."""
    numbers = law_record(results.law)
    record = {
        "law": numbers,
        "iso_flop": iso_flop_record(results.iso_flop, results.budgets),
        "learning_rate": rate_record(results.rates, results.rate_trials),
        "transfer": transfer_record(results.transfer) if results.transfer else None,
        "mixture": mixture_record(results.mixtures) if results.mixtures else None,
        "batch": batch_record(results.batch) if results.batch else None,
        "suite": _without_nan(asdict(results.two_steps)) if results.two_steps else None,
    }
    found = cautions(numbers) + experiment_cautions(results)
    return {name: part for name, part in record.items() if part} | {"cautions": found}


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
        "form": "learning_rate = base_rate * (width / base_width)^exponent * (FLOPs / base_flops)^compute_exponent",
        **asdict(law),
        "trials": [asdict(trial) for trial in trials],
    }


def transfer_record(found: TransferTrials) -> dict[str, Any]:
    """The check of muP: best base rate by width, what the narrow one costs the wide one, and the trials."""
    return {
        "verdict": found.transfer.verdict,
        "penalty": found.transfer.penalty,
        "best": [asdict(best) for best in found.transfer.best],
        "trials": [asdict(trial) for trial in found.trials],
    }


def mixture_record(found: MixtureTrials) -> dict[str, Any]:
    """The mixing law, the runs behind it, and the mixture that grid and choice use."""
    law = found.law
    return {
        "form": "ln(loss_i - floor_i) = intercept_i + sum_j slopes_ij * weight_j",
        "domains": list(law.domains),
        "floor": law.floor.tolist(),
        "intercept": law.intercept.tolist(),
        "slopes": law.slopes.tolist(),
        "left_out_error": law.left_out,
        "tried": [
            {"weights": weights, "losses": losses} for weights, losses in zip(found.weights, found.losses, strict=True)
        ],
        **asdict(found.choice),
    }


def batch_record(found: BatchLaws) -> dict[str, Any]:
    """Best batch as a power of compute and of the loss; what each curve's `parameters` holds are tokens a step."""
    return {
        "by_compute": iso_flop_record(found.by_compute, found.curves_by_compute),
        "by_loss": iso_flop_record(found.by_loss, found.curves_by_loss) if found.by_loss else None,
    }


def choice_record(
    config: Config,
    chosen: Candidate,
    runs: Sequence[ProxyRun],
    forecast: Interval,
    learning_rate: float,
    batch_tokens: int,
    warmup_tokens: int,
    mixture: dict[str, float] | None,
    two_steps: TwoSteps | None,
) -> dict[str, Any]:
    """What pretrain reads. `mixture` is there when the law was measured on another one than curate's."""
    flops = 6 * count_matmul_parameters(chosen.shape) * chosen.tokens
    found: dict[str, Any] = {
        **shape_record(chosen.shape),
        "tokens": chosen.tokens,
        "flops": flops,
        "compute_of_largest_proxy": flops / max(_flops(run) for run in runs),
        "learning_rate": learning_rate,
        "batch_tokens": batch_tokens,
        "sequence_length": config.sequence_length,
        "warmup_tokens": warmup_tokens,
        "decay_share": config.decay_share,
        "validation_tokens_per_domain": config.validation_tokens_per_domain,
        "predicted_loss": forecast.value,
        "interval": [forecast.low, forecast.high],
    }
    if mixture:
        found["mixture"] = mixture
    if two_steps:
        found["predicted_answer_nll"] = asdict(two_steps.answer_nll(flops))
        found["predicted_accuracy"] = asdict(two_steps.accuracy(flops))
    return found


def runs_record(runs: Sequence[ProxyRun]) -> list[dict[str, Any]]:
    """One entry a proxy run."""
    return [
        {
            **shape_record(run.shape),
            "tokens": run.tokens,
            "budget_flops": run.flops,
            "flops": _flops(run),
            "learning_rate": run.learning_rate,
            "loss": run.loss,
            **({"answer_nll": run.answer_nll, "accuracy": run.accuracy} if run.answer_nll is not None else {}),
        }
        for run in runs
    ]


def _flops(run: ProxyRun) -> int:
    return 6 * count_matmul_parameters(run.shape) * run.tokens


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


def choice_cautions(choice: dict[str, Any], runs: Sequence[ProxyRun], batch_tokens: int) -> list[str]:
    """What a reader must know before trusting the forecast; `batch_tokens` are those of the proxies."""
    found = []
    if (times := choice["compute_of_largest_proxy"]) > FAR:
        found.append(
            f"the choice has {times:.0f} times the compute of the largest proxy; the interval covers the noise of the "
            f"runs, not what a law of this form gets wrong beyond some {FAR:.0f} times"
        )
    if (steps := min(run.tokens for run in runs) // batch_tokens) < FEW_STEPS:
        found.append(
            f"the shortest proxy has {steps:,} steps; runs below some {FEW_STEPS} end before their losses follow a "
            "power law (raise sweep_flops, or lower batch_tokens or budget_ratio)"
        )
    return found


def experiment_cautions(results: Results) -> list[str]:
    """What a reader must know of the experiments that the recipe asked for."""
    found = []
    if results.batch and results.batch.by_compute.parameters_law is None:
        found.append("no batch-size law: fewer than two budgets have their valley inside batch_sizes")
    if results.mixtures and results.mixtures.choice.kept:
        error, gain = results.mixtures.law.left_out, results.mixtures.choice.gain
        found.append(f"no mixture is told from curate's: the best saves {gain:.2%}, the law errs by {error:.2%}")
    if results.two_steps and not results.two_steps.told:
        found.append("no proxy beats chance on the suite by two standard errors; its forecast accuracy is a guess")
    return found


def _without_nan(value: Any) -> Any:
    """NaN (no interval: no bootstrap copy had a valley) is null in JSON."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
