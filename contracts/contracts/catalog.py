"""Every channel in one tuple: what may cross rooms, and nothing else."""

from __future__ import annotations

from typing import Any, Final

from contracts import audit, batches, costs, erasures, jobs, phases, uploads
from contracts.channel import Channel

CHANNELS: Final[tuple[Channel[Any], ...]] = tuple(
    thing
    for module in (uploads, phases, jobs, batches, audit, erasures, costs)
    for thing in vars(module).values()
    if isinstance(thing, Channel)
)
