"""What a decision asks the shell to carry out. Commands, stops and events leave through the outbox."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from contracts.artifacts import Artifact
from contracts.channel import Channel
from contracts.phases import RunPhase, StopPhase
from orchestrator.machine.job import Try


class Command(Struct, frozen=True):
    """Give this command; `name` is its row in the table of commands."""

    name: str
    message: RunPhase


class Stop(Struct, frozen=True):
    """Ask whoever runs this attempt to stop, if that command can be stopped."""

    name: str
    message: StopPhase


class Event(Struct, frozen=True):
    """Tell everybody. `told` are the message's fields, all of them, in their order.

    There are two events for each phase of each job, and a model's validation costs more than all that was decided. The
    laws that the machine is tested by hold every event against its model.
    """

    channel: Channel[Any]
    told: dict[str, Any]

    @property
    def message(self) -> Any:
        """As its model."""
        return self.channel.message(**self.told)


class Bury(Struct, frozen=True):
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
