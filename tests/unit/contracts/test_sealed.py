"""A sealed object opens as what was sealed, whole or in part, and nothing else opens at all."""

from __future__ import annotations

import os
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from contracts import sealed
from contracts.errors import SafelightError
from contracts.sealed import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, Opener, Sealer, Secret

ID, KEY, NAME = str(uuid4()), os.urandom(32), "calls/demo/k/1/image.png"
FULL = CHUNK_BYTES + TAG_BYTES
SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5]


def content_of(size: int) -> bytes:
    return os.urandom(size)


def sealed_from(content: bytes) -> bytes:
    return sealed.seal(AESGCM, KEY, ID, NAME, content)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_opens_and_its_size_is_known(size: int) -> None:
    content = content_of(size)
    stored = sealed_from(content)
    assert sealed.unseal(AESGCM, KEY, NAME, stored) == content
    assert len(stored) == sealed.sealed_size(size)
    assert sealed.content_size(len(stored)) == size
    assert sealed.is_sealed(stored)
    assert sealed.key_id(stored[:HEADER_BYTES]) == ID
    assert size < 32 or content[:32] not in stored


@given(st.integers(0, 200_000), st.lists(st.integers(1, 90_000), max_size=8))
def test_however_its_pieces_come_it_is_the_same(size: int, cuts: list[int]) -> None:
    content = bytes(size)
    salt = bytes(32)
    one, many = Sealer(AESGCM, KEY, ID, NAME, salt), Sealer(AESGCM, KEY, ID, NAME, salt)
    whole = one.header + one.add(content) + one.end()
    pieces, at = many.header, 0
    for cut in cuts:
        pieces += many.add(content[at : at + cut])
        at += cut
    pieces += many.add(content[at:]) + many.end()
    assert pieces == whole
    opener, opened, at = Opener(AESGCM, KEY, whole[:HEADER_BYTES], NAME), b"", HEADER_BYTES
    for cut in cuts:
        opened += opener.add(whole[at : at + cut])
        at += cut
    assert opened + opener.add(whole[at:]) + opener.end() == content


@given(st.sampled_from(SIZES[1:]), st.data())
def test_a_range_is_read_from_its_chunks_alone(size: int, data: st.DataObject) -> None:
    content = content_of(size)
    stored = sealed_from(content)
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, size - 1))
    span = sealed.span(first, last, size)
    part = stored[span.at : span.at + span.size]
    chunks = sealed.chunks(sealed.content_size(len(stored)))
    opener = Opener(AESGCM, KEY, stored[:HEADER_BYTES], NAME, chunk=span.first_chunk, chunks=chunks)
    opened = opener.add(part) + opener.end()
    assert opened[span.skip : span.skip + last - first + 1] == content[first : last + 1]


CONTENT = content_of(3 * CHUNK_BYTES + 5)
STORED = sealed_from(CONTENT)
HEAD, BODY = STORED[:HEADER_BYTES], STORED[HEADER_BYTES:]
A, B, C, D = (BODY[n * FULL : (n + 1) * FULL] for n in range(4))


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(HEAD + B + A + C + D, id="two chunks swapped"),
        pytest.param(HEAD + A + A + C + D, id="a chunk repeated"),
        pytest.param(HEAD + A + C + D, id="a chunk left out"),
        pytest.param(HEAD + A + B + C, id="the last chunk cut off"),
        pytest.param(HEAD + A + B + C + D[:-1], id="the last byte cut off"),
        pytest.param(HEAD + A + B + C + D + D, id="more after its end"),
        pytest.param(HEAD, id="nothing but the header"),
        pytest.param(STORED[: HEADER_BYTES - 1], id="less than the header"),
        pytest.param(HEAD[:-1] + bytes([HEAD[-1] ^ 1]) + BODY, id="another salt"),
        pytest.param(HEAD[:8] + uuid4().bytes + HEAD[24:] + BODY, id="another key's id"),
        pytest.param(HEAD + bytes([A[0] ^ 1]) + STORED[HEADER_BYTES + 1 :], id="a bit of the content"),
        pytest.param(sealed_from(CONTENT)[:HEADER_BYTES] + BODY, id="chunks of another object"),
        pytest.param(CONTENT, id="what was never sealed"),
        pytest.param(b"", id="nothing at all"),
    ],
)
def test_what_was_not_sealed_so_does_not_open(stored: bytes) -> None:
    with pytest.raises(SafelightError) as problem:
        sealed.unseal(AESGCM, KEY, NAME, stored)
    assert problem.value.code == "SEAL_BROKEN"


def test_another_key_or_another_name_opens_nothing() -> None:
    for key, name in ((os.urandom(32), NAME), (KEY, NAME.replace("/1/", "/2/"))):
        with pytest.raises(SafelightError, match="SEAL_BROKEN"):
            sealed.unseal(AESGCM, key, name, STORED)


def test_the_derivation_is_the_library_s() -> None:
    salt, purpose = os.urandom(32), b"purpose"
    assert sealed._derived(KEY, salt, purpose) == HKDF(SHA256(), 32, salt, purpose).derive(KEY)


def test_a_key_on_its_way_is_not_printed() -> None:
    secret = Secret.of(ID, KEY, NAME)
    assert secret.bytes == KEY
    assert secret.key not in repr(secret)
    assert Secret.model_validate_json(secret.model_dump_json()) == secret
