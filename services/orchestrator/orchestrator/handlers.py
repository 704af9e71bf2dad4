"""What the orchestrator hears: uploads, outcomes of phases, dead letters, and advisories about lost messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from nats.js.errors import NotFoundError
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import ERRORS, error
from contracts.message import (
    HEADER_CONSUMER,
    HEADER_DELIVERIES,
    HEADER_ERROR_CODE,
    HEADER_ERROR_MESSAGE,
    HEADER_ID,
    HEADER_MESSAGE_ID,
    HEADER_ORIGINAL_ID,
    HEADER_SUBJECT,
)
from contracts.phases import (
    PHASE_DEFERRED,
    PHASE_FAILED,
    PHASE_PROGRESSED,
    PHASE_SUCCEEDED,
    PhaseDeferred,
    PhaseFailed,
    PhaseProgressed,
    PhaseSucceeded,
    read_phase_key,
)
from contracts.topology import COMMANDS
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from orchestrator import letters
from orchestrator.machine.inputs import Base, Begin, Deferred, Failed, Input, Progressed, Succeeded
from orchestrator.shell import Arrived, Shell
from runtime import clock, logs, postgres, telemetry
from runtime.outbox import dressed, publish
from runtime.settle import Delivery

if TYPE_CHECKING:
    from nats.js import JetStreamContext

PUBLISHING_MAX: Final = 4  # batches whose confirmations are still on their way while the next is decided
log = logs.get()

# Straight to the validator: the way through a model's own classmethod costs half as much again.
_phase_succeeded = PhaseSucceeded.__pydantic_validator__.validate_json
_phase_failed = PhaseFailed.__pydantic_validator__.validate_json
_phase_deferred = PhaseDeferred.__pydantic_validator__.validate_json
_phase_progressed = PhaseProgressed.__pydantic_validator__.validate_json
_READ: Final[dict[str, Callable[[bytes, Any], Input]]] = {
    PHASE_SUCCEEDED.subject: lambda body, now: Succeeded(_phase_succeeded(body), now),
    PHASE_FAILED.subject: lambda body, now: Failed(_phase_failed(body), now),
    PHASE_DEFERRED.subject: lambda body, now: Deferred(_phase_deferred(body), now),
    PHASE_PROGRESSED.subject: lambda body, now: Progressed(_phase_progressed(body), now),
}


@dataclass
class Handlers:
    """Turns deliveries into inputs."""

    shell: Shell
    engine: AsyncEngine
    js: JetStreamContext
    _publishing: set[asyncio.Task[None]] = field(default_factory=set)

    async def inputs(self, deliveries: Sequence[Delivery]) -> None:
        """Uploads and outcomes. Raises ValidationError for a body that is none.

        What was committed is published while the next batch is already being decided.
        """
        _, messages = await self.shell.commit([await self._arrived(delivery) for delivery in deliveries])
        while len(self._publishing) >= PUBLISHING_MAX:
            await asyncio.wait(self._publishing, return_when=asyncio.FIRST_COMPLETED)
        if messages:
            task = asyncio.create_task(self.shell.publish(messages))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def drained(self) -> None:
        """Wait for what is being published."""
        await asyncio.gather(*self._publishing, return_exceptions=True)

    async def _arrived(self, delivery: Delivery) -> Arrived:
        now = clock.now()
        given: Input
        if delivery.subject == UPLOAD_RECEIVED.subject:
            upload = UploadReceived.model_validate_json(delivery.body)
            # Read before the transaction and without a lock: what a phase has made is there for good.
            found = await self.shell.read(upload.edit_of) if upload.edit_of else None
            base = Base(found[0].job, found[1]) if found else None
            given = Begin(upload, self.shell.newest(upload.pipeline), now, delivery.traceparent, base)
            return Arrived(upload.job_id, given, delivery.message_id, delivery.traceparent)
        read = _READ.get(delivery.subject)
        if read is None:
            raise error("MESSAGE_INVALID", f"no input comes on {delivery.subject}")
        given = read(delivery.body, now)
        # A hint that comes twice does no harm, so it costs no row of the inbox.
        message_id = None if isinstance(given, Progressed) else delivery.message_id
        return Arrived(given.outcome.job_id, given, message_id, delivery.traceparent)  # type: ignore[union-attr]

    async def dead_letters(self, deliveries: Sequence[Delivery]) -> None:
        """A command that was not answered counts as a failed attempt, so that its job goes on; the rest is kept."""
        for delivery in deliveries:
            await self._dead_letter(delivery)

    async def _dead_letter(self, delivery: Delivery) -> None:
        code = delivery.headers.get(HEADER_ERROR_CODE, "INTERNAL")
        code = code if code in ERRORS else "INTERNAL"
        detail = delivery.headers.get(HEADER_ERROR_MESSAGE, "")
        if outcome := _failed_attempt(delivery, code, detail):
            given = Failed(outcome, clock.now())
            await self.shell.take([Arrived(outcome.job_id, given, delivery.message_id, delivery.traceparent)])
            return
        job_id = _job_of(delivery)
        found = await self.shell.read(job_id) if job_id else None
        kept = letters.undeliverable(
            delivery.message_id,
            delivery.subject.removeprefix("dead."),
            _as_it_came(delivery),
            delivery.body,
            code,
            f"{delivery.headers.get(HEADER_CONSUMER, 'somebody')} could not take it: {detail}",
            job_id,
            found[0].job if found else None,
            telemetry.trace_id(delivery.traceparent),
            clock.now(),
        )
        async with postgres.transaction(self.engine) as conn:
            await letters.bury(conn, [kept])
        log.error("letters.undeliverable", subject=kept.subject, code=code)

    async def lost(self, deliveries: Sequence[Delivery]) -> None:
        """MAX_DELIVERIES: every process that took the message died before settling it. It becomes a dead letter.

        The message is published as one before it is deleted from its work-queue stream, where it
        would lie for ever, neither pending nor out.
        """
        for delivery in deliveries:
            advisory = json.loads(delivery.body)
            stream, consumer, sequence = advisory["stream"], advisory["consumer"], int(advisory["stream_seq"])
            try:
                found = await self.js.get_msg(stream, sequence)
            except NotFoundError:
                continue  # it was settled after all, or is older than the stream keeps
            headers = dict(found.headers or {})
            message_id = headers.get(HEADER_MESSAGE_ID) or f"{stream}.{sequence}"
            dead_id = f"dead.{consumer}.{message_id}"  # as settle names it, should it have got so far
            headers |= {
                HEADER_MESSAGE_ID: dead_id,
                HEADER_ID: dead_id,
                HEADER_ORIGINAL_ID: headers.get(HEADER_ID, message_id),
                HEADER_ERROR_CODE: "WORKER_LOST",
                HEADER_ERROR_MESSAGE: ERRORS["WORKER_LOST"].title,
                HEADER_DELIVERIES: str(advisory.get("deliveries", 0)),
                HEADER_CONSUMER: consumer,
            }
            await publish(self.js, [dressed(dead_id, f"dead.{found.subject}", headers, found.data or b"")])
            log.error("settle.lost", consumer=consumer, stream=stream, sequence=sequence)
            if stream == COMMANDS.name:
                await self.js.delete_msg(stream, sequence)


def _failed_attempt(delivery: Delivery, code: str, detail: str) -> PhaseFailed | None:
    """The attempt that a dead command was; None when it is another message."""
    if not delivery.subject.startswith("dead.cmd.") or ".run" not in delivery.subject:
        return None
    try:
        job_id, phase, item, attempt = read_phase_key(delivery.headers.get(HEADER_SUBJECT, ""))
        return PhaseFailed(
            job_id=job_id, phase=phase, item=item, attempt=attempt, code=code, detail=detail, ended_at=clock.now()
        )
    except ValueError:  # of a stranger
        return None


def job_of(delivery: Delivery) -> str:
    """The job that a message is about: what its key begins with."""
    return delivery.key.partition(".")[0]


def _job_of(delivery: Delivery) -> UUID | None:
    try:
        return UUID(job_of(delivery))
    except ValueError:
        return None


_ADDED: Final = (HEADER_ERROR_CODE, HEADER_ERROR_MESSAGE, HEADER_DELIVERIES, HEADER_CONSUMER, HEADER_ORIGINAL_ID)


def _as_it_came(delivery: Delivery) -> dict[str, str]:
    original = delivery.headers.get(HEADER_ORIGINAL_ID, "")
    kept = {name: value for name, value in delivery.headers.items() if name not in _ADDED}
    return kept | {HEADER_ID: original, HEADER_MESSAGE_ID: original}
