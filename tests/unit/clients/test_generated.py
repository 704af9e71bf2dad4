"""What products in TypeScript read is what the code says now."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from clients import generate
from contracts import batches, jobs
from output.webhooks import bodies, events
from output.webhooks.events import PING, TOLD, TOLD_OF_BATCHES, EventType

NOW = datetime.now(UTC)
ARTIFACT = {"name": "web.jpg", "media_type": "image/jpeg", "size": 9, "sha256": "0" * 64, "width": 3, "height": None}


@pytest.fixture(scope="module")
def documents() -> dict[str, str]:
    return generate.documents()


@pytest.mark.parametrize("name", ["openapi.json", "events.json"])
def test_the_committed_document_is_what_the_code_says(documents: dict[str, str], name: str) -> None:
    same = (generate.FOLDER / name).read_text() == documents[name]
    assert same, "run `just clients`"


def test_all_services_together_are_one_valid_document(documents: dict[str, str]) -> None:
    whole = json.loads(documents["openapi.json"])
    assert [problem.message for problem in OpenAPIV31SpecValidator(whole).iter_errors()] == []
    assert {"/v1/uploads/tus", "/v1/grants", "/v1/webhooks", "/v1/downloads/{token}", "/v1/erasures"} <= set(
        whole["paths"]
    )


def test_what_is_told_of_jobs_and_batches_has_the_shape_that_the_types_say() -> None:
    told: dict[str, Any] = {PING: {"webhook_id": str(uuid4())}}
    row = SimpleNamespace(upload_id=uuid4(), batch_id=None, pipeline="photo")
    for kind in TOLD.values():
        said = SimpleNamespace(job_id=uuid4(), revision=3, degraded=False, code="TIMEOUT", phase="style")
        told[kind] = events.of_job(kind, said, row, [("variants", ARTIFACT)], "https://safelight.example")
    about: dict[str, Any] = {"batch_id": uuid4(), "tenant": "studio", "at": NOW}
    ends = {
        batches.BATCH_CLOSED.subject: batches.BatchClosed(**about),
        batches.BATCH_ENDED.subject: batches.BatchEnded(**about, jobs={str(jobs.Status.SUCCEEDED): 1}),
    }
    for subject, which in TOLD_OF_BATCHES.items():
        told[which] = events.of_batch(ends[subject], "https://safelight.example")
    assert set(told) == set(bodies.DATA) == {*EventType, PING}
    for name, data in told.items():
        bodies.body_of(name).model_validate_json(events.body(name, NOW, data))
