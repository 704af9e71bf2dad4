"""What a decision asks the shell to carry out. Commands, stops and events leave through the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts.artifacts import Artifact
from contracts.channel import Channel
from contracts.phases import RunPhase, StopPhase
from orchestrator.machine.job import Try


@dataclass(frozen=True, slots=True)
class Command:
    """Give this command; `name` is its row in the table of commands."""

    name: str
    message: RunPhase


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask whoever runs this attempt to stop, if that command can be stopped."""

    name: str
    message: StopPhase


@dataclass(frozen=True, slots=True)
class Event:
    """Tell everybody."""

    channel: Channel[Any]
    message: Any


@dataclass(frozen=True, slots=True)
class Bury:
    """Keep what could not be done as a dead letter. `phase` is None when it is about the whole job.

    `command` is the last one that was given for it, None when there was none; `tries` are the
    attempts that failed, with their phases; `artifacts` is all that the job has made so far.
    """

    phase: str | None
    item: str | None
    code: str
    detail: str
    command: Command | None
    tries: tuple[tuple[str, str | None, Try], ...]
    artifacts: tuple[tuple[str, Artifact], ...]


Effect = Command | Stop | Event | Bury
