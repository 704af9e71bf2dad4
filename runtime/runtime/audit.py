"""A line of the audit, as a room sends it: in the transaction of what it tells, or before anything is handed out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

from contracts.audit import AUDIT_NOTED, AuditNoted
from runtime import clock
from runtime.outbox import Outgoing, outgoing


def noted(
    room: str,
    who: str,
    action: str,
    subject: str,
    tenant: str | None = None,
    details: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    at: datetime | None = None,
    why: str = "",
) -> Outgoing:
    """A line; its fields are `AuditNoted`'s. `name`: what is told again under the same one is the same line."""
    line = AuditNoted(
        id=uuid5(NAMESPACE_OID, name) if name else uuid4(),
        at=at or clock.now(),
        room=room,
        who=who,
        action=action,
        subject=subject,
        tenant=tenant,
        why=why,
        details=dict(details or {}),
    )
    return outgoing(AUDIT_NOTED, line, message_id=name or str(line.id), key=subject, source=room)
