"""Another version of an upload: its finished job with other options, of which only what they change is done again.

Ingest checks what is asked for, pins the style, counts the versions, and says it as it says that a file came in: as an
`UploadReceived` that is an edit of a job. What depends on the change is the orchestrator's to decide.

- Only a job that has succeeded can be edited: there is something whole to go on from. A version is edited like a first.
- What is not named stays as that job had it, a style with its version and its object.
- An edit belongs to its upload and to no batch: a batch counts what was handed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel, JsonValue
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.errors import error
from contracts.jobs import Status
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from ingest import store
from ingest.acts import SOURCE, noted
from ingest.options import CHANGEABLE, read_options
from ingest.styles import KINDS, Styles
from runtime import clock, telemetry
from runtime.outbox import Outbox, Outgoing, outgoing

VERSIONS_MAX: Final = 200  # of one upload: all of them are shown at once


class EditAnswer(BaseModel):
    """The job that makes the new version. `trace_id` finds everything that happens to it."""

    upload_id: UUID
    job_id: UUID
    edit_of: UUID
    version: int
    trace_id: str | None
    status: Status


class _Base(BaseModel):
    """What the orchestrator says of the job that is to be edited."""

    status: Status
    upload_id: UUID
    pipeline: str
    original: ObjectRef
    attachments: dict[str, ObjectRef]
    options: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Edits:
    """The use case. `orchestrator` is asked how the job stands."""

    engine: AsyncEngine
    outbox: Outbox
    styles: Styles
    orchestrator: httpx.AsyncClient

    async def make(
        self, tenant: str, job_id: UUID, wanted: Mapping[str, JsonValue], idempotency_key: str | None
    ) -> EditAnswer:
        """Start another version of a job's upload; null gives an option its default back.

        Raises:
            SafelightError: NOT_FOUND, STATE_CONFLICT (it has not succeeded, or there are enough versions),
                REQUEST_INVALID, STYLE_UNKNOWN, IDEMPOTENCY_KEY_REUSED, SERVICE_UNAVAILABLE, STORAGE_UNAVAILABLE,
                BROKER_UNAVAILABLE (the version is kept and its job will run; ask again with the same key).
        """
        fingerprint = hashlib.sha256(json.dumps([str(job_id), wanted], sort_keys=True).encode()).hexdigest()
        if idempotency_key:
            async with self.engine.connect() as conn:
                known = await store.answered(conn, tenant, idempotency_key)
            if known:
                return await self._repeat(known, fingerprint)
        base = await self._base(tenant, job_id)
        changed = _read(base, wanted)
        attachments = base.attachments
        if "style" in changed:
            attachments = {role: ref for role, ref in attachments.items() if role != "lut"}
            if changed["style"]:
                style = await self.styles.meant(tenant, str(changed["style"]))
                changed["style"], attachments["lut"] = style.reference, style.look
        edit = UploadReceived(
            upload_id=base.upload_id,
            job_id=uuid4(),
            tenant=tenant,
            pipeline=base.pipeline,
            original=base.original,
            attachments=attachments,
            options={**base.options, **changed},
            edit_of=job_id,
            received_at=clock.now(),
        )
        return await self._commit(edit, sorted(wanted), idempotency_key, fingerprint)

    async def _base(self, tenant: str, job_id: UUID) -> _Base:
        try:
            answer = await self.orchestrator.get(f"/internal/tenants/{quote(tenant, safe='')}/jobs/{job_id}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                raise error("NOT_FOUND")
            base = _Base.model_validate(answer.raise_for_status().json())
        except httpx.HTTPError as problem:
            raise error("SERVICE_UNAVAILABLE", "nobody can say how the job stands") from problem
        if base.pipeline in KINDS:
            raise error("STATE_CONFLICT", "a job that makes a style has no versions: the style has")
        if base.status is not Status.SUCCEEDED:
            raise error("STATE_CONFLICT", f"the job is {base.status}; one that has succeeded can be edited")
        return base

    async def _commit(
        self, edit: UploadReceived, changed: Sequence[str], idempotency_key: str | None, fingerprint: str
    ) -> EditAnswer:
        async with self.engine.connect() as conn:
            version = await store.next_version(conn, edit.tenant, edit.upload_id)
            if version is None:
                raise error("NOT_FOUND")
            if version > VERSIONS_MAX:
                raise error("STATE_CONFLICT", f"the upload has {VERSIONS_MAX} versions, no more are kept")
            edit = edit.model_copy(update={"version": version})
            answer = _answer(edit)
            if idempotency_key:
                mine = store.Answered(fingerprint, answer.model_dump(mode="json"))
                if not await store.answer_if_new(conn, edit.tenant, idempotency_key, mine):
                    winner = await store.answered(conn, edit.tenant, idempotency_key)
                    assert winner is not None
                    return await self._repeat(winner, fingerprint)
            message = outgoing(
                UPLOAD_RECEIVED, edit, message_id=_message_id(answer), key=str(edit.job_id), source=SOURCE
            )
            messages = [message, _noted(edit, changed)]
            await store.insert_version(conn, edit)
            await self.outbox.add(conn, messages)
            await conn.commit()
        await self.outbox.flush(messages)
        return answer

    async def _repeat(self, known: store.Answered, fingerprint: str) -> EditAnswer:
        if known.fingerprint != fingerprint:
            raise error("IDEMPOTENCY_KEY_REUSED")
        answer = EditAnswer.model_validate(known.answer)
        await self.outbox.sweep(row=_message_id(answer))  # in case the first try could not publish
        return answer


def _read(base: _Base, wanted: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The options that are to be others. Raises REQUEST_INVALID, which never holds a value."""
    if not wanted:
        raise error("REQUEST_INVALID", "name at least one option that is to be another")
    if unknown := wanted.keys() - CHANGEABLE:
        raise error("REQUEST_INVALID", f"{len(unknown)} options cannot be changed; there are {', '.join(CHANGEABLE)}")
    given = {name: value for name, value in wanted.items() if value is not None}
    options = read_options({"pipeline": base.pipeline, **given})
    return options.model_dump(mode="json", include=set(wanted))


def _answer(edit: UploadReceived) -> EditAnswer:
    assert edit.edit_of is not None
    return EditAnswer(
        upload_id=edit.upload_id,
        job_id=edit.job_id,
        edit_of=edit.edit_of,
        version=edit.version,
        trace_id=telemetry.trace_id(telemetry.traceparent()),
        status=Status.QUEUED,
    )


def _noted(edit: UploadReceived, changed: Sequence[str]) -> Outgoing:
    """The audit's line of it: which options were to be others, and not what they are."""
    about = {
        "job": str(edit.job_id),
        "edit_of": str(edit.edit_of),
        "version": edit.version,
        "changed": list(changed),
    }
    return noted(f"tenant:{edit.tenant}", "upload.edited", str(edit.upload_id), edit.tenant, about)


def _message_id(answer: EditAnswer) -> str:
    return f"{answer.upload_id}.{answer.version}"
