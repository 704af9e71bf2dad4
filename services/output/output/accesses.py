"""Whoever is given somebody's file, or a link to it, is in the audit before they have it; so is what they change here.

The line must be stored: while the broker is away nothing is handed out or changed, for nobody would know. A change is
told last in its transaction: no change without its line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from fastapi import Request

from runtime import audit
from runtime.outbox import publish

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
        await publish(self.js, [audit.noted(ROOM, who, action, subject, tenant, details)])


async def note(request: Request, tenant: str, action: str, subject: UUID | str, **details: Any) -> None:
    """What a tenant's key asks for. Raises BROKER_UNAVAILABLE: then it must not happen."""
    accesses: Accesses = request.app.state.accesses
    await accesses.note(f"tenant:{tenant}", tenant, action, str(subject), **details)
