"""The API's client: what the command line, the demo and tests ask of a base URL.

Reads may be repeated without harm, and so may an upload, because all its tries carry one
Idempotency-Key: a service that is down or says 503 is asked again a few times, and only then is it
an error. What changes something else is asked again only when nobody has heard it. Files go from
disk to the network, and from the network to disk, in pieces.
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
from typing import IO, Any, Final, Self
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
from httpx_sse import EventSource

from console.jobs import Artifact, Event, Item, Job, Stored, Submitted, after

RETRY_AFTER_S: Final = (0.5, 1.0, 2.0)  # between tries; a server's own Retry-After may lengthen each to 5 s
RETRY_AFTER_MAX_S: Final = 5.0
# An event stream says at least a comment every 15 s; three missed ones and the connection is taken for dead.
TIMEOUT: Final = httpx.Timeout(45, connect=5)
PIECE: Final = 256 * 1024  # bytes held of an artifact at a time
UPLOADS: Final = "/v1/uploads"
PAGE: Final = 200  # the most rows that one answer may hold


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API is and the key that opens it. `operator_key` opens what concerns every tenant."""

    url: str
    api_key: str
    operator_key: str | None = None

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"  # the keys stay out of tracebacks


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

    async def submit(self, path: Path, options: Mapping[str, str], to: str = UPLOADS) -> Submitted:
        """Upload one file. `options` are the form fields beside it, `to` is where it goes.

        Raises:
            Refused, Unreachable: see the class; OSError: the file cannot be read.
        """
        headers = {"Idempotency-Key": str(uuid4())}

        async def once() -> httpx.Response:
            with path.open("rb") as file:  # read in pieces as the network takes them
                # The name stays here: the service reads the content and has no use for what people call it.
                upload = {"file": ("upload", file, "application/octet-stream")}
                return await self._api.post(to, data=options, files=upload, headers=headers)

        return Submitted.model_validate((await self._ask(once)).json())

    async def job(self, job_id: UUID) -> Job:
        """One job as it is now. Raises Refused (NOT_FOUND), Unreachable."""
        return Job.model_validate((await self._get(f"/v1/jobs/{job_id}")).json())

    async def jobs(self, *, limit: int = 50, **query: str) -> list[Job]:
        """The newest `limit` jobs. `query` may name `status`, `pipeline`, `batch`, and, for an operator, `tenant`."""
        return [Job.model_validate(row) for row in await self.listed("/v1/jobs", query, limit)]

    async def artifacts(self, job_id: UUID) -> list[Artifact]:
        """Everything that the job made, with what the items of its phases made."""
        job = await self.job(job_id)
        found = list(job.artifacts)
        for phase in job.phases:
            if phase.items:
                rows = await self.listed(f"/v1/jobs/{job_id}/phases/{quoted(phase.name)}/items", {}, None)
                found += [made for row in rows for made in Item.model_validate(row).artifacts]
        return found

    async def listed(self, path: str, query: Mapping[str, str], limit: int | None) -> list[dict[str, Any]]:
        """The first `limit` rows of a list (None: all), over as many pages as that takes."""
        found: list[dict[str, Any]] = []
        asked = dict(query)
        while limit is None or len(found) < limit:
            asked["limit"] = str(PAGE if limit is None else min(PAGE, limit - len(found)))
            page = await self.get(path, asked)
            found += page["items"]
            if not page.get("next_cursor"):
                break
            asked["cursor"] = page["next_cursor"]
        return found

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Read something. Raises Refused, Unreachable."""
        return (await self._get(path, query)).json()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Ask for a change; once, for a change may not be repeated. Raises Refused, Unreachable."""
        return (await self._ask(lambda: self._api.post(path, json=body), once=True)).json()

    async def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """As `post`, of what is there."""
        return (await self._ask(lambda: self._api.patch(path, json=body), once=True)).json()

    async def delete(self, path: str) -> None:
        """Have something deleted. Raises Refused, Unreachable."""
        await self._ask(lambda: self._api.delete(path), once=True)

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
        """Fetch an artifact into `folder`, as `phase[.item].name`, complete and checked or not at all.

        Raises:
            Damaged: it is not what the job recorded. Refused, Unreachable.
        """
        target = folder / safe_name(".".join(filter(None, (artifact.phase, artifact.item, artifact.name))))
        return await self.fetch(artifact, target)

    async def fetch(self, stored: Stored, target: Path) -> Path:
        """Fetch what a link leads to, complete and checked or not at all. Raises as `download` does."""
        path = httpx.URL(stored.url).raw_path.decode()  # a path of ours, whatever host an answer may name
        link = (await self._get(path, expect=307)).headers["Location"]
        try:
            with _written_whole(target) as file:
                digest, size = hashlib.sha256(), 0
                async for piece in self._bytes(httpx.URL(self._url).join(link)):
                    digest.update(piece)
                    size += len(piece)
                    if size > stored.size:
                        break
                    file.write(piece)
                if (size, digest.hexdigest()) != (stored.size, stored.sha256):
                    raise Damaged("ARTIFACT_DAMAGED", f"{target.name} does not have the recorded size and SHA-256")
        except httpx.TransportError as problem:
            raise Unreachable("STORAGE_UNAVAILABLE", "object storage does not answer") from problem
        return target

    async def save(self, path: str, target: Path) -> Path:
        """Write what an address of ours answers to a file: whole or not at all. Raises Refused, Unreachable."""
        try:
            with _written_whole(target) as file:
                async with self._api.stream("GET", path) as answer:
                    if answer.status_code != 200:
                        await answer.aread()
                        raise _refusal(answer)
                    async for piece in answer.aiter_bytes(PIECE):
                        file.write(piece)
        except httpx.TransportError as problem:
            raise Unreachable("UNREACHABLE", f"nobody answers at {self._url}") from problem
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

    async def _ask(
        self, ask: Callable[[], Awaitable[httpx.Response]], expect: int | None = None, *, once: bool = False
    ) -> httpx.Response:
        """`once`: not again when somebody may have heard it."""
        for pause_s in (*self._retry_after_s, None):
            try:
                answer = await ask()
            except httpx.TransportError as problem:
                unheard = isinstance(problem, httpx.ConnectError | httpx.ConnectTimeout)
                if pause_s is None or isinstance(problem, httpx.UnsupportedProtocol) or (once and not unheard):
                    raise Unreachable("UNREACHABLE", f"nobody answers at {self._url}") from problem
                told_s = 0.0
            else:
                if answer.status_code == expect or (expect is None and answer.is_success):
                    return answer
                if answer.status_code != 503 or pause_s is None or once:
                    raise _refusal(answer)
                told_s = _retry_after(answer)
            await asyncio.sleep(max(pause_s, told_s))
        raise AssertionError("the last try returns or raises")


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    """The events of a `text/event-stream` answer, each as soon as it is complete."""
    async for sent in EventSource(answer).aiter_sse():
        if sent.data:  # `retry:` alone is no event
            yield Event(sent.id, sent.event, json.loads(sent.data))


def quoted(name: str) -> str:
    """`name` as one part of a path."""
    return quote(name, safe="")


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
