"""PaddleOCR-VL's engine against a peer on loopback that answers as vLLM does; vLLM itself needs a GPU.

Its layout model, whose weights are not here either, is stood in for by a file with the same inputs and outputs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from contracts import ocr_text
from contracts.errors import SafelightError
from contracts.ocr import Kind
from gpu_functions.engine import Place
from gpu_functions.ocr import vllm
from gpu_functions.ocr.ppocr import PpOcr
from gpu_functions.ocr.regions import LABELS
from gpu_functions.ocr.vl import FORMULA, PREFIX, READ, TABLE, PaddleOcrVl
from gpu_functions.weights import PADDLEOCR_VL_LAYOUT
from tests.bench.ocr import error_rates, right_fields
from tests.pixels.gpu_functions.ocr import papers, stand_in_layout, stand_in_vllm
from tests.pixels.gpu_functions.ocr.stand_in_vllm import Peer, said_as

PROGRAM = Path(stand_in_vllm.__file__)
PIECE = np.ascontiguousarray(papers.small().pixels[112:240])  # four fields


@pytest.fixture
def peer(reader: PpOcr) -> Iterator[Peer]:
    """It reads what it is sent, and writes tables in OTSL as PaddleOCR-VL does."""

    def reads(jpeg: bytes, prompt: str) -> str:
        page = papers.page_of(reader.run({"image": jpeg}, {})[0])
        if prompt == TABLE:
            rows = [row for block in page.blocks for row in ocr_text.grid(block.cells)]
            return "".join("".join(f"<fcel>{cell}" for cell in row) + "<nl>" for row in rows)
        return ocr_text.text(page)

    made = Peer(reads)
    server = made.server()
    yield made
    server.shutdown()
    server.server_close()


def engine(peer: Peer, folder: Path, rows: stand_in_layout.Rows = stand_in_layout.NOTHING) -> PaddleOcrVl:
    """The engine, whose layout model tells `rows` of every page."""
    file = stand_in_layout.export(folder / PADDLEOCR_VL_LAYOUT, rows)
    return PaddleOcrVl(Place("gpu", {PADDLEOCR_VL_LAYOUT: file}), peer.url)


def row(label: str, box: tuple[float, float, float, float], rank: int) -> list[float]:
    """What the model tells of one region; `box` is x, y, width, height in pixels."""
    x, y, width, height = box
    return [LABELS.index(label), 0.9, x, y, x + width, y + height, rank]


def test_a_page_is_read_region_by_region_in_the_order_that_the_layout_model_says(
    peer: Peer, reader: PpOcr, tmp_path: Path
) -> None:
    paper = papers.small()
    labels = {Kind.TITLE: "doc_title", Kind.TABLE: "table", Kind.TEXT: "text"}
    known = papers.page_of(reader.run({"image": papers.png(paper.pixels)}, {})[0])
    rows = [
        row(labels[block.kind], tuple(np.array(block.box) * np.tile([known.width, known.height], 2)), rank)
        for rank, block in enumerate(known.blocks)
    ]
    outputs, _ = engine(peer, tmp_path, np.array(rows[::-1], np.float32)).run({"image": papers.png(paper.pixels)}, {})
    page = papers.page_of(outputs)
    assert [block.kind for block in page.blocks] == [block.kind for block in known.blocks]
    assert error_rates(paper, page)[0] <= 0.01
    assert right_fields(paper, page) == (7, 7)
    assert all(line.quad for _, line in papers.lines(page))


def test_what_a_region_is_decides_what_the_model_is_asked(peer: Peer, tmp_path: Path) -> None:
    height, width = PIECE.shape[:2]
    rows = [
        row("display_formula", (0, 0, width, height / 2), 1),
        row("image", (0, height * 0.9, 40, height * 0.1), 0),  # without a line in it: there is nothing to read
        row("header", (0, height / 2, width, height / 2), 2),
    ]
    peer.next = [said_as("x^2"), said_as("running head")]
    reading = engine(peer, tmp_path, np.array(rows, np.float32))
    page = papers.page_of(reading.run({"image": papers.png(PIECE)}, {})[0])
    assert [(block.kind, [line.text for line in block.lines]) for block in page.blocks] in (
        [(Kind.FORMULA, ["x^2"]), (Kind.OTHER, ["running head"])],
        [(Kind.FORMULA, ["running head"]), (Kind.OTHER, ["x^2"])],  # they are asked at once
    )
    assert sorted(peer.asked) == sorted([FORMULA, READ])


def test_lines_that_the_layout_model_overlooks_are_read_all_the_same(peer: Peer, tmp_path: Path) -> None:
    paper = papers.small()
    outputs, facts = engine(peer, tmp_path).run({"image": papers.png(paper.pixels)}, {})
    page = papers.page_of(outputs)
    assert page.engine == "paddleocr-vl@2"
    assert error_rates(paper, page)[0] <= 0.01
    assert right_fields(paper, page) == (7, 7)
    assert sorted(peer.asked) == [READ] * (len(page.blocks) - 1) + [TABLE]
    assert facts["confidence"] is None
    (table,) = (block for block in page.blocks if block.kind is Kind.TABLE)
    assert all(cell.box for cell in table.cells)
    assert all(line.quad for _, line in papers.lines(page))  # the peer breaks lines as they were found


def test_lines_that_are_not_those_that_were_found_have_no_place(peer: Peer, tmp_path: Path) -> None:
    peer.next = [said_as("one line in place of four")]
    outputs, _ = engine(peer, tmp_path).run({"image": papers.png(PIECE)}, {})
    ((_, line),) = papers.lines(papers.page_of(outputs))
    assert line.text == "one line in place of four"
    assert line.quad is None
    assert not line.words


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (500, "CALL_LOST"),
        (400, "ANSWER_INVALID"),
        (b"<html>secret words</html>", "ANSWER_INVALID"),
        (b'{"choices": []}', "ANSWER_INVALID"),
        (b'{"choices": [{"message": {"content": {"secret": "words"}}}]}', "ANSWER_INVALID"),
        (b"[" * 100_000, "ANSWER_INVALID"),
        (said_as("secret words " * 200_000), "ANSWER_INVALID"),
    ],
    ids=["a failure", "a refusal", "no JSON", "no choice", "no text", "nested without end", "text without end"],
)
def test_an_answer_that_is_none_ends_with_a_code_and_is_not_quoted(
    peer: Peer, tmp_path: Path, answer: int | bytes, code: str
) -> None:
    peer.next = [answer]
    with pytest.raises(SafelightError) as refused:
        engine(peer, tmp_path).run({"image": papers.png(PIECE)}, {})
    assert refused.value.code == code
    assert "secret" not in str(refused.value)


def test_a_peer_that_does_not_answer_in_time_loses_the_call(peer: Peer) -> None:
    with peer.lock:
        client = vllm.Client(peer.url, answer_s=0.2)
        with pytest.raises(SafelightError, match="CALL_LOST"):
            client.ask(PIECE, READ)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a shelf keeps it, and a program `vllm` that can be found."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/vllm"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{PROGRAM}' \"$@\"\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def put(shelf: Path, behaviour: str) -> Path:
    file = shelf / f"{PREFIX}config.json"
    file.write_text(json.dumps({"behaviour": behaviour}))
    return file


def test_vllm_is_started_waited_for_and_ended(model: Path, tmp_path: Path) -> None:
    folder = vllm.as_folder([put(model, "slow")], PREFIX, tmp_path)
    server = vllm.Server(folder, ready_s=120)
    client = server.client()
    process = psutil.Process(int((folder / "pid").read_text()))
    assert client.ask(PIECE, READ) == f"you asked {READ}"
    with pytest.raises(SafelightError, match="ANSWER_INVALID"):  # without its key nobody else is served
        vllm.Client(server.url).ask(PIECE, READ)
    server.stop()
    assert process.wait(30) is None or not process.is_running()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_vllm_ends_when_its_worker_is_killed(model: Path, tmp_path: Path) -> None:
    folder = vllm.as_folder([put(model, "ready")], PREFIX, tmp_path)
    script = (
        "import sys; from pathlib import Path; from gpu_functions.ocr import vllm;"
        "server = vllm.Server(Path(sys.argv[1]), 120); server.client(); print('ready', flush=True); sys.stdin.read()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout
    assert worker.stdout.readline() == "ready\n"
    process = psutil.Process(int((folder / "pid").read_text()))
    worker.kill()
    worker.communicate()
    psutil.wait_procs([process], timeout=30)
    assert not process.is_running()


@pytest.mark.parametrize(
    ("behaviour", "ready_s", "why"),
    [("ends", 120, "vllm ended with status 3"), ("never", 1, "vllm was not ready in time")],
)
def test_a_vllm_that_does_not_come_up_is_an_engine_that_cannot_run(
    model: Path, behaviour: str, ready_s: float, why: str
) -> None:
    file = put(model, behaviour)
    with pytest.raises(SafelightError, match=why) as refused:
        vllm.Server(vllm.as_folder([file], PREFIX, file.parent), ready_s=ready_s).client()
    assert refused.value.code == "ENGINE_UNAVAILABLE"


def test_without_vllm_the_engine_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SafelightError, match="ENGINE_UNAVAILABLE"):
        PaddleOcrVl(Place("gpu"))
