"""The merged OpenAPI document, made from the services' real routes."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from openapi_spec_validator import OpenAPIV31SpecValidator

import gpu_bridge.api
import ingest.api
import orchestrator.api
import output.api
from console.apidoc import merge
from console.front import SERVICES, service_of


def document_of(router: APIRouter) -> dict[str, Any]:
    app = FastAPI(title="a service", version="1")
    app.include_router(router)
    return app.openapi()


@pytest.fixture(scope="module")
def merged() -> dict[str, Any]:
    rooms = {
        "ingest": ingest.api,
        "orchestrator": orchestrator.api,
        "gpu-bridge": gpu_bridge.api,
        "output": output.api,
    }
    assert set(rooms) == set(SERVICES)
    return merge({name: document_of(room.router) for name, room in rooms.items()}, service_of, version="1")


def test_the_merged_document_is_valid_openapi_3_1(merged: dict[str, Any]) -> None:
    assert merged["openapi"].startswith("3.1")
    assert [problem.message for problem in OpenAPIV31SpecValidator(merged).iter_errors()] == []


def test_it_describes_what_the_services_serve(merged: dict[str, Any]) -> None:
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
    assert set(merge({"output": said}, service_of, version="1")["paths"]) == {"/v1/jobs"}


def answering(path: str, **schemas: Any) -> dict[str, Any]:
    """A document of one path, whose answer is a `Status`."""
    answer = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}}
    return {"paths": {path: {"get": {"responses": {"200": answer}}}}, "components": {"schemas": schemas}}


def test_a_path_is_described_by_the_service_that_answers_at_it() -> None:
    said = {
        "output": answering("/v1/jobs/{job_id}/history", Status={"type": "string"}),
        "orchestrator": answering("/v1/jobs/{id}/history", Status={"type": "string"}),
    }
    assert set(merge(said, service_of, version="1")["paths"]) == {"/v1/jobs/{id}/history"}


def test_only_components_that_a_path_needs_are_in_it() -> None:
    schemas = {"Status": {"$ref": "#/components/schemas/Deeper"}, "Deeper": {"type": "string"}, "Inner": {}}
    merged = merge({"output": answering("/v1/jobs", **schemas)}, service_of, version="1")
    assert set(merged["components"]["schemas"]) == {"Problem", "Status", "Deeper"}


def test_two_meanings_of_one_name_are_refused() -> None:
    said = {
        "output": answering("/v1/jobs", Status={"type": "string"}),
        "orchestrator": answering("/v1/batches", Status={"type": "object"}),
    }
    with pytest.raises(ValueError, match="Status"):
        merge(said, service_of, version="1")
