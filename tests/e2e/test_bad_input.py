"""Bad input gets a clear answer or a failed job with a stable code, and the next photo still works."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Stack


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        pytest.param(b"dear diary\n" * 100, 415, "MEDIA_TYPE_UNSUPPORTED", id="a text file named jpg"),
        pytest.param(b"", 422, "UPLOAD_EMPTY", id="no bytes at all"),
        pytest.param(b"%PDF-1.7\n" + b"x" * 500, 415, "MEDIA_TYPE_UNSUPPORTED", id="a PDF in a photo pipeline"),
        pytest.param(b"GIF89a" + b"\0" * 500, 415, "MEDIA_TYPE_UNSUPPORTED", id="a GIF"),
    ],
)
async def test_refused_at_the_door(
    stack: Stack, samples: dict[str, Path], content: bytes, status: int, code: str
) -> None:
    answer = await stack.client.post("/v1/uploads", files={"file": ("photo.jpg", content, "image/jpeg")})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    await still_works(stack, samples)


async def test_a_declared_gigabyte_is_refused_before_it_is_sent(stack: Stack, samples: dict[str, Path]) -> None:
    url = httpx.URL(stack.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = (
        f"POST /v1/uploads HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {stack.api_key}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {2**30}\r\n\r\n--x\r\n"
    )
    writer.write(head.encode())
    await writer.drain()
    async with asyncio.timeout(10):  # nothing more is sent: only the declared length can be refused
        answer = await reader.readuntil(b"}")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"UPLOAD_TOO_LARGE" in answer
    await still_works(stack, samples)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
async def test_a_photo_that_was_cut_short_fails_its_job(stack: Stack, samples: dict[str, Path], part: float) -> None:
    whole = samples["china.jpg"].read_bytes()
    job = await stack.ended(await stack.upload(whole[: int(len(whole) * part)]))
    assert (job["status"], job["error"]["code"], job["error"]["phase"]) == ("failed", "IMAGE_CORRUPT", "analyze")
    await still_works(stack, samples)


async def test_a_picture_with_too_many_pixels_fails_its_job(stack: Stack, samples: dict[str, Path]) -> None:
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
    job = await stack.ended(await stack.upload(bomb + chunk(b"IEND", b"")))
    assert (job["status"], job["error"]["code"]) == ("failed", "IMAGE_TOO_LARGE")
    await still_works(stack, samples)


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        pytest.param({"style": "no-such-style"}, 422, "STYLE_UNKNOWN", id="a style that is not there"),
        pytest.param({"style": "../secrets"}, 422, "STYLE_UNKNOWN", id="a style that climbs"),
        pytest.param({"pipeline": "no-such"}, 422, "PIPELINE_UNKNOWN", id="a pipeline that is not there"),
        pytest.param({"style_strength": "7"}, 422, "REQUEST_INVALID", id="a strength out of range"),
        pytest.param({"crop": "oval"}, 422, "REQUEST_INVALID", id="a crop that is none"),
        pytest.param({"surprise": "1"}, 422, "REQUEST_INVALID", id="a field that is not known"),
    ],
)
async def test_options_that_make_no_sense(
    stack: Stack, samples: dict[str, Path], options: dict[str, str], status: int, code: str
) -> None:
    answer = await stack.upload(samples["coffee.png"], **options)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_without_a_key_nothing_is_told(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.base_url) as stranger:
        for path in ("/v1/jobs", "/v1/jobs/00000000-0000-0000-0000-000000000000"):
            answer = await stranger.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
        answer = await stranger.post("/v1/uploads", files={"file": b"x"})
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


async def test_a_job_that_is_not_there_is_not_found(stack: Stack) -> None:
    answer = await stack.client.get("/v1/jobs/00000000-0000-0000-0000-000000000000")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def still_works(stack: Stack, samples: dict[str, Path]) -> None:
    """The next photo is not held up."""
    assert (await stack.ended(await stack.upload(samples["coffee.png"])))["status"] == "succeeded"
