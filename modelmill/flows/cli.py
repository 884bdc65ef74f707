"""The `mill` command: words typed in a terminal → runs, plans, tables and servers.

Imports of the heavy libraries stay inside the commands that need them, so that `mill --help` and `mill plan` are quick.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from modelmill.flows.boundary import exit_code
from modelmill.flows.environment import mill_home, prepare_environment
from modelmill.services.scratch import keep_temporary_files
from modelmill.services.terminal import PlainConsole
from modelmill.tasks.errors import RecipeError
from modelmill.tasks.files import write_output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = PlainConsole()
errors = PlainConsole(stderr=True)

RecipeArgument = Annotated[str, typer.Argument(help="A recipe's name in configs/, or the path of a recipe file.")]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="A recipe; by default the one that ran last.")]
StageArgument = Annotated[str, typer.Argument(help="The id of a stage of the line.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="STAGE.KEY=VALUE", help="Override a setting.")]
ComputeOption = Annotated[
    str | None, typer.Option("--compute", help="A compute file's name in configs/compute/, or a path.")
]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME[:PORT]", help="Also answer under this name, as through a tunnel; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback()
def prepare() -> None:
    """An LLM factory: one rerunnable line from a raw web crawl to an aligned, evaluated, servable model."""
    prepare_environment(mill_home())
    keep_temporary_files(mill_home())


def main() -> None:
    """Run a command; an error that a user can act on is one message and its exit code, without a traceback."""
    sys.exit(exit_code(lambda: app(standalone_mode=False), errors))


@app.command()
def run(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name in configs/, or the path of a recipe file.")
    ] = None,
    overrides: SetOption = None,
    from_stage: Annotated[
        str | None, typer.Option("--from", help="Take all stages before this one as they are.")
    ] = None,
    to_stage: Annotated[str | None, typer.Option("--to", help="Stop after this stage.")] = None,
    force: Annotated[
        list[str] | None, typer.Option("--force", help="Build this stage even if nothing changed.")
    ] = None,
    compute: ComputeOption = None,
    from_mlflow: Annotated[str | None, typer.Option("--from-mlflow", help="Take the recipe of an MLflow run.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a line; stages whose key is unchanged are reused, interrupted ones are continued."""
    from modelmill.flows.commands import run_and_report

    run_and_report(
        console, recipe, overrides or [], from_stage, to_stage, force or [], compute, from_mlflow, as_json=as_json
    )


@app.command()
def rerun(
    stage: StageArgument, recipe: RecipeOption = None, overrides: SetOption = None, compute: ComputeOption = None
) -> None:
    """Run one stage again (an interrupted or failed one continues), then what follows from it."""
    from modelmill.flows.commands import rerun_stage

    rerun_stage(console, stage, recipe, overrides or [], compute)


@app.command()
def plan(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name or path; by default the one that ran last.")
    ] = None,
    overrides: SetOption = None,
    force: Annotated[list[str] | None, typer.Option("--force", help="Plan as if this stage were forced.")] = None,
    compute: ComputeOption = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the recipe with every default filled in.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the training stages over tokens instead: .png, .svg or .html."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what each stage would do (reuse, resume, build), why, and the time and cost to expect."""
    from modelmill.flows import inspection

    inspection.show_plan(console, recipe, overrides or [], force or [], compute, resolved, as_json, plot)


@app.command()
def show(
    stage: Annotated[str | None, typer.Argument(help="The id of a stage; without it, all of them.")] = None,
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the stages of the newest run, or one stage with its counts, metrics, files and summary."""
    from modelmill.flows import inspection

    inspection.show_stages(console, stage, recipe, as_json)


@app.command()
def why(
    stage: StageArgument, recipe: RecipeOption = None, overrides: SetOption = None, as_json: JsonOption = False
) -> None:
    """Say exactly why a stage would run, or not, with every difference from its nearest earlier build."""
    from modelmill.flows import inspection

    inspection.show_why(console, stage, recipe, overrides or [], as_json)


@app.command()
def accept(
    stage: StageArgument,
    reason: Annotated[str, typer.Option("--why", help="Why the changed code gives the same output; it is recorded.")],
    recipe: RecipeOption = None,
    overrides: SetOption = None,
) -> None:
    """Declare a change of code equivalent: the stage's artifact is reused under its new key."""
    from modelmill.flows import inspection

    inspection.accept_stage(console, stage, reason, recipe, overrides or [])


@app.command()
def gc(
    keep: Annotated[str, typer.Option(metavar="TIME", help="Keep what is younger, such as 12h, 14d or 0.")] = "14d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove artifacts and unfinished work that nothing needs: no recipe's newest or newest complete run, no alias."""
    from modelmill.flows import housekeeping

    housekeeping.collect_garbage(console, keep, dry_run, yes, as_json)


@app.command()
def verify(
    recipe: RecipeOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Check all artifacts of this home.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Restore what can be restored, move the rest away.")] = False,
    rebuild: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Build this stage once more and compare; nothing is published.")
    ] = None,
    overrides: SetOption = None,
    compute: ComputeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the newest run's artifacts with their manifests, byte by byte, and all manifests and records."""
    if rebuild is not None:
        if everything or repair:
            raise RecipeError(
                "--rebuild STAGE builds and compares that stage alone: give --all or --repair in a run of its own"
            )
        from modelmill.flows.rebuild import verify_rebuild

        verify_rebuild(console, rebuild, recipe, overrides or [], compute, as_json)
        return
    from modelmill.flows import housekeeping

    housekeeping.verify_home(console, recipe, everything, repair, as_json)


@app.command()
def apply(
    step: Annotated[str, typer.Argument(help="extract, language, clean, dedup or tokenize.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="JSONL or Parquet by suffix; extract also takes WARC.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="JSONL or Parquet by suffix.")],
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Use one step of the line alone, on files of your own."""
    from modelmill.flows import commands

    commands.apply_alone(console, step, source, target, recipe, overrides or [], workers, as_json)


@app.command()
def report(
    recipe: RecipeOption = None,
    output: Annotated[Path | None, typer.Option(help="The HTML file to write; by default under MILL_HOME.")] = None,
) -> None:
    """Write one self-contained HTML page about the newest run."""
    from modelmill.flows import commands

    console.print(str(commands.make_report(recipe, output)), soft_wrap=True)


@app.command()
def look(
    stage: Annotated[str, typer.Argument(help="The id of a data stage: ingest, clean, dedup or curate.")],
    recipe: RecipeOption = None,
    reason: Annotated[str | None, typer.Option(help="Only rows that were dropped for this reason.")] = None,
    domain: Annotated[str | None, typer.Option(help="Only pages of this host and of hosts below it.")] = None,
    language: Annotated[str | None, typer.Option(help="Only documents of this language code.")] = None,
    find: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only rows with this in text, title or address.")
    ] = None,
    identifier: Annotated[
        str | None, typer.Option("--id", help="Follow the document with this id, or address, through all data stages.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, max=200, help="Documents to show in each section.")] = 5,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Which random documents; the same seed shows the same.")
    ] = 0,
    output: Annotated[Path | None, typer.Option(help="The HTML file to write; by default under MILL_HOME.")] = None,
    as_text: Annotated[bool, typer.Option("--text", help="Print to the terminal instead of writing a page.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a page on what a data stage kept, dropped and edited: counts, examples, duplicates, one document."""
    from modelmill.flows.look import command
    from modelmill.flows.look.rows import Filters

    filters = Filters(reason, domain, language, find)
    if identifier is not None:
        command.look_for(console, stage, recipe, identifier, filters, output, as_text, as_json)
    else:
        command.look(console, stage, recipe, filters, examples, seed, output, as_text, as_json)


@app.command()
def chat(
    recipe: RecipeOption = None,
    model: Annotated[Path | None, typer.Option(help="A Hugging Face folder; by default the newest release.")] = None,
    url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server to talk to instead; MILL_API_KEY is its key.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
) -> None:
    """Talk to the released model in the terminal."""
    from modelmill.flows import commands

    commands.start_chat(recipe, model, url, system)


@app.command()
def serve(
    recipe: RecipeOption = None,
    model: Annotated[Path | None, typer.Option(help="A Hugging Face folder; by default the newest release.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the API and the chat page.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="MILL_API_KEY",
            help="Key that clients must send. Set the variable: others can see a command's options.",
        ),
    ] = None,
    allow_host: AllowHostOption = None,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="Longest body of a request.")] = 1.0,
    max_replies: Annotated[int, typer.Option(min=1, help="Most replies of a request: n (or best_of) a prompt.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="Most seconds that a request may take.")] = 600.0,
) -> None:
    """Serve the released model: an OpenAI-compatible API and a chat page."""
    from modelmill.flows import commands
    from modelmill.services.chat_page import Access
    from modelmill.services.engine_proxy import Limits

    access = Access(host, api_key, tuple(allow_host or ()))
    commands.start_server(recipe, model, port, access, Limits(max_body_mb, max_replies, timeout))


@app.command()
def up(
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's server.")] = 5000,
    ray_port: Annotated[int, typer.Option(help="Port of the Ray head.")] = 6379,
    allow_host: AllowHostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start Prefect, MLflow, Ray and the deployments on this machine."""
    from modelmill.flows import commands

    commands.start_stack(console, (prefect_port, mlflow_port, ray_port), allow_host or [], as_json)


@app.command()
def down() -> None:
    """Stop what `mill up` started."""
    from modelmill.flows import commands

    commands.stop_stack(console)


@app.command("home")
def home_of(
    share: Annotated[
        str | None, typer.Option("--share", metavar="GROUP", help="Open the home to this group of the machine.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Close the home to all but its owner.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where the home is, who may use it and what it holds; or share it with a group."""
    from modelmill.flows.home import change_home, show_home

    if share is not None or private:
        change_home(console, share, private)
    show_home(console, as_json)


@app.command("dry-run")
def dry_run(
    layout: Annotated[str, typer.Argument(help="A layout's name in configs/layouts/, or the path of a layout file.")],
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Say what each of many accelerators would hold, send and compute, without having one."""
    from modelmill.flows.dry_run import dry_run as show

    show(console, layout, output)


bench = typer.Typer(help="Measure this installation.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("line")
def bench_line(
    recipe: RecipeArgument = "demo",
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Run a recipe in an empty home, then again: seconds and memory a stage, overhead, no-op seconds."""
    from modelmill.flows.benches.line import bench_line as measure

    print_figures(measure(recipe, console), output)


@bench.command("data")
def bench_data(
    steps: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these steps; a wrong name lists them. All by default.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="Pages for extraction: Parquet with html, and WCXB's labels if it has them.")
    ] = None,
    documents: Annotated[
        Path | None, typer.Option(help="JSONL or Parquet with text for the other steps; by default documentation.")
    ] = None,
    size: Annotated[float, typer.Option(min=0.01, help="Megabytes of text to measure on.")] = 4.0,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Measure each data step beside its peers on one input: rates per CPU-second, and quality."""
    from modelmill.flows.benches.data import bench_data as measure

    measure(console, steps, labelled, documents, size, output)


@bench.command("dedup")
def bench_dedup(
    size: Annotated[float, typer.Option(min=0.1, help="Megabytes of generated text.")] = 100.0,
    times: Annotated[int, typer.Option(min=1, help="How many times as much the larger run has.")] = 10,
    workers: Annotated[
        list[int] | None, typer.Option(help="Ray workers; may be repeated. 1, 2 and 4 by default.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Raylets of one core each in one more run.")] = 2,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Measure dedup as data, workers and nodes grow: rates, memory, and whether the result is the same bytes."""
    from modelmill.flows.benches.dedup_scale import bench_dedup as measure

    measure(console, size, times, workers or [1, 2, 4], nodes, output)


@bench.command("train")
def bench_train(
    cases: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these cases; a wrong name lists them. All by default.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each trainer; the median counts.")] = 3,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    litgpt: Annotated[
        Path | None, typer.Option(metavar="PYTHON", help="Also run litgpt, by the Python of an environment with it.")
    ] = None,
) -> None:
    """Measure training beside transformers' Trainer and a plain loop: tokens per CPU-second, or per second and GPU."""
    from modelmill.flows.benches.train import bench_train as measure

    measure(console, cases, device, rounds, output, litgpt)


@bench.command("saving")
def bench_saving(
    rounds: Annotated[int, typer.Option(min=1, help="States that each way writes; the median counts.")] = 5,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Measure how long training stands still for a training state, beside torch's own ways of writing one."""
    from modelmill.flows.benches.saving import bench_saving as measure

    measure(console, rounds, output)


@bench.command("scaling")
def bench_scaling(
    texts: Annotated[
        Path | None,
        typer.Option(help="Also forecast a run from a sweep, on a folder of <domain>_<name>.jsonl[.gz] with text."),
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Keeps the forecast's artifacts; by default a folder in MILL_HOME.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Proxies of the sweep at a time.")] = 2,
    output: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Measure fits of planted laws beside scipy's, proxies an hour beside fresh processes, and a forecast if asked."""
    from modelmill.flows.benches.scaling import bench_scaling as measure

    measure(console, texts, home or mill_home() / "bench-forecast", workers, output)


def print_figures(figures: dict[str, Any], output: Path | None) -> None:
    """Figures as JSON on the terminal, and in a file."""
    text = json.dumps(figures, indent=1)
    console.print_json(text)
    if output:
        write_output(output, text + "\n")


if __name__ == "__main__":
    main()
