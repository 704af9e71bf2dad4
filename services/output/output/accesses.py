"""Whoever is given somebody's file, or a link to it, is in the audit before they have it; so is what they change here.

The line must be stored: while the broker is away nothing is handed out or changed, for nobody would know. A change is
told last in its transaction: no change without its line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from fastapi import Request

from contracts.audit import AUDIT_NOTED, AuditNoted
from runtime import clock
from runtime.outbox import outgoing, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

ROOM: Final = "output"


@dataclass(frozen=True, slots=True)
class Accesses:
    """Tells the audit."""

    js: JetStreamContext

    async def note(self, who: str, tenant: str, action: str, subject: str, **details: Any) -> None:
        """`subject` is the id of what it is done to: a job, a batch, a link, an endpoint.

        Raises BROKER_UNAVAILABLE: then it must not happen.
        """
        line = AuditNoted(
            id=uuid4(),
            at=clock.now(),
            room=ROOM,
            who=who,
            action=action,
            subject=subject,
            tenant=tenant,
            details=details,
        )
        await publish(self.js, [outgoing(AUDIT_NOTED, line, message_id=str(line.id), key=subject, source=ROOM)])


async def note(request: Request, tenant: str, action: str, subject: UUID | str, **details: Any) -> None:
    """What a tenant's key asks for. Raises BROKER_UNAVAILABLE: then it must not happen."""
    accesses: Accesses = request.app.state.accesses
    await accesses.note(f"tenant:{tenant}", tenant, action, str(subject), **details)
