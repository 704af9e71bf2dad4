"""The small objects of an epoch: its claim, its progress, its result. The bridge's side of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from contracts.artifacts import ObjectRef
from contracts.envelope import VOID, Checkpoint, Claim, Item, Marks, Progress, ReadUrl, Result, WriteUrl
from contracts.errors import SafelightError, error
from contracts.phases import RunPhase
from contracts.sealed import Secret
from gpu_bridge.call import CLAIM, PROGRESS, RESULT, Call, output_keys, sealed_under
from gpu_bridge.catalog import Function
from runtime import clock, logs
from runtime.objects import Objects

MARK_BYTES_MAX: Final = 256 * 1024  # a result holds facts of at most 64 KiB and some spans
T = TypeVar("T", bound=BaseModel)
log = logs.get()


@dataclass(frozen=True, slots=True)
class MarkStore:
    """Reads marks, writes void claims, and makes the links that a provider is given."""

    objects: Objects

    async def item(self, call: Call, function: Function, command: RunPhase, lives: timedelta, *, public: bool) -> Item:
        """The call as an item of an envelope: links to single objects, which live so long.

        `public`: for a provider outside, who reaches storage by another address than we do.

        Raises:
            SafelightError: OBJECT_MISSING when the command lacks an input; KEY_DESTROYED, KEY_UNAVAILABLE, SEAL_BROKEN.
        """
        sealed = sealed_under(command)
        inputs = {}
        for role in function.inputs:
            if role not in command.inputs:
                raise error("OBJECT_MISSING", f"the command names no object for the role {role}")
            ref = command.inputs[role]
            inputs[role] = ReadUrl(
                url=await self.objects.read_url(ref.key, lives, public=public),
                sha256=ref.sha256,
                size=ref.size,
                secret=await self._secret(await self._sealed_by(ref, sealed), ref.key),
            )
        outputs = {
            role: WriteUrl(
                url=await self.objects.write_url(key, lives, public=public),
                key=key,
                secret=await self._secret(sealed, key),
            )
            for role, key in output_keys(call.prefix, function).items()
        }
        marks = Marks(
            claim=await self.objects.write_url(f"{call.prefix}/{CLAIM}", lives, public=public),
            claimed=await self.objects.read_url(f"{call.prefix}/{CLAIM}", lives, public=public),
            progress=await self.objects.write_url(f"{call.prefix}/{PROGRESS}", lives, public=public),
            result=await self.objects.write_url(f"{call.prefix}/{RESULT}", lives, public=public),
        )
        checkpoint = None
        if function.long:
            checkpoint = Checkpoint(
                read=await self.objects.read_url(call.checkpoint, lives, public=public),
                write=await self.objects.write_url(call.checkpoint, lives, public=public),
                secret=await self._secret(sealed, call.checkpoint),
            )
        return Item(
            id=call.key,
            inputs=inputs,
            outputs=outputs,
            parameters=command.parameters,
            marks=marks,
            checkpoint=checkpoint,
        )

    async def _sealed_by(self, ref: ObjectRef, sealed: str | None) -> str | None:
        """The key under which an input lies there. Not every artifact of sealed work says so: the object is asked."""
        return ref.sealed if sealed is None or ref.sealed else await self.objects.sealed_by(ref.key)

    async def _secret(self, id_: str | None, name: str) -> Secret | None:
        return None if id_ is None else Secret.of(id_, await self.objects.vault.open(id_), name)

    async def claim(self, call: Call) -> Claim | None:
        """Who has claimed this epoch, if anybody has."""
        return await self._read(call, CLAIM, Claim)

    async def progress(self, call: Call) -> Progress | None:
        """How far it says that it is."""
        return await self._read(call, PROGRESS, Progress)

    async def result(self, call: Call) -> Result | None:
        """How it ended, if it did. One that is about another item, or that no reader takes, is none."""
        found = await self._read(call, RESULT, Result)
        return found if found and found.item.id == call.key else None

    async def void(self, call: Call) -> Claim | None:
        """Keep this epoch from ever starting. Returns the claim of whoever was faster, None when it is void now."""
        mine = Claim(owner=VOID, at=clock.now())
        if await self.objects.put_if_absent(f"{call.prefix}/{CLAIM}", mine.model_dump_json().encode(), _JSON):
            return None
        claim = await self.claim(call)
        if claim is None:  # there is one, but no reader takes it: nobody who keeps to the protocol wrote it
            raise error("ANSWER_INVALID", "the claim cannot be read")
        return None if claim.owner == VOID else claim

    async def _read(self, call: Call, name: str, kind: type[T]) -> T | None:
        key = f"{call.prefix}/{name}"
        try:
            return kind.model_validate_json(await self.objects.get(key, bytes_max=MARK_BYTES_MAX))
        except ValidationError:
            log.warning("mark.garbled", key=key)
            return None
        except SafelightError as problem:
            if problem.code == "OBJECT_MISSING":
                return None
            raise


_JSON: Final = "application/json"
