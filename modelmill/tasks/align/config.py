"""Configuration of the align stage; defaults are published values for large models (shared figures in docs)."""

from typing import Literal

from pydantic import Field

from modelmill.tasks.lm.settings import LayerSettings
from modelmill.tasks.stage import Share, StageConfig
from modelmill.tasks.suites.reader import suite_digest, suite_name, suite_path


class TrainingConfig(LayerSettings):
    """One pass of training, cosine after a linear warm-up."""

    learning_rate: float = Field(gt=0)
    "Peak learning rate."
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    "Learning rate at the end, as a share of the peak (dots.llm1: 5e-6 to 1e-6, a ratio of 0.2)."
    warmup_share: float = Field(default=0.1, ge=0, lt=1)
    "Share of the tokens over which the rate rises from zero (Eurus: 0.1)."
    epochs: int = Field(default=1, gt=0)
    "Passes over the data (Eurus 1, dots.llm1 2)."
    weight_decay: float = Field(default=0.0, ge=0)
    "Decoupled weight decay of matrices."
    micro_batch_rows: int | None = Field(default=None, gt=0)
    "Rows per forward pass (gradient accumulation); none: the whole batch at once. Pipelines take the layout's."
    precision: Literal["fp32", "bf16"] = "fp32"
    "bf16: autocast over fp32 weights (GPUs). No fp8: a preference is compared with what the reference was measured to "
    "give, and measurements are not made in 8 bits."
    checkpoint_every_steps: int = Field(default=200, gt=0)
    "Steps between training states that a killed run continues from."


class SupervisedConfig(TrainingConfig):
    """Cross-entropy on the assistant's tokens, the rest masked (Llama 3.1: 1e-5 for its largest models)."""

    learning_rate: float = Field(default=1e-5, gt=0)
    "Peak learning rate (Llama 3.1 405B 1e-5; Eurus-7B 2e-5)."
    batch_tokens: int = Field(default=65_536, gt=0)
    "Tokens per optimiser step."
    sequence_length: int = Field(default=4096, gt=0)
    "Tokens per row; whole conversations are packed into it, and attention does not cross them."


class RewardConfig(TrainingConfig):
    """Reward model on top of the policy's network: Bradley-Terry, and Eurus' direct reward for verified pairs."""

    learning_rate: float = Field(default=1e-5, gt=0)
    "Peak learning rate (Eurus-RM-7B 1e-5)."
    batch_pairs: int = Field(default=64, gt=0)
    "Pairs per optimiser step."
    direct: bool = True
    "Add -log sigma(r_c) - log sigma(-r_r); without it Eurus-RM falls from 82.4 to 78.3 on RewardBench."


class PreferenceConfig(TrainingConfig):
    """DPO with a share of likelihood on the chosen reply and formatting tokens left out (Llama 3.1 §4.1.4)."""

    loss: Literal["dpo"] = "dpo"
    "The preference loss."
    learning_rate: float = Field(default=1e-5, gt=0)
    "Peak learning rate (Llama 3.1 1e-5)."
    batch_pairs: int = Field(default=64, gt=0)
    "Pairs per optimiser step."
    beta: float = Field(default=0.1, gt=0)
    "Scale of the implicit reward."
    nll_weight: float = Field(default=0.2, ge=0)
    "Weight of the chosen reply's negative log-likelihood."
    nll_normalisation: Literal["token", "sequence"] = "token"
    "Mean per token, or the reply's sum; Llama 3.1 does not say which."
    mask_format_tokens: bool = True
    "Leave header and end-of-turn tokens of both replies out of the preference term."
    average_with_start: float = Field(default=0.0, ge=0, lt=1)
    "Share of the weights before this step in its result (model averaging; Llama 3.1 gives no weights)."


class SamplingConfig(StageConfig):
    """Replies drawn from the current policy in each round."""

    prompts: int = Field(gt=0)
    "Training problems that are sampled in each round."
    replies: int = Field(default=10, ge=2)
    "Replies per prompt (Llama 3.1: 10 to 30)."
    temperature: float = Field(default=1.0, gt=0)
    "Sampling temperature (Llama 3.1: 0.2 to 1 early, 0.6 in the last round)."
    top_p: float = Field(default=1.0, gt=0, le=1)
    "Nucleus sampling."
    pairs_per_prompt: int = Field(default=2, gt=0)
    "At most so many (right, wrong) pairs of a prompt."


class SuiteCheck(StageConfig):
    """An evaluation suite whose items must not be trained on."""

    suite: str = Field(json_schema_extra={"placement": True})
    "Name of a shipped suite, or path of a .jsonl file; its name and content enter the stage's key."
    ratio: float = Field(default=0.5, gt=0, le=1)
    "A problem goes that holds an item word by word, or at least this share of its words in 8-grams."


class Config(StageConfig):
    """The align stage."""

    seed: int = Field(default=0, ge=0)
    "Decides problems, batches and samples."
    families: tuple[str, ...] = ("arithmetic", "sorting", "counting", "edits", "formats", "python")
    "Task families whose answers a program verifies (modelmill.tasks.verify.families)."
    difficulty: int = Field(ge=1)
    "Length of the problems; 1 suits models of a few million parameters."
    instructions: int = Field(gt=0)
    "Problems with reference answers for the first supervised step."
    rounds: int = Field(default=6, ge=0)
    "Rounds of sample, verify, reward model, rejection sampling, supervised step, preference step (Llama 3.1: 6)."
    max_reply_tokens: int = Field(default=32, gt=0)
    "A sampled reply is cut off after so many tokens."
    suites: tuple[SuiteCheck, ...] = ()
    "Suites that the problems to train on are checked against."
    sampling: SamplingConfig
    "Sampling in the rounds."
    supervised: SupervisedConfig = SupervisedConfig()
    "The first supervised step, on the reference answers."
    rejection: SupervisedConfig = SupervisedConfig()
    "The supervised step of each round, on the best verified replies."
    replay: float = Field(default=0.5, ge=0)
    "Reference-answer instructions mixed into each round's supervised step, per selected reply."
    reward: RewardConfig = RewardConfig()
    "The reward model of each round."
    preference: PreferenceConfig = PreferenceConfig()
    "The preference step of each round."
    continue_from: Literal["best", "last"] = "best"
    "Policy of the next round and final model: the best on validation problems so far, or the newest."
    validation_problems: int = Field(default=300, gt=0)
    "Held-out problems that choose between models."
    test_problems: int = Field(default=600, gt=0)
    "Held-out problems that only measure; their accuracies are reported."
    loss_share: tuple[Share, Share] = (0.02, 0.6)
    "Bounds of the share of tokens under the supervised loss; outside them the stage stops (an all-ones mask is 1)."


def external_digests(config: Config) -> dict[str, str]:
    """Digest of each suite's items, by its place and name."""
    return {
        f"suites[{number}] {suite_name(suite_path(each.suite))}": suite_digest(each.suite)
        for number, each in enumerate(config.suites)
    }
