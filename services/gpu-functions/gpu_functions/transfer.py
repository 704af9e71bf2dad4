"""Objects in and out of memory by presigned URL: size-limited, hash-checked, sealed where a secret says so.

Nothing of an exception or a URL goes into an error: a presigned URL is a credential.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from typing import Final

import httpx
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contracts import sealed
from contracts.envelope import Checkpoint, ReadUrl, StoredOutput, WriteUrl
from contracts.errors import SafelightError, error
from contracts.sealed import Secret
from gpu_functions.engine import Output

CHECKPOINT_BYTES_MAX: Final = 256 << 20  # LUTs and optimiser states are some MB
INPUT_BYTES_MAX: Final = 1 << 30  # 1 GiB: a 120 MP picture of 16 bit is 720 MB when it is not compressed at all
CHUNK_BYTES: Final = 1 << 18
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)  # seconds of silence; the call's deadline bounds the whole


def client() -> httpx.Client:
    """A client for presigned URLs: direct (they name the storage, no proxy), and it logs no URL.

    It believes the authorities of SSL_CERT_FILE where that is set: those of a storage of ours.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each URL, signature included, at INFO
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    return httpx.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False, verify=httpx.create_ssl_context())


def download(http: httpx.Client, source: ReadUrl) -> bytes:
    """The object's content.

    Raises:
        SafelightError: OBJECT_MISSING (gone, or not what was promised), SEAL_BROKEN, STORAGE_UNAVAILABLE, DECODE_LIMIT.
    """
    if source.size > INPUT_BYTES_MAX:
        raise error("DECODE_LIMIT", "the input is larger than a GPU function takes")
    size = source.size if source.secret is None else sealed.sealed_size(source.size)
    received = bytearray()
    try:
        with http.stream("GET", source.url) as response:
            _check(response.status_code)
            for chunk in response.iter_raw(CHUNK_BYTES):
                received += chunk
                if len(received) > size:
                    raise error("OBJECT_MISSING", "the stored object is larger than its reference says")
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        raise _unavailable(problem) from None
    if len(received) != size:
        raise error("OBJECT_MISSING", "the stored object is smaller than its reference says")
    content = _opened(bytes(received), source.secret)
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise error("OBJECT_MISSING", "the stored object has another sha256 than its reference says")
    return content


def upload(http: httpx.Client, target: WriteUrl, output: Output) -> StoredOutput:
    """Write `output` and say what was written. Raises OBJECT_MISSING (no such bucket), STORAGE_UNAVAILABLE."""
    try:
        response = http.put(
            target.url, content=_sealed(output.data, target.secret), headers={"Content-Type": output.media_type}
        )
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


def saved(http: httpx.Client, where: Checkpoint) -> bytes | None:
    """The checkpoint that lies there, or None; also when storage does not say: the work then begins anew."""
    received = bytearray()
    with (
        contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, SafelightError),
        http.stream("GET", where.read) as response,
    ):
        if response.status_code != httpx.codes.OK:
            return None
        for chunk in response.iter_raw(CHUNK_BYTES):
            received += chunk
            if len(received) > CHECKPOINT_BYTES_MAX:
                return None
        return _opened(bytes(received), where.secret)
    return None


def save(http: httpx.Client, where: Checkpoint, checkpoint: bytes) -> None:
    """Keep a checkpoint, best effort: without it the work is done again, not lost."""
    content = _sealed(checkpoint, where.secret)
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
        http.put(where.write, content=content, headers={"Content-Type": "application/octet-stream"})


def _opened(stored: bytes, secret: Secret | None) -> bytes:
    return stored if secret is None else sealed.unseal(AESGCM, secret.bytes, secret.name, stored)


def _sealed(content: bytes, secret: Secret | None) -> bytes:
    return content if secret is None else sealed.seal(AESGCM, secret.bytes, secret.id, secret.name, content)


def _check(status: int) -> None:
    if status in (404, 410):
        raise error("OBJECT_MISSING", f"storage answered {status}")
    if not 200 <= status < 300:
        # 403 is here on purpose: an expired link is renewed by the next attempt.
        raise error("STORAGE_UNAVAILABLE", f"storage answered {status}")


def _unavailable(problem: Exception) -> SafelightError:
    return error("STORAGE_UNAVAILABLE", type(problem).__name__)
