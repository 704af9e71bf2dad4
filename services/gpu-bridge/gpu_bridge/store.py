"""The ledger's rows. Each guard is in the name."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.phases import PhaseFailed, PhaseSucceeded, RunPhase
from gpu_bridge.call import Call, Move, State, after
from gpu_bridge.tables import CALLS


async def insert_if_new(conn: AsyncConnection, function: str, command: RunPhase, traceparent: str | None) -> bool:
    """Write a call down before anything is done for it. False when it is there already."""
    done = await conn.execute(
        insert(CALLS)
        .values(
            key=command.key,
            function=function,
            tenant=command.tenant,
            command=command.model_dump(mode="json"),
            traceparent=traceparent,
            state=State.QUEUED,
        )
        .on_conflict_do_nothing()
    )
    return done.rowcount == 1


async def lease_if_free(conn: AsyncConnection, me: UUID, now: datetime, until: datetime) -> Call | None:
    """Take the oldest call that nobody runs, or whose holder's lease ran out. Replicas pass each other by."""
    free = (
        select(CALLS.c.key)
        .where(or_(CALLS.c.state == State.QUEUED, (CALLS.c.state == State.RUNNING) & (CALLS.c.lease_until < now)))
        .order_by(CALLS.c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = (
        await conn.execute(
            update(CALLS)
            .where(CALLS.c.key.in_(free))
            .values(
                state=after(State.QUEUED, Move.LEASE),
                leased_by=me,
                lease_until=until,
                started_at=now,
                tries=CALLS.c.tries + 1,
            )
            .returning(*CALLS.c)
        )
    ).one_or_none()
    return _call(row) if row else None


async def extend_if_mine(conn: AsyncConnection, key: str, me: UUID, until: datetime) -> bool:
    """Keep the lease. False when somebody else has the call by now."""
    done = await conn.execute(
        update(CALLS)
        .where(CALLS.c.key == key, CALLS.c.leased_by == me, CALLS.c.state == State.RUNNING)
        .values(lease_until=until)
    )
    return done.rowcount == 1


async def record_if_mine(
    conn: AsyncConnection, call: Call, me: UUID, provider: str | None, result: PhaseSucceeded | PhaseFailed
) -> bool:
    """End the call. False when somebody else has it by now: their outcome counts, ours does not."""
    won = isinstance(result, PhaseSucceeded)
    done = await conn.execute(
        update(CALLS)
        .where(CALLS.c.key == call.key, CALLS.c.leased_by == me, CALLS.c.state == State.RUNNING)
        .values(
            state=after(call.state, Move.SUCCEED if won else Move.FAIL),
            lease_until=None,
            provider=provider,
            code=None if isinstance(result, PhaseSucceeded) else result.code,
            engine=result.engine if isinstance(result, PhaseSucceeded) else None,
            ended_at=result.ended_at,
        )
    )
    return done.rowcount == 1


def _call(row: Row[tuple[object, ...]]) -> Call:
    found = row._mapping
    return Call(
        key=found["key"],
        function=found["function"],
        command=RunPhase.model_validate(found["command"]),
        traceparent=found["traceparent"],
        state=State(found["state"]),
        tries=found["tries"],
    )
