"""Weights: pinned, fetched on where a pull was cut off, gated by licence; and who takes the work when they are not."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import SafelightError, error
from gpu_functions import weights
from gpu_functions.catalog import CATALOG, EngineRow, choose
from gpu_functions.engine import Facts, Output, Place
from gpu_functions.runner import Runner
from gpu_functions.weights import EMPTY, WEIGHTS, Shelf, Weight
from tests.pixels.gpu_functions.conftest import Storage

MODEL = bytes(range(256)) * 40_000  # 10 MB: several chunks


@dataclass
class Hub:
    """A model hub over HTTP that knows ranges. `cut_at`: hang up there, once; `whole_only`: ignore ranges."""

    url: str = ""
    content: bytes = MODEL
    cut_at: int | None = None
    whole_only: bool = False
    status: int = 0
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            made.ranges.append(asked)
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and not made.whole_only else 0
            if made.status or begin >= len(made.content):
                self.send_response(made.status or 416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = made.content[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut, made.cut_at = made.cut_at, None
            self.wfile.write(body[: cut - begin] if cut is not None else body)
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    made.url = f"http://127.0.0.1:{server.server_address[1]}/model.pth"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def shelf(folder: Path, hub: Hub | None = None, *, allow: bool = False, **changes: Any) -> Shelf:
    """A shelf that knows one file, `model.pth`."""
    pin = hashlib.sha256(MODEL).hexdigest()
    url = hub.url if hub else "http://127.0.0.1:1/model.pth"
    row = replace(Weight("model.pth", url, len(MODEL), pin, "MIT", commercial=True), **changes)
    return Shelf(folder, allow, {"model.pth": row})


def code(problem: pytest.ExceptionInfo[SafelightError]) -> str:
    return problem.value.code


# -- pulling --------------------------------------------------------------------------------


def test_a_pull_that_was_cut_off_goes_on_where_it_ended(tmp_path: Path, hub: Hub) -> None:
    hub.cut_at = 3_000_000
    with pytest.raises(SafelightError) as cut:
        shelf(tmp_path, hub).pull("model.pth")
    assert (code(cut), cut.value.row.transient) == ("WEIGHTS_UNAVAILABLE", True)
    assert not (tmp_path / "model.pth").exists()
    have = (tmp_path / "model.pth.part").stat().st_size
    heard: list[int] = []
    path = shelf(tmp_path, hub).pull("model.pth", told=lambda so_far, _of: heard.append(so_far))
    assert 0 < have <= 3_000_000
    assert hub.ranges == [None, f"bytes={have}-"]
    assert path.read_bytes() == MODEL
    assert heard[-1] == len(MODEL)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model.pth"]


def test_a_pull_that_lacked_only_the_name_gives_it(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "model.pth.part").write_bytes(MODEL)
    assert shelf(tmp_path, hub).pull("model.pth").read_bytes() == MODEL


def test_a_server_without_ranges_is_asked_for_the_whole(tmp_path: Path, hub: Hub) -> None:
    hub.whole_only = True
    (tmp_path / "model.pth.part").write_bytes(MODEL[:1000])
    assert shelf(tmp_path, hub).pull("model.pth").read_bytes() == MODEL


def test_what_is_here_is_not_fetched_again(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "model.pth").write_bytes(MODEL)
    shelf(tmp_path, hub).pull("model.pth")
    assert hub.ranges == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(MODEL[:-1] + b"x", id="other bytes"),
        pytest.param(MODEL + b"x" * weights.CHUNK_BYTES, id="more than there should be"),
    ],
)
def test_a_file_that_is_not_the_pinned_one_is_not_kept(tmp_path: Path, hub: Hub, content: bytes) -> None:
    hub.content = content
    with pytest.raises(SafelightError) as wrong:
        shelf(tmp_path, hub).pull("model.pth")
    assert code(wrong) == "WEIGHTS_INVALID"
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_and_is_wrong_is_replaced(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "model.pth").write_bytes(b"not a model")
    assert shelf(tmp_path, hub).pull("model.pth").read_bytes() == MODEL


def test_a_file_that_was_exchanged_is_not_loaded(tmp_path: Path, hub: Hub) -> None:
    pulled = shelf(tmp_path, hub)
    pulled.pull("model.pth").write_bytes(MODEL[:-1] + bytes([MODEL[-1] ^ 1]))
    assert pulled.state("model.pth") == "wrong"
    with pytest.raises(SafelightError, match="WEIGHTS_INVALID"):
        pulled.verified("model.pth")


def test_a_mirror_is_a_folder_or_an_address_with_the_files_by_name(tmp_path: Path, hub: Hub) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "model.pth").write_bytes(MODEL)
    assert shelf(tmp_path / "a").pull("model.pth", str(mirror)).read_bytes() == MODEL
    assert shelf(tmp_path / "b").pull("model.pth", hub.url.rpartition("/")[0] + "/").read_bytes() == MODEL
    (mirror / "model.pth").write_bytes(b"poisoned")
    with pytest.raises(SafelightError, match="WEIGHTS_INVALID"):
        shelf(tmp_path / "c").pull("model.pth", str(mirror))


@pytest.mark.parametrize("mirror", ["", "/nowhere/at/all", "http://"], ids=["nobody answers", "no folder", "no host"])
def test_a_source_that_is_away_is_transient(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(SafelightError) as away:
        shelf(tmp_path).pull("model.pth", mirror)
    assert code(away) == "WEIGHTS_UNAVAILABLE"


def test_the_answer_of_the_server_is_told(tmp_path: Path, hub: Hub) -> None:
    hub.status = 403
    with pytest.raises(SafelightError, match="the server answered 403"):
        shelf(tmp_path, hub).pull("model.pth")


def test_the_command_line_lists_pulls_and_verifies(
    tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "WEIGHTS", shelf(tmp_path, hub).known)

    def run(*words: str) -> int:
        return weights.main([*words, "--folder", str(tmp_path)])

    assert run("list") == 0
    assert json.loads(capsys.readouterr().out)["model.pth"]["state"] == "absent"
    assert run("pull") == 0
    assert run("verify") == 0
    (tmp_path / "model.pth").write_bytes(b"exchanged")
    assert run("verify") == 1
    assert run("pull", "other.pth") == 1
    assert "other.pth" in capsys.readouterr().err


# -- the table ------------------------------------------------------------------------------


def test_every_weight_of_an_engine_is_in_the_table_and_every_one_of_the_table_serves_an_engine() -> None:
    assert {name for row in CATALOG for name in row.weights} == set(WEIGHTS)


@pytest.mark.parametrize("row", WEIGHTS.values(), ids=lambda row: row.name)
def test_a_row_says_where_it_comes_from_and_what_its_licence_is(row: Weight) -> None:
    assert row.url.startswith("https://")
    assert row.size > 0
    assert row.licence
    assert len(bytes.fromhex(row.sha256)) == 32


# -- who works ------------------------------------------------------------------------------


class Named:
    """An engine that says with which file it was loaded."""

    def __init__(self, place: Place) -> None:
        self._said = ",".join(path.name for path in place.weights.values()) or "none"

    def run(self, inputs: Any, parameters: Any, work: Any) -> tuple[dict[str, Output], Facts]:
        return {"image": Output(inputs["image"], "text/plain")}, {"weights": self._said}


class NoCard:
    """An engine whose library is here and finds no card."""

    def __init__(self, place: Place) -> None:
        raise error("ENGINE_UNAVAILABLE", "CUDA is not here")


PATH = f"{__name__}:Named"
ENGINES = (
    EngineRow("restore", "big", 1, "gpu", PATH, weights=("model.pth",)),
    EngineRow("restore", "exotic", 1, "gpu", PATH, packages=("no_such_package",)),
    EngineRow("restore", "small", 1, "cpu", PATH),
)


def restored(storage: Storage, place: Shelf, engines: tuple[EngineRow, ...] = ENGINES) -> tuple[str, Facts]:
    runner = Runner("gpu", engines, shelf=place)
    answer = runner.run(storage.request("restore", storage.item("a", image=b"a photo")))
    [item] = answer.items
    assert item.error is None
    return answer.engine, item.facts


def test_an_engine_with_its_weights_works_and_nobody_is_passed_over(storage: Storage, tmp_path: Path, hub: Hub) -> None:
    here = shelf(tmp_path, hub)
    here.pull("model.pth")
    assert restored(storage, here) == ("big@1", {"weights": "model.pth"})


@pytest.mark.parametrize(
    ("changes", "pulled", "why"),
    [
        pytest.param({}, False, "the weights model.pth are not here: safelight weights pull model.pth", id="absent"),
        pytest.param(
            {"commercial": False, "licence": "S-Lab 1.0"},
            True,
            "the licence of model.pth (S-Lab 1.0) forbids commercial use, and allow_noncommercial is off",
            id="not for business",
        ),
        pytest.param(
            {"size": 17}, True, f"the weights model.pth have {len(MODEL)} bytes and must have 17", id="cut short"
        ),
    ],
)
def test_who_cannot_run_is_passed_over_and_the_answer_says_why(
    storage: Storage, tmp_path: Path, hub: Hub, changes: dict[str, Any], pulled: bool, why: str
) -> None:
    if pulled:
        shelf(tmp_path, hub).pull("model.pth")
    engine, facts = restored(storage, shelf(tmp_path, hub, **changes))
    assert engine == "small@1"
    assert facts["engines_passed_over"] == [
        f"big@1: {why}",
        "exotic@1: the package no_such_package is not installed",
    ]


def test_what_may_not_be_used_commercially_runs_where_the_configuration_allows_it(
    storage: Storage, tmp_path: Path, hub: Hub
) -> None:
    here = shelf(tmp_path, hub, allow=True, commercial=False)
    here.pull("model.pth")
    assert restored(storage, here)[0] == "big@1"


def test_an_engine_that_turns_out_not_to_run_is_passed_over_when_it_is_loaded(
    storage: Storage, tmp_path: Path, hub: Hub
) -> None:
    here = shelf(tmp_path, hub)
    here.pull("model.pth").write_bytes(MODEL[:-1] + b"x")
    no_card = EngineRow("restore", "no-card", 1, "gpu", f"{__name__}:NoCard")
    runner = Runner("gpu", (ENGINES[0], no_card, ENGINES[2]), shelf=here)
    for name in ("a", "b"):  # the second knows it beforehand
        answer = runner.run(storage.request("restore", storage.item(name, image=b"a photo")))
        [item] = answer.items
        assert (answer.engine, answer.device, item.error) == ("small@1", "cpu", None)
        assert item.facts["engines_passed_over"] == [
            "big@1: the weights model.pth are not the file that was pinned",
            "no-card@1: CUDA is not here",
        ]


def test_when_no_other_engine_is_left_the_items_say_so(storage: Storage, tmp_path: Path, hub: Hub) -> None:
    here = shelf(tmp_path, hub)
    here.pull("model.pth").write_bytes(MODEL[:-1] + b"x")
    runner = Runner("gpu", ENGINES[:1], shelf=here)
    answer = runner.run(storage.request("restore", storage.item("a", image=b"a photo")))
    assert [item.error and item.error.code for item in answer.items] == ["ENGINE_UNAVAILABLE"]
    again = runner.run(storage.request("restore", storage.item("b", image=b"a photo")))
    assert again.error
    assert again.error.code == "ENGINE_UNAVAILABLE"


def test_a_function_none_of_whose_engines_can_run_says_why_each() -> None:
    with pytest.raises(SafelightError) as refused:
        choose("restore", "gpu", ENGINES[:2], shelf=Shelf(None, known={"model.pth": shelf(Path()).weight("model.pth")}))
    assert code(refused) == "ENGINE_UNAVAILABLE"
    assert "big@1: the weights model.pth are not here" in refused.value.detail
    assert "exotic@1: the package" in refused.value.detail


def test_an_empty_shelf_holds_nothing() -> None:
    with pytest.raises(SafelightError, match="WEIGHTS_UNAVAILABLE"):
        Shelf(None, known=shelf(Path()).known).pull("model.pth")
    assert EMPTY.folder is None
