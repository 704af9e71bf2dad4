"""The ledger's rows. Each guard is in the name, and each move is the one that `call.TRANSITIONS` allows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Case, ColumnElement, Row, and_, case, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.phases import PhaseDeferred, PhaseFailed, PhaseSucceeded, RunPhase
from gpu_bridge.call import TRANSITIONS, Call, Move, Outcome, State, Submission, move_of
from gpu_bridge.tables import CALLS


async def insert_if_new(conn: AsyncConnection, function: str, command: RunPhase, traceparent: str | None) -> bool:
    """Write a call down before anything is done for it. False when it is there already, if only as stopped."""
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


async def stop_if_not_over(conn: AsyncConnection, keys: Sequence[str], now: datetime) -> None:
    """A queued call is cancelled, a running one asked to stop, one that has not come yet will find itself cancelled.

    The keys are locked in their order, so that two processes never wait for each other.
    """
    for key in sorted(keys):
        tombstone = insert(CALLS).values(key=key, state=State.CANCELLED, ended_at=now)
        if (await conn.execute(tombstone.on_conflict_do_nothing())).rowcount:
            continue
        over = case((CALLS.c.state == State.QUEUED, literal(now, CALLS.c.ended_at.type)))  # the others: when told
        await conn.execute(
            update(CALLS).where(CALLS.c.key == key, _allows(Move.STOP)).values(state=_after(Move.STOP), ended_at=over)
        )


async def lease_if_free(conn: AsyncConnection, me: UUID, now: datetime, until: datetime) -> Call | None:
    """Take the oldest call that nobody runs, or whose holder's lease ran out. Replicas pass each other by."""
    free = (
        select(CALLS.c.key)
        .where(_allows(Move.LEASE), (CALLS.c.state == State.QUEUED) | (CALLS.c.lease_until < now))
        .order_by(CALLS.c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = (
        await conn.execute(
            update(CALLS)
            .where(CALLS.c.key.in_(free))
            .values(
                state=_after(Move.LEASE),
                leased_by=me,
                lease_until=until,
                started_at=now,
                tries=CALLS.c.tries + 1,
            )
            .returning(*CALLS.c)
        )
    ).one_or_none()
    return _call(row) if row else None


async def extend_if_mine(
    conn: AsyncConnection, call: Call, until: datetime, submission: Submission | None = None
) -> State | None:
    """Keep the lease, and note a submission. Returns where the call stands, None when it is another's or over."""
    noted = {"provider": submission.provider, "handle": submission.handle} if submission else {}
    held = _mine(call) & CALLS.c.lease_until.is_not(None)
    found = await conn.execute(update(CALLS).where(held).values(lease_until=until, **noted).returning(CALLS.c.state))
    state = found.scalar_one_or_none()
    return State(state) if state else None


async def record_if_mine(conn: AsyncConnection, call: Call, provider: str | None, result: Outcome) -> bool:
    """End the call. False when another has it by now, or when it was asked to stop: our outcome does not count."""
    values: dict[str, object]
    match result:
        case PhaseSucceeded():
            values = {"engine": result.engine, "ended_at": result.ended_at}
        case PhaseFailed():
            values = {"code": result.code, "ended_at": result.ended_at}
        case PhaseDeferred():
            values = {"code": result.code, "ended_at": result.at}
    return await _ended(conn, call, move_of(result), {"provider": provider, **values})


async def cancel_if_mine(conn: AsyncConnection, call: Call, now: datetime) -> bool:
    """End a call that was asked to stop. False when another has it by now, or when nobody asked."""
    return await _ended(conn, call, Move.CANCEL, {"ended_at": now})


async def _ended(conn: AsyncConnection, call: Call, move: Move, values: dict[str, object]) -> bool:
    ending = update(CALLS).where(_mine(call), _allows(move)).values(state=_after(move), lease_until=None, **values)
    done = await conn.execute(ending)
    return done.rowcount == 1


def _mine(call: Call) -> ColumnElement[bool]:
    """This very lease: one process may hold two of a call, when its first ran out."""
    return and_(CALLS.c.key == call.key, CALLS.c.leased_by == call.leased_by, CALLS.c.tries == call.tries)


def _allows(move: Move) -> ColumnElement[bool]:
    return CALLS.c.state.in_([before for before, by in TRANSITIONS if by is move])


def _after(move: Move) -> Case[str]:
    return case({before: to for (before, by), to in TRANSITIONS.items() if by is move}, value=CALLS.c.state)


def _call(row: Row[tuple[object, ...]]) -> Call:
    found = row._mapping
    return Call(
        key=found["key"],
        function=found["function"],
        command=RunPhase.model_validate(found["command"]),
        traceparent=found["traceparent"],
        state=State(found["state"]),
        leased_by=found["leased_by"],
        tries=found["tries"],
        submission=Submission(found["provider"], found["handle"]) if found["handle"] else None,
    )
