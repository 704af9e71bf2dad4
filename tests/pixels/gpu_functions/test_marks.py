"""Each item once: who claims works, who comes second does not, and the result is written last."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.envelope import VOID, CallResponse, Claim, Item, ItemError, ItemResult, Progress, Result
from contracts.errors import SafelightError
from gpu_functions.catalog import CATALOG, EngineRow, choose
from gpu_functions.engine import Facts, Output
from gpu_functions.runner import Runner
from tests.pixels.gpu_functions.conftest import LOST, TRACEPARENT, Storage

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Upper:
    """An engine whose work is seen: it keeps what it was given, and does what its parameters say."""

    worked_on: list[bytes] = []  # noqa: RUF012  # of the process, as the count of runs that were paid

    def __init__(self, place: Any) -> None:
        pass

    def run(self, inputs: Any, parameters: Any, work: Any) -> tuple[dict[str, Output], Facts]:
        self.worked_on.append(inputs["image"])
        if "interrupt" in parameters:
            raise KeyboardInterrupt
        if "bug" in parameters:
            raise RuntimeError(parameters["bug"])
        return {"image": Output(inputs["image"].upper(), "text/plain")}, {"letters": len(inputs["image"])}


UPPER = (EngineRow("upper", "upper", 1, "cpu", f"{__name__}:Upper"),)


@pytest.fixture(autouse=True)
def _nothing_was_worked_on() -> None:
    Upper.worked_on.clear()


def marked(storage: Storage, name: str = "a", **parameters: Any) -> Item:
    return storage.marked(storage.item(name, parameters, image=f"photo {name}".encode()))


def run(storage: Storage, *items: Item, owner: str = "fc-1", tell_s: float = 3600, **asked: Any) -> CallResponse:
    return Runner(catalog=UPPER, tell_s=tell_s).run(storage.request("upper", *items, **asked), owner=owner)


def claimed(storage: Storage, name: str, owner: str) -> None:
    """Somebody was here before."""
    storage.objects[f"{name}.claim"] = Claim(owner=owner, at=AT).model_dump_json().encode()


def result(storage: Storage, name: str = "a") -> Result:
    return Result.model_validate_json(storage.objects[f"{name}.result"])


def codes(items: Sequence[ItemResult]) -> list[str | None]:
    return [item.error.code if item.error else None for item in items]


# -- the order ------------------------------------------------------------------------------


def test_the_claim_is_first_and_the_result_is_last(storage: Storage) -> None:
    [item] = run(storage, marked(storage)).items
    assert storage.of("a") == ["PUT claim", "GET image", "PUT out", "PUT result"]
    claim = Claim.model_validate_json(storage.objects["a.claim"])
    assert claim.owner == "fc-1"
    assert abs((datetime.now(UTC) - claim.at).total_seconds()) < 30
    assert item.error is None
    assert storage.objects["a.out"] == b"PHOTO A"


def test_the_result_is_all_that_the_answer_says_of_the_item(storage: Storage) -> None:
    answer = run(storage, marked(storage), marked(storage, "b"))
    for said in answer.items:
        wrote = result(storage, said.id)
        assert wrote.item == said
        assert (wrote.owner, wrote.function, wrote.engine, wrote.device) == ("fc-1", "upper", "upper@1", "cpu")
    spans = result(storage, "b").spans
    assert [(span.name, span.attributes.get("item")) for span in spans] == [
        ("gpu.call", None), ("gpu.claim", 1), ("gpu.download", 1), ("gpu.engine", 1), ("gpu.upload", 1),
    ]  # fmt: skip
    assert spans[0].parent_span_id == TRACEPARENT.split("-")[2]
    assert {span.parent_span_id for span in spans[1:]} == {spans[0].span_id}
    assert {span.span_id for span in spans} <= {span.span_id for span in answer.spans}
    assert [span.name for span in answer.spans].count("gpu.result") == 2


def test_progress_is_told_between_the_steps_of_the_work(storage: Storage) -> None:
    run(storage, marked(storage), tell_s=0)
    assert storage.of("a") == [
        "PUT claim", "GET image", "PUT progress", "PUT progress", "PUT out", "PUT progress", "PUT result",
    ]  # fmt: skip
    told = [Progress.model_validate_json(body) for key, body in storage.written if key == "a.progress"]
    assert [one.fraction for one in told] == [0.2, 0.8, 1.0]
    assert [one.at for one in told] == sorted(one.at for one in told)


def test_an_item_without_marks_leaves_none(storage: Storage) -> None:
    run(storage, storage.item("a", image=b"photo"), tell_s=0)
    assert storage.of("a") == ["GET image", "PUT out"]


def test_a_call_without_an_owner_claims_in_its_own_name(storage: Storage) -> None:
    run(storage, marked(storage), owner="")
    assert Claim.model_validate_json(storage.objects["a.claim"]).owner == "call-1"


# -- who works ------------------------------------------------------------------------------


def test_of_many_runners_for_an_item_exactly_one_works(storage: Storage) -> None:
    names = [f"i{number}" for number in range(8)]
    items = [marked(storage, name) for name in names]
    owners = [f"fc-{number}" for number in range(4)]
    begin = threading.Barrier(len(owners))

    def race(owner: str) -> CallResponse:
        begin.wait()
        return run(storage, *items, owner=owner)

    with ThreadPoolExecutor(len(owners)) as pool:
        answers = list(pool.map(race, owners))
    assert sorted(Upper.worked_on) == sorted(f"photo {name}".encode() for name in names)
    for index, name in enumerate(names):
        winner = result(storage, name).owner
        said = {owner: answer.items[index] for owner, answer in zip(owners, answers, strict=True)}
        assert said.pop(winner) == result(storage, name).item
        assert list(said.values()) == [ItemResult(id=name, duplicate_of=winner)] * 3
        assert [key for key, _ in storage.written].count(f"{name}.result") == 1


@pytest.mark.parametrize("owner", ["fc-another", VOID], ids=["another call's", "nobody's: it is void"])
def test_an_item_that_is_not_ours_is_left_alone(storage: Storage, owner: str) -> None:
    claimed(storage, "a", owner)
    assert run(storage, marked(storage), tell_s=0).items == [ItemResult(id="a", duplicate_of=owner)]
    assert storage.of("a") == ["PUT claim", "GET claim"]
    assert Upper.worked_on == []


def test_a_restart_under_the_same_name_goes_on(storage: Storage) -> None:
    claimed(storage, "a", "fc-1")
    answer = run(storage, marked(storage))
    assert codes(answer.items) == [None]
    assert answer.items[0].duplicate_of is None
    assert result(storage).item == answer.items[0]


def test_a_result_from_before_a_restart_stays(storage: Storage) -> None:
    claimed(storage, "a", "fc-1")
    storage.objects["a.result"] = b"of the first run"
    assert codes(run(storage, marked(storage)).items) == [None]
    assert storage.objects["a.result"] == b"of the first run"


@pytest.mark.parametrize(
    ("tries", "asked"),
    [
        pytest.param([LOST], ["PUT claim", "PUT claim", "GET claim"], id="its answer was lost"),
        pytest.param([503], ["PUT claim", "PUT claim"], id="storage was overloaded"),
        pytest.param([409], ["PUT claim", "PUT claim"], id="two writes crossed"),
    ],
)
def test_a_claim_that_storage_stumbled_over_is_written_again(
    storage: Storage, tries: list[int], asked: list[str]
) -> None:
    storage.next["a.claim"] = tries
    assert codes(run(storage, marked(storage)).items) == [None]
    assert storage.of("a") == [*asked, "GET image", "PUT out", "PUT result"]


@pytest.mark.parametrize(
    ("status", "before", "detail"),
    [
        pytest.param(503, None, "storage answered 503", id="storage is overloaded"),
        pytest.param(403, None, "storage answered 403", id="the link has expired"),
        pytest.param(404, None, "storage answered 404", id="there is no such bucket"),
        pytest.param(None, b"{}", "the claim that is there cannot be read", id="a claim that is none"),
        pytest.param(None, b" " * 5000, "storage answered 200 when asked whose the claim is", id="a huge claim"),
    ],
)
def test_without_a_claim_nothing_is_done(
    storage: Storage, status: int | None, before: bytes | None, detail: str
) -> None:
    if status:
        storage.answers["a.claim"] = status
    if before:
        storage.objects["a.claim"] = before
    [item] = run(storage, marked(storage), tell_s=0).items
    assert item.error == ItemError(code="STORAGE_UNAVAILABLE", detail=detail)
    assert set(storage.of("a")) <= {"PUT claim", "GET claim"}
    assert Upper.worked_on == []


def test_a_claim_where_no_storage_is_says_so(storage: Storage) -> None:
    item = marked(storage)
    assert item.marks
    nowhere = item.marks.model_copy(update={"claim": "http://127.0.0.1:9/claim?signature=s3cr3t"})
    answer = run(storage, item.model_copy(update={"marks": nowhere}))
    assert answer.items == [ItemResult(id="a", error=ItemError(code="STORAGE_UNAVAILABLE", detail="ConnectError"))]
    assert storage.log == []


# -- the end --------------------------------------------------------------------------------


@pytest.mark.parametrize("tries", [[LOST], [503, 503], [409]], ids=["an answer is lost", "overload", "a conflict"])
def test_a_result_that_storage_stumbled_over_is_written_again(storage: Storage, tries: list[int]) -> None:
    storage.next["a.result"] = tries
    answer = run(storage, marked(storage))
    assert result(storage).item == answer.items[0]
    assert [key for key, _ in storage.written].count("a.result") == 1


def test_a_result_that_cannot_be_written_is_told_by_the_answer(storage: Storage) -> None:
    storage.answers["a.result"] = 403
    answer = run(storage, marked(storage), marked(storage, "b"))
    assert codes(answer.items) == [None, None]
    assert answer.items[0].outputs.keys() == {"image"}
    assert [s.attributes.get("error.code") for s in answer.spans if s.name == "gpu.result"] == [
        "STORAGE_UNAVAILABLE", None,
    ]  # fmt: skip


def test_progress_that_cannot_be_written_stops_nothing(storage: Storage) -> None:
    storage.answers["a.progress"] = 500
    assert codes(run(storage, marked(storage), tell_s=0).items) == [None]
    assert storage.of("a").count("PUT progress") == 3  # each once: it is not worth a second try


def test_what_comes_sooner_than_the_interval_is_not_told(storage: Storage) -> None:
    run(storage, marked(storage), tell_s=3600)
    assert "a.progress" not in storage.objects


def test_each_item_of_a_batch_has_an_end_of_its_own(storage: Storage) -> None:
    claimed(storage, "taken", "fc-2")
    storage.answers["dark.claim"] = 403
    names = ("first", "bug", "taken", "dark", "unread", "last")
    items = [marked(storage, name, **({"bug": "private"} if name == "bug" else {})) for name in names]
    del storage.objects["unread.image"]
    answer = run(storage, *items)
    assert [item.id for item in answer.items] == list(names)
    assert codes(answer.items) == [None, "INTERNAL", None, "STORAGE_UNAVAILABLE", "OBJECT_MISSING", None]
    assert [item.duplicate_of for item in answer.items] == [None, None, "fc-2", None, None, None]
    concluded = {name for name in names if f"{name}.result" in storage.objects}
    assert concluded == {"first", "bug", "unread", "last"}
    assert all(result(storage, item.id).item == item for item in answer.items if item.id in concluded)


def test_an_item_that_is_stuck_at_the_deadline_gets_a_result_that_says_so(storage: Storage) -> None:
    storage.stalled.add("stuck.image")
    runner = Runner(catalog=UPPER)
    items = [marked(storage, name) for name in ("quick", "stuck", "never")]
    answer = runner.run(storage.request("upper", *items, seconds=3.0), owner="fc-1")
    assert codes(answer.items) == [None, "CALL_DEADLINE", "CALL_DEADLINE"]
    assert runner.abandoned
    assert result(storage, "quick").item == answer.items[0]
    assert result(storage, "stuck").item == answer.items[1]
    assert storage.of("never") == []  # not begun, not claimed


class Hanging:
    """An engine that never ends."""

    def __init__(self, place: Any) -> None:
        pass

    def run(self, inputs: Any, parameters: Any, work: Any) -> tuple[dict[str, Output], Facts]:
        threading.Event().wait()
        raise AssertionError("waits for ever")


def test_an_engine_that_hangs_falls_silent(storage: Storage) -> None:
    runner = Runner(catalog=(EngineRow("hang", "hang", 1, "cpu", f"{__name__}:Hanging"),), tell_s=0)
    answer = runner.run(storage.request("hang", marked(storage), seconds=1.5), owner="fc-1")
    assert codes(answer.items) == ["CALL_DEADLINE"]
    told = [Progress.model_validate_json(body).fraction for key, body in storage.written if key == "a.progress"]
    assert told == [0.2]  # what was told before it hung, and nothing more


def test_storage_that_is_stuck_does_not_hold_a_call_beyond_its_deadline(storage: Storage) -> None:
    storage.stalled |= {"a.image", "a.result"}
    request = storage.request("upper", marked(storage), seconds=1.5)
    answer = Runner(catalog=UPPER).run(request)
    assert codes(answer.items) == ["CALL_DEADLINE"]
    assert (datetime.now(UTC) - request.deadline).total_seconds() < 1


def test_a_call_that_is_refused_claims_nothing(storage: Storage) -> None:
    for refused in (run(storage, marked(storage), seconds=-1), Runner(catalog=()).run(storage.request("upper"))):
        assert refused.error
        assert refused.usage is None
    assert storage.log == []


def test_an_interruption_goes_through_and_leaves_the_claim_for_the_restart(
    storage: Storage, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(storage, marked(storage, interrupt=True), marked(storage, "b"))
    assert storage.of("a") == ["PUT claim", "GET image"]
    assert storage.of("b") == []
    assert capfd.readouterr() == ("", "")
    again = marked(storage)
    assert codes(run(storage, again).items) == [None]
    assert result(storage).item.error is None


class Interrupting:
    """Has its process interrupted, as a platform does, and never ends."""

    def __init__(self, place: Any) -> None:
        pass

    def run(self, inputs: Any, parameters: Any, work: Any) -> tuple[dict[str, Output], Facts]:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait()
        raise AssertionError("waits for ever")


def test_a_signal_ends_a_call_whose_engine_is_stuck(storage: Storage) -> None:
    runner = Runner(catalog=(EngineRow("stuck", "stuck", 1, "cpu", f"{__name__}:Interrupting"),))
    with pytest.raises(KeyboardInterrupt):
        runner.run(storage.request("stuck", marked(storage)), owner="fc-1")
    assert runner.abandoned
    assert "a.result" not in storage.objects


# -- what was used, and by whom -------------------------------------------------------------


def test_the_first_call_of_a_process_is_cold_and_its_first_item_bears_the_boot(storage: Storage) -> None:
    runner = Runner(catalog=UPPER)
    runner.born_s -= 5
    first = runner.run(storage.request("upper", marked(storage), marked(storage, "b")))
    second = runner.run(storage.request("upper", marked(storage, "c")))
    assert first.usage
    assert second.usage
    assert first.usage.cold
    assert first.usage.boot_s >= 5
    assert (second.usage.cold, second.usage.boot_s) == (False, 0)
    assert result(storage, "a").usage.boot_s == first.usage.boot_s
    assert [result(storage, name).usage.cold for name in "abc"] == [True, False, False]
    shares = [result(storage, name).usage for name in "ab"]
    times = [moment for share in shares for moment in (share.started_at, share.ended_at)]
    assert [first.usage.started_at, *times, first.usage.ended_at] == sorted(
        [first.usage.started_at, *times, first.usage.ended_at]
    )


def test_a_function_is_asked_for_by_its_version(storage: Storage) -> None:
    wanted = storage.request("upper", marked(storage)).model_copy(update={"function_version": 2})
    refused = Runner(catalog=UPPER).run(wanted)
    assert refused.error == ItemError(
        code="FUNCTION_UNKNOWN", detail="version 2 of this function was asked for; here is 1"
    )
    assert storage.log == []
    both = (*UPPER, EngineRow("upper", "upper", 9, "cpu", f"{__name__}:Upper", function_version=2))
    assert Runner(catalog=both).run(wanted).engine == "upper@9"


def test_on_a_gpu_the_cpus_engine_serves_what_needs_none_and_the_answer_says_so(storage: Storage) -> None:
    answer = Runner("gpu", UPPER).run(storage.request("upper", marked(storage)))
    assert (answer.device, result(storage).device) == ("cpu", "cpu")
    faster = (*UPPER, EngineRow("upper", "upper-cuda", 1, "gpu", f"{__name__}:Upper"))
    on_gpu = Runner("gpu", faster, gpu="L4").run(storage.request("upper", marked(storage, "b")))
    assert (on_gpu.device, result(storage, "b").device) == ("L4", "L4")
    assert choose("upper", "cpu", faster).row.engine == "upper"
    with pytest.raises(SafelightError, match="FUNCTION_UNKNOWN"):
        choose("upper", "cpu", faster[1:])


def test_every_function_of_the_table_is_served_on_a_bare_cpu() -> None:
    for row in CATALOG:
        assert choose(row.function, version=row.function_version).row.function == row.function


def test_marks_are_small(storage: Storage) -> None:
    run(storage, marked(storage), tell_s=0)
    assert {key: len(body) < 4096 for key, body in storage.written if key != "a.out"} == {
        "a.claim": True, "a.progress": True, "a.result": True,
    }  # fmt: skip
    assert json.loads(storage.objects["a.result"])["version"] == 1
