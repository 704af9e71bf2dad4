"""What an upload may ask for by name: pipelines (the orchestrator's) and styles (in the bucket).

Both are looked up when an upload names them and remembered for a short while. When the
orchestrator cannot be asked, the name is taken as it is: the job will fail with
PIPELINE_UNKNOWN if it is wrong, but no upload waits for another service.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import Final

import httpx

from contracts.artifacts import ObjectRef
from contracts.errors import SafelightError, error
from runtime import logs
from runtime.objects import Objects

REMEMBER_S: Final = 30.0
STYLE_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9-]{0,63}$")
CUBE: Final = "application/x-cube-lut"
log = logs.get()


@dataclass(frozen=True, slots=True)
class _Remembered:
    accepts: dict[str, frozenset[str]]
    until: float


class Catalog:
    """Names that uploads may use."""

    def __init__(self, client: httpx.AsyncClient, objects: Objects) -> None:
        self._client = client
        self._objects = objects
        self._pipelines = _Remembered({}, 0.0)
        self._styles: dict[str, tuple[ObjectRef, float]] = {}

    async def accepts(self, pipeline: str) -> frozenset[str] | None:
        """The media types that a pipeline takes, or None when nobody can be asked.

        Raises:
            SafelightError: PIPELINE_UNKNOWN.
        """
        clock = asyncio.get_running_loop().time()
        if pipeline not in self._pipelines.accepts or clock >= self._pipelines.until:
            try:
                answer = (await self._client.get("/v1/pipelines")).raise_for_status()
            except httpx.HTTPError as problem:
                log.warning("catalog.orchestrator_silent", error=type(problem).__name__)
                return self._pipelines.accepts.get(pipeline)
            known = {row["name"]: frozenset(row["accepts"]) for row in answer.json()}
            self._pipelines = _Remembered(known, clock + REMEMBER_S)
        if pipeline not in self._pipelines.accepts:
            raise error("PIPELINE_UNKNOWN")
        return self._pipelines.accepts[pipeline]

    async def style(self, name: str) -> ObjectRef:
        """The LUT of a style as it is now: the job keeps this one.

        Raises:
            SafelightError: STYLE_UNKNOWN, STORAGE_UNAVAILABLE.
        """
        if not STYLE_NAME.fullmatch(name):
            raise error("STYLE_UNKNOWN")
        clock = asyncio.get_running_loop().time()
        known, until = self._styles.get(name, (None, 0.0))
        if known is None or clock >= until:
            key = f"styles/{name}.cube"
            try:
                data = await self._objects.get(key)
            except SafelightError as problem:
                if problem.code == "OBJECT_MISSING":
                    raise error("STYLE_UNKNOWN") from problem
                raise
            known = ObjectRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data), media_type=CUBE)
            self._styles[name] = (known, clock + REMEMBER_S)
        return known
