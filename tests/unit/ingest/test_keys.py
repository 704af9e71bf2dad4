"""API keys: a scanner recognises one, a typo is not one, and what is kept of one opens nothing."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import keys

LETTERS = st.text(st.sampled_from(keys.BASE62), min_size=32, max_size=32)
IDS = st.from_regex(keys.ID, fullmatch=True)


def test_a_key_says_its_id_and_is_kept_as_its_hash() -> None:
    made = keys.made()
    found = keys.read(made)
    assert found == keys.Given(made[4:16], hashlib.sha256(made.encode()).hexdigest())
    assert made.startswith(keys.prefix(found.id) + "_")


def test_no_two_keys_are_alike() -> None:
    made = {keys.made() for _ in range(1000)}
    assert len({key[:16] for key in made}) == 1000


def test_a_secret_scanner_finds_a_key_in_a_text() -> None:
    made = keys.made()
    scanner = re.compile(r"\bslk_[0-9a-z]{12}_[0-9A-Za-z]{38}\b")
    assert scanner.findall(f"SAFELIGHT_API_KEY={made}\n") == [made]


@given(IDS, LETTERS)
def test_a_checksum_of_any_number_has_six_letters_and_is_accepted(id_: str, secret: str) -> None:
    key = keys.signed(f"slk_{id_}_{secret}")
    assert len(key) == 4 + 12 + 1 + 32 + 6
    assert keys.read(key) is not None


@given(IDS, LETTERS, st.integers(0, 54), st.sampled_from(keys.BASE62))
def test_one_wrong_letter_makes_it_no_key(id_: str, secret: str, at: int, letter: str) -> None:
    key = keys.signed(f"slk_{id_}_{secret}")
    other = key[:at] + letter + key[at + 1 :]
    assert (keys.read(other) is not None) == (other == key)


@given(st.text(max_size=80))
def test_whatever_is_sent_as_a_key_is_read_without_an_error(text: str) -> None:
    assert keys.read(text) is None


def test_a_checksum_is_crc_32_in_base_62() -> None:
    assert keys.checksum("123456789") == "3jZRME"  # CRC-32's check value, 0xCBF43926


@pytest.mark.parametrize("end", ["\n", " ", "x"])
def test_nothing_may_follow_a_key(end: str) -> None:
    assert keys.read(keys.made() + end) is None
