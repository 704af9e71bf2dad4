"""What a decision asks the shell to carry out. Both leave through the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts.channel import Channel
from contracts.phases import RunPhase


@dataclass(frozen=True, slots=True)
class Command:
    """Give this command on the channel with this subject."""

    subject: str
    message: RunPhase


@dataclass(frozen=True, slots=True)
class Event:
    """Tell everybody."""

    channel: Channel[Any]
    message: Any


Effect = Command | Event
