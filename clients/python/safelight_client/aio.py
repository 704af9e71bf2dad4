"""The client for asyncio: as the one that blocks, with `await`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, Any, Self, TypeVar
from uuid import UUID

import httpx
from httpx_sse import EventSource

from safelight_client import flows
from safelight_client.flows import CHUNK_BYTES, Ask, Flow, Progress, refused, verdict, whole
from safelight_client.models import Artifact, Batch, Erasure, Error, Event, Grant, Job, Upload

T = TypeVar("T")
TIMEOUT = httpx.Timeout(60, connect=10)


class AsyncClient:
    """One base URL, one key (or grant). Use as an async context manager. Every method raises Error."""

    def __init__(self, base_url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        bearer = {"Authorization": f"Bearer {key}"}
        self._api = httpx.AsyncClient(base_url=base_url, headers=bearer, timeout=TIMEOUT, transport=transport)
        self._storage = httpx.AsyncClient(timeout=TIMEOUT)  # signed links are asked without the key

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.aclose()
        await self._storage.aclose()

    async def upload(
        self,
        file: Path | str | IO[bytes],
        *,
        progress: Progress | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        **options: Any,
    ) -> Upload:
        """Send a file, resumably. `options` are the fields of an upload: pipeline, style, crop, batch, subject, ..."""
        return await self._run(flows.upload(file, options, progress, chunk_bytes))

    async def job(self, id_: UUID | str) -> Job:
        """One job as it is now."""
        return await self._run(flows.job(id_))

    async def jobs(self, **filters: Any) -> AsyncIterator[Job]:
        """Jobs, newest first: status, pipeline, batch, ..."""
        cursor: str | None = None
        while True:
            found, cursor = await self._run(flows.page(cursor, **filters))
            for one in found:
                yield one
            if cursor is None:
                return

    async def events(self, id_: UUID | str, after: str = "") -> AsyncIterator[Event]:
        """What happens to a job, until it has ended; a broken connection goes on where it broke."""
        while True:
            headers = {"Last-Event-ID": after} if after else {}
            try:
                async with self._api.stream("GET", f"/v1/jobs/{id_}/events", headers=headers) as answer:
                    if answer.status_code == 204:
                        return  # it has ended, and everything was told
                    if answer.is_success:
                        async for sent in EventSource(answer).aiter_sse():
                            if sent.data:  # `retry:` alone is no event
                                after = sent.id
                                yield Event(id=sent.id, type=sent.event, data=sent.json())
                    else:
                        await answer.aread()
                        refused(answer)
            except httpx.TransportError:
                pass
            await asyncio.sleep(flows.RETRY_S[0])

    async def wait(self, id_: UUID | str) -> Job:
        """The job once it has ended."""
        async for _ in self.events(id_):
            pass
        return await self.job(id_)

    async def re_edit(self, id_: UUID | str, **changes: Any) -> UUID:
        """Another version of a job's upload with other options; returns the new job's id."""
        return await self._run(flows.re_edit(id_, changes))

    async def create_batch(self, name: str = "", **settings: Any) -> Batch:
        """A new batch: pipeline, style, options, webhook, duplicates."""
        return await self._run(flows.create_batch(name, settings))

    async def batch(self, id_: UUID | str) -> Batch:
        """A batch as it is now."""
        return await self._run(flows.batch(id_))

    async def close_batch(self, id_: UUID | str) -> Batch:
        """Take no more uploads into it."""
        return await self._run(flows.close_batch(id_))

    async def create_grant(self, **limits: Any) -> Grant:
        """A token for a page that uploads by itself."""
        return await self._run(flows.create_grant(limits))

    async def link(self, id_: UUID | str, name: str) -> str:
        """A signed link to an artifact of a job."""
        return await self._run(flows.link(id_, name))

    async def erase(
        self, *, upload: UUID | str | None = None, batch: UUID | str | None = None, subject: str | None = None
    ) -> Erasure:
        """Erase everything of one of these, everywhere; returns with the receipt."""
        return await self._run(flows.erase({"upload": upload, "batch": batch, "subject": subject}))

    async def download(self, artifact: Artifact, target: Path | str) -> Path:
        """Fetch an artifact to a file: whole and with the recorded hash, or not at all."""
        async with AsyncExitStack() as opened:
            try:
                answer = await opened.enter_async_context(self._api.stream("GET", artifact.url))
                if answer.status_code == 307:
                    there = self._api.base_url.join(answer.headers["Location"])
                    answer = await opened.enter_async_context(self._storage.stream("GET", there))
                if not answer.is_success:
                    await answer.aread()
                    refused(answer, patient=False)
                with whole(artifact, Path(target)) as take:
                    async for piece in answer.aiter_bytes():
                        take(piece)
            except httpx.TransportError as problem:
                raise Error("UNREACHABLE", "the connection broke") from problem
        return Path(target)

    async def _run(self, flow: Flow[T]) -> T:
        try:
            ask = next(flow)
            while True:
                try:
                    answer = await self._asked(ask)
                except Error as problem:
                    ask = flow.throw(problem)
                else:
                    ask = flow.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _asked(self, ask: Ask) -> httpx.Response:
        if ask.after_s:
            await asyncio.sleep(ask.after_s)
        tries = 0
        while True:
            tries += 1
            answer: httpx.Response | httpx.TransportError
            try:
                answer = await self._api.request(
                    ask.method, ask.path, json=ask.json, content=ask.content, headers=ask.headers, params=ask.query
                )
            except httpx.TransportError as problem:
                answer = problem
            found = verdict(ask, answer, tries)
            if found is None and isinstance(answer, httpx.Response):
                return answer
            if isinstance(found, Error):
                raise found
            await asyncio.sleep(found or 0)
