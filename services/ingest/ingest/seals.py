"""Which uploads are sealed, and their sealing: once a file is accepted, under a key of its own.

A pipeline says so in its file (`sealed: true`), or the configuration of a tenant's every upload. The sealed copy
takes the original's place; the file as it came is removed as soon as the upload is committed, and a sweep removes
what a crash in between has left. When nobody can be asked whether a pipeline is sealed, it is taken to be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.errors import SafelightError
from ingest import store
from ingest.catalog import Catalog
from runtime import clock, logs
from runtime.objects import Objects

FOLDER: Final = "originals/"
EVERYBODY: Final = "*"
LEFT_FOR: Final = timedelta(days=2)  # so far back is looked for what a crash has left
TIDY_EVERY_S: Final = 3600.0
log = logs.get()


@dataclass(frozen=True, slots=True)
class Seals:
    """The use case. `tenants`: whose every upload is sealed; `*` is everybody."""

    objects: Objects
    catalog: Catalog
    tenants: Sequence[str] = ()

    async def original(self, tenant: str, pipeline: str, upload_id: UUID, came: ObjectRef) -> ObjectRef:
        """The object that the job will read: the file as it came, or its sealed copy.

        Raises:
            SafelightError: KEY_UNAVAILABLE when it is to be sealed and no master key is set up: it is not taken then.
        """
        if not await self._wanted(tenant, pipeline):
            return came
        key_id, key = str(upload_id), f"{FOLDER}{upload_id}"
        await self.objects.vault.make(key_id, tenant)
        await self.objects.put_sealed_copy(came.key, key, key_id, came.media_type)
        return came.model_copy(update={"key": key, "sealed": key_id})

    async def _wanted(self, tenant: str, pipeline: str) -> bool:
        if EVERYBODY in self.tenants or tenant in self.tenants:
            return True
        known = await self.catalog.sealed(pipeline)
        return self.objects.vault.can_seal if known is None else known

    async def tidy_forever(self, engine: AsyncEngine) -> None:
        """Look once an hour, beginning now."""
        while True:
            try:
                await self.tidy(engine)
            except SafelightError as problem:
                log.warning("seals.not_tidied", code=problem.code)
            await asyncio.sleep(TIDY_EVERY_S)

    async def tidy(self, engine: AsyncEngine) -> None:
        """Remove the files as they came of uploads that were sealed lately: what is there, a crash has left."""
        async with engine.connect() as conn:
            sealed = await store.sealed_since(conn, FOLDER, clock.now() - LEFT_FOR)
        for key in sealed:
            if await self.objects.size(key) is not None:
                await self.objects.remove(key)
                log.warning("seals.left_over_removed")
