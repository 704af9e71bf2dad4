"""Which pipelines an upload may ask for by name: the orchestrator's.

They are looked up when an upload names one and remembered for a short while. When the
orchestrator cannot be asked, the name is taken as it is: the job will fail with
PIPELINE_UNKNOWN if it is wrong, but no upload waits for another service.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import httpx

from contracts.errors import error
from runtime import logs

REMEMBER_S: Final = 30.0
LEARN_EVERY_S: Final = 1.0
log = logs.get()


@dataclass(frozen=True, slots=True)
class _Remembered:
    accepts: dict[str, frozenset[str]]
    sealed: frozenset[str]
    until: float


class Catalog:
    """Pipelines that uploads may use."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._pipelines = _Remembered({}, frozenset(), 0.0)

    async def learn_forever(self) -> None:
        """Know the pipelines before an upload names one: from the first answer on there is something to go by."""
        while True:
            known = await self._ask()
            await asyncio.sleep(REMEMBER_S / 2 if known else LEARN_EVERY_S)

    async def sealed(self, pipeline: str) -> bool | None:
        """Whether what a pipeline works on is sealed, or None when nobody can be asked. Raises PIPELINE_UNKNOWN."""
        known = await self.accepts(pipeline)
        return None if known is None else pipeline in self._pipelines.sealed

    async def accepts(self, pipeline: str) -> frozenset[str] | None:
        """The media types that a pipeline takes, or None when nobody can be asked.

        Raises:
            SafelightError: PIPELINE_UNKNOWN.
        """
        clock = asyncio.get_running_loop().time()
        if (pipeline not in self._pipelines.accepts or clock >= self._pipelines.until) and not await self._ask():
            return self._pipelines.accepts.get(pipeline)
        if pipeline not in self._pipelines.accepts:
            raise error("PIPELINE_UNKNOWN")
        return self._pipelines.accepts[pipeline]

    async def _ask(self) -> bool:
        try:
            answer = (await self._client.get("/v1/pipelines")).raise_for_status()
        except httpx.HTTPError as problem:
            log.warning("catalog.orchestrator_silent", error=type(problem).__name__)
            return False
        rows = answer.json()
        known = {row["name"]: frozenset(row["accepts"]) for row in rows}
        sealed = frozenset(row["name"] for row in rows if row.get("sealed"))
        until = asyncio.get_running_loop().time() + REMEMBER_S
        self._pipelines = _Remembered(known, sealed, until)
        return True
