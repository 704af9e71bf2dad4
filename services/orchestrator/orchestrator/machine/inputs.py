"""What can happen to a job. Time rides in the input."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

from msgspec import Struct, field
from pydantic import JsonValue

from contracts.phases import PhaseDeferred, PhaseFailed, PhaseProgressed, PhaseSucceeded
from contracts.uploads import UploadReceived
from orchestrator.machine.job import Job, Unit
from orchestrator.machine.pipeline import Pipeline


class Base(Struct, frozen=True):
    """The job of which a new version is made, and the definition that it pins (None: nobody knows it)."""

    job: Job
    pinned: Pipeline | None


class Begin(Struct, frozen=True):
    """An upload waits for its job. `pipeline` is the newest of the asked name, None when there is none.

    `base` is there when the job is to be another version of that one.
    """

    upload: UploadReceived
    pipeline: Pipeline | None
    at: datetime
    traceparent: str | None = None
    base: Base | None = None


class Succeeded(Struct, frozen=True):
    """A phase's attempt ended well."""

    outcome: PhaseSucceeded
    at: datetime


class Failed(Struct, frozen=True):
    """A phase's attempt ended badly, or its command became a dead letter."""

    outcome: PhaseFailed
    at: datetime


class Deferred(Struct, frozen=True):
    """No provider took the attempt: it was not begun, and does not count as a failure."""

    outcome: PhaseDeferred
    at: datetime


class Progressed(Struct, frozen=True):
    """A phase's attempt showed life."""

    outcome: PhaseProgressed
    at: datetime


class Admitted(Struct, frozen=True):
    """There is room for these units, which waited for it."""

    units: tuple[Unit, ...]
    at: datetime


class TimeReached(Struct, frozen=True):
    """The job's `wake_at` has come. What is due is read from the job."""

    at: datetime


class Cancel(Struct, frozen=True):
    """Somebody wants the job to end."""

    at: datetime


class Pause(Struct, frozen=True):
    """Somebody wants the job to give no more commands, until `until` at the latest."""

    by: str
    until: datetime
    at: datetime


class Resume(Struct, frozen=True):
    """Somebody wants a paused job to go on."""

    at: datetime


class Retry(Struct, frozen=True):
    """Somebody wants an ended job to work again, from a phase on, from the `START`, or (None) from what went wrong.

    From `DEGRADED`: from every phase whose result a lesser engine made. `pipeline` is the definition
    to go on with: the pinned one, or the newest. `parameters` replace those of the phases that it
    starts from (from the `START`: of every phase), and stay for later retries until one replaces them
    or begins from the `START`. `force`: what is done again is bought again, though a result of the
    same work is there.
    """

    START: ClassVar[str] = "start"
    DEGRADED: ClassVar[str] = "degraded"

    from_phase: str | None
    pipeline: Pipeline
    at: datetime
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    force: bool = False


Outcome = Succeeded | Failed | Deferred | Progressed
Input = Begin | Outcome | Admitted | TimeReached | Cancel | Pause | Resume | Retry
