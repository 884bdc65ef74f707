"""The path of Prefect's SQLite database → the database, whole and of this Prefect's version."""

import asyncio
from pathlib import Path

import prefect.server.database
from alembic.script import ScriptDirectory
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import provide_database_interface, temporary_database_config

from modelmill.services.databases import is_there, make_whole, move_aside, num_rows, schema_version, schema_words
from modelmill.services.locks import locked
from modelmill.tasks.errors import ResourceError


def prepare_prefect(path: Path) -> None:
    """Make Prefect's database, or bring it to this Prefect's version; one left half-made without runs is made anew.

    Raises:
        ResourceError: it is damaged.
    """
    with locked(path.with_name(f".{path.name}.lock")):
        if not is_there(path):
            make_whole(path, _make_prefect)
        elif schema_version(path) != _prefect_head():
            try:
                _make_prefect(path)
            except Exception as error:
                if num_rows(path, "flow_run") != 0:
                    raise ResourceError(
                        f"Prefect's database {path} {schema_words(schema_version(path))} and cannot be upgraded "
                        f"({str(error).splitlines()[0]}). Move it away, and the next run makes a new one (artifacts "
                        "and keys do not need it)."
                    ) from error
                move_aside(path)
                make_whole(path, _make_prefect)


def _make_prefect(path: Path) -> None:
    async def create() -> None:
        interface = provide_database_interface()
        await interface.create_db()
        await (await interface.engine()).dispose()

    with temporary_database_config(AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")):
        asyncio.run(create())


def _prefect_head() -> str | None:
    folder = Path(prefect.server.database.__file__).parent / "_migrations"
    scripts = ScriptDirectory(str(folder), version_locations=[str(folder / "versions" / "sqlite")])
    return scripts.get_current_head()
