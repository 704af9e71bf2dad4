"""Who brings an upload, and whether it is let in.

    admit    before a byte is taken    rates, quotas, the grant's limits, and how full the pipeline is
    spend    in the upload's own commit    counts it: against the quotas, and as a use of the grant

The first is a look, which spares a client the way; the second is exact, because rows are locked until the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import SafelightError, error
from ingest import grants
from ingest.grants import Grant, Grants
from ingest.limits import PERIODS, Bucket, Limits, Period, key_of, over, seconds_left, take
from ingest.load import Loads
from ingest.tenants import Tenants
from runtime import clock
from runtime.keys import Anybody

REMEMBER_S: Final = 10.0  # what a tenant's limits and defaults are
KEPT_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Uploader:
    """Who brings an upload: a tenant's key (its id, None for one of the environment), or a grant in its stead."""

    tenant: str
    grant: Grant | None = None
    key: str | None = None

    @property
    def grant_id(self) -> UUID | None:
        """Of its grant."""
        return self.grant.id if self.grant else None


@dataclass(slots=True)
class Gate:
    """The use case, with what it needs."""

    engine: AsyncEngine
    tenants: Tenants
    grants: Grants
    loads: Loads
    defaults: Limits
    jobs_max: int
    _known: dict[str, tuple[Limits, Mapping[str, Any], float]] = field(default_factory=dict)

    async def admit(self, who: Uploader, declared: int | None) -> dict[str, str]:
        """Whether an upload of `declared` bytes (None: it does not say) may begin. Returns headers for its answer.

        Raises:
            SafelightError: GRANT_SPENT, UPLOAD_TOO_LARGE, PIPELINE_FULL, RATE_LIMITED, QUOTA_EXCEEDED.
        """
        if who.grant:
            if who.grant.used >= who.grant.files:
                raise error("GRANT_SPENT")
            who.grant.check(declared, None)
        limits, _ = await self.settings(who.tenant)
        load = await self.loads.now()
        if refused := load.refusal(who.tenant, self.jobs_max, limits.jobs_open):
            raise refused
        _within(limits, await self.usage(who.tenant), 1, declared or 0)
        return await self._rate(who, limits)

    async def spend(self, conn: AsyncConnection, who: Uploader, size: int) -> None:
        """Count an upload, in its own transaction; it is the last that happens there, for others wait from here on.

        Raises:
            SafelightError: GRANT_SPENT, QUOTA_EXCEEDED. Then the transaction must not be committed.
        """
        if who.grant:
            await grants.spend(conn, who.grant.id)
        limits, _ = await self.settings(who.tenant)
        now = clock.now()
        rows = await conn.execute(_COUNT, {"tenant": who.tenant, "periods": _periods(now), "size": size})
        _within(limits, _sums(rows, now), 0, 0)

    async def settings(self, tenant: str) -> tuple[Limits, Mapping[str, Any]]:
        """A tenant's limits, and the defaults of its uploads' options; of one without a row, everybody's.

        Raises DATABASE_UNAVAILABLE.
        """
        now = asyncio.get_running_loop().time()
        known = self._known.get(tenant)
        if known is None or now >= known[2]:
            row = await self.tenants.settings(tenant)
            limits = Limits.model_validate({**self.defaults.model_dump(), **row["limits"]}) if row else self.defaults
            if len(self._known) >= KEPT_MAX:
                self._known.clear()
            known = self._known[tenant] = (limits, row["options"] if row else {}, now + REMEMBER_S)
        return known[0], known[1]

    async def uploader(self, tenant: str, grant_id: UUID | None) -> Uploader:
        """Who began an upload that goes on now. Raises NOT_FOUND when there is no such grant any more."""
        return Uploader(tenant, await self.grants.one(tenant, grant_id) if grant_id else None)

    async def usage(self, tenant: str) -> dict[Period, tuple[int, int]]:
        """(files, bytes) that a tenant has brought today, this month, and has stored."""
        now = clock.now()
        async with self.engine.connect() as conn:
            rows = await conn.execute(_USAGE, {"tenant": tenant, "periods": _periods(now)})
        return _sums(rows, now)

    async def _rate(self, who: Uploader, limits: Limits) -> dict[str, str]:
        """Take one from the tenant's bucket and from the key's, or from neither. Raises RATE_LIMITED."""
        asked = {f"tenant:{who.tenant}": ("tenant", limits.uploads_per_s, limits.burst)}
        if who.key:
            asked[f"key:{who.key}"] = ("key", limits.key_uploads_per_s, limits.key_burst)
        names = sorted(asked)  # one order for everybody: nobody waits for who waits for it
        async with self.engine.connect() as conn:
            found = await conn.execute(_BUCKETS, {"names": names})
            rows = {row.name: (row.full_at, row.now) for row in found}
            after = {name: take(*rows[name], asked[name][1], asked[name][2]) for name in names}
            if all(bucket.taken for bucket in after.values()):
                values = {"names": names, "times": [after[name].full_at for name in names]}
                await conn.execute(_TAKEN, values)
                await conn.commit()
        headers = _headers(asked, after, {name: now for name, (_, now) in rows.items()})
        if wait_s := max(bucket.wait_s for bucket in after.values()):
            refused = error("RATE_LIMITED", retry_after_s=wait_s)
            refused.headers = headers
            raise refused
        return headers


def _headers(
    asked: Mapping[str, tuple[str, float, int]], after: Mapping[str, Bucket], now: Mapping[str, datetime]
) -> dict[str, str]:
    """As draft-ietf-httpapi-ratelimit-headers has them: what holds, what is left, when it is all there again."""
    policies, lefts = [], []
    for name, (label, per_s, burst) in asked.items():
        bucket = after[name]
        policies.append(f'"{label}";q={burst};w={max(1, round(burst / per_s))}')
        again_s = max(0.0, (bucket.full_at - now[name]).total_seconds())
        lefts.append(f'"{label}";r={bucket.left};t={round(again_s)}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(lefts)}


def _periods(now: datetime) -> list[str]:
    return [key_of(period, now) for period in PERIODS]


def _sums(rows: Iterable[Any], now: datetime) -> dict[Period, tuple[int, int]]:
    sums = {row.period: (row.files, row.bytes) for row in rows}
    return {period: sums.get(key_of(period, now), (0, 0)) for period in PERIODS}


def _within(limits: Limits, sums: Mapping[Period, tuple[int, int]], files: int, size: int) -> None:
    """Whether these sums, and so much more, are within the quotas. Raises QUOTA_EXCEEDED."""
    for period, (have, stored) in sums.items():
        if told := over(limits, period, have + files, stored + size):
            raise error("QUOTA_EXCEEDED", told, retry_after_s=seconds_left(period, clock.now()))


_USAGE: Final = text("SELECT period, files, bytes FROM ingest.usage WHERE tenant = :tenant AND period = ANY(:periods)")
_COUNT: Final = text("""
INSERT INTO ingest.usage (tenant, period, files, bytes)
SELECT :tenant, period, 1, :size FROM unnest(CAST(:periods AS text[])) AS period
ON CONFLICT (tenant, period) DO UPDATE SET files = usage.files + 1, bytes = usage.bytes + excluded.bytes
RETURNING period, files, bytes
""")
_BUCKETS: Final = text("""
INSERT INTO ingest.buckets (name, full_at) SELECT name, clock_timestamp() FROM unnest(CAST(:names AS text[])) AS name
ON CONFLICT (name) DO UPDATE SET full_at = buckets.full_at
RETURNING name, full_at, clock_timestamp() AS now
""")
_TAKEN: Final = text("""
UPDATE ingest.buckets SET full_at = t.at
FROM unnest(CAST(:names AS text[]), CAST(:times AS timestamptz[])) AS t (name, at) WHERE buckets.name = t.name
""")


async def _uploader(request: Request, asker: Anybody) -> Uploader:
    if asker.tenant is None:
        raise error("FORBIDDEN", "This needs a tenant's API key, or an upload grant.")
    if asker.grant is None:
        asker.must("upload")
        return Uploader(asker.tenant, None, asker.key)
    gate: Gate = request.app.state.gate
    try:
        return Uploader(asker.tenant, await gate.grants.one(asker.tenant, UUID(asker.grant)))
    except SafelightError as problem:
        raise error("UNAUTHENTICATED") if problem.code == "NOT_FOUND" else problem from problem


Bringing = Annotated[Uploader, Depends(_uploader)]
"""A route parameter: who brings an upload. Raises UNAUTHENTICATED, FORBIDDEN."""
