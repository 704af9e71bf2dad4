"""Sealed objects on real storage: what lies there is not the content, and without its key nobody has it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import SecretStr, ValidationError

from contracts import sealed
from contracts.errors import SafelightError
from contracts.sealed import CHUNK_BYTES
from runtime.objects import Objects
from runtime.settings import S3Settings
from runtime.vault import masters, sealing
from tests.integration.conftest import SettingsOf
from tests.servers.fixtures import EnvironmentOf

OLD, NEW = f"m1:{'a' * 40}", f"m2:{'b' * 40}"
BUCKET = f"vault-{uuid4().hex[:8]}"  # of its own: others' keys are wrapped by another master
FAR = 10**9
CONTENT = os.urandom(2 * CHUNK_BYTES + 100)


@pytest.fixture(scope="module")
async def store(prepared: object, settings_of: SettingsOf) -> AsyncIterator[list[Objects]]:
    """Storage with the old master, with both, with the new one, and with none."""
    made = [
        Objects(settings_of(S3Settings, "setup", s3_bucket=BUCKET, master_keys=SecretStr(keys)))
        for keys in (OLD, f"{NEW},{OLD}", NEW, "")
    ]
    await made[0].ensure_bucket()
    yield made
    for one in made:
        one.close()


@pytest.fixture
async def objects(store: list[Objects]) -> Objects:
    return store[0]


async def code_of(attempt: object) -> str:
    with pytest.raises(SafelightError) as problem:
        await attempt  # type: ignore[misc]
    return problem.value.code


async def put(objects: Objects, tenant: str = "demo", content: bytes = CONTENT) -> tuple[str, str]:
    """(key id, name) of a new sealed object."""
    key_id, name = str(uuid4()), f"jobs/{uuid4()}/page.png"
    await objects.vault.make(key_id, tenant)
    with sealing(key_id):
        assert await objects.put(name, content, "image/png") == (hashlib.sha256(content).hexdigest(), len(content))
    return key_id, name


async def test_what_lies_there_is_sealed_and_reads_as_it_was(objects: Objects) -> None:
    key_id, name = await put(objects)
    stored = await objects.get_as_it_lies(name)
    assert sealed.is_sealed(stored)
    assert CONTENT[:64] not in stored
    assert await objects.sealed_by(name) == key_id
    assert await objects.get(name) == await objects.get_checked(name, hashlib.sha256(CONTENT).hexdigest()) == CONTENT
    assert await objects.get(name, 10) == CONTENT[:10]


async def test_a_stream_in_constant_memory_is_sealed_too(objects: Objects) -> None:
    key_id, name = str(uuid4()), f"jobs/{uuid4()}/big"
    await objects.vault.make(key_id, "demo")
    big = os.urandom(9 * 1024 * 1024)  # more than one part of an upload
    with sealing(key_id):
        await objects.put_stream(name, io.BytesIO(big), "application/pdf")
    assert b"".join([piece async for piece in objects.stream(name)]) == big
    copied = f"originals/{uuid4()}"
    await objects.put(f"{name}.plain", big, "application/pdf")
    await objects.put_sealed_copy(f"{name}.plain", copied, key_id, "application/pdf")
    assert await objects.sealed_by(copied) == key_id
    assert await objects.get(copied) == big


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, None),
        (0, 0),
        (5, CHUNK_BYTES + 5),
        (CHUNK_BYTES, 2 * CHUNK_BYTES - 1),
        (2 * CHUNK_BYTES + 99, 9**9),
        (9**9, None),
    ],
)
async def test_a_range_is_of_the_content_sealed_or_not(objects: Objects, first: int, last: int | None) -> None:
    _, name = await put(objects)
    plain = f"jobs/{uuid4()}/plain"
    await objects.put(plain, CONTENT, "image/png")
    for one in (name, plain):
        found = b"".join([piece async for piece in objects.stream(one, first, last)])
        assert found == CONTENT[first : None if last is None else last + 1]


async def test_an_object_that_somebody_has_tampered_with_is_not_handed_out(objects: Objects) -> None:
    _, name = await put(objects)
    stored = await objects.get_as_it_lies(name)
    full = CHUNK_BYTES + 16
    head, one, two, rest = (
        stored[:56],
        stored[56 : 56 + full],
        stored[56 + full : 56 + 2 * full],
        stored[56 + 2 * full :],
    )
    for other in (head + two + one + rest, head + one + two, stored[:-1]):
        await objects.put(name, other, "image/png")
        assert await code_of(objects.get(name)) == "SEAL_BROKEN"
        assert await code_of(_read(objects, name)) == "SEAL_BROKEN"
    _, second = await put(objects)
    await objects.put(name, await objects.get_as_it_lies(second), "image/png")
    assert await code_of(objects.get(name)) == "SEAL_BROKEN", "an object that was moved to another's place"


async def _read(objects: Objects, name: str) -> None:
    async for _ in objects.stream(name):
        pass


# -- keys -------------------------------------------------------------------------------------------


async def test_a_destroyed_key_opens_nothing_in_any_process_from_then_on(store: list[Objects]) -> None:
    objects, other = store[0], store[1]
    key_id, name = await put(objects)
    assert await other.get(name) == CONTENT
    assert await objects.vault.destroy(key_id)
    for reader in (objects, other):
        assert await code_of(reader.get(name)) == "KEY_DESTROYED"
        assert await code_of(_read(reader, name)) == "KEY_DESTROYED"
    with sealing(key_id):
        assert await code_of(objects.put(name, b"x", "text/plain")) == "KEY_DESTROYED"
    assert not await objects.vault.destroy(key_id)


async def test_a_tenant_s_key_takes_everything_of_that_tenant_with_it_and_nothing_else(objects: Objects) -> None:
    mine, theirs = f"t{uuid4().hex[:8]}", f"t{uuid4().hex[:8]}"
    lost = [(await put(objects, mine))[1] for _ in range(2)]
    _, kept = await put(objects, theirs)
    assert await objects.vault.destroy_tenant(mine)
    assert [await code_of(objects.get(name)) for name in lost] == ["KEY_DESTROYED"] * 2
    assert await objects.get(kept) == CONTENT


async def test_a_key_that_was_put_in_another_s_place_opens_nothing(objects: Objects) -> None:
    key_id, name = await put(objects)
    other_id, _ = await put(objects)
    await objects.put(f"keys/{key_id}", await objects.get_as_it_lies(f"keys/{other_id}"), "application/json")
    assert await code_of(objects.get(name)) == "SEAL_BROKEN"
    await objects.put(f"keys/{key_id}", b"{}", "application/json")
    assert await code_of(objects.get(name)) == "SEAL_BROKEN"


async def test_after_a_rotation_the_old_master_can_go(store: list[Objects]) -> None:
    old, both, new, none = store
    tenant = f"t{uuid4().hex[:8]}"
    _, name = await put(old, tenant)
    assert await code_of(new.get(name)) == "KEY_UNAVAILABLE"
    before = await old.get_as_it_lies(name)
    wraps = await both.vault.rotate()
    assert (wraps["m1"], wraps["m2"]) == (0, len(await both.keys("keys/tenants/")))
    assert await new.get(name) == CONTENT
    assert await new.get_as_it_lies(name) == before, "only the tenant's key was wrapped anew"
    assert await code_of(old.get(name)) == "KEY_UNAVAILABLE"
    assert await code_of(none.get(name)) == "KEY_UNAVAILABLE"
    for path in await both.keys("keys/tenants/"):  # so that this module's other tests may go on with the old one
        await both.remove(path)


def test_the_command_says_what_each_master_wraps(
    prepared: object, environment_of: EnvironmentOf, store: list[Objects]
) -> None:
    ours = {"SAFELIGHT_MASTER_KEYS": f"{NEW},{OLD}", "SAFELIGHT_S3_BUCKET": BUCKET}
    given = {**os.environ, **environment_of("setup"), **ours}
    for what in ("rotate", "list"):
        command = [sys.executable, "-m", "stack.cli", "keys-at-rest", what, "--json"]
        found = json.loads(subprocess.run(command, env=given, capture_output=True, check=True).stdout)
        assert found["m1"] == 0


async def test_without_a_master_key_nothing_is_sealed(store: list[Objects]) -> None:
    assert await code_of(store[3].vault.make(str(uuid4()), "demo")) == "KEY_UNAVAILABLE"
    assert not store[3].vault.can_seal


@pytest.mark.parametrize("text", ["short:tooshort", "noname", ":" + "c" * 40, "m 1:" + "c" * 40])
def test_a_master_key_that_cannot_be_used_is_refused_at_start_and_not_told(settings_of: SettingsOf, text: str) -> None:
    with pytest.raises(ValidationError, match="master_keys") as problem:
        settings_of(S3Settings, "setup", master_keys=SecretStr(text))
    assert "ccc" not in str(problem.value)
    assert "tooshort" not in str(problem.value)
    assert masters(SecretStr("")) == ()
