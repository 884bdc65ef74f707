"""The sweep's plan and a fleet → learning-rate, muP, mixture and batch-size trials, and the laws fitted to them."""

from collections.abc import Sequence

import numpy as np

from modelmill.tasks.lm.data import TokenFolder
from modelmill.tasks.lm.shape import count_matmul_parameters
from modelmill.tasks.scaling.batch import BatchLaws, BatchTrial, fit_batch_laws, scaled_rate
from modelmill.tasks.scaling.fleet import Fleet, Trial
from modelmill.tasks.scaling.laws import FLOPS_PER_PARAMETER_TOKEN
from modelmill.tasks.scaling.learning_rate import RateLaw, RateTrial, fit_rate_law
from modelmill.tasks.scaling.mixture import choose_mixture, draw_mixtures, fit_mixture_law
from modelmill.tasks.scaling.results import MixtureTrials, TransferTrials
from modelmill.tasks.scaling.shapes import widened
from modelmill.tasks.scaling.sweep import Point, SizeRuns
from modelmill.tasks.scaling.transfer import judge_transfer


def try_rates(fleet: Fleet, sizes: Sequence[SizeRuns]) -> tuple[list[RateTrial], RateLaw]:
    """Each learning rate at each size and budget of `sizes`, side by side, and the law through the best ones."""
    config = fleet.config
    trials = [
        Trial(f"rate-{size.shape.hidden_size}-{rate:g}", f"learning rate {rate:g}", size, rate)
        for size in sizes
        for rate in config.learning_rates
    ]
    tried = _rate_trials(trials, fleet, "learning rates")
    return tried, fit_rate_law(tried, config.learning_rate_exponent, config.learning_rate_compute_exponent)


def try_transfer(fleet: Fleet, size: SizeRuns) -> TransferTrials | None:
    """The learning rates at doubled widths of one shape, with muP's initialisation and rates; one budget's tokens."""
    config = fleet.config
    if not config.transfer_widths:
        return None
    base = size.shape.hidden_size
    optimizer = config.optimizer.model_copy(update={"mup_base_width": base})
    initialisation = config.initialisation.model_copy(update={"mup_base_width": base})
    trials = []
    for doubling in range(config.transfer_widths):
        shape = widened(size.shape, 2**doubling)
        tokens = size.points[0].tokens
        flops = FLOPS_PER_PARAMETER_TOKEN * count_matmul_parameters(shape) * tokens
        runs = SizeRuns(shape, (Point(flops, tokens),))
        trials += [
            Trial(
                f"transfer-{shape.hidden_size}-{rate:g}", f"muP, width {shape.hidden_size}, rate {rate:g}", runs, rate,
                optimizer=optimizer, initialisation=initialisation,
            )
            for rate in config.learning_rates
        ]  # fmt: skip
    tried = _rate_trials(trials, fleet, "muP transfer")
    return TransferTrials(tried, judge_transfer(tried))


def try_mixtures(
    fleet: Fleet, size: SizeRuns, rates: RateLaw, tokens: TokenFolder, most_tokens: float
) -> MixtureTrials | None:
    """The smallest proxy at its shortest on drawn mixtures. `most_tokens`: the longest run that will use the choice; no
    domain may be passed over more than `max_epochs` times in it."""
    config, train = fleet.config, tokens.shards("train")
    if not config.mixtures:
        return None
    natural = train.mixture
    room = {domain: config.max_epochs * train.num_tokens(domain) / most_tokens for domain in natural}
    most = {domain: min(1.0, max(room[domain], natural[domain])) for domain in natural}
    domains, drawn = sorted(natural), draw_mixtures(natural, config.mixtures, most, config.seed)
    runs = SizeRuns(size.shape, size.points[:1])
    rate = rates.at(size.shape.hidden_size, runs.points[0].flops)
    trials = [
        Trial(
            f"mixture-{number}", f"mixture {number}", runs, rate,
            mixture={domain: float(share) for domain, share in zip(domains, weights, strict=True)},
        )
        for number, weights in enumerate(drawn)
    ]  # fmt: skip
    scores = [score for (score,) in fleet.train(trials, "mixtures")]
    losses = [np.array([score.domains[domain] for domain in domains]) for score in scores]
    law = fit_mixture_law(domains, drawn, losses)
    return MixtureTrials(
        [weights.tolist() for weights in drawn],
        [loss.tolist() for loss in losses],
        law,
        choose_mixture(law, natural, most, config.seed),
    )


def try_batches(fleet: Fleet, size: SizeRuns, rates: RateLaw, mixture: dict[str, float] | None) -> BatchLaws | None:
    """The middle size at each batch size and budget; the learning rate follows the root of the batch."""
    config = fleet.config
    if not config.batch_sizes:
        return None
    batches = sorted(config.batch_sizes)
    rate = rates.at(size.shape.hidden_size, middle_flops(size))
    trials = [
        Trial(
            f"batch-{batch}", f"batch of {batch}", size, scaled_rate(rate, batch, config.batch_tokens), batch,
            mixture=mixture,
        )
        for batch in batches
    ]  # fmt: skip
    return fit_batch_laws(
        [
            BatchTrial(batch, point.tokens, point.flops, score.loss)
            for batch, scores in zip(batches, fleet.train(trials, "batch sizes"), strict=True)
            for point, score in zip(size.points, scores, strict=True)
        ],
        config.seed,
    )


def middle_flops(size: SizeRuns) -> float:
    """Geometric mean of a size's budgets: all of its runs share one stable run, and so one learning rate."""
    return float(np.exp(np.mean(np.log([point.flops for point in size.points]))))


def _rate_trials(trials: Sequence[Trial], fleet: Fleet, label: str) -> list[RateTrial]:
    return [
        RateTrial(trial.runs.shape.hidden_size, point.flops, trial.learning_rate, score.loss)
        for trial, scores in zip(trials, fleet.train(trials, label), strict=True)
        for point, score in zip(trial.runs.points, scores, strict=True)
    ]
