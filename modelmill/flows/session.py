"""A request → the open line that the flows share: recipe, compute, lock, and the observers of Prefect and MLflow."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from prefect import get_client, tags
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from modelmill.flows.environment import mill_home
from modelmill.flows.observers import StageStarted
from modelmill.flows.pages import PrefectObserver, claim_flow_run, line_tags
from modelmill.flows.recipe import Line, load_compute
from modelmill.flows.requests import Request
from modelmill.flows.runner import Session
from modelmill.flows.start import HANDED
from modelmill.services.compute import Compute
from modelmill.services.lines import line_lock
from modelmill.services.stack import stack_environment
from modelmill.services.store import Store
from modelmill.services.tracking import LineTracking
from modelmill.tasks.errors import ResourceError

SKIPPED = "a run of this recipe is under way in this home, and when_busy says skip"


_OPEN: ContextVar[Session | None] = ContextVar("open_line", default=None)


def current_line() -> Session | None:
    """The line that is open in this flow run or in one above it."""
    return _OPEN.get()


@contextlib.contextmanager
def open_line(
    request: Request, line: Line, force: Sequence[str], stage_ids: Sequence[str] = ()
) -> Iterator[Session | None]:
    """Yield the line that is open already, or open it; None when it is busy and the request says skip.

    `stage_ids` are what the caller will go through, for the progress that the line's page shows.
    """
    opened = current_line()
    if opened is not None:
        yield opened
        return
    for stage_id in force:
        line.node(stage_id)
    home = mill_home()
    with _line_lock(home, line.name, request.when_busy) as is_free:
        if not is_free:
            yield None
            return
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(get_client(sync_client=True))
            claim_flow_run(client, home, line.name)
            stack.enter_context(tags(*line_tags(home, line.name)))
            page = PrefectObserver(client, stage_ids, Store(home))
            yield stack.enter_context(_services(request, line, home, force, stage_ids, page))


@contextlib.contextmanager
def _services(
    request: Request, line: Line, home: Path, force: Sequence[str], stage_ids: Sequence[str], page: PrefectObserver
) -> Iterator[Session]:
    for name, value in stack_environment(home).items():
        os.environ.setdefault(name, value)  # where the stack runs, its Ray is joined
    compute = Compute(load_compute(request.compute or line.compute), home)
    if compute.config.device == "cuda" and any(line.node(stage).spec.on_device for stage in stage_ids):
        compute.device()  # refused now, not after hours of the data stages
    handed = HANDED.get()
    links = page.links
    if handed.has_page and flow_run.ui_url:
        links["prefect"] = flow_run.ui_url
    tracking = LineTracking(home, line.name, line.resolved(), links, _attempt(), f"mill run {request.recipe}")
    failure = _Failure()
    observers = [*handed.observers, page, tracking, failure]
    session = Session(line, home, compute, observers, frozenset(force), links)
    with contextlib.ExitStack() as ending:  # all of it, though a step of it fails: with a full disk for one
        ending.callback(lambda: tracking.finish(failure.error))
        ending.callback(lambda: page.finish(failure.error))
        ending.callback(session.close)
        ending.callback(_record, session, failure)
        ending.callback(_OPEN.reset, _OPEN.set(session))
        try:
            yield session
        except BaseException as error:
            failure.error = failure.error or error
            raise


def _record(session: Session, failure: "_Failure") -> None:
    try:
        session.record(failure.stage)
    except ResourceError:
        if failure.error is None:  # else what stopped the stage is to be raised, not that the full disk takes no record
            raise


def _attempt() -> str:
    """Prefect's Retry continues the flow run, and with it the MLflow run."""
    return str(flow_run.id or time.time_ns())


@dataclass
class _Failure:
    """An observer that remembers which stage failed, for the record of the line."""

    error: BaseException | None = None
    stage: tuple[str, str] | None = field(default=None)

    def stage_started(self, event: StageStarted) -> None:
        self.error = self.stage = None

    def stage_event(self, stage_id: str, event: dict[str, Any]) -> None: ...

    def stage_finished(self, stage_id: str, manifest: dict[str, Any], artifact: Path, reused: bool) -> None:
        self.error = self.stage = None

    def stage_failed(self, stage_id: str, error: BaseException) -> None:
        self.error, self.stage = error, (stage_id, f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _line_lock(home: Path, name: str, when_busy: str) -> Iterator[bool]:
    """Hold the lock of one recipe in one home, which the kernel releases if this process dies; False: busy, skip."""
    path = line_lock(home, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            if when_busy == "skip":
                get_run_logger().warning("recipe %s is being run by %s; this run is skipped", name, holder)
                yield False
                return
            get_run_logger().warning("recipe %s is being run by %s; waiting for its end", name, holder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.write(json.dumps({"flow_run": flow_run.name, "process": os.getpid(), "since": since}))
        lock.flush()
        yield True


def _holder(lock: TextIO) -> str:
    lock.seek(0)
    try:
        holder = json.loads(lock.read())
        return f"flow run {holder['flow_run']} (process {holder['process']}, since {holder['since']})"
    except (ValueError, TypeError, KeyError):
        return "another process"
