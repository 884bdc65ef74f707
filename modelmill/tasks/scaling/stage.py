"""Token shards → fit: learning-rate trials and proxy runs side by side, the laws fitted to them, pretrain's choice."""

from dataclasses import dataclass
from typing import Any

from modelmill.tasks.files import write_json
from modelmill.tasks.lm.data import TokenFolder, open_tokens
from modelmill.tasks.lm.shape import count_parameters
from modelmill.tasks.scaling.choice import CountedLaw, ProxyRun, candidates, choose, fit_counted_law
from modelmill.tasks.scaling.config import Config
from modelmill.tasks.scaling.isoflop import BudgetLosses, IsoFlop, fit_isoflop
from modelmill.tasks.scaling.learning_rate import RateLaw, RateTrial, fit_rate_law
from modelmill.tasks.scaling.plots import write_figures
from modelmill.tasks.scaling.proxy import train_proxy
from modelmill.tasks.scaling.record import (
    cautions,
    choice_record,
    iso_flop_record,
    law_record,
    rate_record,
    runs_record,
    summary,
)
from modelmill.tasks.scaling.sweep import SizeRuns, plan_sweep
from modelmill.tasks.stage import Call, StageContext, StageResult


@dataclass(frozen=True)
class _Sweep:
    """The plan of all proxy runs, and the warm-up that they share."""

    sizes: list[SizeRuns]
    trial_sizes: list[SizeRuns]
    warmup_tokens: int

    def flops(self, config: Config) -> dict[str, float]:
        """FLOPs of the grid and of the learning-rate trials."""
        trials = sum(size.training_flops(config.decay_share) for size in self.trial_sizes)
        return {
            "sweep_flops": sum(size.training_flops(config.decay_share) for size in self.sizes),
            "trial_flops": trials * len(config.learning_rates),
        }


def run(context: StageContext) -> StageResult:
    """Design the sweep, run it, fit, choose; write fit.json, runs.json and figures."""
    config: Config = context.config
    tokens = open_tokens(context.latest("tokens").path)
    max_tokens = tokens.shards("train").total_tokens * config.max_epochs
    sweep = _plan(config, tokens, max_tokens)
    trials = _try_rates(context, tokens, sweep)
    rates = fit_rate_law(trials, config.learning_rate_exponent)
    runs = _train_grid(context, tokens, sweep, rates)

    law = fit_counted_law(runs, num_copies=config.bootstrap_copies, robust=config.robust, seed=config.seed)
    budgets = _by_budget(runs)
    iso_flop = fit_isoflop(budgets, noise=law.fitted.noise, seed=config.seed)
    numbers = law_record(law)
    fit = {
        "law": numbers,
        "cautions": cautions(numbers),
        "iso_flop": iso_flop_record(iso_flop, budgets),
        "learning_rate": rate_record(rates, trials),
        **_choice(config, tokens, law, rates, sweep, max_tokens),
        **sweep.flops(config),
    }
    _write(context, fit, runs, law, iso_flop, budgets)
    return StageResult(
        rows_in=sum(len(size.points) for size in sweep.sizes),
        rows_out=len(runs),
        unit="proxy runs",
        metrics=_metrics(fit),
        summary=summary(fit, len(runs)),
    )


def _plan(config: Config, tokens: TokenFolder, max_tokens: float) -> _Sweep:
    sizes = plan_sweep(
        config.sweep_flops,
        tokens.vocab_size,
        batch_tokens=config.batch_tokens,
        num_sizes=config.num_sizes,
        num_budgets=config.num_budgets,
        budget_ratio=config.budget_ratio,
        size_ratio=config.size_ratio,
        tokens_per_parameter=config.tokens_per_parameter,
        decay_share=config.decay_share,
        max_tokens=max_tokens,
        tied=config.tied_embeddings,
    )
    shortest = min(point.tokens for size in sizes for point in size.points)
    # Spread over the sizes, the middle one first; each trial is that size's shortest run.
    count = min(config.learning_rate_sizes, len(sizes))
    trial_sizes = [
        SizeRuns(sizes[index].shape, sizes[index].points[:1])
        for index in sorted({(2 * number + 1) * len(sizes) // (2 * count) for number in range(count)})
    ]
    return _Sweep(sizes, trial_sizes, int(shortest * config.warmup_share))


def _try_rates(context: StageContext, tokens: TokenFolder, sweep: _Sweep) -> list[RateTrial]:
    """Each learning rate at each trial size, side by side."""
    pairs = [(size, rate) for size in sweep.trial_sizes for rate in context.config.learning_rates]
    calls = [
        _call(f"rate-{size.shape.hidden_size}-{rate:g}", f"learning rate {rate:g}", context, tokens, sweep, size, rate)
        for size, rate in pairs
    ]
    losses = context.pool.map(train_proxy, calls, "learning rates")
    return [
        RateTrial(size.shape.hidden_size, rate, found[0]) for (size, rate), found in zip(pairs, losses, strict=True)
    ]


def _train_grid(context: StageContext, tokens: TokenFolder, sweep: _Sweep, rates: RateLaw) -> list[ProxyRun]:
    """Every size with all of its budgets, side by side; the longest (smallest models) start first."""
    learning_rates = [rates.at(size.shape.hidden_size) for size in sweep.sizes]
    calls = [
        _call(
            f"size-{count_parameters(size.shape)}",
            f"proxy of {count_parameters(size.shape) / 1e6:.2f}M",
            context,
            tokens,
            sweep,
            size,
            rate,
        )
        for size, rate in zip(sweep.sizes, learning_rates, strict=True)
    ]
    losses = context.pool.map(train_proxy, calls, "proxies")
    return [
        ProxyRun(size.shape, point.tokens, point.flops, loss, rate)
        for size, rate, found in zip(sweep.sizes, learning_rates, losses, strict=True)
        for point, loss in zip(size.points, found, strict=True)
    ]


def _call(
    name: str, label: str, context: StageContext, tokens: TokenFolder, sweep: _Sweep, size: SizeRuns, rate: float
) -> Call:
    config: Config = context.config
    arguments = {
        "tokens_folder": tokens.path,
        "shape": size.shape.model_dump(),
        "token_counts": [point.tokens for point in size.points],
        "learning_rate": rate,
        "batch_tokens": config.batch_tokens,
        "sequence_length": config.sequence_length,
        "warmup_tokens": sweep.warmup_tokens,
        "decay_share": config.decay_share,
        "validation_tokens_per_domain": config.validation_tokens_per_domain,
        "initialisation": config.initialisation.model_dump(),
        "optimizer": config.optimizer.model_dump(),
        "seed": config.seed,
        "journal": context.journal,
        "label": label,
    }
    return Call(name, arguments)


def _by_budget(runs: list[ProxyRun]) -> list[BudgetLosses]:
    budgets = sorted({run.flops for run in runs})
    groups = [[run for run in runs if run.flops == flops] for flops in budgets]
    return [
        BudgetLosses(
            flops, tuple(float(count_parameters(run.shape)) for run in group), tuple(run.loss for run in group)
        )
        for flops, group in zip(budgets, groups, strict=True)
    ]


def _choice(
    config: Config, tokens: TokenFolder, law: CountedLaw, rates: RateLaw, sweep: _Sweep, max_tokens: float
) -> dict[str, Any]:
    """The model that the law forecasts to be the best for `budget_flops` within the recipe's bounds."""
    low = config.min_parameters or max(count_parameters(size.shape) for size in sweep.sizes)
    found = candidates(
        law,
        config.budget_flops,
        tokens.vocab_size,
        batch_tokens=config.batch_tokens,
        low=low,
        high=config.max_parameters,
        max_tokens=max_tokens,
        tied=config.tied_embeddings,
    )
    chosen, limit = choose(found, low, config.max_parameters, max_tokens)
    forecast = law.forecast(chosen.shape, chosen.tokens, config.seed)
    rate = rates.at(chosen.shape.hidden_size)
    return {
        "budget_flops": config.budget_flops,
        "choice": choice_record(config, chosen, forecast, rate, sweep.warmup_tokens),
        "choice_limited_by": limit,
        "candidates": [
            {"parameters": count_parameters(item.shape), "tokens": item.tokens, "predicted_loss": item.loss}
            for item in found
        ],
    }


def _write(
    context: StageContext,
    fit: dict[str, Any],
    runs: list[ProxyRun],
    law: CountedLaw,
    iso_flop: IsoFlop,
    budgets: list[BudgetLosses],
) -> None:
    write_json(context.output / "fit.json", fit)
    write_json(context.output / "runs.json", runs_record(runs))
    write_figures(context.output / "report", iso_flop, budgets, law, runs)


def _metrics(fit: dict[str, Any]) -> dict[str, float]:
    choice = fit["choice"]
    chosen = {f"chosen_{name}": float(choice[name]) for name in ("parameters", "tokens", "learning_rate")}
    return chosen | {
        "predicted_loss": choice["predicted_loss"],
        "relative_noise": fit["law"]["relative_noise"],
        "sweep_flops": fit["sweep_flops"],
        "trial_flops": fit["trial_flops"],
    }
