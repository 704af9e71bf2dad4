"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
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


class Client:
    """One base URL, one key (or grant). Use as a context manager. Every method raises Error."""

    def __init__(self, base_url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        bearer = {"Authorization": f"Bearer {key}"}
        self._api = httpx.Client(base_url=base_url, headers=bearer, timeout=TIMEOUT, transport=transport)
        self._storage = httpx.Client(timeout=TIMEOUT)  # signed links are asked without the key

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()
        self._storage.close()

    def upload(
        self,
        file: Path | str | IO[bytes],
        *,
        progress: Progress | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        **options: Any,
    ) -> Upload:
        """Send a file, resumably. `options` are the fields of an upload: pipeline, style, crop, batch, subject, ..."""
        return self._run(flows.upload(file, options, progress, chunk_bytes))

    def job(self, id_: UUID | str) -> Job:
        """One job as it is now."""
        return self._run(flows.job(id_))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """Jobs, newest first: status, pipeline, batch, ..."""
        cursor: str | None = None
        while True:
            found, cursor = self._run(flows.page(cursor, **filters))
            yield from found
            if cursor is None:
                return

    def events(self, id_: UUID | str, after: str = "") -> Iterator[Event]:
        """What happens to a job, until it has ended; a broken connection goes on where it broke."""
        while True:
            headers = {"Last-Event-ID": after} if after else {}
            try:
                with self._api.stream("GET", f"/v1/jobs/{id_}/events", headers=headers) as answer:
                    if answer.status_code == 204:
                        return  # it has ended, and everything was told
                    if answer.is_success:
                        for sent in EventSource(answer).iter_sse():
                            if sent.data:  # `retry:` alone is no event
                                after = sent.id
                                yield Event(id=sent.id, type=sent.event, data=sent.json())
                    else:
                        answer.read()
                        refused(answer)
            except httpx.TransportError:
                pass
            time.sleep(flows.RETRY_S[0])

    def wait(self, id_: UUID | str) -> Job:
        """The job once it has ended."""
        for _ in self.events(id_):
            pass
        return self.job(id_)

    def re_edit(self, id_: UUID | str, **changes: Any) -> UUID:
        """Another version of a job's upload with other options; returns the new job's id."""
        return self._run(flows.re_edit(id_, changes))

    def create_batch(self, name: str = "", **settings: Any) -> Batch:
        """A new batch: pipeline, style, options, webhook, duplicates."""
        return self._run(flows.create_batch(name, settings))

    def batch(self, id_: UUID | str) -> Batch:
        """A batch as it is now."""
        return self._run(flows.batch(id_))

    def close_batch(self, id_: UUID | str) -> Batch:
        """Take no more uploads into it."""
        return self._run(flows.close_batch(id_))

    def create_grant(self, **limits: Any) -> Grant:
        """A token for a page that uploads by itself."""
        return self._run(flows.create_grant(limits))

    def link(self, id_: UUID | str, name: str) -> str:
        """A signed link to an artifact of a job."""
        return self._run(flows.link(id_, name))

    def erase(
        self, *, upload: UUID | str | None = None, batch: UUID | str | None = None, subject: str | None = None
    ) -> Erasure:
        """Erase everything of one of these, everywhere; returns with the receipt."""
        return self._run(flows.erase({"upload": upload, "batch": batch, "subject": subject}))

    def download(self, artifact: Artifact, target: Path | str) -> Path:
        """Fetch an artifact to a file: whole and with the recorded hash, or not at all."""
        with ExitStack() as opened:
            try:
                answer = opened.enter_context(self._api.stream("GET", artifact.url))
                if answer.status_code == 307:
                    there = self._api.base_url.join(answer.headers["Location"])
                    answer = opened.enter_context(self._storage.stream("GET", there))
                if not answer.is_success:
                    answer.read()
                    refused(answer, patient=False)
                with whole(artifact, Path(target)) as take:
                    for piece in answer.iter_bytes():
                        take(piece)
            except httpx.TransportError as problem:
                raise Error("UNREACHABLE", "the connection broke") from problem
        return Path(target)

    def _run(self, flow: Flow[T]) -> T:
        try:
            ask = next(flow)
            while True:
                try:
                    answer = self._asked(ask)
                except Error as problem:
                    ask = flow.throw(problem)
                else:
                    ask = flow.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _asked(self, ask: Ask) -> httpx.Response:
        if ask.after_s:
            time.sleep(ask.after_s)
        tries = 0
        while True:
            tries += 1
            answer: httpx.Response | httpx.TransportError
            try:
                answer = self._api.request(
                    ask.method, ask.path, json=ask.json, content=ask.content, headers=ask.headers, params=ask.query
                )
            except httpx.TransportError as problem:
                answer = problem
            found = verdict(ask, answer, tries)
            if found is None and isinstance(answer, httpx.Response):
                return answer
            if isinstance(found, Error):
                raise found
            time.sleep(found or 0)
