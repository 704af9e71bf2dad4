"""The command that runs one phase of a job, and the three ways it answers.

`key` (`job.phase.attempt`) is one name end to end: it is the command's message id, the
call's name, and the prefix of the artifacts that the attempt writes.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from pydantic import Field, JsonValue

from contracts.artifacts import Artifact, ObjectRef
from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import COMMANDS, EVENTS

Facts = dict[str, JsonValue]  # what a phase found out: numbers, boxes and names, never personal text


def phase_key(job_id: UUID, phase: str, attempt: int) -> str:
    """`job.phase.attempt`."""
    return f"{job_id}.{phase}.{attempt}"


class RunPhase(Message):
    """Run this phase of this job. `inputs` are by role: `original`, `image`, attachments such as `lut`."""

    TYPE: ClassVar[str] = "phase.v1.run"

    job_id: UUID
    phase: str
    attempt: int = Field(ge=1)
    tenant: str
    inputs: dict[str, ObjectRef]
    parameters: Facts = Field(default_factory=dict)
    deadline: datetime

    @property
    def key(self) -> str:
        return phase_key(self.job_id, self.phase, self.attempt)


class _Outcome(Message):
    job_id: UUID
    phase: str
    attempt: int = Field(ge=1)

    @property
    def key(self) -> str:
        return phase_key(self.job_id, self.phase, self.attempt)


class PhaseProgressed(_Outcome):
    """The phase is at work. A hint for people and for stall detection; it may be lost."""

    TYPE: ClassVar[str] = "phase.v1.progressed"

    fraction: float = Field(ge=0, le=1)
    at: datetime


class PhaseSucceeded(_Outcome):
    """The phase ended well. `engine` names what ran; `degraded` says that it stood in for a better one."""

    TYPE: ClassVar[str] = "phase.v1.succeeded"

    artifacts: list[Artifact] = Field(default_factory=list)
    facts: Facts = Field(default_factory=dict)
    engine: str
    degraded: bool = False
    started_at: datetime
    ended_at: datetime


class PhaseFailed(_Outcome):
    """The phase ended badly. Whether it is tried again is the orchestrator's decision, by `code`."""

    TYPE: ClassVar[str] = "phase.v1.failed"

    code: str
    detail: str = ""
    started_at: datetime | None = None
    ended_at: datetime


RUN_ANALYZE: Final = Channel("cmd.analysis.v1.run", RunPhase, COMMANDS.name)
RUN_STYLE: Final = Channel("cmd.gpu.v1.run.style", RunPhase, COMMANDS.name)
RUN_RETOUCH: Final = Channel("cmd.gpu.v1.run.retouch", RunPhase, COMMANDS.name)
RUN_CLEANUP: Final = Channel("cmd.gpu.v1.run.cleanup", RunPhase, COMMANDS.name)
RUN_CROP: Final = Channel("cmd.render.v1.run.crop", RunPhase, COMMANDS.name)
RUN_VARIANTS: Final = Channel("cmd.render.v1.run.variants", RunPhase, COMMANDS.name)
RUN_NOOP: Final = Channel("cmd.bench.v1.run", RunPhase, COMMANDS.name)

PHASE_PROGRESSED: Final = Channel("evt.phase.v1.progressed", PhaseProgressed, EVENTS.name)
PHASE_SUCCEEDED: Final = Channel("evt.phase.v1.succeeded", PhaseSucceeded, EVENTS.name)
PHASE_FAILED: Final = Channel("evt.phase.v1.failed", PhaseFailed, EVENTS.name)
