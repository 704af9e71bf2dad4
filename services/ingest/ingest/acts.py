"""What people and ingest itself do here, as lines of the audit, each in the transaction of its act."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from contracts.audit import AUDIT_NOTED, AuditNoted
from runtime import clock
from runtime.outbox import Outgoing, outgoing

SOURCE: Final = "ingest"


def noted(
    who: str,
    action: str,
    subject: str,
    tenant: str | None,
    details: Mapping[str, Any] | None = None,
    *,
    id_: UUID | None = None,
    at: datetime | None = None,
) -> Outgoing:
    """A line for the outbox. `id_`: what is told again under the same one is the same line."""
    line = AuditNoted(
        id=id_ or uuid4(),
        at=at or clock.now(),
        room=SOURCE,
        who=who,
        action=action,
        subject=subject,
        tenant=tenant,
        details=dict(details or {}),
    )
    return outgoing(AUDIT_NOTED, line, message_id=str(line.id), key=subject, source=SOURCE)
