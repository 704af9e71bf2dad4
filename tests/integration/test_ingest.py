"""Ingest on real servers: an upload is there as a whole, with its row, object and event, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from minio import Minio
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.errors import SafelightError
from contracts.phases import RUN_ANALYZE
from contracts.uploads import OPTIONS, UPLOAD_RECEIVED, UploadReceived
from ingest import store
from ingest.app import build
from ingest.settings import Settings
from ingest.tables import OUTBOX
from runtime import postgres, telemetry
from runtime.objects import Objects
from runtime.outbox import Outbox, outgoing
from tests.integration.conftest import SettingsOf, until
from tests.integration.wire import (
    Site,
    command,
    gone,
    outcome,
    picture,
    send,
    served,
    settled,
    sha256,
    stored,
    told,
)
from tests.pixels.ingest.raw import HEIC
from tests.servers.fixtures import EnvironmentOf
from tests.servers.models import NatsServer, PostgresServer, S3Server

MIB = 2**20
BYTES_MAX = 20 * MIB
KEY, OTHER_KEY = "a-key-of-the-tests-1", "a-key-of-the-tests-2"
BOUNDARY = "the-line-between"


@dataclass
class Ingest:
    """Ingest as its caller, its database and its bucket see it."""

    site: Site
    engine: AsyncEngine
    bucket: Minio
    objects: Objects
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        self.client = httpx.AsyncClient(base_url=self.site.url, headers=headers, timeout=60)

    async def upload(self, content: bytes, idempotency_key: str | None = None, **options: str) -> httpx.Response:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self.client.post("/v1/uploads", data=options, files={"file": ("f", content)}, headers=headers)

    async def send(self, body: Any, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> httpx.Response:
        return await self.client.post("/v1/uploads", content=body, headers={"Content-Type": content_type})

    async def ask(self, query: str, **values: Any) -> list[Any]:
        async with self.engine.connect() as conn:
            return list((await conn.execute(text(query), values)).all())

    async def kept(self) -> tuple[set[str], set[str]]:
        """(keys of the uploads' objects, keys that rows refer to)."""
        await self.site.quiet()
        found = await asyncio.to_thread(
            lambda: {
                str(one.object_name)
                for folder in ("uploads/", "originals/")  # as they came, and sealed
                for one in self.bucket.list_objects("safelight", folder)
                if not one.is_dir
            }
        )
        return found, {row.key for row in await self.ask("SELECT key FROM ingest.uploads")}

    async def ready(self) -> None:
        """Wait until every server is heard again."""

        async def answers() -> bool:
            return (await self.client.get("/ready")).status_code == 200

        await until(answers)


@pytest.fixture(scope="module")
async def ingest(prepared: object, settings_of: SettingsOf, s3_server: S3Server) -> AsyncIterator[Ingest]:
    known = settings_of(
        Settings, "ingest", upload_bytes_max=BYTES_MAX, analysis_workers=1, api_keys=f"demo:{KEY},other:{OTHER_KEY}"
    )
    provider = telemetry.configure("ingest")
    engine, objects = postgres.create_engine(known.postgres_url.get_secret_value(), service="test"), Objects(known)
    bucket = Minio(
        f"127.0.0.1:{s3_server.port}", s3_server.access_key, s3_server.secret_key, secure=False, region="us-east-1"
    )
    async with served(build(known)) as site:
        made = Ingest(site, engine, bucket, objects)
        yield made
        await made.client.aclose()
    objects.close()
    await engine.dispose()
    provider.shutdown()


@pytest.fixture
async def nothing_more(ingest: Ingest) -> AsyncIterator[None]:
    """Whatever the test sends leaves neither an object nor a row, and the next upload is taken."""
    before = await ingest.kept()
    yield
    assert await ingest.kept() == before
    answer = await ingest.upload(picture())
    assert answer.status_code == 202


def part(name: str, content: bytes, file: bool = False) -> bytes:
    named = f'name="{name}"; filename="f"' if file else f'name="{name}"'
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {named}\r\n\r\n"
    return head.encode(errors="surrogateescape") + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


# -- one upload -----------------------------------------------------------------------------


async def test_an_upload_becomes_an_object_a_row_and_one_event(ingest: Ingest, nc: Client) -> None:
    content = picture()
    table = '[{"name": "card", "format": "webp", "widths": [320, 640]}]'
    answer = await ingest.upload(content, style="warm-film", style_strength="0.5", crop="1:1", variants=table)
    assert answer.status_code == 202, answer.text
    given = answer.json()
    job, original = given["job_id"], given["original"]
    assert answer.headers["Location"] == f"/v1/jobs/{job}"
    assert (original["sha256"], original["size"]) == (sha256(content), len(content))
    assert await ingest.objects.get(original["key"]) == content
    [row] = await ingest.ask("SELECT * FROM ingest.uploads WHERE job_id = :job", job=UUID(job))
    assert (row.tenant, row.key, row.sha256, row.size) == ("demo", original["key"], sha256(content), len(content))

    [event] = await told(nc, job)
    assert event.subject == UPLOAD_RECEIVED.subject
    headers = {name.lower(): value for name, value in event.headers.items()}
    trace = re.fullmatch(r"00-([0-9a-f]{32})-[0-9a-f]{16}-0[13]", headers.pop("traceparent"))
    assert trace
    assert trace[1] == given["trace_id"]
    assert headers == {
        "nats-msg-id": given["upload_id"],
        "ce-id": given["upload_id"],
        "ce-specversion": "1.0",
        "ce-type": "upload.v1.received",
        "ce-source": "safelight/ingest",
        "ce-subject": job,
        "content-type": "application/json",
    }
    received = UploadReceived.model_validate(event.body)
    assert received.original == ObjectRef.model_validate(original)
    assert received.options == {
        "style": "warm-film@1",
        "style_strength": 0.5,
        "crop": "1:1",
        "straighten": True,
        "style_name": None,
        "variants": [{"name": "card", "format": "webp", "box": None, "widths": [320, 640], "quality": 80}],
        "color_profile": "srgb",
        "languages": None,
        "template": None,
    }
    lut = received.attachments["lut"]
    assert sha256(await ingest.objects.get(lut.key)) == lut.sha256

    async def forgotten() -> bool:
        return not await ingest.ask("SELECT 1 FROM ingest.outbox WHERE id = :id", id=given["upload_id"])

    await until(forgotten)


async def test_a_lane_is_told_and_is_no_option(ingest: Ingest, nc: Client) -> None:
    given = (await ingest.upload(picture(), lane="bulk")).json()
    [event] = await told(nc, given["job_id"])
    received = UploadReceived.model_validate(event.body)
    assert received.lane == "bulk"
    assert set(received.options) == OPTIONS - {"subject"}, "what pipelines may read; it is about nobody"


async def test_an_upload_of_a_batch_that_nobody_can_be_asked_about_has_to_come_again(
    ingest: Ingest, nothing_more: None
) -> None:
    answer = await ingest.upload(picture(), batch=str(uuid4()))
    assert (answer.status_code, answer.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert answer.headers["Retry-After"]


async def test_without_a_lane_the_orchestrator_decides(ingest: Ingest, nc: Client) -> None:
    given = (await ingest.upload(picture())).json()
    [event] = await told(nc, given["job_id"])
    assert (event.body["batch_id"], event.body["lane"]) == (None, None)


async def test_the_callers_trace_goes_on(ingest: Ingest, nc: Client) -> None:
    trace_id = uuid4().hex
    files, headers = {"file": ("f", picture())}, {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    given = (await ingest.client.post("/v1/uploads", files=files, headers=headers)).json()
    [event] = await told(nc, given["job_id"])
    assert given["trace_id"] == trace_id
    assert event.headers["traceparent"].split("-")[1] == trace_id


async def test_an_upload_in_parts_has_its_own_bytes(ingest: Ingest) -> None:
    content = picture() + os.urandom(9 * MIB)  # more than one part of the store; what follows a JPEG is not looked at
    given = (await ingest.upload(content)).json()
    assert given["original"]["sha256"] == sha256(content)
    assert sha256(await ingest.objects.get(given["original"]["key"])) == sha256(content)


async def test_a_stranger_is_refused_before_a_byte_is_taken(ingest: Ingest, nothing_more: None) -> None:
    answer = await ingest.client.post("/v1/uploads", files={"file": picture()}, headers={"Authorization": "Bearer x"})
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


# -- bodies that end badly ------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [pytest.param(100 * 1024, id="within the first part"), pytest.param(9 * MIB, id="after the first part was stored")],
)
async def test_a_client_that_leaves_in_mid_body_leaves_nothing(ingest: Ingest, nothing_more: None, sent: int) -> None:
    body = part("file", picture() + b"x" * sent, file=True)[:-2]
    before = _unfinished(ingest.bucket)
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(ingest.site.url).port)
    writer.write(
        f"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body) * 2}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    )
    writer.write(body)
    await writer.drain()
    await until(lambda: ingest.site.server.server_state.tasks)
    writer.close()
    await writer.wait_closed()
    await ingest.site.quiet()
    assert _unfinished(ingest.bucket) == before


def _unfinished(bucket: Minio) -> set[str]:
    return {str(one.object_name) for one in bucket._list_multipart_uploads("safelight").uploads}


async def test_a_body_that_is_longer_than_it_may_be_is_refused_while_it_comes(
    ingest: Ingest, nothing_more: None
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", picture(), file=True)[:-2]
        while sent < 10 * BYTES_MAX:
            sent += MIB
            yield b"x" * MIB

    answer = await ingest.send(endless())
    assert "Content-Length" not in answer.request.headers
    assert (answer.status_code, answer.json()["code"]) == (413, "UPLOAD_TOO_LARGE")


async def test_a_declared_length_is_refused_before_the_body_and_the_connection_is_closed(
    ingest: Ingest, nothing_more: None
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(ingest.site.url).port)
    writer.write(
        f"POST /v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {2 * BYTES_MAX}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
    )
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()  # to the end: the server hangs up
    writer.close()
    assert answer.startswith("HTTP/1.1 413 ")
    assert "UPLOAD_TOO_LARGE" in answer


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(part("file", b"", file=True)[:40] + b"x" * MIB, id="a part header that does not end"),
        pytest.param(part("file", picture(), file=True) + END + b"x" * MIB, id="an epilogue that does not end"),
    ],
)
async def test_what_is_beside_the_file_is_bounded_too(ingest: Ingest, nothing_more: None, body: bytes) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield body
        while sent < 10 * BYTES_MAX:
            sent += MIB
            yield b"x" * MIB

    answer = await ingest.send(endless())
    assert answer.status_code in (413, 422)  # 413 where the parser takes an epilogue for more of the file


PHOTO = part("file", picture(), file=True)
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        pytest.param("multipart/form-data", PHOTO + END, 422, "REQUEST_INVALID", id="no boundary is declared"),
        pytest.param(f"{MULTIPART}x", PHOTO + END, 422, "REQUEST_INVALID", id="another boundary is declared"),
        pytest.param("image/jpeg", picture(), 422, "REQUEST_INVALID", id="no multipart at all"),
        pytest.param("", PHOTO + END, 422, "REQUEST_INVALID", id="no content type"),
        pytest.param(MULTIPART, b"", 422, "REQUEST_INVALID", id="an empty body"),
        pytest.param(MULTIPART, END, 422, "REQUEST_INVALID", id="no part at all"),
        pytest.param(MULTIPART, b"\x00\xff" * 999, 422, "REQUEST_INVALID", id="garbage"),
        pytest.param(MULTIPART, part("crop", b"1:1") + END, 422, "REQUEST_INVALID", id="fields without a file"),
        pytest.param(MULTIPART, PHOTO + PHOTO + END, 422, "REQUEST_INVALID", id="two files"),
        pytest.param(MULTIPART, part("nom", b"x") + PHOTO + END, 422, "REQUEST_INVALID", id="an unknown field"),
        pytest.param(MULTIPART, part("style", b"x" * 5000) + PHOTO + END, 422, "REQUEST_INVALID", id="a long field"),
        pytest.param(MULTIPART, part("crop", b"7:5") + PHOTO + END, 422, "REQUEST_INVALID", id="an unknown aspect"),
        pytest.param(MULTIPART, part("style_strength", b"nan") + PHOTO + END, 422, "REQUEST_INVALID", id="no number"),
        pytest.param(MULTIPART, part("batch", b"gallery") + PHOTO + END, 422, "REQUEST_INVALID", id="no batch's id"),
        pytest.param(MULTIPART, part("variants", b"[") + PHOTO + END, 422, "REQUEST_INVALID", id="no table"),
        pytest.param(MULTIPART, part("lane", b"fast") + PHOTO + END, 422, "REQUEST_INVALID", id="an unknown lane"),
        pytest.param(MULTIPART, part("pipeline", b"a\0") + PHOTO + END, 422, "REQUEST_INVALID", id="a zero byte"),
        pytest.param(MULTIPART, part("a\udcffb", b"x") + PHOTO + END, 422, "REQUEST_INVALID", id="a name not in UTF-8"),
        pytest.param(MULTIPART, part("pipeline", b"\xff") + PHOTO + END, 422, "REQUEST_INVALID", id="not UTF-8"),
        pytest.param(MULTIPART, part("style", b"no-such") + PHOTO + END, 422, "STYLE_UNKNOWN", id="an unknown style"),
        pytest.param(MULTIPART, part("style", b"mono\n") + PHOTO + END, 422, "STYLE_UNKNOWN", id="a line too many"),
        pytest.param(MULTIPART, part("style", b"../x") + PHOTO + END, 422, "STYLE_UNKNOWN", id="a path for a style"),
        pytest.param(MULTIPART, PHOTO, 400, "UPLOAD_INCOMPLETE", id="no closing boundary"),
        pytest.param(MULTIPART, part("file", b"", file=True) + END, 422, "UPLOAD_EMPTY", id="an empty file"),
        pytest.param(MULTIPART, part("file", b"text", file=True) + END, 415, "MEDIA_TYPE_UNSUPPORTED", id="a text"),
    ],
)
async def test_a_malformed_upload_is_refused_with_its_reason(
    ingest: Ingest, nothing_more: None, content_type: str, body: bytes, status: int, code: str
) -> None:
    answer = await ingest.send(body, content_type)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "no-such" not in answer.text


async def test_fields_may_come_after_the_file(ingest: Ingest, nc: Client) -> None:
    answer = await ingest.send(PHOTO + part("crop", b"4:5") + END)
    assert answer.status_code == 202, answer.text
    [event] = await told(nc, answer.json()["job_id"])
    assert event.body["options"]["crop"] == "4:5"


TOKENS = [
    f"--{BOUNDARY}".encode(),
    f"--{BOUNDARY}--".encode(),
    b"\r\n",
    b"\n",
    b'Content-Disposition: form-data; name="file"; filename="f"',
    b'Content-Disposition: form-data; name="crop"',
    b'content-disposition: form-data; name="style"; name="file"',
    b'Content-Disposition: form-data; name="pipe\\"line"; filename*=utf-8\'\'%ff',
    b"Content-Disposition: attachment",
    b"Content-Type: image/jpeg",
    b": ",
    b"1:1",
    b"photo",
    picture(".jpg", 16),
    b"\x00",
    "é".encode(),
]
VALID = (0, 2, 5, 2, 2, 11, 2, 0, 2, 4, 2, 9, 2, 2, 13, 2, 1, 2)  # a field, a file, the end


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid body in tokens, some of them dropped, doubled, moved, replaced or cut."""
    valid = [TOKENS[i] for i in VALID]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(valid)))
        match draw(st.sampled_from(["drop", "insert", "bytes", "cut", "double"])):
            case "drop":
                del valid[at : at + 1]
            case "insert":
                valid.insert(at, draw(st.sampled_from(TOKENS)))
            case "bytes":
                valid.insert(at, draw(st.binary(max_size=20)))
            case "double":
                valid[at:at] = valid[at:]
            case "cut" if at < len(valid):
                valid[at] = valid[at][: draw(st.integers(0, len(valid[at])))]
    return b"".join(valid)


@settings(max_examples=40, deadline=None, phases=[Phase.reuse, Phase.generate])  # shrinking takes minutes
@given(body=mutated(), suffix=st.sampled_from(["", "x", '"', "; boundary=x", "; charset=utf-7"]))
async def test_no_body_makes_ingest_fail(ingest: Ingest, body: bytes, suffix: str) -> None:
    answer = await ingest.send(body, MULTIPART + suffix)
    assert answer.status_code == 202 or 400 <= answer.status_code < 500, answer.text


async def test_after_all_that_every_object_has_its_row(ingest: Ingest) -> None:
    objects, rows = await ingest.kept()
    assert objects - rows == set()


# -- the same key ---------------------------------------------------------------------------


async def test_the_same_key_gets_the_same_answer(ingest: Ingest, nc: Client) -> None:
    key = uuid4().hex
    first = await ingest.upload(picture(), key, crop="1:1")
    again = await ingest.upload(picture(), key, crop="1:1")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert len(await told(nc, first.json()["job_id"])) == 1


async def test_five_at_once_with_one_key_are_one_upload(ingest: Ingest, nc: Client) -> None:
    key, before = uuid4().hex, await ingest.kept()
    answers = await asyncio.gather(*(ingest.upload(picture(), key) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [202] * 5
    [job] = {answer.json()["job_id"] for answer in answers}
    objects, rows = await ingest.kept()
    assert objects - before[0] == rows - before[1] == {answers[0].json()["original"]["key"]}
    assert len(await told(nc, job)) == 1


@pytest.mark.parametrize(
    ("content", "options"),
    [
        pytest.param(picture(), {"crop": "4:5"}, id="other options"),
        pytest.param(picture(), {"crop": "1:1", "batch": str(uuid4())}, id="another batch"),
        pytest.param(picture(), {"crop": "1:1", "lane": "bulk"}, id="another lane"),
        pytest.param(picture(width=99), {"crop": "1:1"}, id="another file"),
    ],
)
async def test_a_key_is_not_reused_for_another_request(ingest: Ingest, content: bytes, options: dict[str, str]) -> None:
    key = uuid4().hex
    assert (await ingest.upload(picture(), key, crop="1:1")).status_code == 202
    before = await ingest.kept()
    other = await ingest.upload(content, key, **options)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await ingest.kept() == before


async def test_a_key_belongs_to_its_tenant(ingest: Ingest) -> None:
    key, files = uuid4().hex, {"file": ("f", picture())}
    mine = await ingest.upload(picture(), key)
    headers = {"Idempotency-Key": key, "Authorization": f"Bearer {OTHER_KEY}"}
    theirs = await ingest.client.post("/v1/uploads", files=files, headers=headers)
    assert theirs.status_code == 202
    assert theirs.json()["job_id"] != mine.json()["job_id"]


# -- when a server is away ------------------------------------------------------------------


async def test_while_the_broker_is_away_the_upload_is_kept_and_the_same_key_finds_it(
    ingest: Ingest, nc: Client, nats_server: NatsServer
) -> None:
    key = uuid4().hex
    await asyncio.to_thread(nats_server.kill)
    try:
        answer = await ingest.upload(picture(), key)
        assert (answer.status_code, answer.json()["code"]) == (503, "BROKER_UNAVAILABLE")
        assert answer.headers["Retry-After"] == "5"
    finally:
        await asyncio.to_thread(nats_server.restart)
    [kept] = await ingest.ask("SELECT answer FROM ingest.idempotency WHERE key = :key", key=key)
    await ingest.ready()
    answer = await ingest.upload(picture(), key)
    assert answer.status_code == 202, answer.text
    assert answer.json() == kept.answer
    await until(lambda: nc.is_connected)
    assert len(await told(nc, answer.json()["job_id"])) == 1
    assert await ingest.objects.get(answer.json()["original"]["key"]) == picture()


async def test_commands_are_taken_again_after_the_broker_came_back(ingest: Ingest, nc: Client) -> None:
    failed = await outcome(nc, await send(nc, RUN_ANALYZE, command("analyze", inputs={"original": gone()})))
    assert failed.body["code"] == "OBJECT_MISSING"


@pytest.mark.parametrize("key", [pytest.param(None, id="without a key"), pytest.param("k", id="with a key")])
async def test_while_the_database_is_away_nothing_is_taken(
    ingest: Ingest, postgres_server: PostgresServer, nothing_more: None, key: str | None
) -> None:
    await asyncio.to_thread(postgres_server.kill)
    try:
        answer = await ingest.upload(picture(), key)
        assert (answer.status_code, answer.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
        ready = await ingest.client.get("/ready")
        assert (ready.status_code, ready.json()["waiting_for"]) == (503, ["DATABASE_UNAVAILABLE"])
    finally:
        await asyncio.to_thread(postgres_server.restart)


async def test_a_statement_whose_connection_dies_says_that_the_database_is_away(
    ingest: Ingest, postgres_server: PostgresServer
) -> None:
    async with ingest.engine.connect() as conn:
        with pytest.raises(SafelightError, match="DATABASE_UNAVAILABLE"):
            await conn.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert await ingest.ask("SELECT 1") == [(1,)]


async def test_a_cancelled_statement_is_no_lost_database(ingest: Ingest) -> None:
    begun = asyncio.create_task(ingest.ask("SELECT pg_sleep(60)"))
    busy = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
    await until(lambda: ingest.ask(busy))
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun


async def test_while_the_storage_is_away_the_answer_says_so_soon(
    ingest: Ingest, s3_server: S3Server, nothing_more: None
) -> None:
    await asyncio.to_thread(s3_server.kill)
    try:
        started = time.monotonic()
        answer = await ingest.upload(picture() + b"x" * (9 * MIB))
        assert (answer.status_code, answer.json()["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert time.monotonic() - started < 10
    finally:
        await asyncio.to_thread(s3_server.restart)
    await ingest.ready()


async def test_what_a_crash_left_unpublished_is_published_at_the_next_start(
    ingest: Ingest, settings_of: SettingsOf, nc: Client
) -> None:
    original = await stored(ingest.objects, picture(), "image/jpeg")
    received = UploadReceived(
        upload_id=uuid4(),
        job_id=uuid4(),
        tenant="demo",
        pipeline="photo",
        original=original,
        received_at=datetime.now(UTC),
    )
    job = str(received.job_id)
    message = outgoing(UPLOAD_RECEIVED, received, message_id=str(received.upload_id), key=job, source="ingest")
    async with ingest.engine.begin() as conn:
        await store.insert_upload(conn, received)
        await Outbox(ingest.engine, OUTBOX, nc.jetstream()).add(conn, [message])
    async with served(build(settings_of(Settings, "ingest"))):
        [event] = await until(lambda: told(nc, job), 4)  # before a running process would call the row left behind
    assert UploadReceived.model_validate(event.body) == received


# -- analyze --------------------------------------------------------------------------------


async def test_analyze_tells_what_the_photo_shows(ingest: Ingest, nc: Client) -> None:
    original = await stored(ingest.objects, picture(width=512), "image/jpeg")
    done = await outcome(nc, await send(nc, RUN_ANALYZE, command("analyze", inputs={"original": original})))
    assert done.headers["ce-type"] == "phase.v1.succeeded"
    facts = done.body["facts"]
    assert (facts["width"], facts["height"], facts["media_type"]) == (512, 512, "image/jpeg")
    assert len(facts["faces"]) == 1
    assert done.body["engine"] == "analyze.blazeface-classical@3"


async def test_analyze_hands_on_what_only_it_can_decode(ingest: Ingest, nc: Client) -> None:
    original = await stored(ingest.objects, HEIC, "image/heic")
    done = await outcome(nc, await send(nc, RUN_ANALYZE, command("analyze", inputs={"original": original})))
    [made] = done.body["artifacts"]
    assert (made["name"], made["media_type"], made["width"], made["height"]) == ("image.png", "image/png", 48, 64)
    assert sha256(await ingest.objects.get(made["key"])) == made["sha256"]


@pytest.mark.parametrize(
    ("content", "deadline_s", "code"),
    [
        pytest.param(None, 60, "OBJECT_MISSING", id="an object that is gone"),
        pytest.param(picture()[:-2000], 60, "IMAGE_CORRUPT", id="a photo that was cut"),
        pytest.param(b"no picture", 60, "MEDIA_TYPE_UNSUPPORTED", id="no picture at all"),
        pytest.param(picture(), -1, "PHASE_DEADLINE", id="a deadline that has passed"),
    ],
)
async def test_analyze_tells_why_it_could_not(
    ingest: Ingest, nc: Client, content: bytes | None, deadline_s: float, code: str
) -> None:
    original = await stored(ingest.objects, content, "image/jpeg") if content else gone()
    given = command("analyze", inputs={"original": original}, deadline_s=deadline_s)
    failed = await outcome(nc, await send(nc, RUN_ANALYZE, given))
    assert (failed.headers["ce-type"], failed.body["code"]) == ("phase.v1.failed", code)


async def test_an_object_that_is_another_one_is_missing(ingest: Ingest, nc: Client) -> None:
    original = await stored(ingest.objects, picture(), "image/jpeg")
    exchanged = original.model_copy(update={"sha256": sha256(b"other bytes")})
    failed = await outcome(nc, await send(nc, RUN_ANALYZE, command("analyze", inputs={"original": exchanged})))
    assert failed.body["code"] == "OBJECT_MISSING"


async def test_a_redelivered_command_tells_its_outcome_once(ingest: Ingest, nc: Client) -> None:
    original = await stored(ingest.objects, picture(width=64), "image/jpeg")
    given = command("analyze", inputs={"original": original})
    for message_id in (given.key, f"{given.key} again", f"{given.key} and again"):
        await send(nc, RUN_ANALYZE, given, message_id)
    await settled(nc, RUN_ANALYZE)
    await outcome(nc, given)  # which says that there is one


# -- memory ---------------------------------------------------------------------------------

PARALLEL, EACH = 8, 40 * MIB
GROWTH_MAX = PARALLEL * (8 + 8 + 4) * MIB + 64 * MIB
# Per upload: a part of the store 8 MiB, its copy while it is sent 8, queue and socket 4; the rest is the allocator's.


async def test_parallel_uploads_take_a_part_each_and_not_their_size(
    prepared: object, environment_of: EnvironmentOf, record_property: Callable[[str, object], None]
) -> None:
    async with _process(environment_of("ingest")) as (process, client):
        await _push(client, 17 * MIB)  # whatever a first upload loads
        resting = process.memory_info().rss
        pushing = asyncio.gather(*(_push(client, EACH) for _ in range(PARALLEL)))
        peak = resting
        while not pushing.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.wait([pushing], timeout=0.02)
        assert len({row["original"]["key"] for row in await pushing}) == PARALLEL
        record_property("growth MiB", growth := round((peak - resting) / MIB))
        print(f"\n{PARALLEL} uploads of {EACH // MIB} MiB: {resting // MIB} MiB at rest, {growth} MiB more at the peak")
        assert peak - resting < GROWTH_MAX


async def _push(client: httpx.AsyncClient, size: int) -> dict[str, Any]:
    piece, digest, head = bytes(256 * 1024), hashlib.sha256(), picture()

    async def body() -> AsyncIterator[bytes]:
        digest.update(head)
        yield part("file", head, file=True)[:-2]
        for _ in range(size // len(piece)):
            digest.update(piece)
            yield piece
        yield b"\r\n" + END

    answer = await client.post("/v1/uploads", content=body(), headers={"Content-Type": MULTIPART})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    assert found["original"]["sha256"] == digest.hexdigest()
    return found


@asynccontextmanager
async def _process(given: Mapping[str, str]) -> AsyncIterator[tuple[psutil.Process, httpx.AsyncClient]]:
    """`python -m ingest` as the stack starts it."""
    env = {"PATH": os.environ["PATH"], "MALLOC_ARENA_MAX": "2", **given}
    started = asyncio.create_subprocess_exec(sys.executable, "-m", "ingest", env=env, stderr=asyncio.subprocess.PIPE)
    child = await started
    assert child.stderr
    draining = asyncio.create_task(child.stderr.read())
    url = f"http://127.0.0.1:{given['SAFELIGHT_HTTP_PORT']}"
    key = given["SAFELIGHT_API_KEYS"].partition(":")[2]
    try:
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:

            async def ready() -> bool:
                try:
                    return (await client.get("/ready")).status_code == 200
                except httpx.HTTPError:
                    return False

            await until(ready)
            yield psutil.Process(child.pid), client
    finally:
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 30) in (0, -15), await draining
        await draining
