"""What can happen to a job. Time rides in the input."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from contracts.phases import PhaseFailed, PhaseSucceeded
from contracts.uploads import UploadReceived
from orchestrator.machine.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Begin:
    """An upload waits for its job. `pipeline` is the newest of the asked name, None when there is none."""

    upload: UploadReceived
    pipeline: Pipeline | None
    at: datetime
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A phase's attempt ended well."""

    outcome: PhaseSucceeded
    at: datetime


@dataclass(frozen=True, slots=True)
class Failed:
    """A phase's attempt ended badly, or its command became a dead letter."""

    outcome: PhaseFailed
    at: datetime


@dataclass(frozen=True, slots=True)
class TimeReached:
    """The job's `wake_at` has come. What is due is read from the job."""

    at: datetime


Input = Begin | Succeeded | Failed | TimeReached
