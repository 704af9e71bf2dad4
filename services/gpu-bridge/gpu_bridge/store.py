"""The ledger's rows. Each guard is in the name, and each move is the one that `call.TRANSITIONS` allows.

A call's row is locked before those of its commands, always, and calls in the order of their keys:
so two processes never wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Case, ColumnElement, Row, and_, case, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.artifacts import Artifact
from contracts.phases import RunPhase
from gpu_bridge.call import LEASED, TRANSITIONS, Call, Kept, Move, State
from gpu_bridge.catalog import Function
from gpu_bridge.tables import BATCHES, BRIDGES, CALLS, COMMANDS, EPOCHS
from gpu_bridge.terms import Bill
from gpu_bridge.turns import Queued

WAITING: Final = "waiting"
ANSWERED: Final = "answered"
STOPPED: Final = "stopped"


@dataclass(frozen=True, slots=True)
class Follower:
    """A command that follows a call."""

    command: RunPhase
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """How an epoch was, for the books: seconds and what they cost. None: not known."""

    code: str | None = None
    device: str | None = None
    cold: bool | None = None
    run_s: float | None = None
    bill: Bill | None = None
    currency: str | None = None


# -- commands -------------------------------------------------------------------------------------


async def follow(
    conn: AsyncConnection,
    key: str,
    function: Function,
    alike: str,
    command: RunPhase,
    traceparent: str | None,
    now: datetime,
) -> Kept | None:
    """Write a command down, behind the call that does its work; the call is made, or woken after an end.

    Returns the result when there is one already that can be had for nothing. A degraded one is
    not reused: it cost no GPU, and a better one may be had by now. A command that is known, or
    that was stopped before it came, changes nothing.
    """
    known = select(COMMANDS.c.key).where(COMMANDS.c.key == command.key)
    if (await conn.execute(known)).first():
        return None
    fresh = insert(CALLS).values(
        key=key,
        tenant=command.tenant,
        function=function.name,
        function_version=function.version,
        command=command.model_dump(mode="json"),
        alike=alike,
        traceparent=traceparent,
        state=State.QUEUED,
        deadline=command.deadline,
        queued_at=now,
    )
    longer = {"deadline": func.greatest(CALLS.c.deadline, fresh.excluded.deadline)}
    upsert = fresh.on_conflict_do_update(index_elements=["key"], set_=longer)
    call = (await conn.execute(upsert.returning(CALLS.c.state, CALLS.c.kept))).one()
    joined = insert(COMMANDS).values(
        key=command.key,
        call=key,
        command=command.model_dump(mode="json"),
        traceparent=traceparent,
        state=WAITING,
    )
    if not (await conn.execute(joined.on_conflict_do_nothing())).rowcount:
        await _cancel_unwanted(conn, key, now)  # a stop of it, or itself by another delivery, was faster
        return None
    if not State(call.state).is_terminal:
        return None
    if call.kept is not None and not call.kept["degraded"] and not command.force:
        await conn.execute(update(COMMANDS).where(COMMANDS.c.key == command.key).values(state=ANSWERED))
        return _kept(call.kept)
    await conn.execute(
        update(CALLS)
        .where(CALLS.c.key == key, _allows(Move.AGAIN))
        .values(
            state=_after(Move.AGAIN),
            command=command.model_dump(mode="json"),  # its inputs are there; those of the first may be gone
            traceparent=traceparent,
            deadline=command.deadline,
            queued_at=now,
            **_CLEAR,
            kept=None,
            code=None,
            ended_at=None,
        )
    )
    return None


async def kept_of(conn: AsyncConnection, keys: Sequence[str]) -> dict[str, Kept]:
    """The results that there are, by call."""
    known = select(CALLS.c.key, CALLS.c.kept).where(CALLS.c.key.in_(keys), CALLS.c.kept.is_not(None))
    return {row.key: _kept(row.kept) for row in await conn.execute(known)}


async def forget(conn: AsyncConnection, key: str) -> None:
    """The objects of a result are gone: it answers nobody any more."""
    kept = update(CALLS).where(CALLS.c.key == key, CALLS.c.state == State.SUCCEEDED)
    await conn.execute(kept.values(state=State.FAILED, code="OBJECT_MISSING", kept=None))


async def stop(conn: AsyncConnection, command_key: str, now: datetime) -> str | None:
    """Nobody waits for this command any more. Returns the call's key when that is to be stopped at its provider.

    A call that others follow goes on. One that has not come yet will find itself stopped.
    """
    for _ in range(2):  # the second time when the command came while its tombstone was written
        found = await conn.execute(select(COMMANDS.c.call).where(COMMANDS.c.key == command_key))
        row = found.one_or_none()
        if row is None:
            tombstone = insert(COMMANDS).values(key=command_key, state=STOPPED).on_conflict_do_nothing()
            if (await conn.execute(tombstone)).rowcount:
                return None
            continue
        if row.call is None:
            return None
        await conn.execute(select(CALLS.c.key).where(CALLS.c.key == row.call).with_for_update())
        mine = update(COMMANDS).where(COMMANDS.c.key == command_key, COMMANDS.c.state == WAITING)
        if not (await conn.execute(mine.values(state=STOPPED))).rowcount:
            return None
        if not await _cancel_unwanted(conn, row.call, now):
            return None
        out = update(CALLS).where(CALLS.c.key == row.call, _allows(Move.STOP))
        stopped = await conn.execute(out.values(state=_after(Move.STOP), code=None))
        return row.call if stopped.rowcount else None
    return None


async def _cancel_unwanted(conn: AsyncConnection, key: str, now: datetime) -> bool:
    """Whether nobody waits for a call; then it is not bought. Its row must be locked."""
    if (await conn.execute(_waiting(key))).first():
        return False
    unbought = update(CALLS).where(CALLS.c.key == key, CALLS.c.state == State.QUEUED)
    await conn.execute(unbought.values(state=_after(Move.CANCEL), code=None, ended_at=now, **_CLEAR))
    return True


async def answer(conn: AsyncConnection, key: str) -> list[Follower]:
    """The commands that wait for a call; they are answered with it. Its row must be locked."""
    rows = await conn.execute(
        update(COMMANDS)
        .where(COMMANDS.c.call == key, COMMANDS.c.state == WAITING)
        .values(state=ANSWERED)
        .returning(COMMANDS.c.command, COMMANDS.c.traceparent)
    )
    return [Follower(RunPhase.model_validate(row.command), row.traceparent) for row in rows]


async def followers(conn: AsyncConnection, key: str) -> list[Follower]:
    """The commands that wait for a call."""
    rows = await conn.execute(_waiting(key))
    return [Follower(RunPhase.model_validate(row.command), row.traceparent) for row in rows]


async def asked_first(conn: AsyncConnection, key: str) -> RunPhase:
    """For whom a call is at work: of those who wait for it the first; where nobody does any more, who asked for it.

    Ask before they are answered. Its row must be locked.
    """
    waiting = select(COMMANDS.c.command).where(COMMANDS.c.call == key, COMMANDS.c.state == WAITING)
    first = waiting.order_by(COMMANDS.c.created_at, COMMANDS.c.key).limit(1).scalar_subquery()
    found = select(func.coalesce(first, CALLS.c.command)).where(CALLS.c.key == key)
    return RunPhase.model_validate((await conn.execute(found)).scalar_one())


# -- turns ----------------------------------------------------------------------------------------


async def take_turn(conn: AsyncConnection) -> None:
    """One process at a time gives calls to providers: limits are exact over all of them. Until the commit."""
    await conn.execute(text("SELECT pg_advisory_xact_lock(hashtext('gpu_bridge.turns'))"))


async def in_flight(conn: AsyncConnection) -> dict[str, int]:
    """How many calls each provider has."""
    counted = select(CALLS.c.provider, func.count()).where(CALLS.c.state.in_(LEASED)).group_by(CALLS.c.provider)
    return {row[0]: row[1] for row in await conn.execute(counted)}


async def queued(conn: AsyncConnection, function: str, most: int) -> list[Queued]:
    """The calls of a function that have waited longest, locked until the commit."""
    rows = await conn.execute(
        select(
            CALLS.c.key,
            CALLS.c.alike,
            CALLS.c.queued_at,
            CALLS.c.deadline,
            CALLS.c.command["engine"].astext.label("engine"),
            CALLS.c.command["providers"].label("providers"),
            CALLS.c.refused_by,
            CALLS.c.code,
            CALLS.c.tenant,
            CALLS.c.command["sensitive"].label("sensitive"),
        )
        .where(CALLS.c.function == function, CALLS.c.state == State.QUEUED)
        .order_by(CALLS.c.queued_at, CALLS.c.key)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return [
        Queued(
            r.key,
            r.alike,
            r.queued_at,
            r.deadline,
            r.engine,
            tuple(r.providers or ()),
            tuple(r.refused_by),
            r.code,
            r.tenant,
            bool(r.sensitive),
        )
        for r in rows
    ]


async def begin(conn: AsyncConnection, me: UUID, keys: Sequence[str], provider: str, now: datetime) -> list[Call]:
    """Begin the next epoch of queued calls, for one provider. Nothing is bought before this is committed."""
    begun = (
        update(CALLS)
        .where(CALLS.c.key.in_(keys), _allows(Move.LEASE))
        .values(
            state=_after(Move.LEASE),
            epoch=CALLS.c.epoch + 1,
            provider=provider,
            handle=None,
            leased_by=me,
            code=None,
        )
        .returning(CALLS)
    )
    rows = (await conn.execute(begun)).all()
    calls = [_call(row, spawned_at=now) for row in rows]
    if calls:
        await conn.execute(
            insert(EPOCHS),
            [
                {
                    "call": row.key,
                    "epoch": row.epoch,
                    "provider": provider,
                    "queued_at": row.queued_at,
                    "spawned_at": now,
                }
                for row in rows
            ],
        )
    return calls


async def commands_of(conn: AsyncConnection, keys: Sequence[str]) -> dict[str, Follower]:
    """What each call is to do: the command that asked for it."""
    rows = await conn.execute(select(CALLS.c.key, CALLS.c.command, CALLS.c.traceparent).where(CALLS.c.key.in_(keys)))
    return {row.key: Follower(RunPhase.model_validate(row.command), row.traceparent) for row in rows}


async def end_queued(conn: AsyncConnection, key: str, move: Move, code: str, now: datetime) -> None:
    """Fail or defer a call of which nothing is bought. Its row must be locked."""
    ended = update(CALLS).where(CALLS.c.key == key, CALLS.c.state == State.QUEUED, _allows(move))
    await conn.execute(ended.values(state=_after(move), code=code, ended_at=now, **_CLEAR))


# -- what is out ----------------------------------------------------------------------------------


async def accept_if_mine(conn: AsyncConnection, call: Call, handle: str) -> State | None:
    """Note the provider's handle. Returns where the call stands; None: it is another's by now."""
    moved = case((CALLS.c.state == State.SUBMITTING, literal(State.RUNNING.value)), else_=CALLS.c.state)
    noted = update(CALLS).where(_mine(call), CALLS.c.state.in_(LEASED)).values(handle=handle, state=moved)
    state = (await conn.execute(noted.returning(CALLS.c.state))).scalar_one_or_none()
    if state is not None:
        await conn.execute(update(EPOCHS).where(_epoch(call)).values(handle=handle))
    return State(state) if state else None


async def started_if_mine(conn: AsyncConnection, call: Call, at: datetime) -> State | None:
    """Note when the function claimed it. Returns where the call stands; None: it is another's by now."""
    state = (await conn.execute(select(CALLS.c.state).where(_mine(call)))).scalar_one_or_none()
    if state is not None:
        await conn.execute(update(EPOCHS).where(_epoch(call)).values(started_at=at))
    return State(state) if state else None


async def lock_if_mine(conn: AsyncConnection, call: Call) -> State | None:
    """Where the call stands, until the commit: no stop and no command changes it. None: it is another's by now."""
    locked = select(CALLS.c.state).where(_mine(call)).with_for_update()
    state = (await conn.execute(locked)).scalar_one_or_none()
    return State(state) if state else None


async def return_if_mine(conn: AsyncConnection, call: Call, run: Run, now: datetime, refused: bool) -> bool:
    """The epoch came to nothing: the call is queued again and keeps why. `refused`: not by this provider."""
    by = func.array_append(CALLS.c.refused_by, call.provider) if refused else CALLS.c.refused_by
    cleared = {name: value for name, value in _CLEAR.items() if name != "refused_by"}
    back = update(CALLS).where(_mine(call), _allows(Move.RETURN))
    done = await conn.execute(back.values(state=_after(Move.RETURN), refused_by=by, code=run.code, **cleared))
    if done.rowcount:
        await _close(conn, call, run, now)
    return done.rowcount == 1


async def stop_if_mine(conn: AsyncConnection, call: Call, code: str) -> bool:
    """A clock of it has run out: it is to be stopped."""
    stopped = update(CALLS).where(_mine(call), _allows(Move.STOP))
    return (await conn.execute(stopped.values(state=_after(Move.STOP), code=code))).rowcount == 1


async def succeed_if_mine(conn: AsyncConnection, call: Call, kept: Kept, run: Run, now: datetime) -> bool:
    """End it well and keep its result. False when it is another's by now, or over."""
    values = {"kept": _plain(kept), "code": None}
    return await _end(conn, call, Move.SUCCEED, values, run, now)


async def fail_if_mine(conn: AsyncConnection, call: Call, code: str, run: Run, now: datetime) -> bool:
    """End it badly. False when it is another's by now, or over."""
    return await _end(conn, call, Move.FAIL, {"code": code}, run, now)


async def cancel_if_mine(conn: AsyncConnection, call: Call, run: Run, now: datetime) -> bool:
    """End it: it was asked to stop, and is over. False when it is another's by now, or nobody asked."""
    return await _end(conn, call, Move.CANCEL, {}, run, now)


async def _end(conn: AsyncConnection, call: Call, move: Move, values: dict[str, Any], run: Run, now: datetime) -> bool:
    over: dict[str, Any] = {"refused_by": [], "leased_by": None, "ended_at": now}  # who had it stays readable
    ending = update(CALLS).where(_mine(call), _allows(move)).values(state=_after(move), **over, **values)
    if not (await conn.execute(ending)).rowcount:
        return False
    await _close(conn, call, run, now)
    return True


async def _close(conn: AsyncConnection, call: Call, run: Run, now: datetime) -> None:
    bill = run.bill
    await conn.execute(
        update(EPOCHS)
        .where(_epoch(call))
        .values(
            ended_at=now,
            code=run.code,
            cold=run.cold,
            device=run.device,
            run_s=run.run_s,
            billed_s=bill.billed_s if bill else None,
            cost=bill.cost if bill else None,
            currency=run.currency if bill else None,
        )
    )


# -- who sees to it -------------------------------------------------------------------------------


async def stay_alive(conn: AsyncConnection, me: UUID, until: datetime, long_ago: datetime) -> None:
    """This process sees to its calls until then. Processes that are long gone are forgotten."""
    alive = insert(BRIDGES).values(id=me, alive_until=until)
    await conn.execute(alive.on_conflict_do_update(index_elements=["id"], set_={"alive_until": until}))
    await conn.execute(delete(BRIDGES).where(BRIDGES.c.alive_until < long_ago))


async def leave(conn: AsyncConnection, me: UUID) -> None:
    """This process ends: its calls are anybody's at once."""
    await conn.execute(delete(BRIDGES).where(BRIDGES.c.id == me))


async def adopt(conn: AsyncConnection, me: UUID, now: datetime, most: int) -> list[Call]:
    """Take over calls whose process is silent. Replicas pass each other by."""
    alive = select(BRIDGES.c.id).where(BRIDGES.c.alive_until > now)
    orphans = (
        select(CALLS.c.key)
        .where(CALLS.c.state.in_(LEASED), CALLS.c.leased_by.not_in(alive))
        .order_by(CALLS.c.key)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    taken = update(CALLS).where(CALLS.c.key.in_(orphans)).values(leased_by=me).returning(CALLS)
    return await _with_epochs(conn, (await conn.execute(taken)).all())


async def leased_before(conn: AsyncConnection, me: UUID, before: datetime) -> list[str]:
    """The calls of this process whose epoch was begun before then."""
    begun = and_(EPOCHS.c.call == CALLS.c.key, EPOCHS.c.epoch == CALLS.c.epoch, EPOCHS.c.spawned_at < before)
    leased = select(CALLS.c.key).join(EPOCHS, begun).where(CALLS.c.leased_by == me, CALLS.c.state.in_(LEASED))
    return list((await conn.execute(leased)).scalars())


async def calls_of(conn: AsyncConnection, me: UUID, keys: Sequence[str]) -> list[Call]:
    """Those of these calls that this process has, as they stand."""
    mine = select(CALLS).where(CALLS.c.key.in_(keys), CALLS.c.leased_by == me)
    return await _with_epochs(conn, (await conn.execute(mine)).all())


async def _with_epochs(conn: AsyncConnection, rows: Sequence[Row[Any]]) -> list[Call]:
    begun = select(EPOCHS).where(EPOCHS.c.call.in_([row.key for row in rows]))
    epochs = {(row.call, row.epoch): row for row in await conn.execute(begun)}
    return [
        _call(row, spawned_at=epochs[row.key, row.epoch].spawned_at, started_at=epochs[row.key, row.epoch].started_at)
        for row in rows
    ]


async def stopping(conn: AsyncConnection, me: UUID) -> set[str]:
    """The calls of this process that are to be stopped."""
    asked = select(CALLS.c.key).where(CALLS.c.leased_by == me, CALLS.c.state == State.STOPPING)
    return set((await conn.execute(asked)).scalars())


async def expect(conn: AsyncConnection, batch: UUID) -> bool:
    """More of this batch is about to come. False when that was known."""
    row = insert(BATCHES).values(id=batch).on_conflict_do_nothing()
    return (await conn.execute(row)).rowcount == 1


# -- the law in SQL -------------------------------------------------------------------------------

_CLEAR: Final[dict[str, Any]] = {"refused_by": [], "provider": None, "handle": None, "leased_by": None}


def _waiting(key: str) -> Any:
    return select(COMMANDS.c.command, COMMANDS.c.traceparent).where(COMMANDS.c.call == key, COMMANDS.c.state == WAITING)


def _mine(call: Call) -> ColumnElement[bool]:
    return and_(CALLS.c.key == call.key, CALLS.c.leased_by == call.leased_by, CALLS.c.epoch == call.epoch)


def _epoch(call: Call) -> ColumnElement[bool]:
    return and_(EPOCHS.c.call == call.key, EPOCHS.c.epoch == call.epoch)


def _allows(move: Move) -> ColumnElement[bool]:
    return CALLS.c.state.in_([before for before, by in TRANSITIONS if by is move])


def _after(move: Move) -> Case[str]:
    return case({before: to for (before, by), to in TRANSITIONS.items() if by is move}, value=CALLS.c.state)


def _call(row: Row[Any], spawned_at: datetime, started_at: datetime | None = None) -> Call:
    return Call(
        key=row.key,
        epoch=row.epoch,
        leased_by=row.leased_by,
        function=row.function,
        tenant=row.tenant,
        state=State(row.state),
        provider=row.provider,
        handle=row.handle,
        deadline=row.deadline,
        spawned_at=spawned_at,
        started_at=started_at,
        code=row.code,
        sensitive=bool(row.command.get("sensitive")),
        sealed=row.command["inputs"].get("original", {}).get("sealed"),
    )


def _plain(kept: Kept) -> dict[str, Any]:
    return asdict(kept) | {"artifacts": [artifact.model_dump(mode="json") for artifact in kept.artifacts]}


def _kept(value: dict[str, Any]) -> Kept:
    artifacts = tuple(Artifact.model_validate(one) for one in value["artifacts"])
    return Kept(artifacts, value["facts"], value["engine"], value["degraded"])
