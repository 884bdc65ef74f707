"""SQLite databases made under another name and renamed into place when whole; of them MLflow's.

A process that is killed while it makes one leaves nothing that a later one would take for a database, and of several
that start at once in a new home one makes it and the others wait.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from modelmill.services.locks import locked
from modelmill.tasks.errors import ResourceError
from modelmill.tasks.files import atomic_path, raise_if_disk_full

_LOGGER = logging.getLogger(__name__)
_BESIDE = ("-wal", "-shm", "-journal")  # files that SQLite keeps next to a database


def mlflow_database(home: Path) -> str:
    """The embedded MLflow database."""
    return f"sqlite:///{home / 'mlflow.db'}"


def mlflow_artifacts(home: Path) -> str:
    """Where runs of the embedded MLflow keep their files."""
    return (home / "mlartifacts").as_uri()


def mlflow_lock(home: Path) -> Path:
    """Held while the embedded MLflow database may be created: two processes that create it at once both fail."""
    return home / "locks" / "mlflow.lock"


def prepare_mlflow(home: Path) -> None:
    """Make the embedded MLflow database if there is none; one that was left half-made without runs is made anew.

    Raises:
        ResourceError: the database is of another version of MLflow, or damaged.
    """
    path = home / "mlflow.db"
    with locked(mlflow_lock(home)):
        if not is_there(path):
            make_whole(path, _make_mlflow)
            return
        from mlflow.store.db.utils import _get_latest_schema_revision

        found, expected = schema_version(path), _get_latest_schema_revision()
        if found == expected:
            return
        if num_rows(path, "runs", "registered_models") == 0:
            move_aside(path)
            make_whole(path, _make_mlflow)
            return
    raise ResourceError(
        f"MLflow's database {path} {schema_words(found)}; this MLflow needs schema {expected}. Of another version: "
        f"back it up, then `mlflow db upgrade sqlite:///{path}`. Damaged: move it away, and the next run makes a new "
        "one (artifacts and keys do not need it)."
    )


def _make_mlflow(path: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()


def make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Let `make` write a database at a temporary path, then give it its name. The caller holds the database's lock."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        leftover.unlink()
    for suffix in _BESIDE:  # of a database that was removed by hand: SQLite would play it into the new one
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    try:
        with atomic_path(path) as temporary:
            make(temporary)
            _settle(temporary)
    except Exception as error:
        raise_if_disk_full(error, path)
        if "disk is full" in str(error):
            raise ResourceError(
                f"the database {path} cannot be made: its disk is full. Free some space, then run the same command."
            ) from error
        if isinstance(error, sqlite3.OperationalError):
            raise ResourceError(f"the database {path} cannot be made: {str(error).splitlines()[0]}") from error
        raise


def _settle(path: Path) -> None:
    """Write everything into the one file that is renamed."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    for suffix in _BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def is_there(path: Path) -> bool:
    """Whether a database has anything in it."""
    return path.exists() and path.stat().st_size > 0


def schema_version(path: Path) -> str | None:
    """The schema of a database; None when it has none, or cannot be read."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None
    return None


def schema_words(version: str | None) -> str:
    """A schema in a sentence."""
    return f"has schema {version}" if version else "has no schema that can be read"


def database_damage(path: Path) -> str | None:
    """What SQLite says against a database; None of one that is whole, is not there, or cannot be opened just now."""
    if not is_there(path):
        return None
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=60)) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if answer == "ok" else f"the database is damaged ({answer.splitlines()[0]})"


def num_rows(path: Path, *tables: str) -> int | None:
    """Rows in tables, of which some may not be there; None when the database cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            counts = [connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in known & set(tables)]
            return sum(count for (count,) in counts)
    except sqlite3.Error:
        return None


def move_aside(path: Path) -> None:
    """Keep what lies there under another name: it holds no run, and a person may want to look at it."""
    aside = path.with_name(f"{path.name}.half-made-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    path.rename(aside)
    for suffix in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    _LOGGER.warning("%s was left half-made and held no run; it is %s now, and a new one is made", path, aside.name)
