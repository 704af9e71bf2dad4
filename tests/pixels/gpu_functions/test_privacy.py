"""Nothing that a user sent, and no link to it, gets out of a call but by the outputs that were asked for.

The haystack is all that leaves: the answer with its spans, the objects of the marks, what the
process prints or logs, and what lies on disk. The needles are the inputs: any run of WINDOW bytes
of them, raw or encoded, any text inside them, the values of parameters, and the links' signature.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contracts.envelope import Claim, Item, ReadUrl
from gpu_functions.catalog import EngineRow
from gpu_functions.engine import Facts, Output
from gpu_functions.runner import Runner
from tests.pixels.gpu_functions import cubes
from tests.pixels.gpu_functions.conftest import SIGNATURE, Storage
from tests.pixels.gpu_functions.pictures import encode, vips

AT = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = 12  # bytes that two texts do not share by accident
TEXT = "Nobody's business, Elm Street 7"
SAYS = [TEXT, json.dumps(TEXT)[1:-1], TEXT.lower(), TEXT.encode().hex(), base64.b64encode(TEXT.encode()).decode()[:-4]]


def photo(pixels: Any, **options: Any) -> bytes:
    """A JPEG that says in its metadata where it was taken."""
    image = vips(pixels).copy()
    image.set_type(vips_string(), "exif-ifd0-ImageDescription", TEXT)
    return bytes(image.write_to_buffer(".jpg", **options))


def vips_string() -> Any:
    import pyvips

    return pyvips.GValue.gstr_type


def items(storage: Storage, astronaut: Any) -> list[Item]:
    """Every way in which an item of `style.apply` can end."""
    good, lut = photo(astronaut[:64, :48]), cubes.text(3, cubes.film, f"# {TEXT}")
    made = {
        "good": storage.item("good", image=good, lut=lut),
        "corrupt": storage.item("corrupt", image=TEXT.encode() * 9, lut=lut),
        "cut": storage.item("cut", image=photo(astronaut)[:9000], lut=lut),
        "lut": storage.item("lut", image=good, lut=f"LUT_3D_SIZE {TEXT}\n".encode()),
        "parameter": storage.item("parameter", {"strength": TEXT}, image=good, lut=lut),
        "gone": storage.item("gone", image=good, lut=lut),
        "dark": storage.item("dark", image=good, lut=lut),
        "unwritten": storage.item("unwritten", image=good, lut=lut),
        "taken": storage.item("taken", image=good, lut=lut),
        "exchanged": storage.item("exchanged", image=good, lut=lut),
        "nowhere": storage.item("nowhere", image=good, lut=lut),
    }
    del storage.objects["gone.image"]
    storage.answers |= {"dark.claim": 403, "unwritten.out": 403, "unwritten.result": 403}
    storage.objects["taken.claim"] = Claim(owner="another", at=AT).model_dump_json().encode()
    storage.objects["exchanged.image"] = encode(astronaut[:9, :9])
    nowhere = ReadUrl(url=f"http://127.0.0.1:9/x?{SIGNATURE}", sha256="0" * 64, size=1)
    made["nowhere"] = made["nowhere"].model_copy(update={"inputs": {"image": nowhere}})
    return [storage.marked(item) for item in made.values()]


ENDS = [
    None, "IMAGE_CORRUPT", "IMAGE_CORRUPT", "STYLE_INVALID", "MESSAGE_INVALID", "OBJECT_MISSING",
    "STORAGE_UNAVAILABLE", "STORAGE_UNAVAILABLE", None, "OBJECT_MISSING", "STORAGE_UNAVAILABLE",
]  # fmt: skip


def marks(storage: Storage) -> bytes:
    """The objects of the marks, one after the other."""
    return b"\n".join(body for key, body in storage.written if not key.endswith(".out"))


def windows(content: bytes) -> set[bytes]:
    return {content[start : start + WINDOW] for start in range(len(content) - WINDOW + 1)}


def shared(storage: Storage, hay: bytes) -> list[str]:
    """What of the inputs, the texts and the links is in `hay`."""
    inputs = {body for key, body in storage.objects.items() if key.endswith((".image", ".lut"))}
    found = [text for text in (*SAYS, SIGNATURE, storage.url, "127.0.0.1") if text.encode() in hay]
    there = windows(hay)
    for content in inputs:
        for form in (content, content.hex().encode(), base64.b64encode(content), repr(content).encode()):
            found += [repr(one) for one in sorted(windows(form) & there)[:3]]
    return found


def test_the_needles_would_be_found(storage: Storage, astronaut: Any) -> None:
    items(storage, astronaut)
    assert TEXT.encode() in storage.objects["good.image"]
    for leak in (storage.objects["good.image"][200:240], repr(storage.objects["cut.image"][50:90]).encode()):
        assert shared(storage, b"INTERNAL: " + leak)
    assert shared(storage, storage.link("a").encode())
    assert shared(storage, b"the answer is 42") == []


def test_the_worker_process_gives_nothing_away(storage: Storage, astronaut: Any, tmp_path: Path) -> None:
    request = storage.request("style.apply", *items(storage, astronaut))
    worker = subprocess.run(
        [sys.executable, "-m", "gpu_functions"],
        input=request.model_dump_json().encode() + b'\n{"half a request": "' + TEXT.encode() + b'"\n',
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=60,
        check=True,
    )
    lines = [json.loads(line) for line in worker.stdout.splitlines()]
    [answer, refusal] = [line["response"] for line in lines if "response" in line]
    assert [item["error"] and item["error"]["code"] for item in answer["items"]] == ENDS
    assert refusal["error"]["code"] == "MESSAGE_INVALID"
    assert shared(storage, worker.stdout + worker.stderr + marks(storage)) == []
    assert list(tmp_path.rglob("*")) == []


def test_marks_and_logs_give_nothing_away(
    storage: Storage, astronaut: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    request = storage.request("style.apply", *items(storage, astronaut))
    with caplog.at_level(logging.DEBUG):
        answer = Runner(tell_s=0).run(request, owner="fc-1")
    assert [item.error and item.error.code for item in answer.items] == ENDS
    assert {key.partition(".")[2] for key, _ in storage.written} == {"claim", "progress", "result", "out"}
    printed = "".join(capfd.readouterr())
    logged = "\n".join(f"{record.getMessage()} {record.exc_info}" for record in caplog.records)
    assert shared(storage, "\n".join((answer.model_dump_json(), printed, logged)).encode() + marks(storage)) == []


class Talkative:
    """An engine with a bug whose exception quotes everything."""

    def __init__(self, place: Any) -> None:
        pass

    def run(self, inputs: Any, parameters: Any, work: Any) -> tuple[dict[str, Output], Facts]:
        raise RuntimeError(f"{inputs} {parameters}") from ValueError(inputs["image"].hex())


def test_an_engine_that_quotes_its_input_is_not_quoted(
    storage: Storage, astronaut: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    catalog = (EngineRow("talk", "talkative", 1, "cpu", f"{__name__}:Talkative"),)
    item = storage.marked(storage.item("a", {"note": TEXT}, image=photo(astronaut[:64, :48])))
    answer = Runner(catalog=catalog, tell_s=0).run(storage.request("talk", item), owner="fc-1")
    assert [one.error and one.error.code for one in answer.items] == ["INTERNAL"]
    assert shared(storage, "".join((answer.model_dump_json(), *capfd.readouterr())).encode() + marks(storage)) == []


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        pytest.param("retouch.faces", {"faces": [{"box": [TEXT], "landmarks": TEXT}]}, id="faces"),
        pytest.param("cleanup.remove", {"detections": [{"kind": TEXT}]}, id="detections"),
        pytest.param("style.apply", {"strength": 0.5, "note": TEXT}, id="a parameter that nobody knows"),
    ],
)
def test_the_values_of_parameters_stay_where_they_are(
    storage: Storage, astronaut: Any, function: str, parameters: dict[str, Any]
) -> None:
    lut = cubes.text(3, cubes.film)
    item = storage.marked(storage.item("a", parameters, image=photo(astronaut[:64, :48]), lut=lut))
    answer = Runner(tell_s=0).run(storage.request(function, item), owner="fc-1")
    assert answer.items
    assert shared(storage, answer.model_dump_json().encode() + marks(storage)) == []
