"""Who goes next where work has to wait: weighted fairness between tenants, interactive before bulk.

For each phase there is a limit of commands out at once, over all and per tenant. A free place goes
to the interactive lane first; within a lane to the tenant that has the least out for its weight,
of equals to the one whose last turn is longest ago; within a tenant to what has waited longest. So
a tenant that has nothing out gets the next place that is freed, however many of another's units
wait: it waits for one ending, never for a batch. Where there are more tenants than places, they
take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from contracts.uploads import Lane
from orchestrator.machine.decide import Room

PhaseId = tuple[str, str]  # pipeline and phase: what a limit is about
Waiting = Mapping[tuple[str, str], int]  # how many units wait, by lane and tenant
LANES: Final[tuple[Lane, ...]] = ("interactive", "bulk")


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so many commands of one phase are out at once; None: as many as there are."""

    running_max: int | None
    running_max_per_tenant: int | None

    def free(self, running: int, running_of_tenant: int) -> int:
        """How many more may go out for the tenant. Never below 0: a limit may have been lowered."""
        everybody = _UNLIMITED if self.running_max is None else self.running_max - running
        tenant = _UNLIMITED if self.running_max_per_tenant is None else self.running_max_per_tenant - running_of_tenant
        return max(0, min(everybody, tenant))


_UNLIMITED: Final = 1_000_000_000


def room(limits: Limits, running: int, running_of_tenant: int, waiting: Waiting, tenant: str) -> Room:
    """What a unit that has just become ready finds: no room while others wait, so that none overtakes."""
    ahead = sum(count for (_, whose), count in waiting.items() if whose == tenant) if waiting else 0
    if any(waiting.values()):
        return Room(0, ahead)
    return Room(limits.free(running, running_of_tenant), ahead)


def admit(
    limits: Limits,
    running: Mapping[str, int],
    waiting: Waiting,
    weights: Mapping[str, float],
    turns: Mapping[str, int],
    most: int,
) -> list[tuple[str, str, int]]:
    """Whose units go next: (lane, tenant, how many), at most `most` of them.

    `running` is by tenant; `turns` numbers the last turn of each, higher is later, and none is before all.
    """
    out, last = dict(running), dict(turns)
    left = {key: count for key, count in waiting.items() if count > 0}
    taken: dict[tuple[str, str], int] = {}
    places = min(most, limits.free(sum(out.values()), -_UNLIMITED))
    for lane in LANES:
        while places > 0:
            tenants = [
                tenant
                for (whose, tenant), count in left.items()
                if whose == lane and count > 0 and limits.free(-_UNLIMITED, out.get(tenant, 0)) > 0
            ]
            if not tenants:
                break
            chosen = min(tenants, key=lambda tenant: (_load(out, weights, tenant), last.get(tenant, 0), tenant))
            left[lane, chosen] -= 1
            taken[lane, chosen] = taken.get((lane, chosen), 0) + 1
            out[chosen] = out.get(chosen, 0) + 1
            last[chosen] = max(last.values(), default=0) + 1
            places -= 1
    return [(lane, tenant, count) for (lane, tenant), count in taken.items()]


def _load(out: Mapping[str, int], weights: Mapping[str, float], tenant: str) -> float:
    return out.get(tenant, 0) / weights.get(tenant, 1.0)
