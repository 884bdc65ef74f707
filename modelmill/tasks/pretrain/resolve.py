"""The recipe, the fit's choice and the tokens → the shape and the plan of the run, with who decided each value."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from modelmill.tasks.errors import RecipeError
from modelmill.tasks.lm.data import TokenFolder
from modelmill.tasks.lm.plan import Plan
from modelmill.tasks.lm.shape import ModelShape
from modelmill.tasks.pretrain.config import SIZES, Config

Model = TypeVar("Model", Plan, ModelShape)
VALIDATION = "validation_tokens_per_domain"
_SCHEDULE = ("decay_shape", "final_ratio", "cosine_steps", "milestones", "phases")


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


@dataclass(frozen=True)
class Picked:
    """Values of the recipe where it gives them, else of the fit, and who gave each."""

    config: Config
    choice: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    def value(self, name: str, given: Any, key: str) -> Any:
        """Raises RecipeError where neither has it."""
        if given is None and key not in self.choice:
            raise RecipeError(f"pretrain.{name} is not set and the fit's choice has no {key!r}; set it in the recipe")
        self.reasons[name] = f"{given} (recipe)" if given is not None else f"{self.choice[key]} (fit)"
        return self.choice[key] if given is None else given

    def field(self, name: str) -> Any:
        return self.value(name, getattr(self.config, name), name)


def resolve(config: Config, choice: dict[str, Any], tokens: TokenFolder) -> Resolved:
    """Recipe values first, then the fit's. The forecast counts only if nothing that it rests on was overridden."""
    picked = Picked(config, choice)
    plan = resolve_plan(picked)
    shape = resolve_shape(picked, plan, tokens.vocab_size)
    held_out = int(picked.field(VALIDATION))
    mixture = _mixture(config, choice)
    reasons = picked.reasons
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


def resolve_shape(picked: Picked, plan: Plan, vocab_size: int) -> ModelShape:
    """Sizes of the recipe or the fit; positions for the longest row that is trained on."""
    config, given = picked.config, {} if picked.config.shape is None else picked.config.shape.values()
    sizes = {name: picked.value(name, given.get(name), name) for name in SIZES}
    if given.get("experts"):
        picked.reasons["experts"] = f"{given['experts'].num_routed} (recipe)"
    tied = given.get("tie_embeddings", picked.choice.get("tie_embeddings", True))
    values = (
        given
        | sizes
        | {
            "vocab_size": vocab_size,
            "max_sequence_length": max(plan.num_rows),
            "rope_theta": config.rope_theta or given.get("rope_theta", 10_000.0),
            "tie_embeddings": tied if config.tie_embeddings is None else config.tie_embeddings,
        }
    )
    return _sound(ModelShape, values, "model")


def resolve_plan(picked: Picked) -> Plan:
    """Tokens, batch, rows and learning rate; what the recipe leaves open is the fit's.

    Raises:
        RecipeError: something is in neither, or they do not go together.
    """
    config = picked.config
    length = int(picked.field("sequence_length"))
    planned = sum(phase.tokens for phase in config.phases) or config.total_tokens
    total = int(picked.value("total_tokens", planned, "tokens"))
    ramps = {name: getattr(config, name) for name in ("batch_ramp", "sequence_ramp", "rope_ramp", "mixture_ramp")}
    picked.reasons.update({name: f"{ramp} (recipe)" for name, ramp in ramps.items() if ramp})
    schedule = {
        "kind": config.schedule,
        "learning_rate": float(picked.field("learning_rate")),
        "decay_tokens": int(config.decay_share * total) if config.schedule == "wsd" else 0,
        **{name: getattr(config, name) for name in _SCHEDULE},
    }
    if config.warmup_steps:
        schedule["warmup_steps"] = picked.field("warmup_steps")
    else:
        schedule["warmup_tokens"] = int(picked.field("warmup_tokens"))
    values = {
        "total_tokens": total,
        "batch_tokens": int(picked.field("batch_tokens")),
        "sequence_length": length,
        "schedule": schedule,
        **ramps,
    }
    return _sound(Plan, values, "plan")


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


def _sound(kind: type[Model], values: dict[str, Any], what: str) -> Model:
    try:
        return kind(**values)
    except ValidationError as error:
        reason = "; ".join(problem["msg"] for problem in error.errors())
        raise RecipeError(f"pretrain: recipe and fit together give no sound {what}: {reason}") from error
