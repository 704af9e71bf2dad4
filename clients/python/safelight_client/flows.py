"""What is asked and what an answer means, without I/O: generators that yield requests and are sent the answers.

A driver (`sync.py`, `aio.py`) sends each `Ask`, repeats it where that is safe, and sends the answer back in, or throws
the Error. Uploads are tus 1.0: what broke is asked about (HEAD) and goes on from there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from uuid import UUID, uuid4

import httpx

from safelight_client.models import Artifact, Batch, Erasure, Error, Grant, Job, Upload

T = TypeVar("T")
TUS: Final = "/v1/uploads/tus"
CHUNK_BYTES: Final = 8 * 1024 * 1024  # what a broken connection costs at most
BREAKS_MAX: Final = 8  # in a row, without a byte more
Progress = Callable[[int, int], None]
"""Is told (bytes that are safe, bytes of the file)."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `again`: it may be sent again when its answer was lost. `after_s`: wait so long before."""

    method: str
    path: str
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    again: bool = True
    after_s: float = 0.0


Flow = Generator[Ask, httpx.Response, T]


def get(path: str, **query: Any) -> Ask:
    """A read."""
    return Ask("GET", path, query={name: _text(value) for name, value in query.items() if value is not None})


def post(path: str, body: Any = None) -> Ask:
    """A change that is done once, however often it is sent."""
    return Ask("POST", path, json=body if body is not None else {}, headers={"Idempotency-Key": str(uuid4())})


def upload(
    file: Path | str | IO[bytes], options: Mapping[str, Any], progress: Progress | None, chunk_bytes: int
) -> Flow[Upload]:
    """Send a file in pieces. Raises Error; OSError: the file cannot be read."""
    if isinstance(file, Path | str):
        with Path(file).open("rb") as opened:
            return (yield from upload(opened, options, progress, chunk_bytes))
    size = file.seek(0, 2)
    fields = {name: _text(value) for name, value in options.items() if value is not None}
    metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in fields.items())
    begin = {**_TUS, "Upload-Length": str(size), **({"Upload-Metadata": metadata} if metadata else {})}
    answer = yield Ask("POST", TUS, headers={**begin, "Idempotency-Key": str(uuid4())})
    where = httpx.URL(answer.headers["Location"]).path
    done, breaks = 0, 0
    while "Safelight-Job-Id" not in answer.headers:
        file.seek(done)
        piece = file.read(chunk_bytes)
        headers = {**_TUS, "Upload-Offset": str(done), "Content-Type": "application/offset+octet-stream"}
        try:
            answer = yield Ask("PATCH", where, content=piece, headers=headers, again=False)
            breaks = 0
        except Error as problem:
            if problem.status not in (None, 409, 423, 429, 500, 502, 503, 504) or breaks == BREAKS_MAX:
                raise
            breaks += 1
            answer = yield Ask("HEAD", where, headers=_TUS, after_s=min(2.0**breaks / 4, 10))
        reached = int(answer.headers["Upload-Offset"])
        breaks = 0 if reached > done else breaks
        done = reached
        if progress:
            progress(done, size)
    return Upload(
        upload_id=UUID(answer.headers["Safelight-Upload-Id"]), job_id=UUID(answer.headers["Safelight-Job-Id"])
    )


_TUS: Final = {"Tus-Resumable": "1.0.0"}


def job(id_: UUID | str) -> Flow[Job]:
    """One job as it is now."""
    return Job.model_validate((yield get(f"/v1/jobs/{id_}")).json())


def page(cursor: str | None, **filters: Any) -> Flow[tuple[list[Job], str | None]]:
    """One page of jobs, newest first, and where the next one begins."""
    found = (yield get("/v1/jobs", cursor=cursor, **filters)).json()
    return [Job.model_validate(row) for row in found["items"]], found["next_cursor"]


def re_edit(id_: UUID | str, changes: Mapping[str, Any]) -> Flow[UUID]:
    """Another version of an upload; returns its job's id."""
    return UUID((yield post(f"/v1/jobs/{id_}/re-edit", dict(changes))).json()["job_id"])


def create_batch(name: str, settings: Mapping[str, Any]) -> Flow[Batch]:
    """A new batch."""
    given = {key: value for key, value in settings.items() if value is not None}
    return Batch.model_validate((yield post("/v1/batches", {"name": name, **given})).json())


def batch(id_: UUID | str) -> Flow[Batch]:
    """A batch as it is now."""
    return Batch.model_validate((yield get(f"/v1/batches/{id_}")).json())


def close_batch(id_: UUID | str) -> Flow[Batch]:
    """Take no more uploads into it."""
    return Batch.model_validate((yield post(f"/v1/batches/{id_}/close")).json())


def create_grant(limits: Mapping[str, Any]) -> Flow[Grant]:
    """A token for a page."""
    return Grant.model_validate((yield post("/v1/grants", dict(limits))).json())


def link(id_: UUID | str, name: str) -> Flow[str]:
    """A signed link to an artifact; of sealed work a path of the API, which wants the key."""
    return str((yield get(f"/v1/jobs/{id_}/artifacts/{name}", redirect=False)).json()["url"])


def erase(what: Mapping[str, Any], every_s: float = 0.5) -> Flow[Erasure]:
    """Ask for it, and wait for the receipt."""
    body = {name: str(value) for name, value in what.items() if value is not None}
    found = Erasure.model_validate((yield post("/v1/erasures", body)).json())
    while found.state != "succeeded":
        found = Erasure.model_validate((yield Ask("GET", f"/v1/erasures/{found.id}", after_s=every_s)).json())
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# -- what an answer means --------------------------------------------------------------------

RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
RETRY_AFTER_S_MAX: Final = 60.0


def verdict(ask: Ask, answer: httpx.Response | httpx.TransportError, tries: int) -> float | Error | None:
    """After the n-th try: wait so many seconds and ask again, fail, or (None) it is well."""
    left = tries <= len(RETRY_S)
    if isinstance(answer, httpx.TransportError):
        unheard = isinstance(answer, httpx.ConnectError | httpx.ConnectTimeout)
        if left and (ask.again or unheard):
            return RETRY_S[tries - 1]
        return Error("UNREACHABLE", "nobody answers, or the connection broke")
    if answer.is_success:
        return None
    if answer.status_code in (429, 503) and left and ask.again:
        told = answer.headers.get("Retry-After", "")
        return min(float(told), RETRY_AFTER_S_MAX) if told.isdecimal() else RETRY_S[tries - 1]
    return refusal(answer)


def refusal(answer: httpx.Response) -> Error:
    """What a problem document says."""
    try:
        problem = answer.json()
        return Error(str(problem["code"]), str(problem["detail"]), answer.status_code)
    except (ValueError, KeyError, TypeError):
        return Error("HTTP", f"the server answered {answer.status_code}", answer.status_code)


def refused(answer: httpx.Response, *, patient: bool = True) -> None:
    """Raise what a refusal says; not, to the patient, that the service is away for a moment."""
    if not patient or answer.status_code not in (429, 502, 503, 504):
        raise refusal(answer)


@contextmanager
def whole(artifact: Artifact, target: Path) -> Iterator[Callable[[bytes], None]]:
    """Takes pieces; the file is there at the end if they are what was recorded. Raises Error (ARTIFACT_DAMAGED)."""
    part, digest, size = target.with_name(f".{target.name}.{uuid4().hex}.part"), hashlib.sha256(), 0
    try:
        with part.open("xb") as file:

            def take(piece: bytes) -> None:
                nonlocal size
                size += len(piece)
                digest.update(piece)
                file.write(piece)

            yield take
        if (size, digest.hexdigest()) != (artifact.size, artifact.sha256):
            raise Error("ARTIFACT_DAMAGED", "the bytes are not those that the job recorded")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
