"""All that the scaling stage measured and fitted, as its record, its figures and its summary read it."""

from dataclasses import dataclass

from modelmill.tasks.scaling.batch import BatchLaws
from modelmill.tasks.scaling.choice import CountedLaw, ProxyRun
from modelmill.tasks.scaling.downstream import TwoSteps
from modelmill.tasks.scaling.isoflop import BudgetLosses, IsoFlop
from modelmill.tasks.scaling.learning_rate import RateLaw, RateTrial
from modelmill.tasks.scaling.mixture import MixtureChoice, MixtureLaw
from modelmill.tasks.scaling.transfer import Transfer


@dataclass(frozen=True)
class TransferTrials:
    """The trials of the check of muP, and what they say."""

    trials: list[RateTrial]
    transfer: Transfer


@dataclass(frozen=True)
class MixtureTrials:
    """Mixtures that were tried [runs][K], the losses by domain [runs][K], the law, and the choice."""

    weights: list[list[float]]
    losses: list[list[float]]
    law: MixtureLaw
    choice: MixtureChoice


@dataclass(frozen=True)
class Results:
    """One sweep. What the recipe did not ask for is None."""

    runs: list[ProxyRun]
    law: CountedLaw
    budgets: list[BudgetLosses]
    iso_flop: IsoFlop
    rate_trials: list[RateTrial]
    rates: RateLaw
    transfer: TransferTrials | None
    mixtures: MixtureTrials | None
    batch: BatchLaws | None
    two_steps: TwoSteps | None
