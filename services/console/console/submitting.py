"""Many files on their way at once: uploaded, and followed until their jobs have ended.

A file that cannot be read or is refused is that file's own outcome; the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from console.client import UPLOADS, Client, ClientError
from console.jobs import Error, Job, Submitted
from contracts.jobs import Status

CONCURRENCY: Final = 4  # files on their way at once: enough to keep a stack busy, few enough to be polite


@dataclass(frozen=True, slots=True)
class Submission:
    """One file's way so far."""

    path: Path
    upload: Submitted | None = None
    job: Job | None = None
    error: Error | None = None  # it could not be submitted or followed; the job's own error is in the job

    @property
    def failed(self) -> bool:
        """It has ended, and not well."""
        ended_badly = self.job and self.job.status.is_terminal and self.job.status is not Status.SUCCEEDED
        return bool(self.error or ended_badly)

    def as_json(self) -> dict[str, Any]:
        """What --json prints of it."""
        told = {"upload": self.upload, "job": self.job, "error": self.error}
        return {"file": str(self.path), **{key: it and it.model_dump(mode="json") for key, it in told.items()}}


Changed = Callable[[Sequence[Submission]], None]


async def submit_all(
    client: Client,
    paths: Sequence[Path],
    options: Mapping[str, str],
    *,
    watch: bool,
    changed: Changed = lambda _: None,
    concurrency: int = CONCURRENCY,
    to: str = UPLOADS,
) -> list[Submission]:
    """Submit every file, in order; with `watch`, return when every job has ended.

    `changed` is called with all of them, in the order of `paths`, whenever one of them moves.
    """
    rows = [Submission(path) for path in paths]
    turns = asyncio.Semaphore(concurrency)

    def note(at: int, **news: Any) -> None:
        rows[at] = replace(rows[at], **news)
        changed(rows)

    async def one(at: int, path: Path) -> None:
        async with turns:
            try:
                upload = await client.submit(path, options, to)
                note(at, upload=upload)
                if watch:
                    async for job in client.watch(upload.job_id):
                        note(at, job=job)
            except ClientError as problem:
                note(at, error=Error(code=problem.code, detail=problem.detail))
            except OSError as problem:
                note(at, error=Error(code="FILE_UNREADABLE", detail=problem.strerror or "cannot be read"))

    changed(rows)
    await asyncio.gather(*(one(at, path) for at, path in enumerate(paths)))
    return rows
