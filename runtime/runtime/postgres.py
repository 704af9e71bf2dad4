"""One engine per process, one schema per service.

A database that cannot be reached, or that is lost in mid-statement, is DATABASE_UNAVAILABLE
wherever it happens: the engine says so itself.

Handlers never commit: the edge that opened the transaction does.
Hot paths use `conn.exec_driver_sql` with arrays (`unnest`), the rest SQLAlchemy Core.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
from sqlalchemy import ExceptionContext, MetaData, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from contracts.errors import Transient, error
from runtime import tls

# Constraint names that migrations can rely on.
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def schema_metadata(schema: str) -> MetaData:
    """The MetaData under which a service declares all its tables."""
    return MetaData(schema=schema, naming_convention=_NAMES)


def driver_url(url: str) -> str:
    """`postgresql://...` for SQLAlchemy's asyncpg dialect."""
    return re.sub(r"^postgres(ql)?(\+asyncpg)?://", "postgresql+asyncpg://", url)


def create_engine(
    url: str,
    *,
    service: str,
    connections_max: int = 5,
    connections_kept: int = 1,
    pre_ping: bool = True,
    transaction_idle_s: float | None = None,
) -> AsyncEngine:
    """An engine whose connections are checked before use, so that a database restart costs no request.

    `connections_kept` stay open while idle; the rest, up to the most, are made for as long as they are needed.
    Without `pre_ping` a hot path saves that round trip, and the first work after a restart is done again.
    The server ends a transaction whose process says nothing for `transaction_idle_s`, and frees its locks: a process
    that is frozen keeps no other from its rows.
    """
    server_settings = {"application_name": f"safelight-{service}"}
    if transaction_idle_s is not None:
        server_settings["idle_in_transaction_session_timeout"] = str(round(transaction_idle_s * 1000))  # in ms
    bare, context = tls.of_database(url)
    encrypted = {} if context is None else {"ssl": context}
    engine = create_async_engine(
        driver_url(bare),
        poolclass=_Pool,
        pool_size=connections_kept,
        max_overflow=connections_max - connections_kept,
        pool_pre_ping=pre_ping,
        pool_timeout=10,
        hide_parameters=True,  # what a statement was given is nothing for a log
        connect_args={"server_settings": server_settings, "timeout": 5, **encrypted},
    )
    event.listen(engine.sync_engine, "do_connect", _connect)
    event.listen(engine.sync_engine, "handle_error", _lost)
    return engine


class _Pool(AsyncAdaptedQueuePool):
    """Who waits in vain for a connection finds the database as unavailable as who gets none."""

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            return super()._do_get()
        except PoolTimeout as problem:
            raise unavailable() from problem


def _connect(dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
    try:
        return dialect.connect(*arguments, **options)
    except (OSError, TimeoutError, asyncpg.PostgresError, dialect.loaded_dbapi.Error) as problem:
        # Refused, silent, or starting up: the last as SQLAlchemy's own error where it has translated it already.
        raise unavailable() from problem


def _lost(context: ExceptionContext) -> None:
    if context.is_pre_ping or not isinstance(context.original_exception, Exception):
        return  # a failed ping only makes the pool connect anew; a cancelled task is no lost database
    if context.is_disconnect:
        raise unavailable() from context.original_exception


@contextlib.asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """One transaction on asyncpg itself, for hot paths: SQLAlchemy's share of a statement is more than the server's.

    Raises:
        Transient: DATABASE_UNAVAILABLE when the connection is lost; then nothing was committed, as far as is known.
    """
    async with engine.connect() as conn:
        raw = (await conn.get_raw_connection()).driver_connection
        assert raw is not None
        try:
            async with raw.transaction():
                yield raw
        except _LOST as problem:
            if isinstance(problem, asyncpg.DataError):
                raise  # our own arguments are wrong
            await conn.invalidate(problem)
            raise unavailable() from problem


_LOST: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.OperatorInterventionError,
)


async def check(engine: AsyncEngine) -> None:
    """Readiness. Raises Transient DATABASE_UNAVAILABLE."""
    try:
        async with engine.connect() as conn:
            await conn.exec_driver_sql("SELECT 1")
    except (DBAPIError, OSError, asyncpg.PostgresError, TimeoutError) as problem:
        raise unavailable() from problem


def unavailable() -> Transient:
    """The error that a lost database is told as."""
    problem = error("DATABASE_UNAVAILABLE")
    assert isinstance(problem, Transient)
    return problem
