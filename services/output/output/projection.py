"""Events become rows: the picture of a job that the API reads.

Events may come twice (the inbox refuses them) or late (the picture ignores them). A batch is one
transaction of a few set-based statements over the rows that its events are about, and no others;
readers that wait are told by NOTIFY when it commits.

Jobs are locked in the order of their ids, so that processes that share the events of a job take
turns. Only a job's first event finds no row to lock: who then is overtaken begins again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import error
from contracts.message import Message
from output.picture import AS_STORED, CHANNELS, JobRow, PhaseRow, Picture, keys_of
from output.tables import ERASED, INBOX
from output.webhooks import telling
from output.webhooks.events import BATCHES, TOLD
from output.webhooks.telling import Told
from runtime import erased, postgres, telemetry
from runtime.settle import Delivery

NOTIFY: Final = "output_events"  # payload: ids of jobs and batches, 32 hexadecimal digits each
NOTIFIED_MOST: Final = 240  # 240 x 32 bytes are 7,680; a payload may have 7,999
OVERTAKEN_MOST: Final = 5
UNTOLD: Final = "{tenant,original,attachments,webhook,grant_id}"  # what a client has no use for

# The columns that are read and written, and how they travel: in an array each, JSON as text.
_JOB: Final = {
    "id": "uuid",
    "tenant": "text",
    "upload_id": "uuid",
    "pipeline": "text",
    "pipeline_version": "int",
    "status": "text",
    "degraded": "bool",
    "revision": "int",
    "trace_id": "text",
    "original": "jsonb",
    "phase_names": "jsonb",
    "error": "jsonb",
    "created_at": "timestamptz",
    "started_at": "timestamptz",
    "ended_at": "timestamptz",
    "pinned_revision": "int",
    "waiting_on": "text",
    "deadline": "timestamptz",
    "batch_id": "uuid",
    "options": "jsonb",
    "edit_of": "uuid",
    "version": "int",
    "grant_id": "uuid",
}
_PHASE: Final = {
    "job_id": "uuid",
    "name": "text",
    "item": "text",
    "revision": "int",
    "status": "text",
    "attempt": "int",
    "progress": "float",
    "reset_revision": "int",
    "hint": "jsonb",
    "state": "jsonb",
}
_ONCE: Final = {"tenant", "upload_id", "pipeline", "trace_id", "edit_of", "version"}  # a job's first event tells them
_MOVING: Final = {name: type_ for name, type_ in _JOB.items() if name not in _ONCE}


class _Overtaken(Exception):
    """Another process has projected a job's first event since we looked."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Consumes batches of events.

    `base_url` stands before the links that webhooks tell; `key_id` signs for URLs that batches name.
    """

    engine: AsyncEngine
    base_url: str = ""
    key_id: str = ""

    async def events(self, deliveries: Sequence[Delivery]) -> None:
        """Project a batch.

        Raises:
            ValidationError: a body does not fit its subject.
            SafelightError: INTERNAL when an event is ahead of its job's first one.
        """
        read = [(delivery, _read(delivery)) for delivery in deliveries]
        for _ in range(OVERTAKEN_MOST):
            try:
                return await self._project(read)
            except _Overtaken:
                continue  # what the other process has committed is there now
        raise error("INTERNAL", "other processes were faster each time")

    async def _project(self, read: Sequence[tuple[Delivery, Any]]) -> None:
        async with postgres.transaction(self.engine) as conn:
            fresh = {row[0] for row in await conn.fetch(_TAKE_IN, [delivery.message_id for delivery, _ in read])}
            gone = await erased.among(conn, ERASED, [_about(event) for _, event in read])
            read = [(delivery, event) for delivery, event in read if _about(event) not in gone]
            of_jobs = [(delivery, event) for delivery, event in read if delivery.subject in CHANNELS]
            pictures = await _load(conn, [event for _, event in of_jobs])
            known = {id_ for id_, picture in pictures.items() if picture.job}
            news: list[tuple[Any, bytes]] = []
            told: list[Told] = []
            for delivery, event in of_jobs:
                if delivery.message_id not in fresh:
                    continue
                fresh.discard(delivery.message_id)  # twice in one batch is still once
                trace_id = telemetry.trace_id(delivery.traceparent)
                picture = pictures[event.job_id]
                if picture.apply(delivery.subject, event, trace_id):
                    news.append((event, delivery.body))
                if delivery.subject in TOLD:  # late or not: it happened
                    told.append(Told(delivery.message_id, TOLD[delivery.subject], event, picture.job))
            jobs = {event.job_id: job for event, _ in news if (job := pictures[event.job_id].job)}
            await _insert_jobs(conn, [jobs[id_] for id_ in sorted(jobs.keys() - known)])
            await _update_jobs(conn, [job for id_, job in jobs.items() if id_ in known])
            await _save_phases(conn, pictures)
            of_batches = [(d, e) for d, e in read if d.subject in BATCHES and d.message_id in fresh]
            lines = [
                _Line(job.id, job.batch_id, job.tenant, e.TYPE, body) for e, body in news if (job := jobs[e.job_id])
            ]
            lines += [_Line(None, e.batch_id, e.tenant, e.TYPE, d.body) for d, e in of_batches]
            await _tell(conn, lines)
            await telling.jobs(conn, told, self.base_url)
            await telling.batches(conn, of_batches, self.base_url, self.key_id)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the streams of a job and of its batch."""

    job: UUID | None
    batch: UUID | None
    tenant: str
    type: str
    body: bytes


def _read(delivery: Delivery) -> Any:
    channel = CHANNELS.get(delivery.subject) or BATCHES.get(delivery.subject)
    if channel is None:
        raise error("MESSAGE_INVALID", f"no event comes on {delivery.subject}")
    event: Message = channel.message.model_validate_json(delivery.body)
    return event


def _about(event: Any) -> UUID:
    """The job, or of an event of a batch the batch."""
    found: UUID = event.batch_id if event.TYPE.startswith("batch.") else event.job_id
    return found


# -- rows in ---------------------------------------------------------------------------------

_TAKE_IN: Final = (
    f"INSERT INTO {INBOX.fullname} (message_id) SELECT DISTINCT unnest($1::text[]) "
    "ON CONFLICT DO NOTHING RETURNING message_id"
)
_LOCK_JOBS: Final = (
    f"SELECT {', '.join(f'{name}::text' if type_ == 'jsonb' else name for name, type_ in _JOB.items())} "
    "FROM output.jobs WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE"
)
_PHASES_OF: Final = (
    "SELECT job_id, name, item, revision, status, attempt, progress, reset_revision, hint::text "
    "FROM unnest($1::uuid[], $2::text[], $3::text[]) AS about (job_id, name, item) "
    "JOIN output.phases USING (job_id, name, item)"
)


async def _load(conn: asyncpg.Connection, events: Sequence[Any]) -> defaultdict[UUID, Picture]:
    """What the events are about; a job that is not there has an empty picture."""
    pictures: defaultdict[UUID, Picture] = defaultdict(Picture)
    for row in await conn.fetch(_LOCK_JOBS, {event.job_id for event in events}):
        pictures[row["id"]].job = JobRow(*row)
    about = {(event.job_id, *key) for event in events for key in keys_of(event)}
    for found in await conn.fetch(_PHASES_OF, *_arrays(about)) if about else ():
        pictures[found[0]].phases[found[1], found[2]] = PhaseRow(*found[1:])
    return pictures


# -- rows out --------------------------------------------------------------------------------


def _unnested(columns: Mapping[str, str]) -> str:
    """Rows from one array per column."""
    shown = (f"{name}::jsonb" if type_ == "jsonb" else name for name, type_ in columns.items())
    arrays = (f"${n}::{'text' if type_ == 'jsonb' else type_}[]" for n, type_ in enumerate(columns.values(), 1))
    return f"SELECT {', '.join(shown)} FROM unnest({', '.join(arrays)}) AS told ({', '.join(columns)})"


_INSERT_JOBS: Final = f"INSERT INTO output.jobs ({', '.join(_JOB)}) {_unnested(_JOB)} ON CONFLICT DO NOTHING"
_UPDATE_JOBS: Final = (
    f"UPDATE output.jobs AS known SET {', '.join(f'{name} = told.{name}' for name in _MOVING if name != 'id')} "
    f"FROM ({_unnested(_MOVING)}) AS told WHERE known.id = told.id"
)
_SAVE_PHASES: Final = (
    f"INSERT INTO output.phases AS known ({', '.join(_PHASE)}) {_unnested(_PHASE)} "
    "ON CONFLICT (job_id, name, item) DO UPDATE SET revision = excluded.revision, status = excluded.status, "
    "attempt = excluded.attempt, progress = excluded.progress, reset_revision = excluded.reset_revision, "
    "hint = excluded.hint, "
    f"state = coalesce(nullif(excluded.state, '{AS_STORED}'), known.state)"
)
# Who tells waits until those before are committed: a reader who has seen an id has seen all that are smaller, from
# however many processes they come. Taken last, it is held for the commit alone.
IN_TURN: Final = f"SELECT pg_advisory_xact_lock(hashtextextended('{NOTIFY}', 0))"
_TELL: Final = (
    "WITH news AS (INSERT INTO output.events (job_id, batch_id, tenant, type, data) "
    f"SELECT job_id, batch_id, tenant, type, body::jsonb - '{UNTOLD}'::text[] "
    "FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY "
    "AS told (job_id, batch_id, tenant, type, body, n) ORDER BY n) "
    f"SELECT pg_notify('{NOTIFY}', whose) FROM unnest($6::text[]) AS whose"
)
_JOB_VALUES: Final = attrgetter(*_JOB)
_MOVING_VALUES: Final = attrgetter(*_MOVING)
_PHASE_VALUES: Final = attrgetter(*list(_PHASE)[1:])


async def _insert_jobs(conn: asyncpg.Connection, rows: Sequence[JobRow]) -> None:
    if not rows:
        return
    done = await conn.execute(_INSERT_JOBS, *_arrays(map(_JOB_VALUES, rows)))
    if done != f"INSERT 0 {len(rows)}":
        raise _Overtaken


async def _update_jobs(conn: asyncpg.Connection, rows: Sequence[JobRow]) -> None:
    if rows:
        await conn.execute(_UPDATE_JOBS, *_arrays(map(_MOVING_VALUES, rows)))


async def _save_phases(conn: asyncpg.Connection, pictures: Mapping[UUID, Picture]) -> None:
    rows = [
        (job_id, *_PHASE_VALUES(picture.phases[key])) for job_id, picture in pictures.items() for key in picture.moved
    ]
    if rows:
        await conn.execute(_SAVE_PHASES, *_arrays(rows))


async def _tell(conn: asyncpg.Connection, lines: Sequence[_Line]) -> None:
    if not lines:
        return
    whose = [id_.hex for id_ in {id_ for line in lines for id_ in (line.job, line.batch) if id_}]
    await conn.execute(IN_TURN)
    await conn.execute(
        _TELL,
        [line.job for line in lines],
        [line.batch for line in lines],
        [line.tenant for line in lines],
        [line.type for line in lines],
        [line.body.decode() for line in lines],
        ["".join(whose[at : at + NOTIFIED_MOST]) for at in range(0, len(whose), NOTIFIED_MOST)],
    )


def _arrays(rows: Iterable[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))
