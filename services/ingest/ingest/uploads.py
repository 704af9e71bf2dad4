"""Taking one upload in: receive, check what it asks for, commit, publish, answer.

The answer leaves only after the broker has stored `UploadReceived`. The same Idempotency-Key
gets the same answer: of two requests at once the first commit wins, the other gives its copy up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.errors import error
from contracts.jobs import Status
from contracts.uploads import UPLOAD_RECEIVED, Lane, UploadReceived
from ingest import store
from ingest.catalog import Catalog
from ingest.receive import receive
from ingest.styles import KINDS, NAME, Styles
from runtime import clock, logs, telemetry
from runtime.objects import Objects
from runtime.outbox import Outbox, Outgoing, outgoing

SOURCE: Final = "ingest"
Aspect = Literal["original", "none", "1:1", "4:5", "5:4", "3:2", "2:3", "16:9", "9:16"]
log = logs.get()


class Options(BaseModel):
    """The form fields beside the file: what the caller wants done."""

    pipeline: str = Field(default="photo", pattern=r"^[a-z0-9-]{1,64}$", description="which pipeline")
    style: str | None = Field(
        default=None, description="`name` or `name@version` of a style; none leaves the colours alone"
    )
    style_strength: float = Field(default=1.0, ge=0, le=1, description="0 keeps the original's colours, 1 is the style")
    crop: Aspect = Field(default="original", description="aspect of the crop; none keeps the frame")
    straighten: bool = Field(default=True, description="whether the crop makes a crooked horizon level")
    style_name: str | None = Field(
        default=None, pattern=f"^{NAME}$", description="what the style will be called that the pipeline makes"
    )
    batch: UUID | None = Field(default=None, description="id of the batch that the job belongs to")
    lane: Lane | None = Field(default=None, description="who goes first; default: interactive, in a batch bulk")


NOT_OPTIONS: Final = {"pipeline", "batch", "lane"}  # these are about the job, the others about what it makes


@dataclass(frozen=True, slots=True)
class Form:
    """The fields that one route takes beside the file. `pipeline`: it is for that one, and `name` is its style's."""

    fields: tuple[str, ...] = tuple(Options.model_fields)
    pipeline: str | None = None

    def read(self, texts: Mapping[str, str]) -> dict[str, str]:
        """What was sent, as fields of Options."""
        if self.pipeline is None:
            return dict(texts)
        return {"style_name" if name == "name" else name: text for name, text in texts.items()} | {
            "pipeline": self.pipeline
        }


ANY: Final = Form()
TRAINING: Final = Form(("name", "lane"), "style-training")
IMPORT: Final = Form(("name", "lane"), "style-import")


class UploadAnswer(BaseModel):
    """What came in, and the job that works on it. `trace_id` finds everything that happens to it."""

    upload_id: UUID
    job_id: UUID
    trace_id: str | None
    status: Status
    original: ObjectRef


@dataclass(frozen=True, slots=True)
class Uploads:
    """The use case, with what it needs."""

    engine: AsyncEngine
    outbox: Outbox
    objects: Objects
    catalog: Catalog
    styles: Styles
    bytes_max: int

    async def take(
        self, tenant: str, idempotency_key: str | None, content_type: str, body: AsyncIterator[bytes], form: Form = ANY
    ) -> UploadAnswer:
        """Take one multipart body in.

        Raises:
            SafelightError: see `receive`; PIPELINE_UNKNOWN, STYLE_UNKNOWN, IDEMPOTENCY_KEY_REUSED,
                BROKER_UNAVAILABLE (the upload is kept and its job will run; ask again with the same key).
        """
        known = await self._known(tenant, idempotency_key)
        upload_id = uuid4()
        key = f"uploads/{upload_id}"
        got = await receive(content_type, body, self.bytes_max, form.fields, None if known else self.objects, key)
        fields = form.read(got.fields)
        fingerprint = _fingerprint(got.sha256, fields)
        if known:
            return await self._repeat(known, fingerprint)
        orphan = True
        try:
            options, attachments = await self._checked(tenant, _options(fields), got.media_type)
            original = ObjectRef(key=key, sha256=got.sha256, size=got.size, media_type=got.media_type)
            received = UploadReceived(
                upload_id=upload_id,
                job_id=uuid4(),
                tenant=tenant,
                pipeline=options.pipeline,
                original=original,
                attachments=attachments,
                options=options.model_dump(exclude=NOT_OPTIONS),
                batch_id=options.batch,
                lane=options.lane,
                received_at=clock.now(),
            )
            message = _message(received)
            async with self.engine.connect() as conn:
                winner = await self._insert(conn, idempotency_key, fingerprint, received, message)
                orphan = False  # an error of the commit itself does not tell whether it happened
                await conn.commit()
        except Exception:
            if orphan:
                await self.objects.remove(key)
            raise
        if winner:
            await self.objects.remove(key)
            return await self._repeat(winner, fingerprint)
        await self.outbox.flush([message])
        log.info("upload.received", job=str(received.job_id), size=got.size, media_type=got.media_type)
        return _answer(received)

    async def _known(self, tenant: str, idempotency_key: str | None) -> store.Answered | None:
        if not idempotency_key:
            return None
        async with self.engine.connect() as conn:
            return await store.answered(conn, tenant, idempotency_key)

    async def _repeat(self, known: store.Answered, fingerprint: str) -> UploadAnswer:
        if known.fingerprint != fingerprint:
            raise error("IDEMPOTENCY_KEY_REUSED")
        answer = UploadAnswer.model_validate(known.answer)
        await self.outbox.sweep(row=str(answer.upload_id))  # in case the first try could not publish
        return answer

    async def _checked(self, tenant: str, options: Options, media_type: str) -> tuple[Options, dict[str, ObjectRef]]:
        """The options with the style's version, and the objects that the job will read: pinned at this moment."""
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
        message: Outgoing,
    ) -> store.Answered | None:
        """Insert what came in; returns the earlier answer instead when another request with this key was first."""
        if idempotency_key:
            mine = store.Answered(fingerprint, _answer(received).model_dump(mode="json"))
            if not await store.answer_if_new(conn, received.tenant, idempotency_key, mine):
                return await store.answered(conn, received.tenant, idempotency_key)
        await store.insert_upload(conn, received)
        await self.outbox.add(conn, [message])
        return None


def _message(received: UploadReceived) -> Outgoing:
    upload_id, job = str(received.upload_id), str(received.job_id)
    return outgoing(UPLOAD_RECEIVED, received, message_id=upload_id, key=job, source=SOURCE)


def _options(fields: Mapping[str, str]) -> Options:
    try:
        options = Options.model_validate(fields)
    except ValidationError as problem:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors())
        raise error("REQUEST_INVALID", wrong) from problem
    if (options.style_name is not None) != (options.pipeline in KINDS):
        what = "needs a name for the style that it makes" if options.pipeline in KINDS else "makes no style"
        raise error("REQUEST_INVALID", f"style_name: this pipeline {what}")
    return options


def _answer(received: UploadReceived) -> UploadAnswer:
    return UploadAnswer(
        upload_id=received.upload_id,
        job_id=received.job_id,
        trace_id=telemetry.trace_id(telemetry.traceparent()),
        status=Status.QUEUED,
        original=received.original,
    )


def _fingerprint(sha256: str, fields: Mapping[str, str]) -> str:
    request: dict[str, Any] = {"file": sha256, "fields": fields}
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
