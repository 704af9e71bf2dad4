"""Who asks: whose an API key is, and what it may do.

Keys come from two places. The environment's are there from the first start and may do everything of
their kind; all others, and upload grants, are known to ingest. Another service asks ingest whose one
is and remembers the answer for a short while: so a key that was revoked is refused everywhere after
FRESH_S and one question. While ingest is away, whom it knew goes on working for STALE_S; whom nobody
knows is told that nobody can say (503), not that the key is wrong.

A key is held and compared as its hash: what a comparison takes tells nothing of the key. No key is in
a log line or a span.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import TypeAdapter

from contracts.errors import SafelightError, error
from runtime import clock, logs
from runtime.settings import KeysSettings

Scope = Literal["upload", "read", "operate"]
"""`read`: every GET. `upload`: whatever changes something of one's tenant. `operate`: the operators' routes."""

OF_TENANTS: Final[frozenset[Scope]] = frozenset(("upload", "read"))
OF_OPERATORS: Final[frozenset[Scope]] = frozenset(("read", "operate"))
READING: Final = ("GET", "HEAD")

KEY_PREFIX, GRANT_PREFIX = "slk_", "slg_"  # what a key and an upload grant that ingest made begin with
KEY_CHARS_MIN: Final = 16
KEY_CHARS_MAX: Final = 4096

FRESH_S: Final = 10.0
STALE_S: Final = 600.0
SILENT_S: Final = 1.0  # how long an ingest that did not answer is left alone
REMEMBERED_MAX: Final = 10_000  # of some 500 bytes each
ASK_WITHIN_S: Final = 2.0
log = logs.get()


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks. `tenant` is None for an operator, who sees every tenant's.

    `key` is the id of the key, which is no secret; an environment's key has none. `grant` is the id of the
    upload grant that asks in a key's stead: it has no scope, and is taken by few routes.
    """

    name: str
    tenant: str | None
    scopes: frozenset[Scope] = frozenset()
    key: str | None = None
    grant: str | None = None
    expires_at: datetime | None = None

    @property
    def who(self) -> str:
        """As the audit names them: `tenant:demo`, `operator:ops`."""
        return f"tenant:{self.tenant}" if self.tenant is not None else f"operator:{self.name}"

    def must(self, scope: Scope) -> None:
        """Raises FORBIDDEN unless it may do that."""
        if scope not in self.scopes:
            what = "An upload grant may not do that." if self.grant else f"This API key lacks the scope `{scope}`."
            raise error("FORBIDDEN", what)

    def must_change(self) -> None:
        """Raises FORBIDDEN unless it may change things: an operator everybody's, a tenant its own."""
        self.must("operate" if self.tenant is None else "upload")


Ask = Callable[[str], Awaitable[Asker | None]]
"""Says whose a key is; None: nobody's. Raises SafelightError or httpx.HTTPError when it cannot tell."""


class Keys:
    """All keys that open this service: the environment's, and those that `beyond` knows."""

    def __init__(self, tenants: str = "", operators: str = "", beyond: Ask | None = None) -> None:
        self._known = [
            *_pairs(tenants, "SAFELIGHT_API_KEYS reads tenant:key,tenant:key", OF_TENANTS),
            *_pairs(operators, "SAFELIGHT_OPERATOR_KEYS reads name:key,name:key", OF_OPERATORS),
        ]
        self.beyond = beyond

    async def asker(self, key: str) -> Asker:
        """Whose key this is.

        Raises:
            SafelightError: UNAUTHENTICATED; SERVICE_UNAVAILABLE when nobody can tell at the moment.
        """
        digest, found = _digest(key), None
        for known, asker in self._known:
            if hmac.compare_digest(known, digest):
                found = asker
        if found is None and self.beyond and len(key) <= KEY_CHARS_MAX and key.startswith((KEY_PREFIX, GRANT_PREFIX)):
            found = await self.beyond(key)
        if found is None or (found.expires_at and found.expires_at <= clock.now()):
            raise error("UNAUTHENTICATED")
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def _pairs(pairs: str, reads: str, scopes: frozenset[Scope]) -> Iterable[tuple[bytes, Asker]]:
    for pair in filter(None, (part.strip() for part in pairs.split(","))):
        name, _, key = pair.partition(":")
        if not name or len(key) < KEY_CHARS_MIN:
            raise ValueError(f"{reads} with keys of {KEY_CHARS_MIN} characters or more")
        yield _digest(key), Asker(name, name if scopes is OF_TENANTS else None, scopes)


class Remembered:
    """Asks whose a key is, and remembers who was found; who was not is asked for again each time."""

    def __init__(self, ask: Ask, *, fresh_s: float = FRESH_S, stale_s: float = STALE_S) -> None:
        self._ask, self.fresh_s, self.stale_s = ask, fresh_s, stale_s
        self._found: OrderedDict[bytes, tuple[Asker, float]] = OrderedDict()  # by the key's hash; when it was found
        self._asking: dict[bytes, asyncio.Task[Asker | None]] = {}
        self._silent_until = 0.0

    async def __call__(self, key: str) -> Asker | None:
        """Raises SERVICE_UNAVAILABLE."""
        digest, now = _digest(key), _now()
        asker, found_at = self._found.get(digest, (None, 0.0))
        if asker and now < found_at + self.fresh_s:
            return asker
        try:
            if now < self._silent_until:
                raise error("SERVICE_UNAVAILABLE")
            return await self._once(digest, key)
        except (SafelightError, httpx.HTTPError) as problem:
            if now >= self._silent_until:
                self._silent_until = _now() + SILENT_S
                log.warning("keys.nobody_can_tell", error=type(problem).__name__)
            if asker and now < found_at + self.stale_s:
                return asker
            raise error("SERVICE_UNAVAILABLE", "Nobody can tell at the moment whose API key this is.") from problem

    async def _once(self, digest: bytes, key: str) -> Asker | None:
        """However many ask at the same moment, the question is put once; who leaves does not take it along."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._put(digest, key))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(task)

    async def _put(self, digest: bytes, key: str) -> Asker | None:
        asker = await self._ask(key)
        self._found.pop(digest, None)
        if asker:
            self._found[digest] = asker, _now()
            if len(self._found) > REMEMBERED_MAX:
                self._found.popitem(last=False)
        return asker


def _now() -> float:
    return asyncio.get_running_loop().time()


INTERNAL_ASKER: Final = "/internal/asker"
"""Where ingest tells its neighbours whose a key is; the front door leads nobody there."""
ASKER: Final = TypeAdapter(Asker)


@contextlib.asynccontextmanager
async def known_to_ingest(app: FastAPI, settings: KeysSettings) -> AsyncIterator[None]:
    """The keys that open this app are also those that ingest knows."""
    async with httpx.AsyncClient(base_url=settings.ingest_url, timeout=ASK_WITHIN_S, trust_env=False) as client:

        async def ask(key: str) -> Asker | None:
            answer = await client.get(INTERNAL_ASKER, headers={"Authorization": f"Bearer {key}"})
            if answer.status_code == 401:
                return None
            return ASKER.validate_json(answer.raise_for_status().content)

        keys: Keys = app.state.keys
        keys.beyond = Remembered(ask)
        yield


# -- route parameters ------------------------------------------------------------------------

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer KEY`")
Given = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def asking(request: Request) -> Asker:
    """Whose key or upload grant the request carries. Raises UNAUTHENTICATED, SERVICE_UNAVAILABLE."""
    given, keys = await _bearer(request), request.app.state.keys
    found: Asker = await keys.asker(given.credentials if given else "")
    return found


async def _anybody(request: Request, _given: Given) -> Asker:
    return await asking(request)


Anybody = Annotated[Asker, Depends(_anybody)]
"""A route parameter: whose key or upload grant the request carries, whatever it may do; the route looks itself.

Raises UNAUTHENTICATED.
"""


async def _caller(request: Request, asker: Anybody) -> Asker:
    if request.method in READING:
        asker.must("read")
    else:
        asker.must_change()
    return asker


Caller = Annotated[Asker, Depends(_caller)]
"""A route parameter: whose API key the request carries, a tenant's or an operator's, if it may do what the method says.

Raises UNAUTHENTICATED, FORBIDDEN.
"""


async def _follower(asker: Anybody) -> Asker:
    if asker.grant is None:
        asker.must("read")
    return asker


Follower = Annotated[Asker, Depends(_follower)]
"""A route parameter: who may read, or an upload grant, which may read what came with it: the route looks at `grant`.

Raises UNAUTHENTICATED, FORBIDDEN.
"""


async def _tenant(asker: Caller) -> str:
    if asker.tenant is None:
        raise error("FORBIDDEN", "This needs a tenant's API key.")
    return asker.tenant


async def _operator(asker: Anybody) -> str:
    if asker.tenant is not None:
        raise error("FORBIDDEN", "This needs an operator's API key.")
    asker.must("operate")
    return asker.name


Tenant = Annotated[str, Depends(_tenant)]
"""A route parameter: the tenant whose API key the request carries. Raises UNAUTHENTICATED, FORBIDDEN."""

Operator = Annotated[str, Depends(_operator)]
"""A route parameter: the operator whose API key the request carries. Raises UNAUTHENTICATED, FORBIDDEN."""
