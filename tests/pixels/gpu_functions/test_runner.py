"""A call against real HTTP: every item ends with outputs or with a code, and never late."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from contracts.envelope import CallResponse, Item, ReadUrl
from contracts.errors import ERRORS
from gpu_functions.catalog import CATALOG, EngineRow
from gpu_functions.engine import Facts, Output
from gpu_functions.runner import Runner
from gpu_functions.weights import EMPTY
from tests.pixels.gpu_functions import cubes
from tests.pixels.gpu_functions.conftest import TRACEPARENT, Storage
from tests.pixels.gpu_functions.pictures import decode, encode

LUT = cubes.text(3, cubes.film)


def styled(storage: Storage, astronaut: Any, name: str = "a", **parameters: Any) -> Item:
    return storage.item(name, parameters, image=encode(astronaut[:64, :48]), lut=LUT)


def only(response: CallResponse) -> tuple[str, str]:
    assert response.error is None
    assert len(response.items) == 1
    error = response.items[0].error
    assert error is not None
    assert error.code in ERRORS
    return error.code, error.detail


def test_an_item_is_read_worked_on_and_written(storage: Storage, astronaut: Any) -> None:
    told: list[float] = []
    response = Runner().run(storage.request("style.apply", styled(storage, astronaut, strength=0.5)), told.append)

    assert response.error is None
    assert (response.engine, response.device, response.call_id) == ("cube-lut@3", "cpu", "call-1")
    [result] = response.items
    assert result.error is None
    assert result.facts["strength"] == 0.5
    stored = result.outputs["image"]
    written = storage.objects["a.out"]
    assert (stored.key, stored.media_type, stored.width, stored.height) == ("a.out", "image/png", 48, 64)
    assert (stored.sha256, stored.size) == (hashlib.sha256(written).hexdigest(), len(written))
    assert decode(written).shape == (64, 48, 3)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_corrupt_image_does_not_harm_its_neighbours(storage: Storage, astronaut: Any) -> None:
    items = [
        styled(storage, astronaut, "first"),
        storage.item("bad", image=b"\x89PNG not really", lut=LUT),
        storage.item("worse", image=encode(astronaut[:9, :9]), lut=b"LUT_3D_SIZE 2"),
        styled(storage, astronaut, "last"),
    ]
    response = Runner().run(storage.request("style.apply", *items))
    assert [item.id for item in response.items] == ["first", "bad", "worse", "last"]
    assert [item.error and item.error.code for item in response.items] == [None, "IMAGE_CORRUPT", "STYLE_INVALID", None]
    assert {"first.out", "last.out"} <= storage.objects.keys()
    assert "bad.out" not in storage.objects


def test_spans_tell_of_each_step_and_hang_under_the_caller(storage: Storage, astronaut: Any) -> None:
    items = [styled(storage, astronaut, "good"), storage.item("bad", image=b"no", lut=LUT)]
    spans = Runner().run(storage.request("style.apply", *items)).spans
    call = next(span for span in spans if span.name == "gpu.call")
    assert call.parent_span_id == TRACEPARENT.split("-")[2]
    assert call.attributes == {"function": "style.apply", "engine": "cube-lut@3", "device": "cpu", "items": 2}
    rest = [span for span in spans if span is not call]
    assert [(span.name, span.attributes["item"]) for span in rest] == [
        ("gpu.download", 0), ("gpu.engine", 0), ("gpu.upload", 0), ("gpu.download", 1), ("gpu.engine", 1),
    ]  # fmt: skip
    assert all(span.parent_span_id == call.span_id for span in rest)
    assert all(call.start_ns <= span.start_ns <= span.end_ns <= call.end_ns for span in rest)
    assert rest[-1].attributes["error.code"] == "IMAGE_CORRUPT"
    assert len({span.span_id for span in spans}) == len(spans)


def test_an_unknown_function_is_data_too(storage: Storage, astronaut: Any) -> None:
    response = Runner().run(storage.request("style.guess", styled(storage, astronaut)))
    assert response.error is not None
    assert response.error.code == "FUNCTION_UNKNOWN"
    assert response.items == []


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        pytest.param("a.image", 404, "OBJECT_MISSING", id="the input is gone"),
        pytest.param("a.image", 403, "STORAGE_UNAVAILABLE", id="the link expired"),
        pytest.param("a.image", 503, "STORAGE_UNAVAILABLE", id="storage is overloaded"),
        pytest.param("a.image", 302, "STORAGE_UNAVAILABLE", id="a redirect is not followed"),
        pytest.param("a.out", 500, "STORAGE_UNAVAILABLE", id="the output cannot be written"),
    ],
)
def test_what_storage_answers_becomes_a_code(
    storage: Storage, astronaut: Any, key: str, status: int, code: str
) -> None:
    storage.answers[key] = status
    assert only(Runner().run(storage.request("style.apply", styled(storage, astronaut)))) == (
        code,
        f"storage answered {status}",
    )


def test_storage_that_is_not_there_is_unavailable(storage: Storage, astronaut: Any) -> None:
    item = styled(storage, astronaut)
    nowhere = ReadUrl(url="http://127.0.0.1:9/secret-name?signature=s3cr3t", sha256="0" * 64, size=1)
    response = Runner().run(storage.request("style.apply", item.model_copy(update={"inputs": {"image": nowhere}})))
    assert only(response) == ("STORAGE_UNAVAILABLE", "ConnectError")
    assert "s3cr3t" not in response.model_dump_json()


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        pytest.param({"sha256": "0" * 64}, "another sha256", id="other bytes"),
        pytest.param({"size": 10}, "larger", id="more bytes than promised"),
        pytest.param({"size": 10_000_000}, "smaller", id="fewer bytes than promised"),
    ],
)
def test_bytes_that_are_not_what_was_promised_are_not_worked_on(
    storage: Storage, astronaut: Any, change: dict[str, Any], detail: str
) -> None:
    item = styled(storage, astronaut)
    inputs = item.inputs | {"image": item.inputs["image"].model_copy(update=change)}
    code, said = only(Runner().run(storage.request("style.apply", item.model_copy(update={"inputs": inputs}))))
    assert code == "OBJECT_MISSING"
    assert detail in said
    assert "a.out" not in storage.objects


@pytest.mark.parametrize(
    ("function", "parameters", "detail"),
    [
        pytest.param("style.apply", {"strength": 7}, "parameters: strength", id="strength out of range"),
        pytest.param("retouch.faces", {}, "parameters: faces", id="no faces"),
        pytest.param("retouch.faces", {"faces": [{"box": [0, 0, 1]}]}, "parameters: faces.0.box.3", id="half a box"),
        pytest.param("cleanup.remove", {"detections": [{"kind": "cat"}]}, "parameters: detections.0", id="a cat"),
    ],
)
def test_parameters_of_the_wrong_shape_are_named_but_not_quoted(
    storage: Storage, astronaut: Any, function: str, parameters: dict[str, Any], detail: str
) -> None:
    assert only(Runner().run(storage.request(function, styled(storage, astronaut, **parameters)))) == (
        "MESSAGE_INVALID",
        detail,
    )


def test_missing_roles_are_named(storage: Storage, astronaut: Any) -> None:
    without_lut = storage.item("a", image=encode(astronaut[:9, :9]))
    code, detail = only(Runner().run(storage.request("style.apply", without_lut)))
    assert (code, "'lut'" in detail) == ("MESSAGE_INVALID", True)
    nowhere_to_write = styled(storage, astronaut).model_copy(update={"outputs": {}})
    code, detail = only(Runner().run(storage.request("style.apply", nowhere_to_write)))
    assert (code, "'image'" in detail) == ("MESSAGE_INVALID", True)


class OutOfMemoryError(RuntimeError):
    """As torch calls it when a card's memory is full."""


class Broken:
    """An engine with a bug whose exception quotes what must not get out."""

    def __init__(self, place: Any) -> None:
        pass

    def run(self, inputs: Any, parameters: Any, work: Any) -> tuple[dict[str, Output], Facts]:
        raise {"bug": RuntimeError, "memory": MemoryError, "card": OutOfMemoryError}[parameters["how"]](
            f"private: {inputs['image']!r}"
        )


@pytest.mark.parametrize(
    ("how", "code", "name"),
    [
        ("bug", "INTERNAL", "RuntimeError"),
        ("memory", "DECODE_LIMIT", "MemoryError"),
        ("card", "DECODE_LIMIT", "OutOfMemoryError"),
    ],
)
def test_a_bug_is_reported_by_its_class_only(storage: Storage, how: str, code: str, name: str) -> None:
    catalog = (EngineRow("break", "broken", 1, "cpu", f"{__name__}:Broken"),)
    response = Runner(catalog=catalog).run(storage.request("break", storage.item("a", {"how": how}, image=b"face")))
    assert only(response) == (code, name)
    assert "private" not in response.model_dump_json()


def test_a_call_ends_at_its_deadline_whoever_is_stuck(storage: Storage, astronaut: Any) -> None:
    items = [styled(storage, astronaut, name) for name in ("quick", "stuck", "never")]
    storage.stalled.add("stuck.image")
    runner = Runner()
    runner.run(storage.request("style.apply", items[0]))  # the engine is loaded: the next call's time is its own
    response = runner.run(storage.request("style.apply", *items, seconds=0.6))

    assert response.error is None
    assert [item.error and item.error.code for item in response.items] == [None, "CALL_DEADLINE", "CALL_DEADLINE"]
    assert runner.abandoned
    assert [s.attributes.get("error.code") for s in response.spans if s.name == "gpu.call"] == ["CALL_DEADLINE"]
    assert "never.out" not in storage.objects


def test_a_call_whose_deadline_passed_is_not_begun(storage: Storage, astronaut: Any) -> None:
    runner = Runner()
    response = runner.run(storage.request("style.apply", styled(storage, astronaut), seconds=-1))
    assert response.error is not None
    assert response.error.code == "CALL_DEADLINE"
    assert "a.out" not in storage.objects
    assert not runner.abandoned


def test_no_byte_is_written_to_disk(storage: Storage, astronaut: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    Runner().run(storage.request("style.apply", styled(storage, astronaut)))
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize("row", [row for row in CATALOG if row.lacks(EMPTY) is None], ids=lambda row: row.label)
def test_every_engine_of_the_table_that_can_run_here_loads(row: EngineRow) -> None:
    assert callable(row.load(EMPTY).run)
