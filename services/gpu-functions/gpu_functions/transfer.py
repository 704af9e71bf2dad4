"""Objects in and out of memory by presigned URL: size-limited, hash-checked, mapped to our errors.

Nothing of an exception or a URL goes into an error: a presigned URL is a credential.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from typing import Final

import httpx

from contracts.envelope import ReadUrl, StoredOutput, WriteUrl
from contracts.errors import SafelightError, error
from gpu_functions.engine import Output

CHECKPOINT_BYTES_MAX: Final = 256 << 20  # LUTs and optimiser states are some MB
INPUT_BYTES_MAX: Final = 1 << 30  # 1 GiB: a 120 MP picture of 16 bit is 720 MB when it is not compressed at all
CHUNK_BYTES: Final = 1 << 18
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)  # seconds of silence; the call's deadline bounds the whole


def client() -> httpx.Client:
    """A client for presigned URLs: direct (they name the storage, no proxy), and it logs no URL."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each URL, signature included, at INFO
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    return httpx.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)


def download(http: httpx.Client, source: ReadUrl) -> bytes:
    """The object's bytes. Raises OBJECT_MISSING (gone, or not what was promised), STORAGE_UNAVAILABLE, DECODE_LIMIT."""
    if source.size > INPUT_BYTES_MAX:
        raise error("DECODE_LIMIT", "the input is larger than a GPU function takes")
    received = bytearray()
    try:
        with http.stream("GET", source.url) as response:
            _check(response.status_code)
            for chunk in response.iter_raw(CHUNK_BYTES):
                received += chunk
                if len(received) > source.size:
                    raise error("OBJECT_MISSING", "the stored object is larger than its reference says")
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise _unavailable(problem) from None
    if len(received) != source.size:
        raise error("OBJECT_MISSING", "the stored object is smaller than its reference says")
    if hashlib.sha256(received).hexdigest() != source.sha256:
        raise error("OBJECT_MISSING", "the stored object has another sha256 than its reference says")
    return bytes(received)


def upload(http: httpx.Client, target: WriteUrl, output: Output) -> StoredOutput:
    """Write `output` and say what was written. Raises OBJECT_MISSING (no such bucket), STORAGE_UNAVAILABLE."""
    try:
        response = http.put(target.url, content=output.data, headers={"Content-Type": output.media_type})
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise _unavailable(problem) from None
    _check(response.status_code)
    return StoredOutput(
        key=target.key,
        sha256=hashlib.sha256(output.data).hexdigest(),
        size=len(output.data),
        media_type=output.media_type,
        width=output.width,
        height=output.height,
    )


def saved(http: httpx.Client, url: str) -> bytes | None:
    """The checkpoint that lies there, or None; also when storage does not say: the work then begins anew."""
    received = bytearray()
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL), http.stream("GET", url) as response:
        if response.status_code != httpx.codes.OK:
            return None
        for chunk in response.iter_raw(CHUNK_BYTES):
            received += chunk
            if len(received) > CHECKPOINT_BYTES_MAX:
                return None
        return bytes(received)
    return None


def save(http: httpx.Client, url: str, checkpoint: bytes) -> None:
    """Keep a checkpoint, best effort: without it the work is done again, not lost."""
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
        http.put(url, content=checkpoint, headers={"Content-Type": "application/octet-stream"})


def _check(status: int) -> None:
    if status in (404, 410):
        raise error("OBJECT_MISSING", f"storage answered {status}")
    if not 200 <= status < 300:
        # 403 is here on purpose: an expired link is renewed by the next attempt.
        raise error("STORAGE_UNAVAILABLE", f"storage answered {status}")


def _unavailable(problem: Exception) -> SafelightError:
    return error("STORAGE_UNAVAILABLE", type(problem).__name__)
