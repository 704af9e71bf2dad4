"""What is signed, when it is tried again, and what an answer means: the rules of webhooks, without a server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks

from output.signing import SigningKeys
from output.webhooks import events, signature
from output.webhooks.schedule import RETRIES_S, Answer, code_of, next_try_s, rest_s
from output.webhooks.signature import Secret

KEYS = SigningKeys.read("a" * 40)
BODY = b'{"type":"job.succeeded"}'


def test_the_library_of_the_specification_believes_our_signatures() -> None:
    secret = Secret("endpoint:1", KEYS.current, 1)
    headers = dict(signature.headers(KEYS, [secret], "msg_1", datetime.now(UTC), BODY))
    assert standardwebhooks.Webhook(secret.shown(KEYS)).verify(BODY, headers) == {"type": "job.succeeded"}


def test_while_a_secret_is_rotated_both_verify_and_a_third_does_not() -> None:
    secrets = [Secret("endpoint:1", KEYS.current, version) for version in (2, 1)]
    headers = dict(signature.headers(KEYS, secrets, "msg_1", datetime.now(UTC), BODY))
    for secret in secrets:
        standardwebhooks.Webhook(secret.shown(KEYS)).verify(BODY, headers)
    for other in (Secret("endpoint:1", KEYS.current, 3), Secret("endpoint:2", KEYS.current, 2)):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(other.shown(KEYS)).verify(BODY, headers)


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp"])
def test_whatever_is_changed_on_the_way_breaks_the_signature(changed: str) -> None:
    secret = Secret("endpoint:1", KEYS.current, 1)
    at = datetime.now(UTC)
    headers = dict(signature.headers(KEYS, [secret], "msg_1", at, BODY))
    body = BODY + b" " if changed == "body" else BODY
    if changed != "body":
        headers[changed] = {"webhook-id": "msg_2", "webhook-timestamp": str(int(at.timestamp()) - 1)}[changed]
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret.shown(KEYS)).verify(body, headers)


def test_a_secret_outlives_a_new_signing_key_and_dies_with_its_own() -> None:
    old = Secret("endpoint:1", KEYS.current, 1)
    both = SigningKeys.read(f"{'b' * 40},{'a' * 40}")
    assert both.current != KEYS.current
    assert old.shown(both) == old.shown(KEYS)
    with pytest.raises(KeyError):
        old.shown(SigningKeys.read("b" * 40))


@pytest.mark.parametrize("text", ["", " , ", "short", f"{'a' * 40},short"])
def test_keys_that_are_none_or_too_short_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="signing keys"):
        SigningKeys.read(text)


def failed(status: int | None = 500, retry_after_s: float | None = None) -> Answer:
    return Answer(status, code_of(status) if status else "WEBHOOK_TIMEOUT", 0.1, retry_after_s)


def test_tries_follow_the_schedule_of_the_specification_and_end_after_three_days() -> None:
    waits = [next_try_s(tries, failed(), 0.0) for tries in range(1, 11)]
    assert waits == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400, None]
    assert timedelta(seconds=sum(RETRIES_S)) == timedelta(hours=75, minutes=35, seconds=5)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_jitter_makes_a_wait_longer_by_a_fifth_at_most(chance: float) -> None:
    wait = next_try_s(2, failed(), chance)
    assert wait is not None
    assert 300 <= wait <= 360


def test_retry_after_is_kept_to_up_to_a_day() -> None:
    assert next_try_s(1, failed(429, 900), 0.0) == 900
    assert next_try_s(3, failed(503, 1), 0.0) == 1800, "it never makes a wait shorter"
    assert next_try_s(1, failed(429, 1e9), 0.0) == 86400


def test_who_is_gone_is_not_asked_again() -> None:
    assert next_try_s(1, failed(410), 0.0) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, None),
        (204, None),
        (301, "WEBHOOK_ANSWER"),
        (404, "WEBHOOK_ANSWER"),
        (410, "WEBHOOK_GONE"),
        (429, "WEBHOOK_ANSWER"),
        (502, "WEBHOOK_ANSWER"),
    ],
)
def test_only_two_hundreds_are_a_success(status: int, code: str | None) -> None:
    assert code_of(status) == code


def test_an_endpoint_that_fails_rests_longer_each_time() -> None:
    assert [rest_s(failures, [failed()]) for failures in (1, 2, 3, 4, 50)] == [5, 15, 60, 300, 300]
    assert rest_s(1, [failed(429, 600), failed()]) == 600


def test_an_id_has_no_dot_and_is_the_same_each_time() -> None:
    assert events.message_id("a.b.1") == events.message_id("a.b.1") != events.message_id("a.b.2")
    assert "." not in events.message_id("a.b.1")
