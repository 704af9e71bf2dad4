"""Styles as versions: whose there are, which one an upload means, and how a job's result becomes the next.

The law of this file:

- A version never changes, and the versions of a tenant's name count from 1 without gaps.
- The ending of a job makes at most one version, however often it is told; a job that works again makes another.
- A name means the tenant's own style where it has one, else the built-in one; alone it means the newest version.
- Built-in styles are `styles/NAME.cube` in the bucket, put there by the set-up. They are taken in when somebody asks
  for them, under the hash of their content: another content is another version.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.errors import SafelightError, error
from contracts.jobs import JobSucceeded
from ingest import store
from ingest.intake import CUBE, CUBE_BYTES_MAX
from ingest.store import Style
from ingest.tables import EVERYBODY
from runtime import logs
from runtime.objects import Objects
from runtime.settle import Delivery

NAME: Final = r"[a-z0-9][a-z0-9-]{0,63}"
REMEMBER_S: Final = 30.0
FOLDER: Final = "styles/"
_NAME: Final = re.compile(NAME)
_REFERENCE: Final = re.compile(rf"({NAME})(?:@([1-9][0-9]{{0,8}}))?")
log = logs.get()

# fmt: off
KINDS: Final = {
    # pipeline          what its jobs make
    "style-training":   "learnt",
    "style-import":     "imported",
}
PARTS: Final = {
    # part       artifact of the job
    "style":     "style.safetensors",
    "cube":      "style.cube",
    "preview":   "preview.jpg",
    "report":    "report.json",
}
# fmt: on


@dataclass(slots=True)
class Styles:
    """The styles of all tenants, with what it takes to find and keep them."""

    engine: AsyncEngine
    objects: Objects
    _looked_at: dict[str, float] = field(default_factory=dict)  # built-in names, and the folder of all, by loop time
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def meant(self, tenant: str, reference: str) -> Style:
        """The style that `name` or `name@version` means to this tenant now.

        Raises:
            SafelightError: STYLE_UNKNOWN, STORAGE_UNAVAILABLE.
        """
        read = _REFERENCE.fullmatch(reference)
        if read is None:
            raise error("STYLE_UNKNOWN")
        name, version = read[1], int(read[2]) if read[2] else None
        found = await self._find(tenant, name, version)
        if (found is None or found.tenant == EVERYBODY) and await self._take_in(name):
            found = await self._find(tenant, name, version)
        if found is None:
            raise error("STYLE_UNKNOWN")
        return found

    async def versions(self, tenant: str, reference: str) -> list[Style]:
        """Every version of `name`, newest first; of `name@version` that one. Raises as `meant` does."""
        known = await self.meant(tenant, reference)
        if "@" in reference:
            return [known]
        async with self.engine.connect() as conn:
            return await store.versions(conn, known.tenant, known.name)

    async def newest(self, tenant: str, limit: int, after: str) -> list[Style]:
        """The newest version of each name that the tenant can use, by name, those behind `after`."""
        if self._is_due(FOLDER):
            for key in await self.objects.keys(FOLDER):
                name = key.removeprefix(FOLDER).removesuffix(".cube")
                if key.endswith(".cube") and _NAME.fullmatch(name):
                    await self._take_in(name)
            self._looked(FOLDER)
        async with self.engine.connect() as conn:
            return await store.newest_styles(conn, tenant, limit, after)

    async def succeeded(self, deliveries: Sequence[Delivery]) -> None:
        """Make versions of what jobs have made. Most jobs make no style: those cost one look at all of them.

        Raises:
            ValidationError: a body is no ending of a job.
            SafelightError: MESSAGE_INVALID when a job that makes a style has told of none.
        """
        endings = [JobSucceeded.model_validate_json(delivery.body) for delivery in deliveries]
        async with self.engine.connect() as conn:
            makers = await store.makers(conn, [ending.job_id for ending in endings])
        for ending in endings:
            if maker := makers.get(ending.job_id):
                await self._register(maker, ending)

    async def _register(self, maker: store.Maker, ending: JobSucceeded) -> None:
        done = next((change for change in ending.changes if change.artifacts), None)
        made = {artifact.name: artifact for artifact in done.artifacts} if done else {}
        objects = {part: _plain(made[name]) for part, name in PARTS.items() if name in made}
        if done is None or "cube" not in objects:
            raise error("MESSAGE_INVALID", "the job was to make a style and tells of none")
        style = Style(
            tenant=maker.tenant,
            name=maker.style_name,
            kind=KINDS[maker.pipeline],
            objects=objects,
            facts=done.facts,
            engine=done.engine,
            degraded=done.degraded,
            job_id=ending.job_id,
            job_revision=ending.revision,
        )
        async with self.engine.begin() as conn:
            version = await store.add_version(conn, style)
        if version:
            log.info("style.registered", job=str(ending.job_id), version=version, kind=style.kind)

    async def _find(self, tenant: str, name: str, version: int | None) -> Style | None:
        async with self.engine.connect() as conn:
            return await store.style(conn, tenant, name, version)

    async def _take_in(self, name: str) -> bool:
        """Make a version of a built-in style whose content is new. Whether it was looked at just now.

        Who asks while another looks waits for that: a gallery's first photos come all at once.
        """
        if not self._is_due(name):
            return False
        async with self._looking:
            if self._is_due(name):
                await self._look(name)
                self._looked(name)
        return True

    async def _look(self, name: str) -> None:
        try:
            data = await self.objects.get(f"{FOLDER}{name}.cube", CUBE_BYTES_MAX)
        except SafelightError as problem:
            if problem.code == "OBJECT_MISSING":
                return
            raise
        digest = hashlib.sha256(data).hexdigest()
        # The set-up may put another content in that place: a version keeps what it had, under its hash.
        cube = ObjectRef(key=f"{FOLDER}{name}/{digest}.cube", sha256=digest, size=len(data), media_type=CUBE)
        known = await self._find(EVERYBODY, name, None)
        if known is None or known.objects["cube"] != cube:
            await self.objects.put(cube.key, data, CUBE)
            async with self.engine.begin() as conn:
                await store.add_version(conn, Style(EVERYBODY, name, "built-in", {"cube": cube}))

    def _is_due(self, what: str) -> bool:
        return asyncio.get_running_loop().time() >= self._looked_at.get(what, 0.0)

    def _looked(self, what: str) -> None:
        if len(self._looked_at) > 1000:  # names are strangers' texts: what is remembered of them has an end
            self._looked_at.clear()
        self._looked_at[what] = asyncio.get_running_loop().time() + REMEMBER_S


def _plain(stored: ObjectRef) -> ObjectRef:
    return ObjectRef(**stored.model_dump(include=set(ObjectRef.model_fields)))
