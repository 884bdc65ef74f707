"""A step of the recipe → its rotary embeddings, its plan and its rows; refuses steps that do not grow the context."""

from transformers import PreTrainedModel

from modelmill.tasks.errors import ContractError
from modelmill.tasks.extend.config import Config, ExtendStep
from modelmill.tasks.lm.data import TokenFolder, document_mixture
from modelmill.tasks.lm.knots import KnotRows
from modelmill.tasks.lm.mixture import MixtureRows
from modelmill.tasks.lm.model import set_context
from modelmill.tasks.lm.needle import NeedleRows
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.lm.schedule import Schedule
from modelmill.tasks.lm.shape import ModelShape


def set_rotary(model: PreTrainedModel, step: ExtendStep, shape: ModelShape) -> None:
    """Give the model the step's length and frequencies; without any in the step, those that it came with stay.

    `shape` is that before the first step: a scaling without a base of its own changes the base of the checkpoint.
    """
    kept = step.rope_theta is None and step.rope_scaling is None
    set_context(
        model,
        rope_theta=step.rope_theta or shape.rope_theta,
        rope_scaling=shape.rope_scaling if kept else step.rope_scaling,
        max_sequence_length=step.sequence_length,
    )


def check_lengths(config: Config, sequence_length: int) -> None:
    """Refuse steps that would not grow the checkpoint's context."""
    if config.steps[0].sequence_length <= sequence_length:
        raise ContractError(
            f"the checkpoint already has a context of {sequence_length} tokens; expected extend.steps to begin above it"
        )


def step_plan(config: Config, step: ExtendStep, learning_rate: float) -> Plan:
    """A short warm-up, a constant learning rate, and where the recipe says so a decay at the end."""
    return Plan(
        total_tokens=step.total_tokens,
        batch_tokens=config.batch_tokens or 2 * step.sequence_length,
        sequence_length=step.sequence_length,
        schedule=Schedule(
            kind="wsd",
            learning_rate=learning_rate,
            warmup_tokens=int(config.warmup_share * step.total_tokens),
            decay_tokens=int(config.decay_share * step.total_tokens),
        ),
    )


def step_rows(config: Config, number: int, tokens: TokenFolder) -> MixtureRows:
    """Documents, the long ones more often, tied by knots where the step says so, and rows with facts."""
    seed, knots = config.seed + number, config.steps[number].knots
    documents = document_mixture(
        tokens,
        seed=seed,
        weights=config.mixture,
        packing=config.packing,
        repeat_long=(config.long_documents.min_tokens, config.long_documents.times),
    )
    sources = {
        "documents": KnotRows(documents, knots, tokens, seed=seed) if knots else documents,
        "needles": NeedleRows(tokens, config.needles, seed=seed),
    }
    return MixtureRows(sources, {"documents": 1 - config.needle_share, "needles": config.needle_share}, seed=seed)
