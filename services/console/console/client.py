"""The API's client: what the command line, the demo and tests ask of a base URL.

Every request may be repeated without harm: reads by nature, an upload because all its tries carry
one Idempotency-Key. So a service that is down or says 503 is asked again a few times, and only
then is it an error. Files go from disk to the network, and from the network to disk, in pieces.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self
from uuid import UUID, uuid4

import httpx
from httpx_sse import EventSource

from console.jobs import Artifact, Event, Job, Submitted, after

RETRY_AFTER_S: Final = (0.5, 1.0, 2.0)  # between tries; a server's own Retry-After may lengthen each to 5 s
RETRY_AFTER_MAX_S: Final = 5.0
# An event stream says at least a comment every 15 s; three missed ones and the connection is taken for dead.
TIMEOUT: Final = httpx.Timeout(45, connect=5)
PIECE: Final = 256 * 1024  # bytes held of an artifact at a time
PAGE: Final = 200  # the most jobs that one answer may hold


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API is and the key that opens it."""

    url: str
    api_key: str

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"  # the key stays out of tracebacks


class ClientError(Exception):
    """Something that the person at the keyboard should read; `code` is stable.

    ClientError
     ├── Refused       the API answered with a problem document
     ├── Unreachable   nobody answered
     └── Damaged       an artifact's bytes are not those that the job recorded
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Refused(ClientError):
    """The API answered with a problem document."""


class Unreachable(ClientError):
    """Nobody answered at the base URL."""


class Damaged(ClientError):
    """The bytes that came are not those that the job recorded."""


class Client:
    """Talks to one base URL with one key. Use as an async context manager."""

    def __init__(self, connection: Connection, *, retry_after_s: tuple[float, ...] = RETRY_AFTER_S) -> None:
        self._url = connection.url.rstrip("/")
        self._retry_after_s = retry_after_s
        self._api = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {connection.api_key}"},
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=None),
        )
        self._storage = httpx.AsyncClient(timeout=TIMEOUT)  # signed links are asked without our key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.aclose()
        await self._storage.aclose()

    async def submit(self, path: Path, options: Mapping[str, str]) -> Submitted:
        """Upload one file. `options` are the form fields beside it.

        Raises:
            Refused, Unreachable: see the class; OSError: the file cannot be read.
        """
        headers = {"Idempotency-Key": str(uuid4())}

        async def once() -> httpx.Response:
            with path.open("rb") as file:  # read in pieces as the network takes them
                # The name stays here: the service reads the content and has no use for what people call it.
                upload = {"file": ("upload", file, "application/octet-stream")}
                return await self._api.post("/v1/uploads", data=options, files=upload, headers=headers)

        return Submitted.model_validate((await self._ask(once)).json())

    async def job(self, job_id: UUID) -> Job:
        """One job as it is now. Raises Refused (NOT_FOUND), Unreachable."""
        return Job.model_validate((await self._get(f"/v1/jobs/{job_id}")).json())

    async def jobs(self, *, status: str | None = None, pipeline: str | None = None, limit: int = 50) -> list[Job]:
        """The newest `limit` jobs, over as many pages as that takes."""
        found: list[Job] = []
        query = {name: value for name, value in {"status": status, "pipeline": pipeline}.items() if value}
        while len(found) < limit:
            query["limit"] = str(min(PAGE, limit - len(found)))
            page = (await self._get("/v1/jobs", query)).json()
            found += map(Job.model_validate, page["items"])
            if not page["next_cursor"]:
                break
            query["cursor"] = page["next_cursor"]
        return found

    async def watch(self, job_id: UUID) -> AsyncIterator[Job]:
        """The job now and after each event, until it has ended. A broken stream goes on where it broke.

        Raises: Refused, Unreachable.
        """
        last = ""
        while True:
            job = await self.job(job_id)
            yield job
            if job.status.is_terminal:
                return
            before = last
            with suppress(httpx.TransportError):  # the next read of the job says whether anybody is there
                async for event in self._events(job_id, last):
                    last = event.id
                    job = after(job, event)
                    if not job.status.is_terminal:  # the end is read whole, with its artifacts
                        yield job
            if last == before:
                await asyncio.sleep(max(self._retry_after_s, default=0))

    async def download(self, artifact: Artifact, folder: Path) -> Path:
        """Fetch an artifact into `folder`, as `phase.name`, complete and checked or not at all.

        Raises:
            Damaged: it is not what the job recorded. Refused, Unreachable.
        """
        target = folder / safe_name(f"{artifact.phase}.{artifact.name}")
        path = httpx.URL(artifact.url).raw_path.decode()  # a path of ours, whatever host an answer may name
        link = (await self._get(path, expect=307)).headers["Location"]
        try:
            with _written_whole(target) as file:
                digest, size = hashlib.sha256(), 0
                async for piece in self._bytes(httpx.URL(self._url).join(link)):
                    digest.update(piece)
                    size += len(piece)
                    if size > artifact.size:
                        break
                    file.write(piece)
                if (size, digest.hexdigest()) != (artifact.size, artifact.sha256):
                    raise Damaged("ARTIFACT_DAMAGED", f"{target.name} does not have the recorded size and SHA-256")
        except httpx.TransportError as problem:
            raise Unreachable("STORAGE_UNAVAILABLE", "object storage does not answer") from problem
        return target

    async def _bytes(self, link: httpx.URL) -> AsyncIterator[bytes]:
        async with self._storage.stream("GET", link) as answer:
            if answer.status_code != 200:
                raise Refused("OBJECT_MISSING", f"object storage answered {answer.status_code}")
            async for piece in answer.aiter_bytes(PIECE):
                yield piece

    async def _events(self, job_id: UUID, last: str) -> AsyncIterator[Event]:
        headers = {"Last-Event-ID": last} if last else {}
        async with self._api.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
            if answer.status_code != 200:  # 204: nothing more will come; else: the next read of the job says why
                return
            async for event in events_of(answer):
                yield event

    async def _get(self, path: str, query: Mapping[str, str] | None = None, *, expect: int = 200) -> httpx.Response:
        return await self._ask(lambda: self._api.get(path, params=query), expect)

    async def _ask(self, once: Callable[[], Awaitable[httpx.Response]], expect: int | None = None) -> httpx.Response:
        for pause_s in (*self._retry_after_s, None):
            try:
                answer = await once()
            except httpx.TransportError as problem:
                if pause_s is None or isinstance(problem, httpx.UnsupportedProtocol):
                    raise Unreachable("UNREACHABLE", f"nobody answers at {self._url}") from problem
                told_s = 0.0
            else:
                if answer.status_code == expect or (expect is None and answer.is_success):
                    return answer
                if answer.status_code != 503 or pause_s is None:
                    raise _refusal(answer)
                told_s = _retry_after(answer)
            await asyncio.sleep(max(pause_s, told_s))
        raise AssertionError("the last try returns or raises")


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    """The events of a `text/event-stream` answer, each as soon as it is complete."""
    async for sent in EventSource(answer).aiter_sse():
        if sent.data:  # `retry:` alone is no event
            yield Event(sent.id, sent.event, json.loads(sent.data))


def safe_name(name: str) -> str:
    """`name` as the name of a file in a folder that it cannot leave."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "unnamed"


@contextmanager
def _written_whole(target: Path) -> Iterator[IO[bytes]]:
    """A file beside `target` that takes its name when the block ends well, and is gone when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _refusal(answer: httpx.Response) -> Refused:
    try:
        problem = answer.json()
        return Refused(str(problem["code"]), str(problem["detail"]))
    except (ValueError, KeyError, TypeError):
        return Refused(f"HTTP_{answer.status_code}", f"the server answered {answer.status_code}")


def _retry_after(answer: httpx.Response) -> float:
    told = answer.headers.get("Retry-After", "")
    return min(float(told), RETRY_AFTER_MAX_S) if told.isdecimal() else 0.0
