"""An engine that takes several items of a call at once: each has its own claim, end, spans and share of the time."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from contracts.envelope import CallResponse, Item, Result
from contracts.errors import error
from gpu_functions.catalog import EngineRow
from gpu_functions.engine import Facts, Made, Output, Task
from gpu_functions.runner import Runner
from gpu_functions.shares import Shares
from tests.pixels.gpu_functions.conftest import Storage
from tests.pixels.gpu_functions.test_marks import codes


class Band:
    """Takes three items at a time, and gives them back the last one first. `how` of a parameter spoils it."""

    taken: list[list[bytes]] = []  # noqa: RUF012  # of the process: who was at hand together

    def __init__(self, place: Any) -> None:
        pass

    def run(self, inputs: Any, parameters: Any, work: Any) -> tuple[dict[str, Output], Facts]:
        raise AssertionError("nobody asks it for a single item")

    def run_many(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Made | Exception]]:
        tasks = iter(tasks)
        while band := list(islice(tasks, 3)):
            self.taken.append([task.inputs["image"] for task in band])
            for task in reversed(band):
                match task.parameters.get("how"):
                    case "bad":
                        yield task, error("IMAGE_CORRUPT")
                    case "bug":
                        yield task, RuntimeError(f"private: {task.inputs}")
                    case "forgotten":
                        pass
                    case "raise":
                        raise MemoryError("private")
                    case "hang":
                        threading.Event().wait()
                    case _:
                        task.work.tell(0.5)
                        yield task, ({"image": Output(task.inputs["image"].upper(), "text/plain")}, {"of": len(band)})


BAND = (EngineRow("band", "band", 1, "cpu", f"{__name__}:Band"),)


@pytest.fixture(autouse=True)
def _nothing_was_taken() -> None:
    Band.taken.clear()


def items(storage: Storage, names: str, **how: str) -> list[Item]:
    return [
        storage.marked(storage.item(name, {"how": how[name]} if name in how else {}, image=f"photo {name}".encode()))
        for name in names
    ]


def run(storage: Storage, *asked: Item, seconds: float = 60, told: list[float] | None = None) -> CallResponse:
    heard = told if told is not None else []
    return Runner(catalog=BAND, tell_s=0).run(storage.request("band", *asked, seconds=seconds), heard.append, "fc-1")


def result(storage: Storage, name: str) -> Result:
    return Result.model_validate_json(storage.objects[f"{name}.result"])


def test_each_item_ends_as_if_it_were_alone_and_the_answer_keeps_their_order(storage: Storage) -> None:
    told: list[float] = []
    answer = run(storage, *items(storage, "abcd"), told=told)
    assert [item.id for item in answer.items] == list("abcd")
    assert codes(answer.items) == [None] * 4
    assert Band.taken == [[b"photo a", b"photo b", b"photo c"], [b"photo d"]]
    for name, said in zip("abcd", answer.items, strict=True):
        assert storage.objects[f"{name}.out"] == f"PHOTO {name.upper()}".encode()
        assert result(storage, name).item == said
        assert storage.of(name)[:2] == ["PUT claim", "GET image"]
        assert storage.of(name)[-1] == "PUT result"
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_one_bad_item_fails_alone_with_its_own_code(storage: Storage) -> None:
    asked = items(storage, "abcdef", b="bad", d="bug")
    del storage.objects["e.image"]
    answer = run(storage, *asked)
    assert codes(answer.items) == [None, "IMAGE_CORRUPT", None, "INTERNAL", "OBJECT_MISSING", None]
    assert "private" not in answer.model_dump_json()
    assert {name for name in "abcdef" if f"{name}.out" in storage.objects} == set("acf")
    assert all(result(storage, item.id).item == item for item in answer.items)
    assert Band.taken[1] == [b"photo d", b"photo f"], "one that could not be read is not given to the engine"


def test_an_engine_that_breaks_down_fails_what_it_had_and_nothing_else(storage: Storage) -> None:
    answer = run(storage, *items(storage, "abcde", b="raise", e="forgotten"))
    assert codes(answer.items) == ["DECODE_LIMIT", "DECODE_LIMIT", None, None, "INTERNAL"]
    assert [item.error.detail for item in answer.items if item.error] == [
        "MemoryError", "MemoryError", "the engine did not give the item back",
    ]  # fmt: skip
    assert all(result(storage, item.id).item == item for item in answer.items)


def test_all_that_are_stuck_at_the_deadline_get_a_result_that_says_so(storage: Storage) -> None:
    runner = Runner(catalog=BAND)
    request = storage.request("band", *items(storage, "abcdef", b="hang"), seconds=1.5)
    answer = runner.run(request, owner="fc-1")
    assert codes(answer.items) == ["CALL_DEADLINE", "CALL_DEADLINE", None, *["CALL_DEADLINE"] * 3]
    assert runner.abandoned
    assert [item.error and item.error.code for item in (result(storage, name).item for name in "abc")] == [
        "CALL_DEADLINE", "CALL_DEADLINE", None,
    ]  # fmt: skip
    assert all(storage.of(name) == [] for name in "def"), "not begun, not claimed"


def test_a_result_bears_its_own_spans_and_its_share_of_the_time(storage: Storage) -> None:
    answer = run(storage, *items(storage, "abc"))
    for index, name in enumerate("abc"):
        spans = result(storage, name).spans
        assert [span.name for span in spans] == ["gpu.call", "gpu.claim", "gpu.download", "gpu.engine", "gpu.upload"]
        assert {span.attributes.get("item") for span in spans[1:]} == {index}
    engines = [span for span in answer.spans if span.name == "gpu.engine"]
    assert max(span.start_ns for span in engines) < min(span.end_ns for span in engines), "they were at work together"
    usages = [result(storage, name).usage for name in "abc"]
    assert answer.usage
    whole = (answer.usage.ended_at - answer.usage.started_at).total_seconds()
    assert sum(usage.run_s or 0 for usage in usages) <= whole + 0.002
    assert [usage.cold for usage in usages].count(True) == 1, "one of them bears the boot"


def test_a_second_is_shared_among_those_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("gpu_functions.shares.time.monotonic", lambda: now[0])
    shares = Shares()

    def after(seconds: float) -> None:
        now[0] += seconds

    shares.begin(0)
    after(1.0)  # the first alone
    shares.begin(1)
    after(2.0)  # two
    assert shares.end(0) == 2.0
    after(3.0)  # the second alone
    assert shares.end(1) == 4.0
    after(9.0)  # nobody
    shares.begin(2)
    assert shares.end(2) == 0.0
