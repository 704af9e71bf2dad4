"""Work that takes minutes: it tells of itself, shows what it has, and goes on after a preemption."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.envelope import CallResponse, Checkpoint, Item, Progress
from gpu_functions.catalog import EngineRow
from gpu_functions.engine import ALONE, Facts, Output, Work
from gpu_functions.runner import Runner
from tests.pixels.gpu_functions.conftest import Storage

STEPS = 4


class Learning:
    """Counts to STEPS, a checkpoint each; `die_at` is a preemption."""

    def __init__(self, place: Any) -> None:
        pass

    def run(self, inputs: Any, parameters: Any, work: Work) -> tuple[dict[str, Output], Facts]:
        first = int(work.checkpoint() or b"0")
        for step in range(first, STEPS):
            if step == parameters.get("die_at"):
                raise KeyboardInterrupt
            work.show(parameters.get("role", "preview"), Output(f"after {step}".encode(), "text/plain"))
            work.tell(step / STEPS, {"loss": 1.0 / (step + 1), "step": step})
            work.save(str(step + 1).encode())
        return {"image": Output(b"learnt", "text/plain")}, {"began_at": first}


ROW = (EngineRow("learn", "learning", 1, "cpu", f"{__name__}:Learning"),)


def long(storage: Storage, **parameters: Any) -> Item:
    item = storage.marked(storage.item("a", parameters, image=b"pairs"))
    outputs = item.outputs | {"preview": storage.target("a.preview")}
    kept = Checkpoint(read=storage.link("a.checkpoint"), write=storage.link("a.checkpoint"))
    return item.model_copy(update={"outputs": outputs, "checkpoint": kept})


def learn(storage: Storage, item: Item) -> CallResponse:
    return Runner(catalog=ROW, tell_s=0).run(storage.request("learn", item), owner="fc-1")


def told(storage: Storage) -> list[Progress]:
    return [Progress.model_validate_json(body) for key, body in storage.written if key == "a.progress"]


def test_each_step_is_told_with_its_numbers_and_what_was_shown(storage: Storage) -> None:
    learn(storage, long(storage))
    steps = [progress for progress in told(storage) if progress.facts]
    assert [progress.facts["step"] for progress in steps] == [0, 1, 2, 3]
    assert [progress.fraction for progress in steps] == pytest.approx([0.2, 0.35, 0.5, 0.65])
    assert {progress.outputs["preview"].key for progress in steps} == {"a.preview"}


def test_what_was_shown_last_stays_an_output(storage: Storage) -> None:
    [item] = learn(storage, long(storage)).items
    assert sorted(item.outputs) == ["image", "preview"]
    assert storage.objects["a.preview"] == b"after 3"


def test_a_preempted_work_goes_on_from_its_checkpoint(storage: Storage) -> None:
    with pytest.raises(KeyboardInterrupt):
        learn(storage, long(storage, die_at=2))
    [item] = learn(storage, long(storage)).items
    assert (item.error, item.facts) == (None, {"began_at": 2})


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_checkpoint_that_cannot_be_read_or_kept_costs_only_time(storage: Storage, status: int) -> None:
    storage.answers["a.checkpoint"] = status
    [item] = learn(storage, long(storage)).items
    assert (item.error, item.facts) == (None, {"began_at": 0})


def test_an_output_that_nobody_asked_for_is_not_shown(storage: Storage) -> None:
    [item] = learn(storage, long(storage, role="elsewhere")).items
    assert item.error is not None
    assert item.error.code == "MESSAGE_INVALID"


def test_numbers_are_all_that_a_mark_says_of_a_step(storage: Storage) -> None:
    learn(storage, long(storage))
    body = json.loads(storage.objects["a.progress"])
    assert sorted(body) == ["at", "facts", "fraction", "outputs"]


def test_an_engine_can_work_alone() -> None:
    assert Learning(None).run({}, {}, ALONE)[1] == {"began_at": 0}
