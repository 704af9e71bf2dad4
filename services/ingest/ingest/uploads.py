"""The one core that every upload goes through, whichever way its bytes came.

    admit     before a byte is taken        may this tenant bring so much now?
    ...       the way itself                 bytes become an object, known by hash, size and real type: an Arrival
    accept    once the object is stored      check what it asks for, commit, publish, answer

The answer leaves only after the broker has stored `UploadReceived`. The same Idempotency-Key
gets the same answer: of two requests at once the first commit wins, the other gives its copy up.
A file that is not accepted leaves no object behind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.batches import Duplicates
from contracts.errors import Permanent, error
from contracts.jobs import Status
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived, subject_reference
from ingest import store
from ingest.acts import SOURCE, noted
from ingest.batches import Batches
from ingest.catalog import Catalog
from ingest.drafts import Drafts
from ingest.gate import Gate, Uploader
from ingest.intake import judge_length
from ingest.options import ANY, NOT_OPTIONS, TRAINING, Form, Options, batch_of, read_options
from ingest.receive import receive
from ingest.scanner import Scanner
from ingest.seals import Seals
from ingest.storing import Stored, refuse
from ingest.styles import KINDS, Styles
from runtime import clock, logs, telemetry
from runtime.objects import Objects
from runtime.outbox import Outbox, Outgoing, outgoing

log = logs.get()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file whose bytes are all stored."""

    upload_id: UUID
    original: ObjectRef

    @classmethod
    def of(cls, upload_id: UUID, stored: Stored) -> Arrival:
        """A file that is stored at the upload's own key."""
        ref = ObjectRef(key=key_of(upload_id), sha256=stored.sha256, size=stored.size, media_type=stored.media_type)
        return cls(upload_id, ref)


def key_of(upload_id: UUID) -> str:
    """Where an upload's original lies."""
    return f"uploads/{upload_id}"


class UploadAnswer(BaseModel):
    """What came in, and the job that works on it: none on a photo of a draft. `trace_id` finds all that happens to it.

    `duplicate`: its batch has this content and takes it once; this is the upload, and the job, that were there.
    """

    upload_id: UUID
    job_id: UUID | None
    trace_id: str | None
    status: Status | None
    original: ObjectRef
    duplicate: bool = False


Also = Callable[[AsyncConnection, UploadAnswer], Awaitable[None]]
"""What a way in commits together with the upload: that its own transfer is over."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """The use case, with what it needs."""

    engine: AsyncEngine
    outbox: Outbox
    objects: Objects
    catalog: Catalog
    styles: Styles
    batches: Batches
    seals: Seals
    drafts: Drafts
    gate: Gate
    bytes_max: int
    scanner: Scanner | None = None

    async def admit(
        self, who: Uploader, declared: int | None, *, idempotency_key: str | None = None
    ) -> Mapping[str, str]:
        """Whether `declared` bytes (None: it does not say how many) may be brought now; headers for the answer.

        Every way in asks before it takes a byte. What was answered before is answered again, whatever the limits say.

        Raises:
            SafelightError: UPLOAD_TOO_LARGE, GRANT_SPENT, PIPELINE_FULL, RATE_LIMITED, QUOTA_EXCEEDED.
        """
        refuse(judge_length(declared, self.bytes_max))
        if await self._known(who.tenant, idempotency_key):
            return {}
        return await self.gate.admit(who, declared)

    async def take(
        self,
        who: Uploader,
        idempotency_key: str | None,
        content_type: str,
        body: AsyncIterator[bytes],
        form: Form = ANY,
    ) -> UploadAnswer:
        """The way of a multipart body.

        Raises:
            SafelightError: see `receive` and `accept`.
        """
        known = await self._known(who.tenant, idempotency_key)
        bytes_max = min(self.bytes_max, who.grant.bytes_max) if who.grant else self.bytes_max
        upload_id = uuid4()
        objects = None if known else self.objects
        got = await receive(content_type, body, bytes_max, form.fields, objects, key_of(upload_id))
        fields = form.read(got.fields)
        if known:
            return await self._repeat(known, _fingerprint(got.file.sha256, fields))
        return await self.accept(who, Arrival.of(upload_id, got.file), fields, idempotency_key=idempotency_key)

    async def accept(
        self,
        who: Uploader,
        arrival: Arrival,
        fields: Mapping[str, str],
        *,
        idempotency_key: str | None = None,
        also: Also | None = None,
        again: bool = False,
    ) -> UploadAnswer:
        """Make an upload of a file that is stored, and its job. `also` is done in the same transaction.

        `again`: the way can come back with the same object, which is removed only if it will never be accepted.

        Raises:
            SafelightError: REQUEST_INVALID, PIPELINE_UNKNOWN, STYLE_UNKNOWN, BATCH_UNKNOWN, BATCH_CLOSED,
                DUPLICATE_UPLOAD, SERVICE_UNAVAILABLE (of the batch), MEDIA_TYPE_UNSUPPORTED, UPLOAD_INFECTED,
                SCANNER_UNAVAILABLE, FORBIDDEN (by the grant), GRANT_SPENT, QUOTA_EXCEEDED, IDEMPOTENCY_KEY_REUSED; then
                the object is gone. BROKER_UNAVAILABLE: the upload is kept and its job will run; ask again with the same
                key.
        """
        original = arrival.original
        fingerprint = _fingerprint(original.sha256, fields)
        orphan = True
        tenant, grant = who.tenant, who.grant
        try:
            if grant:
                grant.check(original.size, original.media_type)
                fields = grant.allows(fields)
            asked, duplicates = await self._asked(tenant, fields)
            options, attachments = await self._pinned(tenant, asked, original.media_type)
            if self.scanner:
                await self.scanner.check(self.objects.stream_as_it_lies(original.key))
            original = await self.seals.original(tenant, options.pipeline, arrival.upload_id, arrival.original)
            received = UploadReceived(
                upload_id=arrival.upload_id,
                job_id=uuid4(),
                tenant=tenant,
                pipeline=options.pipeline,
                original=original,
                attachments=attachments,
                options=_told(tenant, options),
                batch_id=options.batch,
                lane=options.lane,
                grant_id=grant.id if grant else None,
                received_at=clock.now(),
            )
            messages = [_message(received), _noted(received)]
            if asked.draft:  # it is kept, but there is no job yet, and nobody but the audit is told
                received = received.model_copy(update={"job_id": None})
                messages = [_noted(received)]
            async with self.engine.connect() as conn:
                winner, answer = await self._insert(
                    conn, idempotency_key, fingerprint, received, messages, asked, duplicates
                )
                if winner:
                    await conn.rollback()
                else:
                    if also:
                        await also(conn, answer)
                    if not answer.duplicate:
                        await self.gate.spend(conn, who, original.size)
                    orphan = False  # an error of the commit itself does not tell whether it happened
                    await conn.commit()
        except Exception as problem:
            if orphan:
                kept = arrival.original.key if again and not isinstance(problem, Permanent) else None
                await self._remove(*(ref for ref in (arrival.original, original) if ref.key != kept))
            raise
        if winner or answer.duplicate:
            await self._remove(arrival.original, original)
        elif original.sealed:
            await self._remove(arrival.original)
        if winner:
            return await self._repeat(winner, fingerprint)
        if answer.duplicate:
            await self.published(answer.upload_id)
        else:
            await (self.outbox.flush if received.job_id else self.outbox.flush_or_leave)(messages)
            log.info("upload.received", job=str(received.job_id), size=original.size, media_type=original.media_type)
        return answer

    async def _remove(self, *refs: ObjectRef) -> None:
        for key in {ref.key for ref in refs}:
            await self.objects.remove(key)

    async def options(self, who: Uploader, fields: Mapping[str, str]) -> Options:
        """What these fields ask for. A way that knows them first asks before it takes a byte.

        Raises:
            SafelightError: REQUEST_INVALID, PIPELINE_UNKNOWN, STYLE_UNKNOWN, BATCH_UNKNOWN, BATCH_CLOSED,
                SERVICE_UNAVAILABLE (of the batch), FORBIDDEN (by the grant).
        """
        tenant = who.tenant
        options, _ = await self._asked(tenant, who.grant.allows(fields) if who.grant else fields)
        if options.draft:
            await self.drafts.check(tenant, options)
        await self.catalog.accepts(options.pipeline)
        if options.style:
            await self.styles.meant(tenant, options.style)
        return options

    async def published(self, upload_id: UUID) -> None:
        """Publish what an earlier try could not. Raises BROKER_UNAVAILABLE."""
        await self.outbox.sweep(row=str(upload_id))

    async def _asked(self, tenant: str, fields: Mapping[str, str]) -> tuple[Options, Duplicates]:
        """The upload's own fields, what they leave open as its batch sets it, or its tenant; and how the batch takes a
        content twice."""
        if fields.get("draft"):
            return read_options({**fields, "pipeline": str(TRAINING.pipeline)}), "keep"
        _, defaults = await self.gate.settings(tenant)
        if fields.get("pipeline") in KINDS:
            defaults = {}
        batch_id = batch_of(fields)
        if batch_id is None:
            return read_options({**defaults, **fields}), "keep"
        batch = await self.batches.open(tenant, batch_id)
        defaults = {**defaults, **batch.options, **({"pipeline": batch.pipeline} if batch.pipeline else {})}
        return read_options({**defaults, **fields}), batch.duplicates

    async def _known(self, tenant: str, idempotency_key: str | None) -> store.Answered | None:
        if not idempotency_key:
            return None
        async with self.engine.connect() as conn:
            return await store.answered(conn, tenant, idempotency_key)

    async def _repeat(self, known: store.Answered, fingerprint: str) -> UploadAnswer:
        if known.fingerprint != fingerprint:
            raise error("IDEMPOTENCY_KEY_REUSED")
        answer = UploadAnswer.model_validate(known.answer)
        await self.published(answer.upload_id)  # in case the first try could not
        return answer

    async def _pinned(self, tenant: str, options: Options, media_type: str) -> tuple[Options, dict[str, ObjectRef]]:
        """The options with the style's version, and the objects that the job will read: pinned at this moment."""
        if options.draft:
            return options, {}
        accepts = await self.catalog.accepts(options.pipeline)
        if accepts is not None and media_type not in accepts:
            raise error("MEDIA_TYPE_UNSUPPORTED", f"{options.pipeline} takes {', '.join(sorted(accepts))}")
        if not options.style:
            return options, {}
        style = await self.styles.meant(tenant, options.style)
        return options.model_copy(update={"style": style.reference}), {"lut": style.look}

    async def _insert(
        self,
        conn: AsyncConnection,
        idempotency_key: str | None,
        fingerprint: str,
        received: UploadReceived,
        messages: Sequence[Outgoing],
        asked: Options,
        duplicates: Duplicates,
    ) -> tuple[store.Answered | None, UploadAnswer]:
        """Insert what came in. Returns what another request with this key was answered, if one was first, and the
        answer to this one: of a content that the batch has, the upload that it has of it. Raises DUPLICATE_UPLOAD."""
        tenant, answer = received.tenant, _answer(received)
        if await store.insert_upload(conn, received, sole=duplicates != "keep"):
            if asked.draft:
                await self.drafts.keep(conn, received, asked)
            await self.outbox.add(conn, messages)
        else:
            if idempotency_key and (winner := await store.answered(conn, tenant, idempotency_key)):
                return winner, answer  # the content is there because this very request was made before
            twin = await store.twin(conn, received)
            if duplicates == "refuse":
                raise error("DUPLICATE_UPLOAD", f"The batch has this content as job {twin.job_id}.")
            answer = _answer(received).model_copy(update={**twin.told, "trace_id": None, "duplicate": True})
        if idempotency_key:
            mine = store.Answered(fingerprint, answer.model_dump(mode="json"))
            if not await store.answer_if_new(conn, tenant, idempotency_key, mine):
                return await store.answered(conn, tenant, idempotency_key), answer
        return None, answer


def _told(tenant: str, options: Options) -> dict[str, Any]:
    """The options as others are told them: whom an upload is about stays here."""
    told = options.model_dump(mode="json", exclude=NOT_OPTIONS | {"subject"})
    return told | {"subject": subject_reference(tenant, options.subject)} if options.subject else told


def _message(received: UploadReceived) -> Outgoing:
    upload_id, job = str(received.upload_id), str(received.job_id)
    return outgoing(UPLOAD_RECEIVED, received, message_id=upload_id, key=job, source=SOURCE)


def _noted(received: UploadReceived) -> Outgoing:
    """The audit's line of it."""
    return noted(
        f"tenant:{received.tenant}",
        "upload.received",
        str(received.upload_id),
        received.tenant,
        {
            "job": str(received.job_id) if received.job_id else None,
            "size": received.original.size,
            "pipeline": received.pipeline,
            "grant": str(received.grant_id) if received.grant_id else None,
        },
        name=f"{received.upload_id}.received",
        at=received.received_at,
    )


def _answer(received: UploadReceived) -> UploadAnswer:
    return UploadAnswer(
        upload_id=received.upload_id,
        job_id=received.job_id,
        trace_id=telemetry.trace_id(telemetry.traceparent()),
        status=Status.QUEUED if received.job_id else None,
        original=received.original,
    )


def _fingerprint(sha256: str, fields: Mapping[str, str]) -> str:
    request: dict[str, Any] = {"file": sha256, "fields": fields}
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
