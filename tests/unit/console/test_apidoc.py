"""The merged OpenAPI document, made from the services' real routes."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from openapi_spec_validator import OpenAPIV31SpecValidator

import ingest.api
import output.api
from console.apidoc import merge
from console.front import BEHIND


def document_of(router: APIRouter) -> dict[str, Any]:
    app = FastAPI(title="a service", version="1")
    app.include_router(router)
    return app.openapi()


@pytest.fixture(scope="module")
def merged() -> dict[str, Any]:
    return merge([document_of(ingest.api.router), document_of(output.api.router)], BEHIND, version="1")


def test_the_merged_document_is_valid_openapi_3_1(merged: dict[str, Any]) -> None:
    assert merged["openapi"].startswith("3.1")
    assert [problem.message for problem in OpenAPIV31SpecValidator(merged).iter_errors()] == []


def test_it_describes_what_both_services_serve(merged: dict[str, Any]) -> None:
    assert {"/v1/uploads", "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events"} <= set(merged["paths"])
    assert {"UploadAnswer", "JobView", "Problem"} <= set(merged["components"]["schemas"])


def test_every_operation_needs_the_key_and_may_find_its_service_down(merged: dict[str, Any]) -> None:
    for item in merged["paths"].values():
        for operation in item.values():
            assert operation["security"] == [{"HTTPBearer": []}]
            assert "503" in operation["responses"]
    assert merged["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def test_what_the_front_door_does_not_hand_on_is_not_in_it() -> None:
    said: dict[str, Any] = {"paths": {"/v1/jobs": {"get": {"responses": {}}}, "/v1/jobsters": {}, "/v1/pipelines": {}}}
    assert set(merge([said], BEHIND, version="1")["paths"]) == {"/v1/jobs"}


def test_two_meanings_of_one_name_are_refused() -> None:
    one, other = ({"paths": {}, "components": {"schemas": {"Status": {"type": kind}}}} for kind in ("string", "object"))
    with pytest.raises(ValueError, match="Status"):
        merge([one, other], BEHIND, version="1")
