"""The worker process, spoken to through its pipes as the bridge does."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvips

from contracts.envelope import Result
from tests.pixels.gpu_functions import cubes
from tests.pixels.gpu_functions.conftest import Storage
from tests.pixels.gpu_functions.pictures import encode

LIMIT = 640 << 20  # the libraries of the style engine map 400 MiB; 64 megapixels need 192 MB more than once

Start = Callable[..., "subprocess.Popen[bytes]"]

# An engine such as libraries are: it prints, from Python and from C, and it may hang.
NOISY = """
import os, sys, threading
from gpu_functions.catalog import EngineRow
from gpu_functions.engine import Output

class Noisy:
    def __init__(self, place):
        pass

    def run(self, inputs, parameters, work):
        print("python was here")
        sys.stdout.flush()
        os.write(1, b"C was here\\n")
        if parameters.get("hang"):
            threading.Event().wait()
        return {"image": Output(b"x", "image/png")}, {}

CATALOG = (EngineRow("noise", "noisy", 1, "cpu", "noisy:Noisy"),)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        arguments = [sys.executable, *(command or ("-m", "gpu_functions"))]
        started.append(subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout, worker.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # what was not sent yet
                    pipe.close()


def ask(worker: subprocess.Popen[bytes], line: str) -> tuple[list[float], dict[str, Any]]:
    """The fractions told and the response to one request."""
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(line.encode() + b"\n")
    worker.stdin.flush()
    fractions: list[float] = []
    while message := json.loads(worker.stdout.readline()):
        if "response" in message:
            return fractions, message["response"]
        assert message["progress"]["call_id"] == "call-1"
        fractions.append(message["progress"]["fraction"])
    raise AssertionError("the worker ended without a response")


def test_two_calls_and_a_broken_line_and_the_end_of_file(start: Start, storage: Storage, astronaut: Any) -> None:
    worker = start()
    for name in ("one", "two"):
        item = storage.item(name, image=encode(astronaut[:40, :40]), lut=cubes.text(3, cubes.film))
        fractions, response = ask(worker, storage.request("style.apply", item).model_dump_json())
        assert response["items"][0]["error"] is None
        assert f"{name}.out" in storage.objects
        assert fractions == [0.2, 0.8, 1.0]
        _, refusal = ask(worker, '{"half a requ')
        assert refusal["error"]["code"] == "MESSAGE_INVALID"
    rest, noise = worker.communicate(timeout=10)
    assert (rest, noise, worker.returncode) == (b"", b"", 0)


def test_what_libraries_print_goes_to_stderr_and_a_stuck_call_ends_the_worker(
    start: Start, storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    program = "import os, noisy, gpu_functions.__main__ as worker; os._exit(worker.main([], noisy.CATALOG))"
    worker = start("-c", program)
    item = storage.item("a", image=b"x")
    _, response = ask(worker, storage.request("noise", item).model_dump_json())
    assert response["items"][0]["error"] is None

    hanging = item.model_copy(update={"parameters": {"hang": True}})
    _, response = ask(worker, storage.request("noise", hanging, seconds=0.3).model_dump_json())
    assert response["items"][0]["error"]["code"] == "CALL_DEADLINE"
    rest, noise = worker.communicate(timeout=10)
    assert (rest, worker.returncode) == (b"", 75)
    assert noise == b"python was here\nC was here\n" * 2


def test_a_call_whose_caller_is_gone_is_brought_to_its_end_and_ends_the_worker(
    start: Start, storage: Storage, astronaut: Any
) -> None:
    worker = start()
    item = storage.marked(storage.item("a", image=encode(astronaut[:40, :40]), lut=cubes.text(3, cubes.film)))
    storage.stalled.add("a.image")
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(storage.request("style.apply", item).model_dump_json().encode() + b"\n")
    worker.stdin.flush()
    assert storage.asked("GET a.image")
    worker.stdin.close()
    worker.stdout.close()  # as when the bridge is killed in mid-call
    storage.release.set()
    assert worker.wait(20) == 0
    assert worker.stderr
    assert worker.stderr.read() == b""
    result = Result.model_validate_json(storage.objects["a.result"])
    assert (result.owner, result.item.error, list(result.item.outputs)) == ("call-1", None, ["image"])


def test_an_idle_worker_has_loaded_nothing_heavy(start: Start) -> None:
    heavy = "{'numpy', 'cv2', 'pyvips', 'PyOpenColorIO', 'halide', 'httpx'}"
    worker = start("-c", f"import sys, gpu_functions.__main__; print(sorted({heavy} & sys.modules.keys()))")
    assert worker.communicate(timeout=10)[0] == b"[]\n"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is enforced on Linux only")
def test_a_worker_stays_within_its_memory(start: Start, storage: Storage, astronaut: Any) -> None:
    large = pyvips.Image.black(8000, 8000, bands=3).copy(interpretation="srgb").write_to_buffer(".png")
    worker = start("-m", "gpu_functions", "--memory-bytes", str(LIMIT))
    item = storage.item("a", image=large, lut=cubes.text(3, cubes.film))
    _, response = ask(worker, storage.request("style.apply", item).model_dump_json())
    assert response["items"][0]["error"]["code"] == "DECODE_LIMIT"

    item = storage.item("b", image=encode(astronaut[:9, :9]), lut=cubes.text(3, cubes.film))
    _, response = ask(worker, storage.request("style.apply", item).model_dump_json())
    assert response["items"][0]["error"] is None  # and it goes on
