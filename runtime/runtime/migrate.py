"""Migrations: one schema, one version table and one folder of revisions per service.

Alembic without its env.py files: the environment is the same for all, so it is code here.
A service's revisions lie in `<package>/migrations/versions`; set-up runs them as the
service's own role, so that what they create belongs to it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine

VERSION_TABLE = "alembic_version"


def _scripts(package: str) -> tuple[Config, ScriptDirectory]:
    folder = Path(str(files(package))) / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("version_locations", str(folder / "versions").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")  # a path may hold spaces, colons and commas
    return config, ScriptDirectory.from_config(config)


async def upgrade(engine: AsyncEngine, package: str, schema: str) -> tuple[str | None, str | None]:
    """Bring `schema` to the newest revision of `package`; returns (revision before, revision after).

    Two set-ups at once wait for each other (advisory lock).
    """
    config, scripts = _scripts(package)

    def run(conn: Connection) -> tuple[str | None, str | None]:
        conn.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"migrate {schema}"})
        before = _context(conn, schema).get_current_revision()

        def steps(revision: str | tuple[str, ...], _context: MigrationContext) -> list[object]:
            return scripts._upgrade_revs("head", revision)  # type: ignore[arg-type,return-value]

        with EnvironmentContext(config, scripts, fn=steps, as_sql=False, destination_rev="head") as environment:
            environment.configure(
                connection=conn,
                version_table=VERSION_TABLE,
                version_table_schema=schema,
                transaction_per_migration=False,
            )
            environment.run_migrations()
        return before, scripts.get_current_head()

    async with engine.begin() as conn:
        return await conn.run_sync(run)


async def differences(engine: AsyncEngine, metadata: MetaData) -> list[object]:
    """What Alembic would still change to make the migrated schema equal the tables in code."""

    def compare(conn: Connection) -> list[object]:
        return list(compare_metadata(_context(conn, metadata.schema or "public"), metadata))

    async with engine.connect() as conn:
        return await conn.run_sync(compare)


async def draft(engine: AsyncEngine, metadata: MetaData) -> str:
    """The body of `upgrade()` for the next revision: what `differences` finds, as Alembic operations to review."""

    def render(conn: Connection) -> str:
        script = produce_migrations(_context(conn, metadata.schema or "public"), metadata)
        assert script.upgrade_ops is not None
        return str(
            render_python_code(script.upgrade_ops, migration_context=_context(conn, metadata.schema or "public"))
        )

    async with engine.connect() as conn:
        return await conn.run_sync(render)


def _context(conn: Connection, schema: str) -> MigrationContext:
    # A role that is named like its schema has it as its default, and Alembic does not name the default schema.
    conn.dialect.default_schema_name = "public"
    return MigrationContext.configure(
        conn,
        opts={
            "version_table": VERSION_TABLE,
            "version_table_schema": schema,
            "include_schemas": True,
            "include_name": lambda name, kind, _parents: kind != "schema" or name == schema,
            "compare_server_default": False,
        },
    )
