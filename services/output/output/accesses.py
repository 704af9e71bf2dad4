"""Whoever is given somebody's file, or a link to it, is in the audit before they have it.

The line must be stored: while the broker is away nothing is handed out, for nobody would know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from pydantic import JsonValue

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

    async def note(self, who: str, tenant: str, action: str, subject: str, **details: JsonValue) -> None:
        """`action` is artifact.read, artifact.linked, batch.zipped; `subject` the job or batch.

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
