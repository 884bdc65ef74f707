"""The recipe, the fit's choice and the tokens → the shape and the plan of the run, with who decided each value."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.data import TokenFolder
from modelmill.tasks.lm.plan import Plan, Schedule
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.pretrain.config import Config, ShapeOverride

VALIDATION = "validation_tokens_per_domain"


@dataclass(frozen=True)
class Resolved:
    """What will be trained. `reasons` says for each value whether the recipe or the fit gave it."""

    shape: ModelShape
    plan: Plan
    mixture: dict[str, float] | None
    validation_tokens_per_domain: int
    branch_share: float | None
    predicted_loss: float | None
    predicted_interval: list[float] | None
    reasons: dict[str, str]


def resolve(config: Config, choice: dict[str, Any], tokens: TokenFolder) -> Resolved:
    """Recipe values first, then the fit's. The forecast counts only if nothing that it rests on was overridden."""
    reasons: dict[str, str] = {}

    def pick(name: str, given: Any, key: str) -> Any:
        if given is None and key not in choice:
            raise RecipeError(f"pretrain.{name} is not set and the fit's choice has no {key!r}; set it in the recipe")
        reasons[name] = f"{given} (recipe)" if given is not None else f"{choice[key]} (fit)"
        return choice[key] if given is None else given

    sizes = {name: pick(name, _size(config, name), name) for name in ShapeOverride.model_fields}
    length = int(pick("sequence_length", config.sequence_length, "sequence_length"))
    total = int(pick("total_tokens", config.total_tokens, "tokens"))
    rate = float(pick("learning_rate", config.learning_rate, "learning_rate"))
    batch = int(pick("batch_tokens", config.batch_tokens, "batch_tokens"))
    tied = config.tie_embeddings if config.tie_embeddings is not None else choice.get("tie_embeddings", True)
    shape = ModelShape(
        **sizes,
        vocab_size=tokens.vocab_size,
        max_sequence_length=length,
        rope_theta=config.rope_theta,
        tie_embeddings=tied,
    )
    plan = _plan(
        total_tokens=total,
        batch_tokens=batch,
        sequence_length=length,
        schedule=Schedule(
            kind=config.schedule,
            learning_rate=rate,
            warmup_tokens=int(pick("warmup_tokens", config.warmup_tokens, "warmup_tokens")),
            decay_tokens=int(config.decay_share * total) if config.schedule == "wsd" else 0,
            final_ratio=config.final_ratio,
        ),
    )
    held_out = int(pick("validation_tokens_per_domain", config.validation_tokens_per_domain, VALIDATION))
    mixture = _mixture(config, choice)
    comparable = not any("(recipe)" in reason for reason in reasons.values()) and "predicted_loss" in choice
    comparable &= _same_mixture(mixture, choice.get("mixture"), tokens)
    if config.mixture:
        reasons["mixture"] = f"{mixture} ({'fit' if config.mixture == 'fit' else 'recipe'})"
    stable = config.schedule == "wsd" and config.decay_share == 0
    share = config.forecast_decay_share or float(choice.get("decay_share", 0.1))
    return Resolved(
        shape=shape,
        plan=plan,
        mixture=mixture,
        validation_tokens_per_domain=held_out,
        branch_share=share if stable and config.forecast_branch else None,
        predicted_loss=choice["predicted_loss"] if comparable else None,
        predicted_interval=choice.get("interval") if comparable else None,
        reasons=reasons,
    )


def _mixture(config: Config, choice: dict[str, Any]) -> dict[str, float] | None:
    """Weights of the domains; none for those of the tokens."""
    if config.mixture != "fit":
        return config.mixture
    if "mixture" not in choice:
        raise RecipeError("pretrain.mixture is `fit`, but the fit chose no mixture; set scaling.mixtures in the recipe")
    return choice["mixture"]


def _same_mixture(one: dict[str, float] | None, other: dict[str, float] | None, tokens: TokenFolder) -> bool:
    """Whether the run's mixture is the one that the law was measured on."""
    if one is None and other is None:
        return True
    own = tokens.shards("train").mixture
    weights = [own if mixture is None else mixture for mixture in (one, other)]
    shares = [{domain: weight / sum(each.values()) for domain, weight in each.items()} for each in weights]
    return all(abs(shares[0].get(domain, 0) - shares[1].get(domain, 0)) < 1e-5 for domain in set().union(*shares))


def _plan(**values: Any) -> Plan:
    try:
        return Plan(**values)
    except ValidationError as error:
        reason = "; ".join(problem["msg"] for problem in error.errors())
        raise RecipeError(f"pretrain: recipe and fit together give no sound plan: {reason}") from error


def _size(config: Config, name: str) -> int | None:
    return None if config.shape is None else getattr(config.shape, name)
