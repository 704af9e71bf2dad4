"""A request that carries an Idempotency-Key acts once, however often it is sent.

    nobody had the key            claim it, act, keep the answer
    it has an answer              that answer again
    it is claimed                 409: it is being worked on; a claim whose process died ends by itself
    it was another request's      422

A key belongs to who asks: a tenant, an operator, an upload grant. What ends well is kept for a day. What is
refused, or goes wrong, changes nothing, so it is not kept: the same request may be tried again.

The claim and the act are not one transaction. A process that dies between its act and the keeping of the answer lets
the next try act again, once its claim is over; what may never happen twice needs an id of its own besides.
(Uploads keep their answer in the transaction that takes them in: see ADR 0005.)
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from fastapi import Request, Response
from sqlalchemy import Column, DateTime, Index, Integer, LargeBinary, MetaData, Table, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.responses import StreamingResponse

from contracts.errors import error
from runtime import clock, logs
from runtime.http import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_CHARS_MAX
from runtime.keys import Asker

REPLAYED: Final = "Idempotency-Replayed"
CLAIM: Final = timedelta(seconds=30)  # a process renews it three times meanwhile
KEPT: Final = timedelta(hours=24)
SWEEP_EVERY_S: Final = 3600.0
ANSWER_BYTES_MAX: Final = 1024 * 1024
KEPT_HEADERS: Final = ("content-type", "location")
log = logs.get()


def answers_table(metadata: MetaData) -> Table:
    """The answers of one service's schema."""
    return Table(
        "answers",
        metadata,
        Column("asker", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("fingerprint", Text, nullable=False),
        Column("claimed_until", DateTime(timezone=True), nullable=False),
        Column("status", Integer),  # null while it is worked on
        Column("headers", JSONB),
        Column("body", LargeBinary),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Index(None, "created_at"),
    )


def shown_once(request: Request, *fields: str) -> None:
    """These fields of the JSON that this request is answered with are not kept: a repeat has null there."""
    request.state.shown_once = fields


@dataclass(frozen=True, slots=True)
class _Key:
    """Whose key it is, and for which request."""

    asker: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers that a service has given under Idempotency-Keys."""

    engine: AsyncEngine
    table: Table

    async def once(
        self, request: Request, body: bytes, asker: Asker, act: Callable[[], Awaitable[Response]]
    ) -> Response:
        """What `act` answers, or what it answered to the same request before.

        Raises:
            SafelightError: REQUEST_INVALID, FORBIDDEN, IDEMPOTENCY_KEY_REUSED, IDEMPOTENCY_KEY_IN_USE,
                DATABASE_UNAVAILABLE.
        """
        key = _key(request, body, asker)
        if known := await self._claim(key):
            return known
        async with self._held(key):
            response = await act()
        if response.status_code >= 400:
            await self._forget(key)
        elif isinstance(response, StreamingResponse):
            response.body_iterator = self._passed_on(key, response, response.body_iterator)
        else:
            await self._keep(key, response, _without(bytes(response.body), getattr(request.state, "shown_once", ())))
        return response

    async def sweep_forever(self) -> None:
        """Hourly forget what is a day old, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                async with self.engine.begin() as conn:
                    old = self.table.delete().where(self.table.c.created_at < clock.now() - KEPT)
                    log.info("idempotency.swept", rows=(await conn.execute(old)).rowcount)
            except Exception as problem:  # the database is away: the next hour will do
                log.warning("idempotency.sweep_failed", error=type(problem).__name__)

    async def _claim(self, key: _Key) -> Response | None:
        """Claim the key, or give the answer that it has."""
        columns, now = self.table.c, clock.now()
        mine = insert(self.table).values(
            asker=key.asker, key=key.key, fingerprint=key.fingerprint, claimed_until=now + CLAIM
        )
        left_behind = (columns.status.is_(None)) & (columns.claimed_until < now)
        claim = mine.on_conflict_do_update(
            index_elements=["asker", "key"],
            set_={"claimed_until": mine.excluded.claimed_until},
            where=left_behind & (columns.fingerprint == mine.excluded.fingerprint),
        )
        async with self.engine.begin() as conn:
            if (await conn.execute(claim)).rowcount:
                return None
            row = (await conn.execute(select(self.table).where(self._at(key)))).one_or_none()
        if row is None:
            raise error("IDEMPOTENCY_KEY_IN_USE", retry_after_s=1)  # it was given up between the two statements
        if row.fingerprint != key.fingerprint:
            raise error("IDEMPOTENCY_KEY_REUSED")
        if row.status is None:
            raise error("IDEMPOTENCY_KEY_IN_USE", retry_after_s=1)
        return Response(row.body, row.status, headers={**row.headers, REPLAYED: "true"})

    @contextlib.asynccontextmanager
    async def _held(self, key: _Key) -> AsyncIterator[None]:
        """Renew the claim while something is done under it; when that fails, give it up."""
        renewing = asyncio.create_task(self._renew(key))
        try:
            yield
        except BaseException:
            await asyncio.shield(self._forget(key))
            raise
        finally:
            renewing.cancel()

    async def _renew(self, key: _Key) -> None:
        while True:
            await asyncio.sleep(CLAIM.total_seconds() / 3)
            with contextlib.suppress(Exception):  # the database is away: the next time will do
                await self._set(key, claimed_until=clock.now() + CLAIM)

    async def _passed_on(self, key: _Key, response: Response, pieces: AsyncIterable[Any]) -> AsyncIterator[Any]:
        """The body as it comes; kept when it has come to its end."""
        body, whole = bytearray(), False
        async with self._held(key):
            try:
                async for piece in pieces:
                    body += piece.encode() if isinstance(piece, str) else piece
                    yield piece
                whole = len(body) <= ANSWER_BYTES_MAX
            finally:
                await (self._keep(key, response, bytes(body)) if whole else self._forget(key))

    async def _keep(self, key: _Key, response: Response, body: bytes) -> None:
        headers = {name: value for name, value in response.headers.items() if name in KEPT_HEADERS}
        try:
            await self._set(key, status=response.status_code, headers=headers, body=body)
        except Exception as problem:  # it is done: that its answer is not kept must not make it look as if it were not
            log.warning("idempotency.not_kept", error=type(problem).__name__)

    async def _forget(self, key: _Key) -> None:
        with contextlib.suppress(Exception):  # then the claim ends by itself
            async with self.engine.begin() as conn:
                await conn.execute(self.table.delete().where(self._at(key), self.table.c.status.is_(None)))

    async def _set(self, key: _Key, **values: Any) -> None:
        async with self.engine.begin() as conn:
            await conn.execute(self.table.update().where(self._at(key)).values(**values))

    def _at(self, key: _Key) -> Any:
        return (self.table.c.asker == key.asker) & (self.table.c.key == key.key)


def _key(request: Request, body: bytes, asker: Asker) -> _Key:
    """Raises REQUEST_INVALID; FORBIDDEN for a key that could not have made such a request."""
    key = request.headers[IDEMPOTENCY_KEY]
    if not (0 < len(key) <= IDEMPOTENCY_KEY_CHARS_MAX and key.isascii() and key.isprintable()):
        most = IDEMPOTENCY_KEY_CHARS_MAX
        raise error("REQUEST_INVALID", f"{IDEMPOTENCY_KEY} has 1 to {most} printable ASCII characters")
    if asker.grant is None:
        asker.must_change()
    of = json.dumps([request.method, request.url.path, request.url.query]).encode()
    return _Key(asker.grant or asker.who, key, hashlib.sha256(of + b"\n" + body).hexdigest())


def _without(body: bytes, fields: tuple[str, ...]) -> bytes:
    """The body without what is shown once."""
    if not fields:
        return body
    told: Mapping[str, Any] = json.loads(body)
    return json.dumps({**told, **dict.fromkeys(fields)}).encode()
