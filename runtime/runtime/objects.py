"""Object storage by key, over the S3 SDK. The only file that imports it.

The SDK is synchronous: calls run in a small thread pool of their own, each bounded in time,
with the SDK's own retries cut short (retrying belongs to whoever has a deadline).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from contracts.errors import error
from runtime.settings import S3Settings

T = TypeVar("T")
PART_BYTES: Final = 8 * 1024 * 1024  # one part in memory per upload; the 10,000 parts of S3 then allow 78 GiB
THREADS: Final = 16
STREAMS: Final = 64  # uploads at once; a client may be slow, so they have threads of their own
CONNECT_S: Final = 3.0
READ_S: Final = 60.0
CROSSED_MAX: Final = 5  # tries of a conditional write that meets another one


class Reader(Protocol):
    """A blocking source of bytes; `read(n)` returns b"" at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Objects:
    """One bucket. Every method raises STORAGE_UNAVAILABLE when the store does not answer."""

    def __init__(self, settings: S3Settings) -> None:
        self._bucket = settings.s3_bucket
        self._client = _client(settings, settings.s3_endpoint)
        self._public = _client(settings, settings.s3_public_endpoint or settings.s3_endpoint)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._streams = ThreadPoolExecutor(STREAMS, thread_name_prefix="streams")

    async def put(self, key: str, data: bytes, media_type: str) -> tuple[str, int]:
        """Store bytes under a key; returns (sha256 hex, size)."""
        await self._run(
            lambda: self._client.put_object(self._bucket, key, io.BytesIO(data), len(data), content_type=media_type)
        )
        return hashlib.sha256(data).hexdigest(), len(data)

    async def put_stream(self, key: str, reader: Reader, media_type: str) -> None:
        """Store what `reader` gives, of unknown length, in constant memory (one part). An error of the reader
        goes through, and no object appears."""
        await self._run(
            lambda: self._client.put_object(
                self._bucket,
                key,
                reader,  # type: ignore[arg-type]  # the SDK asks for BinaryIO and only calls read(n)
                length=-1,
                part_size=PART_BYTES,
                num_parallel_uploads=1,
                content_type=media_type,
            ),
            self._streams,
        )

    async def put_if_absent(self, key: str, data: bytes, media_type: str) -> bool:
        """Store bytes under a key that has none. False when it has: of many who try at once one succeeds."""

        headers: Any = {"Content-Type": media_type, "If-None-Match": "*"}

        def put() -> bool:
            for left in reversed(range(CROSSED_MAX)):
                try:
                    # The SDK's public `put_object` makes user metadata of headers that it does not know.
                    self._client._put_object(self._bucket, key, data, headers)
                    return True
                except S3Error as problem:
                    if problem.code == "PreconditionFailed":
                        return False
                    if problem.code != "ConditionalRequestConflict" or not left:  # two writes crossed: who won?
                        raise
            raise AssertionError("the last try returns or raises")

        return await self._run(put)

    async def get(self, key: str, bytes_max: int = -1) -> bytes:
        """The object's bytes, at most so many of them if that is not negative. Raises OBJECT_MISSING."""

        def read() -> bytes:
            response = self._client.get_object(self._bucket, key)
            try:
                return response.read() if bytes_max < 0 else response.read(bytes_max)
            finally:
                response.close()
                response.release_conn()

        return await self._run(read)

    async def get_checked(self, key: str, sha256: str) -> bytes:
        """The object's bytes, only if they are the ones that the reference names. Raises OBJECT_MISSING."""
        data = await self.get(key)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise error("OBJECT_MISSING", "the stored object is not the one that was referred to")
        return data

    async def size(self, key: str) -> int | None:
        """The object's size in bytes, or None when there is no such object."""

        def stat() -> int | None:
            try:
                return self._client.stat_object(self._bucket, key).size
            except S3Error as problem:
                if problem.code in _MISSING:
                    return None
                raise

        return await self._run(stat)

    async def keys(self, folder: str) -> list[str]:
        """The keys of the objects that lie in `folder` (it ends with a slash), not of those in folders in it."""

        def listed() -> list[str]:
            found = self._client.list_objects(self._bucket, folder)
            return [str(one.object_name) for one in found if not one.is_dir]

        return await self._run(listed)

    async def remove(self, key: str) -> None:
        """Delete the object; one that is not there is fine."""
        await self._run(lambda: self._client.remove_object(self._bucket, key))

    async def ensure_bucket(self) -> None:
        """Create the bucket when it is not there (set-up only)."""

        def ensure() -> None:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)

        await self._run(ensure)

    async def check(self) -> None:
        """Readiness. Raises STORAGE_UNAVAILABLE when the bucket cannot be reached or does not exist."""
        if not await self._run(lambda: self._client.bucket_exists(self._bucket)):
            raise error("STORAGE_UNAVAILABLE", "the bucket does not exist")

    async def read_url(
        self, key: str, lives: timedelta, *, public: bool = False, headers: dict[str, str] | None = None
    ) -> str:
        """A link to read one object; `public`: from outside. `headers` are response headers to force."""
        client = self._public if public else self._client
        return client.presigned_get_object(
            self._bucket,
            key,
            expires=lives,
            response_headers=headers,  # type: ignore[arg-type]
        )

    async def write_url(self, key: str, lives: timedelta, *, public: bool = False) -> str:
        """A link to write one object; `public`: from outside. Signing is arithmetic: it asks nobody."""
        client = self._public if public else self._client
        return client.presigned_put_object(self._bucket, key, expires=lives)

    def close(self) -> None:
        """Let go of the threads; running calls end by their own time limits."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._streams.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[[], T], threads: ThreadPoolExecutor | None = None) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads or self._threads, call)
        except S3Error as problem:
            if problem.code in _MISSING:
                raise error("OBJECT_MISSING") from problem
            raise error("STORAGE_UNAVAILABLE", f"object storage answered {problem.code}") from problem
        except (urllib3.exceptions.HTTPError, MinioException, OSError) as problem:
            raise error("STORAGE_UNAVAILABLE") from problem


_MISSING: Final = frozenset({"NoSuchKey", "NoSuchObject"})


def _client(settings: S3Settings, endpoint: str) -> Minio:
    where = urlsplit(endpoint)
    return Minio(
        where.netloc,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,  # given, so that presigning asks nobody
        secure=where.scheme == "https",
        http_client=urllib3.PoolManager(
            maxsize=THREADS + STREAMS,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        ),
    )
