"""How full the pipeline is, as the orchestrator tells; and whether that is too full to take more in.

The answer is remembered for a moment. While the orchestrator cannot be asked, its last answer counts for a while, and
then uploads are taken: they are safe in storage and in the stream, and whoever is away comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx
from pydantic import BaseModel

from contracts.errors import SafelightError, error
from runtime import logs

REMEMBER_S: Final = 2.0
STALE_S: Final = 60.0
QUEUE_FULL: Final = 0.8  # of what the commands' stream holds: beyond it, it would refuse commands soon
AGAIN_MIN_S, AGAIN_MAX_S = 5.0, 600.0
log = logs.get()


class Load(BaseModel):
    """Jobs that are not over, in all and by tenant; how many ended lately, each second; how full the queue is."""

    jobs: int = 0
    tenants: Mapping[str, int] = {}
    per_s: float = 0.0
    queue: float = 0.0

    def refusal(self, tenant: str, jobs_max: int, tenant_max: int | None) -> SafelightError | None:
        """Why nothing more is taken in now; it says when to come again, by the recent pace."""
        mine = self.tenants.get(tenant, 0)
        if tenant_max is not None and mine >= tenant_max:
            told = f"{tenant_max} of your jobs may be at work at once."
            return error("QUOTA_EXCEEDED", told, retry_after_s=self.until(mine - tenant_max + 1))
        if self.jobs >= jobs_max:
            wait_s = self.until(self.jobs - jobs_max + 1)
            told = f"{self.jobs} jobs are at work; there is room again in about {wait_s:.0f} s."
            return error("PIPELINE_FULL", told, retry_after_s=wait_s)
        if self.queue >= QUEUE_FULL:
            return error("PIPELINE_FULL", "The queue of commands is nearly full.", retry_after_s=self.until(1))
        return None

    def until(self, jobs: int) -> float:
        """Seconds until so many more have ended, by the recent pace."""
        wait_s = jobs / self.per_s if self.per_s else AGAIN_MAX_S
        return min(max(wait_s, AGAIN_MIN_S), AGAIN_MAX_S)


@dataclass(slots=True)
class Loads:
    """Asks, and remembers."""

    client: httpx.AsyncClient
    remember_s: float = REMEMBER_S
    _last: Load = field(default_factory=Load)
    _asked_at: float = -STALE_S
    _told_at: float = -STALE_S
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def now(self) -> Load:
        """The load of the last moments; none, when nobody has told it for long."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now >= self._asked_at + self.remember_s:
                self._asked_at = now
                try:
                    answer = (await self.client.get("/internal/load")).raise_for_status()
                    self._last, self._told_at = Load.model_validate_json(answer.content), now
                except (httpx.HTTPError, ValueError) as problem:
                    log.warning("load.orchestrator_silent", error=type(problem).__name__)
        return self._last if now < self._told_at + STALE_S else Load()
