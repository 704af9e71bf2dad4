"""Lines of the audit: what operators and the bridge itself do here, and what a provider was given."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid4, uuid5

from contracts.audit import AUDIT_NOTED, AuditNoted
from runtime import clock
from runtime.outbox import Outgoing, outgoing

SOURCE: Final = "gpu-bridge"


def noted(
    who: str,
    action: str,
    subject: str,
    tenant: str | None = None,
    *,
    name: str | None = None,
    at: datetime | None = None,
    why: str = "",
    details: Mapping[str, Any] | None = None,
) -> Outgoing:
    """A line for the outbox. `name`: what is told again under the same one is the same line."""
    line = AuditNoted(
        id=uuid5(NAMESPACE_OID, name) if name else uuid4(),
        at=at or clock.now(),
        room=SOURCE,
        who=who,
        action=action,
        subject=subject,
        tenant=tenant,
        why=why,
        details=dict(details or {}),
    )
    return outgoing(AUDIT_NOTED, line, message_id=name or str(line.id), key=subject, source=SOURCE)
