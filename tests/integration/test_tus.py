"""tus 1.0 by its specification: what a server must answer, request by request, and what it must keep."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from itertools import pairwise
from uuid import UUID, uuid4

import httpx
import pytest
from nats.aio.client import Client

from ingest.settings import Settings
from tests.integration.conftest import SettingsOf, until
from tests.integration.ways import KEY, MIB, OCTETS, OTHER_KEY, TUS, Ways, metadata, opened
from tests.integration.wire import picture, sha256, told
from tests.servers.models import S3Server

BYTES_MAX = 40 * MIB


@pytest.fixture(scope="module")
async def ways(prepared: object, settings_of: SettingsOf, s3_server: S3Server) -> AsyncIterator[Ways]:
    keys = f"demo:{KEY},other:{OTHER_KEY}"
    async with opened(settings_of(Settings, "ingest", upload_bytes_max=BYTES_MAX, api_keys=keys), s3_server) as made:
        yield made


def long_file(size: int) -> bytes:
    """A JPEG by its head, of this many bytes."""
    head = picture()
    return head + os.urandom(size - len(head))


def checked(algorithm: str, content: bytes) -> str:
    digest = hashlib.new(algorithm, content).digest()
    return f"{algorithm} {base64.b64encode(digest).decode()}"


# -- the way of one upload --------------------------------------------------------------------


async def test_the_server_says_what_it_can_do(ways: Ways) -> None:
    answer = await ways.tus("OPTIONS", tus_resumable=None, authorization=None)
    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == answer.headers["Tus-Resumable"] == "1.0.0"
    extensions = "creation,creation-with-upload,checksum,expiration,termination,concatenation"
    assert answer.headers["Tus-Extension"] == extensions
    assert answer.headers["Tus-Max-Size"] == str(BYTES_MAX)
    assert "sha1" in answer.headers["Tus-Checksum-Algorithm"].split(",")


async def test_pieces_of_any_length_become_an_upload_with_its_job(ways: Ways, nc: Client) -> None:
    content = long_file(19 * MIB + 77)
    where = await ways.begin(len(content), upload_metadata=metadata(pipeline="photo", crop="4:5", filename="a b.jpg"))
    cuts = [0, 1, 600, 3 * MIB, 3 * MIB + 5, 12 * MIB, len(content)]
    for begin, end in pairwise(cuts):
        answer = await ways.patch(where, begin, content[begin:end])
        assert answer.status_code == 204, answer.text
        assert answer.headers["Upload-Offset"] == str(end)
        assert ("Upload-Expires" in answer.headers) == (end < len(content))
        assert ("Safelight-Job-Id" in answer.headers) == (end == len(content))
    looked = await ways.tus("HEAD", where)
    for name in ("Safelight-Upload-Id", "Safelight-Job-Id", "Upload-Offset"):
        assert looked.headers[name] == answer.headers[name]
    assert looked.headers["Cache-Control"] == "no-store"

    row = await ways.upload(answer.headers["Safelight-Upload-Id"])
    assert (row.sha256, row.size, row.media_type) == (sha256(content), len(content), "image/jpeg")
    assert await ways.objects.get_checked(row.key, row.sha256) == content
    [event] = await told(nc, answer.headers["Safelight-Job-Id"])
    assert event.body["options"]["crop"] == "4:5"
    assert "a b.jpg" not in str(event)
    assert {one for one in await ways.lying() if where[-36:] in one} <= {row.key}


async def test_a_file_may_come_with_its_creation(ways: Ways, nc: Client) -> None:
    content = picture()
    answer = await ways.tus("POST", content=content, upload_length=str(len(content)))
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, str(len(content)))
    assert len(await told(nc, answer.headers["Safelight-Job-Id"])) == 1


async def test_the_same_idempotency_key_is_told_the_same_address(ways: Ways) -> None:
    key = str(uuid4())
    first, again = [await ways.tus("POST", upload_length="1000", idempotency_key=key) for _ in range(2)]
    assert first.status_code == again.status_code == 201
    assert first.headers["Location"] == again.headers["Location"]
    other = await ways.tus("POST", upload_length="1001", idempotency_key=key)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_the_callers_trace_goes_on(ways: Ways, nc: Client) -> None:
    trace_id, content = uuid4().hex, picture()
    parent = f"00-{trace_id}-00f067aa0ba902b7-01"
    answer = await ways.tus("POST", content=content, upload_length=str(len(content)), traceparent=parent)
    [event] = await told(nc, answer.headers["Safelight-Job-Id"])
    assert event.headers["traceparent"].split("-")[1] == trace_id


async def test_creation_answers_where_and_until_when_and_head_repeats_what_was_said(ways: Ways) -> None:
    said = metadata(pipeline="photo", filename="Müller.jpg")
    answer = await ways.tus("POST", upload_length="1000", upload_metadata=said)
    assert answer.status_code == 201
    assert answer.headers["Location"].startswith(f"{TUS}/")
    assert parsedate_to_datetime(answer.headers["Upload-Expires"]).tzinfo is not None
    looked = await ways.tus("HEAD", answer.headers["Location"])
    assert (looked.headers["Upload-Offset"], looked.headers["Upload-Length"]) == ("0", "1000")
    assert looked.headers["Upload-Metadata"] == said


async def test_a_client_behind_a_narrow_network_patches_by_post(ways: Ways) -> None:
    content = picture()
    where = await ways.begin(len(content))
    answer = await ways.tus("POST", where, content, upload_offset="0", x_http_method_override="PATCH")
    assert answer.status_code == 204
    assert "Safelight-Job-Id" in answer.headers


# -- what is refused --------------------------------------------------------------------------

GOOD = metadata(pipeline="photo")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({"tus_resumable": None}, 412, "TUS_VERSION_UNSUPPORTED", id="no version"),
        pytest.param({"tus_resumable": "0.2.2"}, 412, "TUS_VERSION_UNSUPPORTED", id="another version"),
        pytest.param({"authorization": "Bearer x"}, 401, "UNAUTHENTICATED", id="a stranger"),
        pytest.param({"upload_length": None}, 422, "REQUEST_INVALID", id="no length"),
        pytest.param({"upload_length": "-1"}, 422, "REQUEST_INVALID", id="a negative length"),
        pytest.param({"upload_length": "1e3"}, 422, "REQUEST_INVALID", id="a length that is no number"),
        pytest.param({"upload_length": "9" * 400}, 422, "REQUEST_INVALID", id="a length of 400 digits"),
        pytest.param({"upload_length": "٣"}, 422, "REQUEST_INVALID", id="a digit of another script"),
        pytest.param({"upload_length": "0"}, 422, "UPLOAD_EMPTY", id="an empty file"),
        pytest.param({"upload_length": str(BYTES_MAX + 1)}, 413, "UPLOAD_TOO_LARGE", id="a byte too many"),
        pytest.param({"upload_metadata": "pipeline !!"}, 422, "REQUEST_INVALID", id="no base64"),
        pytest.param({"upload_metadata": "pipeline /w=="}, 422, "REQUEST_INVALID", id="not UTF-8"),
        pytest.param({"upload_metadata": f"{GOOD},{GOOD}"}, 422, "REQUEST_INVALID", id="a key twice"),
        pytest.param({"upload_metadata": metadata(nom="x")}, 422, "REQUEST_INVALID", id="an unknown field"),
        pytest.param({"upload_metadata": ",,"}, 422, "REQUEST_INVALID", id="empty pairs"),
        pytest.param({"upload_metadata": metadata(filename="x" * 9000)}, 422, "REQUEST_INVALID", id="endless metadata"),
        pytest.param({"upload_metadata": metadata(pipeline="a\0b")}, 422, "REQUEST_INVALID", id="a zero byte"),
        pytest.param({"upload_metadata": metadata(style="no-such")}, 422, "STYLE_UNKNOWN", id="an unknown style"),
        pytest.param({"upload_concat": "finale"}, 422, "REQUEST_INVALID", id="another concatenation"),
        pytest.param({"upload_concat": "final;"}, 422, "REQUEST_INVALID", id="a final one of nothing"),
        pytest.param({"upload_concat": "final;/../etc"}, 422, "REQUEST_INVALID", id="a final one of a path"),
        pytest.param({"upload_concat": f"final;/{uuid4()}"}, 404, "NOT_FOUND", id="a final one of what is not there"),
        pytest.param({"content_type": "text/plain", "content_length": "4"}, 415, "MEDIA_TYPE_UNSUPPORTED", id="a text"),
    ],
)
async def test_a_creation_is_refused_with_its_reason(
    ways: Ways, headers: dict[str, str | None], status: int, code: str
) -> None:
    before = await ways.ask("SELECT count(*) FROM ingest.transfers")
    given = {"upload_length": "1000", **headers}
    answer = await ways.tus("POST", TUS, b"text" if "content_length" in given else None, **given)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert await ways.ask("SELECT count(*) FROM ingest.transfers") == before


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        pytest.param({"upload_offset": None}, b"x", 422, "REQUEST_INVALID", id="no offset"),
        pytest.param({"upload_offset": "-1"}, b"x", 422, "REQUEST_INVALID", id="a negative offset"),
        pytest.param({"upload_offset": "1"}, b"x", 409, "OFFSET_CONFLICT", id="an offset ahead"),
        pytest.param({"upload_offset": "9" * 18}, b"x", 409, "OFFSET_CONFLICT", id="an offset far beyond"),
        pytest.param({"content_type": "application/json"}, b"x", 415, "MEDIA_TYPE_UNSUPPORTED", id="another type"),
        pytest.param({}, b"x" * 1001, 413, "UPLOAD_TOO_LARGE", id="more bytes than announced"),
        pytest.param({"tus_resumable": "2"}, b"x", 412, "TUS_VERSION_UNSUPPORTED", id="another version"),
        pytest.param({"upload_checksum": "crc7 AA=="}, b"x", 422, "REQUEST_INVALID", id="an unknown algorithm"),
        pytest.param({"upload_checksum": "sha1 !"}, b"x", 422, "REQUEST_INVALID", id="a digest that is none"),
        pytest.param({"upload_checksum": checked("sha1", b"y")}, b"x", 460, "CHECKSUM_MISMATCH", id="other bytes"),
        pytest.param({"authorization": f"Bearer {OTHER_KEY}"}, b"x", 404, "NOT_FOUND", id="another tenant"),
    ],
)
async def test_bytes_are_refused_with_a_reason_and_none_is_kept(
    ways: Ways, headers: dict[str, str | None], content: bytes, status: int, code: str
) -> None:
    where = await ways.begin(1000)
    answer = await ways.tus("PATCH", where, content, **{"upload_offset": "0", **headers})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert await ways.offset(where) == 0


async def test_a_chunked_body_that_goes_on_beyond_the_announced_length_is_refused(ways: Ways) -> None:
    async def longer() -> AsyncIterator[bytes]:
        yield picture()
        for _ in range(6):
            yield b"x" * MIB

    where = await ways.begin(3 * MIB)
    answer = await ways.patch(where, 0, longer())
    assert (answer.status_code, answer.json()["code"]) == (413, "UPLOAD_TOO_LARGE")


@pytest.mark.parametrize("path", [f"{TUS}/{UUID(int=0)}", f"{TUS}/x", f"{TUS}/..%2f..%2fetc"])
async def test_what_is_not_there_is_not_found(ways: Ways, path: str) -> None:
    for method in ("HEAD", "PATCH", "DELETE"):
        answer = await ways.tus(method, path, b"x" if method == "PATCH" else None, upload_offset="0")
        assert answer.status_code in (404, 422), method


async def test_a_file_of_no_known_type_is_refused_by_its_first_bytes_and_stays_refused(ways: Ways) -> None:
    where = await ways.begin(20 * MIB)
    for method in ("PATCH", "PATCH"):
        answer = await ways.patch(where, 0, b"just a text " * 500)
        assert (method, answer.status_code, answer.json()["code"]) == (method, 415, "MEDIA_TYPE_UNSUPPORTED")
    assert (await ways.tus("HEAD", where)).status_code == 415
    assert not [one for one in await ways.lying() if where[-36:] in one]


async def test_a_file_that_is_shorter_than_any_head_is_refused_at_its_end(ways: Ways) -> None:
    where = await ways.begin(4)
    answer = await ways.patch(where, 0, b"text")
    assert (answer.status_code, answer.json()["code"]) == (415, "MEDIA_TYPE_UNSUPPORTED")
    assert not [one for one in await ways.lying() if where[-36:] in one]


# -- checksum ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512", "md5"])
async def test_bytes_with_their_checksum_are_taken(ways: Ways, algorithm: str) -> None:
    content = picture()
    where = await ways.begin(len(content))
    answer = await ways.patch(where, 0, content, upload_checksum=checked(algorithm, content))
    assert answer.status_code == 204
    assert (await ways.upload(answer.headers["Safelight-Upload-Id"])).sha256 == sha256(content)


async def test_a_wrong_checksum_discards_parts_that_were_stored_already(ways: Ways) -> None:
    content = long_file(18 * MIB)
    where = await ways.begin(len(content))
    assert (await ways.patch(where, 0, content[:MIB])).status_code == 204
    wrong = await ways.patch(where, MIB, content[MIB:], upload_checksum=checked("sha1", b"other"))
    assert (wrong.status_code, await ways.offset(where)) == (460, MIB)
    assert f"unfinished uploads/{where[-36:]}" not in await ways.lying()
    right = await ways.patch(where, MIB, content[MIB:], upload_checksum=checked("sha1", content[MIB:]))
    assert right.status_code == 204
    assert (await ways.upload(right.headers["Safelight-Upload-Id"])).sha256 == sha256(content)


# -- interrupted ------------------------------------------------------------------------------


async def cut(ways: Ways, where: str, offset: int, content: bytes, sent: int) -> None:
    """A client that announces all of it and leaves after `sent` bytes, when somebody has begun to take them."""
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(ways.site.url).port)
    head = (
        f"PATCH {where} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: {OCTETS}\r\nUpload-Offset: {offset}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content[:sent])
    await writer.drain()
    await until(lambda: ways.ask(LEASED, id=where[-36:]))
    writer.close()
    await writer.wait_closed()
    await ways.site.quiet()


LEASED = "SELECT 1 FROM ingest.transfers WHERE lease IS NOT NULL AND id = :id"
SOCKET_BYTES = 192 * 1024  # what the server may have read and handed to nobody


@pytest.mark.parametrize("sent", [300_000, 5 * MIB, 8 * MIB, 17 * MIB + 3])
async def test_what_came_before_the_connection_broke_is_kept(ways: Ways, sent: int) -> None:
    content = long_file(18 * MIB)
    where = await ways.begin(len(content))
    await cut(ways, where, 0, content, sent)
    kept = await ways.offset(where)
    assert sent - SOCKET_BYTES <= kept <= sent
    answer = await ways.patch(where, kept, content[kept:])
    assert answer.status_code == 204, answer.text
    assert (await ways.upload(answer.headers["Safelight-Upload-Id"])).sha256 == sha256(content)


async def test_of_two_requests_at_once_one_is_told_that_the_other_works(ways: Ways) -> None:
    content = long_file(9 * MIB)
    where = await ways.begin(len(content))
    going, gone = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield content[:MIB]
        going.set()
        await gone.wait()
        yield content[MIB:]

    first = asyncio.create_task(ways.patch(where, 0, slow()))
    await going.wait()
    await until(lambda: ways.ask(LEASED, id=where[-36:]))
    second = await ways.patch(where, 0, content)
    ended = await ways.tus("DELETE", where)
    gone.set()
    assert (second.status_code, second.json()["code"]) == (423, "UPLOAD_LOCKED")
    assert ended.status_code == 423
    assert (await first).status_code == 204
    assert (await ways.patch(where, 0, content)).status_code == 409


async def test_who_was_overtaken_keeps_nothing(ways: Ways) -> None:
    content = long_file(9 * MIB)
    where = await ways.begin(len(content))
    going, gone = asyncio.Event(), asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield content[:MIB]
        going.set()
        await gone.wait()
        yield bytes(8 * MIB)

    first = asyncio.create_task(ways.patch(where, 0, stalled()))
    await going.wait()
    lapsed = "UPDATE ingest.transfers SET leased_until = now() - interval '1 s' WHERE lease IS NOT NULL AND id = :id"
    await until(lambda: ways.ask(f"{lapsed} RETURNING 1", id=where[-36:]))
    answer = await ways.patch(where, 0, content)
    assert answer.status_code == 204
    gone.set()
    assert (await first).status_code == 423
    row = await ways.upload(answer.headers["Safelight-Upload-Id"])
    assert await ways.objects.get_checked(row.key, sha256(content)) == content


async def test_an_end_that_was_lost_is_made_up_for_when_somebody_looks(ways: Ways, nc: Client) -> None:
    """All bytes were safe when the process died: what HEAD says must be true, so HEAD finishes it."""
    content = long_file(6 * MIB)
    where = await ways.begin(len(content))
    transfer_id = where[-36:]
    await ways.patch(where, 0, content[:MIB])
    await ways.objects.put(f"uploads/{transfer_id}", content, OCTETS)
    lost = 'UPDATE ingest.transfers SET "offset" = size, rest_key = NULL WHERE id = :id'
    await ways.ask(lost, id=transfer_id)
    answer = await ways.tus("HEAD", where)
    assert answer.status_code == 200
    assert len(await told(nc, answer.headers["Safelight-Job-Id"])) == 1
    assert (await ways.upload(transfer_id)).sha256 == sha256(content)


# -- expiration and termination ---------------------------------------------------------------


async def test_an_upload_that_rested_too_long_is_gone(ways: Ways) -> None:
    where = await ways.begin(1000)
    await ways.ask("UPDATE ingest.transfers SET expires_at = now() WHERE id = :id", id=where[-36:])
    answer = await ways.patch(where, 0, b"x")
    assert (answer.status_code, answer.json()["code"]) == (410, "UPLOAD_EXPIRED")
    assert (await ways.tus("HEAD", where)).status_code == 410


async def test_an_upload_that_was_given_up_is_gone_with_its_bytes(ways: Ways) -> None:
    content = long_file(18 * MIB)
    where = await ways.begin(len(content))
    assert (await ways.patch(where, 0, content[: 10 * MIB])).status_code == 204
    assert (await ways.tus("DELETE", where)).status_code == 204
    assert (await ways.tus("HEAD", where)).status_code == 404
    assert (await ways.patch(where, 10 * MIB, b"x")).status_code == 404
    assert not [one for one in await ways.lying() if where[-36:] in one]


async def test_what_has_become_an_upload_survives_that_its_way_is_given_up(ways: Ways) -> None:
    content = picture()
    where = await ways.begin(len(content))
    done = await ways.patch(where, 0, content)
    assert (await ways.tus("DELETE", where)).status_code == 204
    row = await ways.upload(done.headers["Safelight-Upload-Id"])
    assert await ways.objects.get(row.key) == content


# -- concatenation ----------------------------------------------------------------------------


async def test_partial_uploads_become_one(ways: Ways, nc: Client) -> None:
    content = long_file(12 * MIB)
    pieces = [content[: 6 * MIB], content[6 * MIB : 6 * MIB + 9], content[6 * MIB + 9 :]]
    partials = []
    for piece in pieces:
        where = await ways.begin(len(piece), upload_concat="partial")
        answer = await ways.patch(where, 0, piece)
        assert (answer.status_code, "Safelight-Job-Id" in answer.headers) == (204, False), answer.text
        assert (await ways.tus("HEAD", where)).headers["Upload-Concat"] == "partial"
        partials.append(where)
    concat = f"final;{partials[0]} {ways.site.url}{partials[1]} {partials[2]}"
    said = metadata(crop="1:1")
    final = await ways.tus("POST", upload_concat=concat, upload_metadata=said)
    assert final.status_code == 201, final.text
    assert final.headers["Upload-Length"] == str(len(content))
    looked = await ways.tus("HEAD", final.headers["Location"])
    assert looked.headers["Upload-Concat"] == concat
    assert looked.headers["Upload-Offset"] == looked.headers["Upload-Length"] == str(len(content))
    row = await ways.upload(final.headers["Safelight-Upload-Id"])
    assert (row.sha256, await ways.objects.get(row.key)) == (sha256(content), content)
    [event] = await told(nc, final.headers["Safelight-Job-Id"])
    assert event.body["options"]["crop"] == "1:1"
    again = await ways.tus("POST", upload_concat=concat, upload_metadata=said)
    assert (again.status_code, again.headers["Location"]) == (201, final.headers["Location"])
    assert (
        await ways.tus("PATCH", final.headers["Location"], b"x", upload_offset=str(len(content)))
    ).status_code == 403


async def test_partial_uploads_are_joined_once_by_who_owns_them_and_when_they_are_complete(ways: Ways) -> None:
    where = await ways.begin(1000, upload_concat="partial")
    early = await ways.tus("POST", upload_concat=f"final;{where}")
    assert (early.status_code, early.json()["code"]) == (409, "STATE_CONFLICT")
    stranger = await ways.tus("POST", upload_concat=f"final;{where}", authorization=f"Bearer {OTHER_KEY}")
    assert stranger.status_code == 404
    whole = await ways.begin(1000)
    assert (await ways.tus("POST", upload_concat=f"final;{whole}")).status_code == 409
    assert (await ways.tus("POST", upload_concat=f"final;{where} {where}")).status_code == 422


async def test_a_final_upload_of_no_known_type_is_refused_and_leaves_nothing(ways: Ways) -> None:
    where = await ways.begin(1000, upload_concat="partial")
    assert (await ways.patch(where, 0, b"text " * 200)).status_code == 204
    before = await ways.lying()
    answer = await ways.tus("POST", upload_concat=f"final;{where}")
    assert (answer.status_code, answer.json()["code"]) == (415, "MEDIA_TYPE_UNSUPPORTED")
    assert await ways.lying() == before
