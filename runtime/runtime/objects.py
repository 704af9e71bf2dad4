"""Object storage by key, over the S3 SDK. The only file that imports it.

The SDK is synchronous: calls run in a small thread pool of their own, each bounded in time,
with the SDK's own retries cut short (retrying belongs to whoever has a deadline).

What is written within `vault.sealing(key)` is sealed, and what is sealed is opened as it is read: sizes, hashes and
ranges are of the content. Who follows a presigned link finds the object as it lies there.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit, urlunsplit

import urllib3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from minio import Minio, signer
from minio.credentials.credentials import Credentials
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from minio.time import to_amz_date, utcnow

from contracts import sealed
from contracts.errors import error
from runtime import tls
from runtime.settings import S3Settings
from runtime.vault import Vault, masters, sealing_key

T = TypeVar("T")
PART_BYTES: Final = 8 * 1024 * 1024  # one part in memory per upload; the 10,000 parts of S3 then allow 78 GiB
PIECE_BYTES: Final = 512 * 1024  # of what is read piece by piece
THREADS: Final = 16
STREAMS: Final = 64  # uploads at once; a client may be slow, so they have threads of their own
LOOKED_FOR: Final = "uploads/.ready"
CONNECT_S: Final = 3.0
READ_S: Final = 60.0
CROSSED_MAX: Final = 5  # tries of a conditional write that meets another one


class Reader(Protocol):
    """A blocking source of bytes; `read(n)` returns b"" at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class StoredPart(NamedTuple):
    """One part of an object that is not whole yet; `size` in bytes."""

    number: int
    tag: str
    size: int


class Objects:
    """One bucket. Every method raises STORAGE_UNAVAILABLE when the store does not answer."""

    def __init__(self, settings: S3Settings) -> None:
        self._bucket, self._region = settings.s3_bucket, settings.s3_region
        self._client = _client(settings, settings.s3_endpoint)
        self._public = _client(settings, settings.s3_public_endpoint or settings.s3_endpoint)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self.vault = Vault(self, masters(settings.master_keys))
        self._streams = ThreadPoolExecutor(STREAMS, thread_name_prefix="streams")

    async def put(self, key: str, data: bytes, media_type: str) -> tuple[str, int]:
        """Store bytes under a key; returns (sha256 hex, size)."""
        id_ = sealing_key()
        stored = data if id_ is None else sealed.seal(AESGCM, await self.vault.open(id_), id_, key, data)
        await self._run(
            lambda: self._client.put_object(self._bucket, key, io.BytesIO(stored), len(stored), content_type=media_type)
        )
        return hashlib.sha256(data).hexdigest(), len(data)

    async def put_stream(self, key: str, reader: Reader, media_type: str) -> None:
        """Store what `reader` gives, of unknown length, in constant memory (one part). An error of the reader
        goes through, and no object appears."""
        id_ = sealing_key()
        if id_ is not None:
            reader = _Sealing(reader, sealed.Sealer(AESGCM, await self.vault.open(id_), id_, key))
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

    async def put_sealed_copy(self, key: str, to: str, key_id: str, media_type: str) -> None:
        """Store what lies under `key` once more, sealed under another name, in constant memory."""
        sealer = sealed.Sealer(AESGCM, await self.vault.open(key_id), key_id, to)

        def copy() -> None:
            response = self._client.get_object(self._bucket, key)
            try:
                self._client.put_object(
                    self._bucket,
                    to,
                    _Sealing(response, sealer),  # type: ignore[arg-type]  # as above
                    length=-1,
                    part_size=PART_BYTES,
                    num_parallel_uploads=1,
                    content_type=media_type,
                )
            finally:
                response.close()
                response.release_conn()

        await self._run(copy, self._streams)

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

        data = await self._run(read)
        if not sealed.is_sealed(data):
            return data
        if bytes_max >= 0:
            data = await self.get_as_it_lies(key)
        secret = await self.vault.open(sealed.key_id(data))
        opened = await self._run(lambda: sealed.unseal(AESGCM, secret, key, data))
        return opened if bytes_max < 0 else opened[:bytes_max]

    async def get_as_it_lies(self, key: str) -> bytes:
        """The stored bytes, sealed if they are. Raises OBJECT_MISSING."""

        def read() -> bytes:
            response = self._client.get_object(self._bucket, key)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        return await self._run(read)

    async def stream_as_it_lies(self, key: str) -> AsyncIterator[bytes]:
        """The stored bytes piece by piece, in constant memory: a stranger's, which may only look sealed."""
        _, size = await self._head(key)
        async for piece in self._range(key, 0, size):
            yield piece

    async def stream(self, key: str, first: int = 0, last: int | None = None) -> AsyncIterator[bytes]:
        """The content's bytes `first` to `last` (None: to its end), piece by piece, in constant memory.

        Raises:
            SafelightError: OBJECT_MISSING; of a sealed one KEY_DESTROYED, KEY_UNAVAILABLE, SEAL_BROKEN, which may
                come after some of it: what came before is certain.
        """
        head, size = await self._head(key)
        if not sealed.is_sealed(head):
            async for piece in self._range(key, first, (size if last is None else min(last + 1, size)) - first):
                yield piece
            return
        content = sealed.content_size(size)
        left = (content if last is None else min(last + 1, content)) - first
        if left <= 0:
            return
        span = sealed.span(first, first + left - 1, content)
        secret = await self.vault.open(sealed.key_id(head))
        opener = sealed.Opener(AESGCM, secret, head, key, chunk=span.first_chunk, chunks=sealed.chunks(content))
        skip = span.skip
        async for piece in self._range(key, span.at, span.size):
            if opened := opener.add(piece):
                given, skip = opened[skip : skip + left], 0
                left -= len(given)
                yield given
        yield opener.end()[skip : skip + left]

    async def sealed_by(self, key: str) -> str | None:
        """The key under which an object lies there, None when it is not sealed. Raises OBJECT_MISSING."""
        head, _ = await self._head(key)
        return sealed.key_id(head) if sealed.is_sealed(head) else None

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

    async def remove_all(self, prefix: str) -> int:
        """Delete every object whose key begins with `prefix`; returns how many there were."""

        def removed() -> int:
            found = [
                DeleteObject(str(one.object_name))
                for one in self._client.list_objects(self._bucket, prefix, recursive=True)
            ]
            for problem in self._client.remove_objects(self._bucket, found):
                raise error("STORAGE_UNAVAILABLE", f"object storage answered {problem.code}")
            return len(found)

        return await self._run(removed)

    async def ensure_bucket(self) -> None:
        """Create the bucket when it is not there (set-up only)."""

        def ensure() -> None:
            if not self._client.bucket_exists(self._bucket):
                self._client.make_bucket(self._bucket)

        await self._run(ensure)

    async def ensure_private(self) -> bool:
        """Take a policy off the bucket that somebody has put there (set-up only). Whether there was one.

        Without one nobody reads it but by a key, or by a link that a key has signed.
        """

        def ensure() -> bool:
            try:
                self._client.get_bucket_policy(self._bucket)
            except S3Error as problem:
                if problem.code in ("NoSuchBucketPolicy", "NotImplemented", "MethodNotAllowed"):
                    return False
                raise
            self._client.delete_bucket_policy(self._bucket)
            return True

        return await self._run(ensure)

    async def check(self) -> None:
        """Readiness. Raises STORAGE_UNAVAILABLE when the bucket cannot be reached or does not exist."""

        def look() -> None:  # for an object that nobody has: whoever may read some needs no right on the bucket
            try:
                self._client.get_object(self._bucket, LOOKED_FOR).close()
            except S3Error as problem:
                if problem.code not in _MISSING:
                    raise

        await self._run(look)

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

    # -- one object in parts, from several requests ------------------------------------------

    async def begin_parts(self, key: str) -> str:
        """Begin an object that comes in parts; returns what the store calls it until it is whole."""
        headers: Any = {"Content-Type": "application/octet-stream"}
        return await self._run(lambda: self._client._create_multipart_upload(self._bucket, key, headers))

    async def put_part(self, key: str, parts_id: str, number: int, data: bytes) -> str:
        """Store a part, from 1; a part of this number that is there is replaced. Returns its tag.

        Raises:
            SafelightError: OBJECT_MISSING when the object is whole already, or was given up.
        """
        return await self._run(
            lambda: self._client._upload_part(self._bucket, key, data, None, parts_id, number), self._streams
        )

    async def parts(self, key: str, parts_id: str) -> list[StoredPart]:
        """The parts that are there, by number. Raises OBJECT_MISSING as `put_part` does."""

        def listed() -> list[StoredPart]:
            found: list[StoredPart] = []
            marker: str | None = None
            while True:
                page = self._client._list_parts(self._bucket, key, parts_id, part_number_marker=marker)
                found += [StoredPart(one.part_number, one.etag, one.size or 0) for one in page.parts]
                if not page.is_truncated:
                    return found
                marker = page.next_part_number_marker

        return await self._run(listed)

    async def finish_parts(self, key: str, parts_id: str, tags: Sequence[str]) -> None:
        """Make the object whole of its parts 1, 2, 3... Again is fine. Raises OBJECT_MISSING when it was given up."""
        parts = [Part(number, tag) for number, tag in enumerate(tags, 1)]

        def finish() -> None:
            try:
                self._client._complete_multipart_upload(self._bucket, key, parts_id, parts)
            except S3Error as problem:
                if problem.code != "NoSuchUpload":
                    raise
                self._client.stat_object(self._bucket, key)  # whole already, or missing

        await self._run(finish)

    async def abandon_parts(self, key: str, parts_id: str) -> None:
        """Give an object up that is not whole; its parts go. One that is not there is fine."""

        def abandon() -> None:
            try:
                self._client._abort_multipart_upload(self._bucket, key, parts_id)
            except S3Error as problem:
                if problem.code not in _MISSING:
                    raise

        await self._run(abandon)

    async def part_url(self, key: str, parts_id: str, number: int, lives: timedelta, headers: Mapping[str, str]) -> str:
        """A link to write one part from outside, with exactly these headers (length, checksum): they are signed too."""
        client = self._public
        query: Any = {"partNumber": str(number), "uploadId": parts_id}
        url = client._base_url.build(
            method="PUT", region=self._region, bucket_name=self._bucket, object_name=key, query_params=query
        )
        assert client._provider is not None
        return _presigned(url, client._provider.retrieve(), self._region, lives, headers)

    # -- what nobody refers to any more ------------------------------------------------------

    async def unfinished(self, folder: str) -> list[tuple[str, str, datetime]]:
        """Objects in `folder` that are not whole: (key, what the store calls it, since when)."""

        def listed() -> list[tuple[str, str, datetime]]:
            found = self._client._list_multipart_uploads(self._bucket, prefix=folder, max_uploads=1000).uploads
            return [
                (one.object_name, one.upload_id, one.initiated_time)
                for one in found
                if one.upload_id and one.initiated_time
            ]

        return await self._run(listed)

    async def aged(self, folder: str, before: datetime, after: str = "", limit: int = 1000) -> tuple[list[str], str]:
        """Keys in `folder` (and folders in it) behind `after`: those last written `before`, and how far was looked."""

        def listed() -> tuple[list[str], str]:
            found = self._client.list_objects(self._bucket, folder, recursive=True, start_after=after or None)
            page = [one for one in islice(found, limit) if not one.is_dir]
            keys = [str(one.object_name) for one in page if one.last_modified and one.last_modified < before]
            return keys, str(page[-1].object_name) if page else ""

        return await self._run(listed)

    async def _head(self, key: str) -> tuple[bytes, int]:
        """The first bytes of an object, enough to tell whether it is sealed, and its size as it lies there."""

        def read() -> tuple[bytes, int]:
            try:
                response = self._client.get_object(self._bucket, key, length=sealed.HEADER_BYTES)
            except S3Error as problem:
                if problem.code == "InvalidRange":
                    return b"", 0  # it is empty
                raise
            try:
                return response.read(), int(response.headers["Content-Range"].rpartition("/")[2])
            finally:
                response.close()
                response.release_conn()

        return await self._run(read)

    async def _range(self, key: str, at: int, size: int) -> AsyncIterator[bytes]:
        """Bytes as they lie there, piece by piece."""
        if size <= 0:
            return
        response = await self._run(lambda: self._client.get_object(self._bucket, key, offset=at, length=size))
        try:
            while piece := await self._run(lambda: response.read(PIECE_BYTES), self._streams):
                yield piece
        finally:
            response.close()
            response.release_conn()

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


class _Sealing:
    """A reader that gives what another gives, sealed."""

    def __init__(self, reader: Reader, sealer: sealed.Sealer) -> None:
        self._reader, self._sealer = reader, sealer
        self._ready = bytearray(sealer.header)
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        while not self._ended and (size < 0 or len(self._ready) < size):
            content = self._reader.read(sealed.CHUNK_BYTES * 16)
            self._ready += self._sealer.add(content) if content else self._sealer.end()
            self._ended = not content
        most = len(self._ready) if size < 0 else size
        given = bytes(self._ready[:most])
        del self._ready[:most]
        return given


_MISSING: Final = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchUpload"})


def _presigned(url: SplitResult, who: Credentials, region: str, lives: timedelta, headers: Mapping[str, str]) -> str:
    """AWS's "Authenticating Requests: Using Query Parameters" (version 4); the SDK's own signs no header but Host."""
    at = utcnow()
    scope = signer._get_scope(at, region, "s3")
    signed = {"host": url.netloc, **headers}
    query = [
        *parse_qsl(url.query),
        ("X-Amz-Algorithm", signer.SIGN_V4_ALGORITHM),
        ("X-Amz-Credential", f"{who.access_key}/{scope}"),
        ("X-Amz-Date", to_amz_date(at)),
        ("X-Amz-Expires", str(round(lives.total_seconds()))),
        ("X-Amz-SignedHeaders", ";".join(sorted(signed))),
    ]
    url = url._replace(query=urlencode(query, quote_via=quote, safe=""))
    request, _ = signer._get_canonical_request_hash("PUT", url, signed, "UNSIGNED-PAYLOAD")
    key = signer._get_signing_key(who.secret_key, at, region, "s3")
    signature = signer._get_signature(key, signer._get_string_to_sign(at, scope, request))
    return urlunsplit(url._replace(query=f"{url.query}&X-Amz-Signature={signature}"))


def _client(settings: S3Settings, endpoint: str) -> Minio:
    where = urlsplit(endpoint)
    return Minio(
        where.netloc,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,  # given, so that presigning asks nobody
        secure=where.scheme == "https",
        http_client=urllib3.PoolManager(
            ssl_context=tls.context(settings.s3_ca_file) if where.scheme == "https" else None,
            maxsize=THREADS + STREAMS,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
        ),
    )
