"""The keys of sealed work, and who wraps whom. Keys are objects; a key that is deleted is destroyed.

    master key      from the environment; several, the first wraps what is new
      tenant's key  `keys/tenants/TENANT`, wrapped by a master; rotation wraps it anew and touches nothing else
        key         `keys/ID`, wrapped by its tenant's: of one upload, and of all that is made of it

Unwrapped keys are not kept: a key that was destroyed opens nothing from that moment on, in any process. Whoever copies
the bucket elsewhere (a backup) leaves `keys/` out or lets it expire first, or what was destroyed lives on there.
"""

from __future__ import annotations

import contextlib
import os
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel, ConfigDict, SecretStr

from contracts.errors import SafelightError, error
from contracts.sealed import KEY_BYTES

if TYPE_CHECKING:
    from runtime.objects import Objects

FOLDER: Final = "keys/"
TENANTS: Final = f"{FOLDER}tenants/"
SECRET_CHARS_MIN: Final = 32
_NONCE_BYTES: Final = 12
_JSON: Final = "application/json"
_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Master:
    """One master key. Its name stands in what it wraps."""

    name: str
    key: bytes


class _Wrapped(BaseModel):
    """What a key's object holds: who wraps it, and the wrapped bytes."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    by: str  # a master's name, or a tenant
    wrapped: str  # base64 of nonce and ciphertext


def masters(text: SecretStr) -> tuple[Master, ...]:
    """The master keys of a setting. Raises ValueError, without the secret, for one that cannot be used."""
    found = []
    for pair in filter(None, (one.strip() for one in text.get_secret_value().split(","))):
        name, _, secret = pair.partition(":")
        if not name.isidentifier() or len(secret) < SECRET_CHARS_MIN:
            raise ValueError(f"name:secret,name:secret, each secret of {SECRET_CHARS_MIN} characters or more")
        found.append(Master(name, HKDF(SHA256(), KEY_BYTES, None, b"safelight master key 1").derive(secret.encode())))
    return tuple(found)


_SEALING: Final[ContextVar[str | None]] = ContextVar("sealing", default=None)


@contextlib.contextmanager
def sealing(key_id: str | None) -> Iterator[None]:
    """What is written within is sealed under this key; None: it is not."""
    token = _SEALING.set(key_id)
    try:
        yield
    finally:
        _SEALING.reset(token)


def sealing_key() -> str | None:
    """The key under which what is written now is sealed."""
    return _SEALING.get()


class Vault:
    """Makes, opens, wraps anew and destroys keys. Without masters nothing is sealed, and nothing sealed opens."""

    def __init__(self, objects: Objects, masters: tuple[Master, ...]) -> None:
        self._objects = objects
        self._masters = {one.name: one for one in masters}

    @property
    def can_seal(self) -> bool:
        """Whether there is a master key."""
        return bool(self._masters)

    async def make(self, key_id: str, tenant: str) -> None:
        """A new key of a tenant; one that is there stays.

        Raises:
            SafelightError: KEY_UNAVAILABLE, KEY_DESTROYED (of the tenant, between two steps), STORAGE_UNAVAILABLE.
        """
        if not self._masters:
            raise error("KEY_UNAVAILABLE", "no master key is set up here: sealed work needs one")
        first = next(iter(self._masters.values()))
        fresh = _wrapped(first.key, first.name, os.urandom(KEY_BYTES), tenant)
        await self._objects.put_if_absent(TENANTS + tenant, _json(fresh), _JSON)
        theirs = await self._of_tenant(tenant)
        mine = _wrapped(theirs, tenant, os.urandom(KEY_BYTES), str(key_id))
        await self._objects.put_if_absent(f"{FOLDER}{key_id}", _json(mine), _JSON)

    async def open(self, key_id: str) -> bytes:
        """The key itself.

        Raises:
            SafelightError: KEY_DESTROYED, KEY_UNAVAILABLE, SEAL_BROKEN, STORAGE_UNAVAILABLE.
        """
        found = await self._read(f"{FOLDER}{key_id}")
        return _unwrapped(await self._of_tenant(found.by), found, str(key_id))

    async def destroy(self, key_id: str) -> bool:
        """Destroy a key: what is sealed by it cannot be read any more, wherever it lies. False: there was none."""
        return await self._destroy(f"{FOLDER}{key_id}")

    async def destroy_tenant(self, tenant: str) -> bool:
        """Destroy a tenant's key, and with it all that was ever sealed for it. False: there was none."""
        return await self._destroy(TENANTS + tenant)

    async def rotate(self) -> Counter[str]:
        """Wrap every tenant's key by the first master. Returns how many each wraps now: one that wraps none may go.

        Not while tenants' keys are destroyed: one that is between reading and writing would come back.
        """
        first = next(iter(self._masters.values()), None)
        if first is None:
            raise error("KEY_UNAVAILABLE", "no master key is set up here")
        for path, found in (await self._tenants()).items():
            if found.by != first.name:
                tenant = path.removeprefix(TENANTS)
                theirs = _unwrapped(self._master(found.by).key, found, tenant)
                await self._objects.put(path, _json(_wrapped(first.key, first.name, theirs, tenant)), _JSON)
        return await self.wraps()

    async def wraps(self) -> Counter[str]:
        """How many tenants' keys each master wraps; also one that is not set up here any more."""
        found: Counter[str] = Counter(dict.fromkeys(self._masters, 0))
        found.update(one.by for one in (await self._tenants()).values())
        return found

    async def _tenants(self) -> dict[str, _Wrapped]:
        found = {}
        for path in await self._objects.keys(TENANTS):
            try:
                found[path] = await self._read(path)
            except SafelightError as problem:
                if problem.code != "KEY_DESTROYED":  # meanwhile
                    raise
        return found

    async def _of_tenant(self, tenant: str) -> bytes:
        found = await self._read(TENANTS + tenant)
        return _unwrapped(self._master(found.by).key, found, tenant)

    def _master(self, name: str) -> Master:
        if name not in self._masters:
            raise error("KEY_UNAVAILABLE")
        return self._masters[name]

    async def _read(self, path: str) -> _Wrapped:
        try:
            return _Wrapped.model_validate_json(await self._objects.get(path, _BYTES_MAX))
        except SafelightError as problem:
            if problem.code == "OBJECT_MISSING":
                raise error("KEY_DESTROYED") from problem
            raise
        except ValueError as problem:
            raise error("SEAL_BROKEN", "a key's object cannot be read") from problem

    async def _destroy(self, path: str) -> bool:
        there = await self._objects.size(path) is not None
        await self._objects.remove(path)
        return there


def _wrapped(by: bytes, name: str, key: bytes, about: str) -> _Wrapped:
    nonce = os.urandom(_NONCE_BYTES)
    return _Wrapped(by=name, wrapped=b64encode(nonce + AESGCM(by).encrypt(nonce, key, _bound(name, about))).decode())


def _unwrapped(by: bytes, found: _Wrapped, about: str) -> bytes:
    try:
        data = b64decode(found.wrapped, validate=True)
        return AESGCM(by).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound(found.by, about))
    except (InvalidTag, ValueError) as problem:
        raise error("SEAL_BROKEN", "a key's object is not what was wrapped") from problem


def _bound(by: str, about: str) -> bytes:
    return f"safelight key 1\0{by}\0{about}".encode()


def _json(found: _Wrapped) -> bytes:
    return found.model_dump_json().encode()
