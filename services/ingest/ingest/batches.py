"""Which batches an upload may name, and what those set for it: the orchestrator's.

They are asked for when an upload names one and remembered for a moment: so long may pass before a close is
heard here, unless the upload comes after the close has been answered and REMEMBER_S. When the orchestrator
cannot be asked, what was remembered last is taken for a while; an upload of a batch that nobody here knows
has to be sent again, for what it does not say itself would be guessed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote
from uuid import UUID

import httpx

from contracts.batches import BatchSettings
from contracts.errors import error
from runtime import logs

REMEMBER_S: Final = 1.0
STALE_S: Final = 60.0
KEPT_MAX: Final = 10_000
log = logs.get()


@dataclass(frozen=True, slots=True)
class _Remembered:
    settings: BatchSettings
    asked_at: float


class Batches:
    """Batches that uploads may name."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._known: dict[tuple[str, UUID], _Remembered] = {}

    async def open(self, tenant: str, batch_id: UUID) -> BatchSettings:
        """What holds for the uploads of a tenant's batch.

        Raises:
            SafelightError: BATCH_UNKNOWN, BATCH_CLOSED, SERVICE_UNAVAILABLE.
        """
        settings = await self._settings(tenant, batch_id)
        if settings.state == "closed":
            raise error("BATCH_CLOSED")
        return settings

    async def _settings(self, tenant: str, batch_id: UUID) -> BatchSettings:
        now, key = asyncio.get_running_loop().time(), (tenant, batch_id)
        known = self._known.get(key)
        if known and (known.settings.state == "closed" or now < known.asked_at + REMEMBER_S):
            return known.settings  # a closed one stays closed
        try:
            answer = await self._client.get(f"/internal/tenants/{quote(tenant, safe='')}/batches/{batch_id}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                raise error("BATCH_UNKNOWN")
            settings = BatchSettings.model_validate(answer.raise_for_status().json())
        except httpx.HTTPError as problem:
            log.warning("batches.orchestrator_silent", error=type(problem).__name__)
            if known and now < known.asked_at + STALE_S:
                return known.settings
            raise error("SERVICE_UNAVAILABLE", "nobody can say what the batch is") from problem
        if len(self._known) >= KEPT_MAX:
            self._known.clear()
        self._known[key] = _Remembered(settings, now)
        return settings
