"""What a recipe says under `scaling:` → the sweep, the laws and the bounds of the choice."""

from pydantic import Field, model_validator

from modelmill.tasks.lm.settings import InitialisationConfig, OptimizerConfig
from modelmill.tasks.stage import Positive, StageConfig
from modelmill.tasks.suites.reader import suite_digest, suite_name, suite_path


class Config(StageConfig):
    """Proxy runs that set pretrain's size, tokens and learning rate. FLOPs are counted as 6 N D."""

    budget_flops: float = Field(gt=0)
    """FLOPs that pretrain may spend. It defines the result, so it has no default."""
    sweep_flops: float = Field(gt=0)
    """FLOPs of the proxy runs on the grid (what every other experiment adds is among the metrics)."""
    sequence_length: int = Field(default=256, ge=16)
    """Tokens per sequence; use pretrain's."""
    batch_tokens: int = Field(default=1024, ge=16)
    """Tokens per step, in every proxy and in the choice: the law holds for one batch size."""
    num_sizes: int = Field(default=4, ge=3)
    """Sizes on the grid."""
    num_budgets: int = Field(default=3, ge=3)
    """FLOP budgets on the grid; each is one isoFLOP curve."""
    budget_ratio: float = Field(default=2.0, gt=1)
    """Factor between neighbouring budgets."""
    size_ratio: float = Field(default=4.0, gt=1)
    """Factor between the largest and the smallest size."""
    tokens_per_parameter: float = Field(default=20.0, gt=0)
    """Where the middle of the grid lies: tokens seen per parameter at the middle budget and size."""
    tied_embeddings: bool = True
    """The output head reuses the embedding matrix, in proxies and in the choice."""
    learning_rates: tuple[float, ...] = Field(default=(2e-3, 4e-3, 8e-3, 1.6e-2), min_length=3)
    """Peak learning rates tried; at least three, so that a valley can be seen."""
    learning_rate_sizes: int = Field(default=1, ge=1)
    """Sizes at which they are tried; with two or more the law over widths is fitted rather than assumed."""
    learning_rate_exponent: float = Field(default=-1.0, ge=-2, le=1)
    """Power of the width by which the rate changes, where not fitted; -1 is the muP rule for Adam's hidden matrices."""
    learning_rate_budgets: int = Field(default=1, ge=1)
    """FLOP budgets at which they are tried, the smallest first; with two or more the law over compute is fitted."""
    learning_rate_compute_exponent: float = Field(default=0.0, ge=-1, le=1)
    """Power of the FLOPs by which the rate changes, where not fitted (DeepSeek measured -0.125)."""
    batch_sizes: tuple[Positive, ...] = ()
    """Tokens per step to compare at the middle size and every budget; from three on, the batch-size laws are fitted."""
    batch_from_law: bool = False
    """The choice takes the law's batch for its compute; its forecast stays that for `batch_tokens`, and is too high."""
    transfer_widths: int = Field(default=0, ge=0, le=3)
    """Check of muP: the learning rates at so many widths, each double the one before, with muP's groups; 2 or 3."""
    mixtures: int = Field(default=0, ge=0)
    """Mixtures of domains that the smallest proxy is trained on; the grid and the choice use the best one found."""
    suite: str | None = Field(default=None, json_schema_extra={"placement": True})
    """A multiple-choice suite, by name or .jsonl path, that proxies are scored on to forecast the choice's accuracy."""
    warmup_share: float = Field(default=0.2, gt=0, lt=1)
    """Warm-up, as a share of the shortest run of all; the same number of tokens in every run."""
    decay_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of each run's tokens over which the learning rate decays; use pretrain's."""
    validation_tokens_per_domain: int = Field(default=16_384, ge=256)
    """Held-out tokens of each domain that every run is measured on."""
    initialisation: InitialisationConfig = InitialisationConfig()
    """How weights begin; use pretrain's."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW; use pretrain's."""
    min_parameters: int | None = Field(default=None, ge=1)
    """Smallest model that may be chosen (all parameters, embeddings included); by default the largest proxy."""
    max_parameters: int | None = Field(default=None, ge=1)
    """Largest model that may be chosen; by default no bound but the budget."""
    max_epochs: float = Field(default=4.0, gt=0)
    """How often the training tokens may be repeated, in proxies and in the choice."""
    robust: bool = False
    """Fit with Huber weights, so that single odd runs count less."""
    bootstrap_copies: int = Field(default=200, ge=20)
    """Refits behind the intervals."""
    seed: int = Field(default=0, ge=0)
    """Seed of initialisation, data order and bootstrap."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Config":
        if self.min_parameters and self.max_parameters and self.min_parameters > self.max_parameters:
            raise ValueError(f"min_parameters {self.min_parameters} is above max_parameters {self.max_parameters}")
        if self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of sequence_length {self.sequence_length}; "
                "a batch is a whole number of sequences"
            )
        return self

    @model_validator(mode="after")
    def _experiments_whole(self) -> "Config":
        odd = [size for size in self.batch_sizes if size % self.sequence_length]
        if odd or len(set(self.batch_sizes)) in (1, 2):
            raise ValueError(
                f"batch_sizes {list(self.batch_sizes)}; expected none, or at least three different multiples of "
                f"sequence_length {self.sequence_length}"
            )
        if self.batch_from_law and not self.batch_sizes:
            raise ValueError("batch_from_law needs the law: name some batch_sizes")
        if self.transfer_widths == 1:
            raise ValueError("transfer_widths 1 compares nothing; expected 0, 2 or 3")
        return self


def external_digests(config: Config) -> dict[str, str]:
    """What the suite is: the digest of its items."""
    return {f"suite {suite_name(suite_path(config.suite))}": suite_digest(config.suite)} if config.suite else {}
