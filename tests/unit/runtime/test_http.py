"""Problem documents."""

from __future__ import annotations

import json

import pytest

from contracts.errors import ERRORS, error
from runtime.http import problem_response, responses


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_code_makes_a_problem_document(code: str) -> None:
    response = problem_response(error(code, "what happened"))
    body = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert response.status_code == body["status"] == ERRORS[code].status
    assert (body["code"], body["detail"], body["title"]) == (code, "what happened", ERRORS[code].title)


def test_a_busy_server_says_when_to_come_back() -> None:
    assert problem_response(error("BROKER_UNAVAILABLE")).headers["retry-after"] == "5"


def test_codes_that_share_a_status_share_its_entry() -> None:
    entry = responses("UPLOAD_EMPTY", "STYLE_UNKNOWN", "UPLOAD_TOO_LARGE")
    assert set(entry) == {422, 413}
    assert "UPLOAD_EMPTY" in entry[422]["description"]
    assert "STYLE_UNKNOWN" in entry[422]["description"]
