"""Tokens of upload grants: what we signed we know again, and nothing else; and what a grant allows."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import SafelightError
from ingest.grants import Claims, Grant, Signer

OLD, NEW = f"old:{'o' * 32}", f"new:{'n' * 32}"
SIGNER = Signer(NEW)
CLAIMS = st.builds(
    Claims,
    st.uuids(),
    st.text(min_size=1, max_size=64).filter(lambda text: text.isprintable()),
    st.integers(0, 4_000_000_000).map(lambda s: datetime.fromtimestamp(s, UTC)),
)
ONE = Claims(uuid4(), "demo", datetime(2030, 1, 1, tzinfo=UTC))


@given(CLAIMS)
def test_what_was_signed_is_read_again(claims: Claims) -> None:
    assert SIGNER.read(SIGNER.sign(claims)) == claims


@given(CLAIMS, st.data())
def test_a_token_that_was_changed_says_nothing(claims: Claims, data: st.DataObject) -> None:
    token = SIGNER.sign(claims)
    at = data.draw(st.integers(0, len(token) - 1))
    other = token[:at] + data.draw(st.characters(exclude_characters=token[at])) + token[at + 1 :]
    found = SIGNER.read(other)
    assert found is None or found == claims  # the last letter of base64 has bits that say nothing


@given(st.sampled_from(["", "slg_", "slg_eyJrIjoibmV3In0."]), st.text(max_size=200))
def test_whatever_is_sent_as_a_token_is_read_without_an_error(begin: str, text: str) -> None:
    assert SIGNER.read(begin + text) is None


def test_secrets_are_rotated_by_putting_a_new_one_in_front() -> None:
    old = Signer(OLD).sign(ONE)
    both = Signer(f"{NEW},{OLD}")
    assert both.read(old) == ONE
    assert Signer(NEW).read(old) is None, "it was taken away"
    assert Signer(NEW).read(both.sign(ONE)) == ONE
    assert Signer(f"new:{'x' * 32}").read(both.sign(ONE)) is None, "another secret of the same name"


@pytest.mark.parametrize("secrets", ["short:s", "nameless", f":{'s' * 32}"])
def test_a_secret_that_is_none_stops_the_service(secrets: str) -> None:
    with pytest.raises(ValueError, match="SAFELIGHT_GRANT_KEYS"):
        Signer(secrets)


def test_without_a_secret_nothing_is_signed_and_nothing_is_known() -> None:
    assert not Signer("").can_sign
    assert Signer("").read(SIGNER.sign(ONE)) is None


def grant(**changes: object) -> Grant:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    known = {"fields": {"style": "wedding"}, "open_fields": ["crop"], "media_types": ["image/jpeg"], "bytes_max": 10}
    rest = {"id": UUID(int=1), "tenant": "demo", "files": 1, "used": 0, "made_by": "tenant:demo"}
    return Grant(**(known | rest | {"created_at": at, "expires_at": at, "revoked_at": None} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        pytest.param({}, {"style": "wedding"}, id="what it sets is set"),
        pytest.param({"style": "wedding"}, {"style": "wedding"}, id="the same may be said"),
        pytest.param({"crop": "1:1"}, {"style": "wedding", "crop": "1:1"}, id="what it leaves open may be chosen"),
        pytest.param({"style": "mono"}, None, id="what it sets may not be changed"),
        pytest.param({"batch": str(UUID(int=2))}, None, id="what it does not name may not be said"),
    ],
)
def test_the_fields_of_an_upload_are_those_that_the_grant_allows(
    fields: dict[str, str], allowed: dict[str, str] | None
) -> None:
    if allowed is None:
        with pytest.raises(SafelightError, match="FORBIDDEN"):
            grant().allows(fields)
    else:
        assert grant().allows(fields) == allowed


@pytest.mark.parametrize(
    ("size", "media_type", "code"),
    [
        (10, "image/jpeg", None),
        (None, None, None),
        (11, None, "UPLOAD_TOO_LARGE"),
        (1, "image/png", "MEDIA_TYPE_UNSUPPORTED"),
    ],
)
def test_a_file_is_within_the_grant_or_not(size: int | None, media_type: str | None, code: str | None) -> None:
    if code is None:
        grant().check(size, media_type)
        grant(media_types=None).check(size, "image/png")
    else:
        with pytest.raises(SafelightError, match=code):
            grant().check(size, media_type)
