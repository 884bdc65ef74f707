"""An lm-eval task from a local file, a suite or lm-eval's registry → its scores for one model, with standard errors."""

import contextlib
import io
import logging
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import jinja2
from huggingface_hub import constants as hub
from lm_eval.api.registry import metric_registry
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from modelmill.tasks.errors import InputError, RecipeError, ResourceError
from modelmill.tasks.evaluate.adapter import SamplerLM
from modelmill.tasks.evaluate.config import HarnessTask
from modelmill.tasks.evaluate.task_code import ADVICE, without_code
from modelmill.tasks.suites.reader import Suite, load_suite, question_prompt

# Digits kept of a score: more than any interval resolves, fewer than batch shapes change.
DIGITS = 6
# Two-sided 95 % quantile of the normal distribution.
Z95 = 1.96


def harness_scores(lm: SamplerLM, task: HarnessTask) -> dict[str, Any]:
    """One task's scores: {metric: {value, stderr, low, high}}, the number of items, and which items were right.

    Raises:
        InputError: there is no such task, or it cannot be read.
        RecipeError: it would run a program, and the recipe does not allow that.
    """
    is_open = task.allow_code or task.source()[0] == "registry"
    guard = contextlib.nullcontext() if is_open else without_code()
    with offline(not task.hub), quiet_lm_eval(), guard, told_templates(task.task):
        loaded = load_tasks(task)
        tasks: dict[str, Any] = loaded["tasks"]
        for each in tasks.values():
            each.set_config(key="num_fewshot", value=task.num_fewshot)
            each.set_fewshot_seed(seed=1234)
        lm.needs_greedy = any(each.OUTPUT_TYPE == "loglikelihood" for each in tasks.values())
        if not task.allow_code and any(getattr(each, "UNSAFE_CODE", False) for each in tasks.values()):
            raise RecipeError(f"the lm-eval task {task.task!r} executes programs that the model writes; {ADVICE}")
        results: Any = evaluate(
            lm,
            loaded,
            limit=task.limit,
            bootstrap_iters=1000,
            log_samples=True,
            apply_chat_template=task.chat_template,
            confirm_run_unsafe_code=task.allow_code,
        )
    return {name: task_scores(results, name) for name in sorted(tasks)}


def task_scores(results: Any, name: str) -> dict[str, Any]:
    """The part of lm-eval's results that goes into the scorecard."""
    flat = results["results"][name]
    metrics: dict[str, Any] = {}
    for key, value in flat.items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        stderr = flat.get(f"{metric}_stderr,{filter_name}")
        entry: dict[str, float] = {"value": round(float(value), DIGITS)}
        if isinstance(stderr, (int, float)):
            low, high = float(value) - Z95 * float(stderr), float(value) + Z95 * float(stderr)
            entry |= {"stderr": round(float(stderr), DIGITS), "low": round(low, DIGITS), "high": round(high, DIGITS)}
        metrics[metric if filter_name == "none" else f"{metric} ({filter_name})"] = entry
    samples = results["samples"][name]
    items = {sample["doc_id"]: sample for sample in samples}
    main = next(iter(metrics), None)
    correct = [float(items[number].get(main, 0.0)) for number in sorted(items)] if main in samples[0] else []
    return {"metrics": metrics, "n": len(items), "main_metric": main, "correct": correct}


def load_tasks(task: HarnessTask) -> Any:
    """What lm-eval calls loaded tasks: {tasks, groups, group_map}."""
    kind, source = task.source()
    if kind == "suite":
        return TaskManager(include_defaults=False).load([suite_task(load_suite(source))])
    try:
        if kind == "file":
            manager = TaskManager(include_defaults=False, include_path=str(Path(source).parent))
            config = file_task(Path(source))
            if not task.hub:
                check_addresses(config, source)
            if not task.allow_code:
                check_metrics(config, source)
            return manager.load([config])
        return TaskManager().load([source])
    except (KeyError, ValueError, TypeError, FileNotFoundError) as error:
        raise InputError(
            f"lm-eval cannot load the task {task.task!r}: {error}. Give a shipped suite's name, a .jsonl suite, an "
            "lm-eval .yaml file, or a name that `lm_eval ls tasks` lists."
        ) from error
    except ConnectionError as error:
        raise ResourceError(
            f"the task {task.task!r} needs a data set that is not on this machine ({error}); set `hub: true` in the "
            "recipe to let lm-eval fetch it, or use a local file"
        ) from error


def suite_task(suite: Suite) -> dict[str, Any]:
    """An lm-eval task over a suite's items: multiple choice by log-likelihood, otherwise one line, matched exactly."""
    rows = [
        {"question": item.question, "choices": list(item.choices), "answer": item.answer, "family": item.family}
        for item in suite.items
    ]
    shared = {
        "task": suite.name,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        # Functions, because lm-eval compiles a Jinja template again for every item.
        "doc_to_text": lambda row: question_prompt(row["question"]),
        "doc_to_target": operator.itemgetter("answer"),
    }
    if suite.kind == "multiple_choice":
        return shared | {
            "output_type": "multiple_choice",
            "doc_to_choice": operator.itemgetter("choices"),
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
    return shared | {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 64},
        "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
    }


def file_task(path: Path) -> dict[str, Any]:
    """An lm-eval task file as a configuration; its `data_files` are looked up beside it, not in the current folder."""
    config: dict[str, Any] = load_yaml(path.resolve())
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if files is not None:
        config["dataset_kwargs"] = config["dataset_kwargs"] | {"data_files": beside(files, path.resolve().parent)}
    return config


def check_metrics(config: dict[str, Any], source: str) -> None:
    """Refuse metrics that lm-eval would look for elsewhere, as programs to download or in the current folder."""
    names = [each.get("metric") for each in config.get("metric_list") or ()]
    if unknown := [name for name in names if name not in metric_registry.keys()]:  # noqa: SIM118 - not a mapping
        raise InputError(
            f"{source} names metrics that lm-eval itself has not: {unknown}; take one of its own, or {ADVICE}"
        )


def check_addresses(config: dict[str, Any], source: str) -> None:
    """Refuse data on servers: the libraries would fetch them even when told to stay off the network."""
    if address := next(addresses([config.get("dataset_path"), config.get("dataset_kwargs")]), None):
        raise InputError(
            f"{source} reads its data from {address}, and the recipe keeps this task off the network: fetch the file "
            "and name it there, or set `hub: true` for this task"
        )


def addresses(value: Any) -> Iterator[str]:
    """Every string in nested lists and dictionaries that names a place on a server."""
    if isinstance(value, str):
        yield from [value] if "://" in value else []
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from addresses(item)


def beside(files: Any, folder: Path) -> Any:
    """The same names with relative local paths made absolute, through any nesting of lists and dictionaries."""
    if isinstance(files, dict):
        return {name: beside(value, folder) for name, value in files.items()}
    if isinstance(files, list):
        return [beside(value, folder) for value in files]
    return files if "://" in files else str(folder / files)


@contextlib.contextmanager
def told_templates(name: str) -> Iterator[None]:
    """Say whose template cannot be rendered. lm-eval renders some when it loads a task, and the others as it asks."""
    try:
        yield
    except jinja2.TemplateError as error:
        raise InputError(f"a template of the lm-eval task {name!r} cannot be rendered: {error}") from error


@contextlib.contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """Keep the Hugging Face libraries off the network; their environment variables are only read at import."""
    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = wanted
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """lm-eval's logs and progress bars tell nothing that the journal and the scorecard do not."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
