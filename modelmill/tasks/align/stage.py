"""A checkpoint and its tokens → a chat model, every step's model and its accuracy on held-out verified problems."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelmill.tasks.align.chat import open_chat_format
from modelmill.tasks.align.config import Config
from modelmill.tasks.align.contamination import contamination_report
from modelmill.tasks.align.desk import Desk, Step
from modelmill.tasks.align.rounds import run_instructions, run_round
from modelmill.tasks.align.supervised import batch_rows
from modelmill.tasks.curate.decontaminate import BY_WORDS
from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import atomic_path, write_json
from modelmill.tasks.lm.model import read_shape
from modelmill.tasks.lm.parallel.layout import Layout, check_layout
from modelmill.tasks.stage import StageContext, StageResult


def run(context: StageContext) -> StageResult:
    """Instructions first, then the rounds. `model/` is a copy of the chosen step's model.

    Raises:
        ContractError: the chat template cannot be trained on, or the loss mask covers too much or too little.
        RecipeError: the compute file's layout cannot train the model, or its processes cannot share the steps' rows.
    """
    config: Config = context.config
    check_steps(config, context.pool.layout, context.latest("checkpoint").path / "model")
    tokenizer = context.latest("tokens").path / "tokenizer"
    desk = Desk(context, open_chat_format(tokenizer), tokenizer)
    steps = [desk.step("base", context.latest("checkpoint").path / "model", {})]
    steps.append(run_instructions(desk, steps[0]))
    for number in range(1, config.rounds + 1):
        context.journal.progress("align", len(steps), 2 + 2 * config.rounds, "steps")
        steps.extend(run_round(desk, number, choose_policy(config, steps)))
    final = choose_policy(config, steps)
    with atomic_path(context.output / "model") as temporary:
        shutil.copytree(final.model, temporary)
    write_json(context.output / "steps.json", [_entry(step, step is final) for step in steps])
    removed = [row | {"drawn_for": purpose} for purpose, rows in sorted(desk.removed.items()) for row in rows]
    write_json(context.output / "contamination.json", contamination_report(desk.suites, removed))
    write_json(context.output / "contract.json", {"chat_template": desk.chat.template_digest, "final": final.name})
    return _result(config, steps, final, removed)


def check_steps(config: Config, layout: Layout, model: Path) -> None:
    """Refuse, before anything is sampled or trained, a layout on which some step could not run.

    Raises:
        RecipeError: it cannot hold the model in the folder, or its processes cannot share the rows of a step.
    """
    shape = read_shape(model)
    check_layout(layout, shape)
    steps = {"supervised": config.supervised, "rejection": config.rejection}
    wanted = [(f"{name}.sequence_length", step.sequence_length, layout.sharing_size) for name, step in steps.items()]
    # How many rows of how many sequences make a batch.
    sizes = {f"{name}.batch_tokens / sequence_length": (batch_rows(step), 1) for name, step in steps.items()}
    sizes |= {f"{step}.batch_pairs": (getattr(config, step).batch_pairs, 2) for step in ("reward", "preference")}
    if shape.experts:
        # A row that two processes have would count twice in the loads of the experts.
        wanted += [(name, rows, layout.data_size) for name, (rows, _) in sizes.items()]
    for name, size, sharing in wanted:
        if size % sharing:
            raise RecipeError(
                f"align.{name} is {size}, and the layout has {sharing} processes that share it; expected a multiple of "
                f"{sharing}: change the recipe or the compute file's layout"
            )
    if layout.pipeline == 1:
        return
    for name, (rows, sequences) in sizes.items():
        try:
            layout.stages.num_micro_batches(layout.rows_each(rows), layout.pipeline, sequences)
        except RecipeError as error:
            raise RecipeError(f"align.{name} is {rows}: {error}") from None


def choose_policy(config: Config, steps: Sequence[Step]) -> Step:
    """The trained step that goes on: the newest, or the most accurate on validation problems (the newest of equals)."""
    if config.continue_from == "last":
        return steps[-1]
    return max(enumerate(steps[1:]), key=lambda each: (each[1].validation["accuracy"], each[0]))[1]


def _entry(step: Step, final: bool) -> dict[str, Any]:
    training = {key: value for key, value in step.training.items() if key != "curve"}
    validation = step.validation["accuracy"]
    return {"step": step.name} | step.test | {"validation": validation, "training": training, "final": final}


def _result(config: Config, steps: Sequence[Step], final: Step, removed: Sequence[dict[str, Any]]) -> StageResult:
    table = ["| step | accuracy | 95 % interval | validation | malformed |", "|---|---|---|---|---|"]
    for step in steps:
        test = step.test
        table.append(
            f"| {step.name}{' (final)' if step is final else ''} | {test['accuracy']:.3f} "
            f"| {test['low']:.3f} - {test['high']:.3f} | {step.validation['accuracy']:.3f} | {test['malformed']:.3f} |"
        )
    metrics = {f"accuracy/{step.name}": step.test["accuracy"] for step in steps}
    if config.suites:
        metrics["contaminated_problems"] = float(len(removed))
    metrics |= {"accuracy_base": steps[0].test["accuracy"], "accuracy_final": final.test["accuracy"]}
    return StageResult(
        rows_in=config.instructions + config.rounds * config.sampling.prompts,
        rows_out=sum(int(step.training.get("examples", 0)) for step in steps),
        unit="problems",
        metrics=metrics,
        summary="\n".join(
            [*table, "", f"{final.test['n']} held-out problems, greedy decoding.", *_checked(config, removed)]
        ),
    )


def _checked(config: Config, removed: Sequence[dict[str, Any]]) -> list[str]:
    """What the check against the suites found."""
    if not config.suites:
        return []
    exact = sum(row["match"] == BY_WORDS for row in removed)
    return [
        "",
        f"Checked against {len(config.suites)} evaluation suites: {len(removed)} problems left out, {exact} of them "
        "word by word (contamination.json lists them).",
    ]
