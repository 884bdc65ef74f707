"""Token shards → fit: learning-rate trials and proxy runs side by side, the laws fitted to them, pretrain's choice."""

from dataclasses import dataclass
from typing import Any

from modelmill.tasks.files import write_json
from modelmill.tasks.lm.data import TokenFolder, open_tokens
from modelmill.tasks.lm.shape import count_parameters
from modelmill.tasks.scaling.batch import scaled_rate
from modelmill.tasks.scaling.choice import ProxyRun, candidates, choose, fit_counted_law
from modelmill.tasks.scaling.config import Config
from modelmill.tasks.scaling.downstream import SuiteRun, TwoSteps, fit_two_steps
from modelmill.tasks.scaling.experiments import middle_flops, try_batches, try_mixtures, try_rates, try_transfer
from modelmill.tasks.scaling.fleet import Fleet, Trial
from modelmill.tasks.scaling.isoflop import BudgetLosses, fit_isoflop
from modelmill.tasks.scaling.learning_rate import RateLaw
from modelmill.tasks.scaling.plots import write_figures
from modelmill.tasks.scaling.record import choice_cautions, choice_record, fit_record, runs_record
from modelmill.tasks.scaling.results import Results
from modelmill.tasks.scaling.shapes import shape_for, smallest_shape
from modelmill.tasks.scaling.summary import summary
from modelmill.tasks.scaling.sweep import SizeRuns, plan_sweep, tokens_for
from modelmill.tasks.stage import StageContext, StageResult
from modelmill.tasks.suites.reader import load_suite


@dataclass(frozen=True)
class _Sweep:
    """The plan of all proxy runs, the warm-up that they share, and how long a run the corpus allows."""

    sizes: list[SizeRuns]
    trial_sizes: list[SizeRuns]
    warmup_tokens: int
    max_tokens: float

    @property
    def middle(self) -> SizeRuns:
        """The size that experiments with one size use."""
        return self.sizes[len(self.sizes) // 2]


def run(context: StageContext) -> StageResult:
    """Design the sweep, run it, fit, choose; write fit.json, runs.json and figures."""
    config: Config = context.config
    tokens = open_tokens(context.latest("tokens").path)
    sweep = _plan(config, tokens)
    fleet = Fleet(context, tokens, sweep.warmup_tokens)
    rate_trials, rates = try_rates(fleet, sweep.trial_sizes)
    transfer = try_transfer(fleet, sweep.middle)
    mixtures = try_mixtures(fleet, sweep.sizes[0], rates, tokens, _longest(config, tokens, sweep))
    weights = mixtures.choice.weights if mixtures else None
    batch = try_batches(fleet, sweep.middle, rates, weights)
    runs = _train_grid(fleet, sweep, rates, weights)

    law = fit_counted_law(runs, num_copies=config.bootstrap_copies, robust=config.robust, seed=config.seed)
    budgets = _by_budget(runs)
    iso_flop = fit_isoflop(budgets, noise=law.fitted.noise, seed=config.seed)
    two_steps = _two_steps(config, runs)
    results = Results(runs, law, budgets, iso_flop, rate_trials, rates, transfer, mixtures, batch, two_steps)
    fitted, chosen = fit_record(results), _choice(config, tokens, results, sweep)
    fitted["cautions"] += choice_cautions(chosen["choice"], runs, config.batch_tokens)
    fit = fitted | chosen | {"flops_by_experiment": dict(fleet.flops)}
    write_json(context.output / "fit.json", fit)
    write_json(context.output / "runs.json", runs_record(runs))
    write_figures(context.output / "report", results)
    return StageResult(
        rows_in=sum(len(size.points) for size in sweep.sizes),
        rows_out=len(runs),
        unit="proxy runs",
        metrics=_metrics(fit),
        summary=summary(fit, len(runs)),
    )


def _plan(config: Config, tokens: TokenFolder) -> _Sweep:
    max_tokens = tokens.shards("train").total_tokens * config.max_epochs
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
    # Spread over the sizes, the middle one first; each trial has that size's shortest runs.
    count = min(config.learning_rate_sizes, len(sizes))
    trial_sizes = [
        SizeRuns(sizes[index].shape, sizes[index].points[: config.learning_rate_budgets])
        for index in sorted({(2 * number + 1) * len(sizes) // (2 * count) for number in range(count)})
    ]
    return _Sweep(sizes, trial_sizes, int(shortest * config.warmup_share), max_tokens)


def _longest(config: Config, tokens: TokenFolder, sweep: _Sweep) -> float:
    """Tokens of the longest run that could follow the chosen mixture: the grid's, or the smallest model's that may be
    chosen."""
    low = config.min_parameters or max(count_parameters(size.shape) for size in sweep.sizes)
    smallest = smallest_shape(tokens.vocab_size, config.tied_embeddings)
    allowed = shape_for(max(low, count_parameters(smallest)), tokens.vocab_size, config.tied_embeddings)
    longest = max(point.tokens for size in sweep.sizes for point in size.points)
    return max(longest, min(sweep.max_tokens, tokens_for(config.budget_flops, allowed, config.batch_tokens)))


def _train_grid(fleet: Fleet, sweep: _Sweep, rates: RateLaw, mixture: dict[str, float] | None) -> list[ProxyRun]:
    """Every size with all of its budgets, side by side; the longest (smallest models) start first."""
    trials = [
        Trial(
            f"size-{count_parameters(size.shape)}",
            f"proxy of {count_parameters(size.shape) / 1e6:.2f}M",
            size,
            rates.at(size.shape.hidden_size, middle_flops(size)),
            mixture=mixture,
        )
        for size in sweep.sizes
    ]
    scores = fleet.train(trials, "proxies", suite=fleet.config.suite)
    return [
        ProxyRun(
            trial.runs.shape, point.tokens, point.flops, score.loss, trial.learning_rate,
            score.answer_nll, score.accuracy,
        )
        for trial, found in zip(trials, scores, strict=True)
        for point, score in zip(trial.runs.points, found, strict=True)
    ]  # fmt: skip


def _by_budget(runs: list[ProxyRun]) -> list[BudgetLosses]:
    budgets = sorted({run.flops for run in runs})
    groups = [[run for run in runs if run.flops == flops] for flops in budgets]
    return [
        BudgetLosses(
            flops, tuple(float(count_parameters(run.shape)) for run in group), tuple(run.loss for run in group)
        )
        for flops, group in zip(budgets, groups, strict=True)
    ]


def _two_steps(config: Config, runs: list[ProxyRun]) -> TwoSteps | None:
    """From compute to the suite's accuracy; chance is that of guessing each item."""
    if config.suite is None:
        return None
    items = load_suite(config.suite).items
    scored = [
        SuiteRun(run.flops, run.answer_nll, run.accuracy)
        for run in runs
        if run.answer_nll is not None and run.accuracy is not None
    ]
    return fit_two_steps(scored, sum(1 / len(item.choices) for item in items) / len(items), len(items))


def _choice(config: Config, tokens: TokenFolder, results: Results, sweep: _Sweep) -> dict[str, Any]:
    """The model that the law forecasts to be the best for `budget_flops` within the recipe's bounds."""
    law, rates = results.law, results.rates
    low = config.min_parameters or max(count_parameters(size.shape) for size in sweep.sizes)
    found = candidates(
        law,
        config.budget_flops,
        tokens.vocab_size,
        batch_tokens=config.batch_tokens,
        low=low,
        high=config.max_parameters,
        max_tokens=sweep.max_tokens,
        tied=config.tied_embeddings,
    )
    chosen, limit = choose(found, low, config.max_parameters, sweep.max_tokens)
    batch = _batch(config, results)
    rate = scaled_rate(rates.at(chosen.shape.hidden_size, config.budget_flops), batch, config.batch_tokens)
    choice = choice_record(
        config,
        chosen,
        results.runs,
        law.forecast(chosen.shape, chosen.tokens, config.seed),
        learning_rate=rate,
        batch_tokens=batch,
        warmup_tokens=sweep.warmup_tokens,
        mixture=results.mixtures.choice.weights if results.mixtures else None,
        two_steps=results.two_steps,
    )
    return {
        "budget_flops": config.budget_flops,
        "choice": choice,
        "choice_limited_by": limit,
        "candidates": [
            {"parameters": count_parameters(item.shape), "tokens": item.tokens, "predicted_loss": item.loss}
            for item in found
        ],
    }


def _batch(config: Config, results: Results) -> int:
    """Tokens a step of the choice, whole rows."""
    best = results.batch.at(config.budget_flops) if results.batch and config.batch_from_law else None
    return max(1, round((best or config.batch_tokens) / config.sequence_length)) * config.sequence_length


def _metrics(fit: dict[str, Any]) -> dict[str, float]:
    choice, flops = fit["choice"], fit["flops_by_experiment"]
    chosen = {f"chosen_{name}": float(choice[name]) for name in ("parameters", "tokens", "learning_rate")}
    return chosen | {
        "predicted_loss": choice["predicted_loss"],
        "relative_noise": fit["law"]["relative_noise"],
        "flops": sum(flops.values()),
        **{f"flops/{experiment}": spent for experiment, spent in flops.items()},
    }
