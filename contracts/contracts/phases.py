"""The command that runs one phase of a job, the ways it answers, and the command that stops it.

`key` (`job.phase[.item].attempt`) is one name end to end: it is the command's message id, the
call's name, and the prefix of the artifacts that the attempt writes. A phase that fans out has
one command per item (a page); any other has none in its key.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final
from uuid import UUID

from pydantic import Field, JsonValue

from contracts.artifacts import Artifact, ObjectRef
from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import COMMANDS, EVENTS

Facts = dict[str, JsonValue]  # what a phase found out: numbers, boxes and names, never personal text


ItemId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]  # no dot: it stands inside a key


def phase_key(job_id: UUID | str, phase: str, attempt: int, item: str | None = None) -> str:
    """`job.phase.attempt`, with an item `job.phase.item.attempt`."""
    return f"{job_id}.{phase}.{item}.{attempt}" if item else f"{job_id}.{phase}.{attempt}"


def read_phase_key(key: str) -> tuple[UUID, str, str | None, int]:
    """(job, phase, item, attempt) of a key. Raises ValueError for anything else."""
    job, phase, *item, attempt = key.split(".")
    if len(item) > 1 or not phase:
        raise ValueError("a key reads job.phase.attempt or job.phase.item.attempt")
    return UUID(job), phase, item[0] if item else None, int(attempt)


class _Attempt(Message):
    job_id: UUID
    phase: str
    item: ItemId | None = None
    attempt: int = Field(ge=1)

    @property
    def key(self) -> str:
        return phase_key(self.job_id, self.phase, self.attempt, self.item)


class RunPhase(_Attempt):
    """Run this phase of this job. `inputs` are by role: `original`, `image`, attachments such as `lut`.

    `providers` are the only ones that may do it, in no order; empty: any. `engine` names the one
    kind of engine that may do it (`cpu`: the fallback, `gpu`: no fallback), None: the best there is.
    `force`: do it again, though a result of the same work is there. `sensitive`: only providers that meet
    the tenant's policy may do it, whoever else is named.
    """

    TYPE: ClassVar[str] = "phase.v1.run"

    tenant: str
    inputs: dict[str, ObjectRef]
    parameters: Facts = Field(default_factory=dict)
    deadline: datetime
    engine: str | None = None
    providers: list[str] = Field(default_factory=list)
    force: bool = False
    sensitive: bool = False

    @property
    def prefix(self) -> str:
        """Where the attempt's artifacts lie: `jobs/JOB/PHASE[/ITEM]/ATTEMPT`."""
        return f"jobs/{self.key.replace('.', '/')}"


class StopPhase(_Attempt):
    """Stop this attempt: nobody waits for it any more. A request; a late outcome of it is ignored."""

    TYPE: ClassVar[str] = "phase.v1.stop"


class _Outcome(_Attempt):
    pass


class PhaseProgressed(_Outcome):
    """The phase is at work. A hint for people and for stall detection; it may be lost.

    `facts` are numbers to follow it by, `artifacts` what it has shown before its end (a preview).
    """

    TYPE: ClassVar[str] = "phase.v1.progressed"

    fraction: float = Field(ge=0, le=1)
    at: datetime
    facts: Facts = Field(default_factory=dict)
    artifacts: list[Artifact] = Field(default_factory=list)


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


class PhaseDeferred(_Outcome):
    """The attempt was not begun and nothing was bought: no provider that may do it takes work before `until`."""

    TYPE: ClassVar[str] = "phase.v1.deferred"

    provider: str
    code: str  # PROVIDER_UNAVAILABLE, PROVIDER_RATE_LIMITED
    until: datetime
    at: datetime


RUN_ANALYZE: Final = Channel("cmd.analysis.v1.run", RunPhase, COMMANDS.name)
RUN_STYLE: Final = Channel("cmd.gpu.v1.run.style", RunPhase, COMMANDS.name)
RUN_RETOUCH: Final = Channel("cmd.gpu.v1.run.retouch", RunPhase, COMMANDS.name)
RUN_CLEANUP: Final = Channel("cmd.gpu.v1.run.cleanup", RunPhase, COMMANDS.name)
RUN_TRAIN: Final = Channel("cmd.gpu.v1.run.train", RunPhase, COMMANDS.name)
RUN_IMPORT: Final = Channel("cmd.gpu.v1.run.import", RunPhase, COMMANDS.name)
RUN_OCR: Final = Channel("cmd.gpu.v1.run.ocr", RunPhase, COMMANDS.name)
RUN_SPLAT: Final = Channel("cmd.gpu.v1.run.splat", RunPhase, COMMANDS.name)
RUN_CROP: Final = Channel("cmd.render.v1.run.crop", RunPhase, COMMANDS.name)
RUN_VARIANTS: Final = Channel("cmd.render.v1.run.variants", RunPhase, COMMANDS.name)
RUN_INSPECT: Final = Channel("cmd.document.v1.run.inspect", RunPhase, COMMANDS.name)
RUN_RASTERIZE: Final = Channel("cmd.document.v1.run.rasterize", RunPhase, COMMANDS.name)
RUN_ASSEMBLE: Final = Channel("cmd.document.v1.run.assemble", RunPhase, COMMANDS.name)
RUN_DELIVER: Final = Channel("cmd.document.v1.run.deliver", RunPhase, COMMANDS.name)
RUN_NOOP: Final = Channel("cmd.bench.v1.run", RunPhase, COMMANDS.name)
STOP_GPU: Final = Channel("cmd.gpu.v1.stop", StopPhase, COMMANDS.name)

PHASE_PROGRESSED: Final = Channel("evt.phase.v1.progressed", PhaseProgressed, EVENTS.name)
PHASE_SUCCEEDED: Final = Channel("evt.phase.v1.succeeded", PhaseSucceeded, EVENTS.name)
PHASE_FAILED: Final = Channel("evt.phase.v1.failed", PhaseFailed, EVENTS.name)
PHASE_DEFERRED: Final = Channel("evt.phase.v1.deferred", PhaseDeferred, EVENTS.name)
