"""Every route of every service: what it writes into the audit, or why nobody has to know.

A route that changes something, or hands out what a file holds, has a row in the one table below; one that only tells
how things stand has its reason in the other. A route that is in neither fails here, as does a row without its route.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from stack import services
from stack.home import new_secrets
from stack.ports import PORTS

ROOT = Path(__file__).parents[2]
READS = {"GET", "HEAD", "OPTIONS"}

AUDITED = {
    "ingest": {
        "POST   /v1/uploads": "upload.received",
        "POST   /v1/uploads/import": "upload.received",
        "POST   /v1/uploads/sessions/{}/complete": "upload.received",
        "PATCH  /v1/uploads/tus/{}": "upload.received",
        "POST   /v1/uploads/tus": "upload.received",
        "POST   /v1/uploads/tus/{}": "upload.received",
        "POST   /v1/styles": "upload.received",
        "POST   /v1/styles/import": "upload.received",
        "GET    /v1/styles/{}/{}": "style.read",
        "POST   /v1/styles/drafts": "draft.made",
        "DELETE /v1/styles/drafts/{}": "draft.discarded",
        "POST   /v1/styles/drafts/{}/train": "draft.trained upload.received",
        "POST   /v1/jobs/{}/re-edit": "upload.edited",
        "POST   /v1/grants": "grant.made",
        "POST   /v1/grants/{}/revoke": "grant.revoked",
        "POST   /v1/tenants": "tenant.made",
        "PATCH  /v1/tenants/{}": "tenant.changed",
        "POST   /v1/tenants/{}/keys": "key.made",
        "POST   /v1/tenants/{}/keys/{}/rotate": "key.rotated",
        "POST   /v1/tenants/{}/keys/{}/revoke": "key.revoked",
    },
    "orchestrator": {
        "POST   /v1/jobs/{}/cancel": "job.cancel",
        "POST   /v1/jobs/{}/pause": "job.pause",
        "POST   /v1/jobs/{}/resume": "job.resume",
        "POST   /v1/jobs/{}/retry": "job.retry",
        "POST   /v1/jobs/upgrade": "job.upgrade",
        "POST   /v1/batches": "batch.make",
        "PATCH  /v1/batches/{}": "batch.change",
        "POST   /v1/batches/{}/close": "batch.close",
        "POST   /v1/batches/{}/cancel": "batch.cancel",
        "POST   /v1/batches/{}/retry-failed": "batch.retry-failed",
        "POST   /v1/dead-letters/replay": "dead-letters.replay",
        "POST   /v1/dead-letters/replays/{}/{}": "replay.{action}",
        "POST   /v1/dead-letters/{}/replay": "job.replay dead-letter.replay",
        "POST   /v1/dead-letters/{}/discard": "dead-letter.discard",
        "POST   /v1/erasures": "erasure.request erasure.done",
        "POST   /v1/holds": "hold.place",
        "POST   /v1/holds/{}/release": "hold.release",
        "PUT    /v1/retention/{}": "retention.keep",
    },
    "gpu_bridge": {
        "POST   /v1/providers/{}/test": "provider.tested",
        "POST   /v1/providers/{}/{}": "provider.paused provider.drained provider.resumed",
    },
    "output": {
        "GET    /v1/jobs/{}/artifacts/{}": "artifact.read",
        "POST   /v1/jobs/{}/links": "artifact.linked",
        "POST   /v1/batches/{}/links": "artifact.linked",
        "DELETE /v1/links/{}": "link.revoked",
        "GET    /v1/downloads/{}": "artifact.read batch.zipped",
        "GET    /v1/batches/{}/zip": "batch.zipped",
        "POST   /v1/webhooks": "webhook.made",
        "PATCH  /v1/webhooks/{}": "webhook.changed",
        "DELETE /v1/webhooks/{}": "webhook.deleted",
        "POST   /v1/webhooks/batch-secret": "webhook.rotated",
        "POST   /v1/webhooks/{}/rotate": "webhook.rotated",
        "POST   /v1/webhooks/{}/ping": "webhook.pinged",
        "POST   /v1/webhooks/{}/deliveries/{}/replay": "webhook.replayed",
        "POST   /v1/webhooks/{}/replay": "webhook.replayed",
    },
    "console": {},
}

_ARRIVES = "a file on its way in is nobody's upload yet: its line comes with the acceptance"
_STATE = "states, ids, numbers and names of what is there: no content of a file"
_OWN = "what the asker itself has set, or the operator has"
_OURS = "asked by our own services, which nobody outside reaches"
_UP = "says whether the process is well, or what can be asked of it"
UNAUDITED = {
    "ingest": {
        "POST   /v1/uploads/sessions": _ARRIVES,
        "GET    /v1/uploads/sessions/{}": _ARRIVES,
        "POST   /v1/uploads/sessions/{}/parts": _ARRIVES,
        "DELETE /v1/uploads/sessions/{}": _ARRIVES,
        "OPTION /v1/uploads/tus": _ARRIVES,
        "OPTION /v1/uploads/tus/{}": _ARRIVES,
        "HEAD   /v1/uploads/tus/{}": _ARRIVES,
        "DELETE /v1/uploads/tus/{}": _ARRIVES,
        "GET    /v1/styles": _STATE,
        "GET    /v1/styles/{}": _STATE,
        "GET    /v1/styles/drafts/{}": _OWN,
        "GET    /v1/grants/{}": _OWN,
        "GET    /v1/usage": _STATE,
        "GET    /v1/tenants": _OWN,
        "GET    /v1/tenants/{}": _OWN,
        "GET    /v1/tenants/{}/keys": _OWN,
        "GET    /internal/asker": _OURS,
    },
    "orchestrator": {
        "GET    /v1/jobs/{}/history": _STATE,
        "GET    /v1/pipelines": _STATE,
        "GET    /v1/batches": _STATE,
        "GET    /v1/batches/{}": _STATE,
        "GET    /v1/dead-letters": _STATE,
        "GET    /v1/dead-letters/{}": _STATE,
        "GET    /v1/dead-letters/replays": _STATE,
        "GET    /v1/dead-letters/replays/{}": _STATE,
        "GET    /v1/erasures": _STATE,
        "GET    /v1/erasures/{}": _STATE,
        "GET    /v1/erasures/key": _UP,
        "GET    /v1/holds": _OWN,
        "GET    /v1/retention": _OWN,
        "GET    /v1/audit": _STATE,
        "GET    /v1/audit/export": _STATE,
        "GET    /internal/load": _OURS,
        "GET    /internal/tenants/{}/batches/{}": _OURS,
        "GET    /internal/tenants/{}/jobs/{}": _OURS,
    },
    "gpu_bridge": {
        "GET    /v1/providers": _STATE,
        "GET    /v1/providers/costs": _STATE,
    },
    "output": {
        "GET    /v1/jobs": _STATE,
        "GET    /v1/jobs/{}": _STATE,
        "GET    /v1/jobs/{}/versions": _STATE,
        "GET    /v1/jobs/{}/events": _STATE,
        "GET    /v1/jobs/{}/phases/{}/items": _STATE,
        "GET    /v1/jobs/{}/links": _OWN,
        "GET    /v1/batches/{}/links": _OWN,
        "GET    /v1/batches/{}/events": _STATE,
        "GET    /v1/batches/{}/groups": _STATE,
        "GET    /v1/batches/{}/cost": _STATE,
        "GET    /v1/webhooks": _OWN,
        "GET    /v1/webhooks/{}": _OWN,
        "GET    /v1/webhooks/{}/deliveries": _STATE,
        "GET    /v1/webhooks/{}/deliveries/{}": _STATE,
    },
    "console": {},
}
EVERYWHERE = {"GET    /live": _UP, "GET    /ready": _UP, "GET    /openapi.json": _UP, "HEAD   /openapi.json": _UP}
ROOMS = sorted(AUDITED)


@cache
def app_of(room: str) -> Any:
    """The room's app, as the embedded stack would start it; nothing is connected."""
    row = next(one for one in services.SERVICES if one.role == room)
    given = services.environment(row, PORTS, new_secrets())
    kind = import_module(f"{room}.settings").Settings
    known = {name.removeprefix("SAFELIGHT_").lower(): value for name, value in given.items()}
    return import_module(f"{room}.app").build(kind(**{k: v for k, v in known.items() if k in kind.model_fields}))


def leaves(routes: Any) -> Iterator[Any]:
    """Routes with those of included routers."""
    for route in routes:
        inside = getattr(route, "original_router", None)
        if inside is not None:
            yield from leaves(inside.routes)
        else:
            yield route


def asked(room: str) -> dict[str, str]:
    """`METHOD path` of each route, and the name of its function. What the front door hands on is asked there."""
    found = {}
    for route in leaves(app_of(room).routes):
        if room == "console" and isinstance(route, APIRoute) and route.path.startswith("/v1"):
            continue
        for method in getattr(route, "methods", None) or ():
            found[f"{method[:6]:<6} {re.sub(r'{[^}]*}', '{}', route.path)}"] = route.name
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_route_is_in_the_audit_or_says_why_not(room: str) -> None:
    known = AUDITED[room].keys() | UNAUDITED[room].keys() | EVERYWHERE.keys()
    assert asked(room).keys() == known
    assert not AUDITED[room].keys() & UNAUDITED[room].keys()


@pytest.mark.parametrize("room", ROOMS)
def test_whatever_changes_something_that_is_there_has_its_line(room: str) -> None:
    changes = {row for row in UNAUDITED[room] if row.split()[0] not in (READS | {"OPTION"})}
    assert {UNAUDITED[room][row] for row in changes} <= {_ARRIVES}


@pytest.mark.parametrize("room", ROOMS)
def test_every_line_that_is_promised_is_written_somewhere_in_its_room(room: str) -> None:
    folder = ROOT / "services" / room.replace("_", "-") / room
    code = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    actions = {action for row in AUDITED[room].values() for action in row.split()}
    assert {action for action in actions if f'"{action}"' not in code} == set()
