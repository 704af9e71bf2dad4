"""One call: every item is claimed, downloaded, worked on, uploaded and its result written, or says why not.

The law: domain errors are data, never exceptions; an item's failure is its own; no byte rests
anywhere but in memory; who has not claimed an item does nothing with it; its result is written
last; and the call ends by its deadline whoever is stuck. Native code cannot be interrupted, so the
work is done in a thread that is left behind when time is up. A runner with a thread left behind
says `abandoned`: its process answers, and is then replaced.

An item is claimed and downloaded when its engine takes it: one after the other, or several together by an
engine that is `Together`. Then uploads go on beside its work, and each item is billed its share of the time.

What is no Exception (KeyboardInterrupt, a platform's cancellation) goes through: it is the host's
way to end the call, and the restart under the same name finds its own claims.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from contracts.envelope import (
    CallRequest,
    CallResponse,
    Item,
    ItemError,
    ItemResult,
    Result,
    StoredOutput,
    Usage,
)
from contracts.errors import SafelightError, error
from gpu_functions import BORN_S
from gpu_functions.catalog import CATALOG, Choice, EngineRow, choose
from gpu_functions.engine import Engine, Facts, Made, Output, Task, Together, one_by_one
from gpu_functions.shares import Shares
from gpu_functions.spans import Span, Spans, parent_of
from gpu_functions.weights import EMPTY, Shelf

if TYPE_CHECKING:
    import httpx

    from gpu_functions.marks import Teller

Progress = Callable[[float], None]  # told the fraction 0..1 of the call that is done

DOWNLOADED, WORKED, UPLOADED = 0.2, 0.8, 1.0  # how far an item is after each step: the engine is most of it
TELL_S: Final = 1.0  # between two writes of one progress object
LAST_WORD_S: Final = 2.0  # of a call's time is kept for the result of an item that is stuck, while its link is good
LAST_WORD_SHARE: Final = 0.1  # and no more of a short call than this
UPLOADING_MAX: Final = 4  # items that are being uploaded while their engine works on others: their bytes are held
_OPENCV_NO_MEMORY: Final = -4  # cv::Error::StsNoMem


class Runner:
    """Runs calls one after the other and keeps the engines that they loaded.

    `device` is what engines may compute on: "cpu" or "gpu"; `gpu` the type of that, as answers and
    bills name it: a host that learns it only when it wakes sets it then. `born_s` is the
    `time.monotonic()` at which the process started; a host that wakes from a snapshot sets it anew
    before the first call. `tell_s`: seconds between two progress marks. `shelf` holds the weights.
    """

    def __init__(
        self,
        device: str = "cpu",
        catalog: Sequence[EngineRow] = CATALOG,
        tell_s: float = TELL_S,
        gpu: str = "gpu",
        shelf: Shelf = EMPTY,
    ) -> None:
        self._device = device
        self._shelf = shelf
        self.gpu = gpu
        self._catalog = catalog
        self._engines: dict[EngineRow, Engine] = {}
        self._unable: dict[EngineRow, str] = {}  # until this process ends: who mends it starts another
        self._cold = True
        self.tell_s = tell_s
        self.born_s = BORN_S
        self.abandoned = False

    @property
    def machine(self) -> str:
        """What is paid for while a call runs: the GPU's type, also when an engine computes beside it; or cpu."""
        return self.gpu if self._device == "gpu" else "cpu"

    def run(self, request: CallRequest, progress: Progress = lambda _: None, owner: str = "") -> CallResponse:
        """Work on `request`. Raises no Exception: see `error` of the response and of each item.

        `owner` is the provider's name for the call, which items are claimed with; the request's own
        id without one. What `progress` raises is not an item's fault, and is dropped. The response's
        own error is set only when no item could be begun.
        """
        started_at = datetime.now(UTC)
        answer = CallResponse(call_id=request.call_id, function=request.function, device=self._device)
        try:
            choice = self.choose(request)
            row = choice.row
            answer = answer.model_copy(update={"engine": row.label, "device": self.device(row)})
            left_s = (request.deadline - started_at).total_seconds()
            if left_s <= 0:
                raise _late()
        except SafelightError as refused:
            return answer.model_copy(update={"error": _as_data(refused)})

        boot_s, self._cold = time.monotonic() - self.born_s if self._cold else None, False
        spans = Spans()
        with spans.span(
            "gpu.call",
            parent_of(request.traceparent),
            function=request.function,
            engine=row.label,
            device=self.device(row),
            items=len(request.items),
        ) as span:
            call = _Call(self, request, choice, spans, span, progress, owner or request.call_id, boot_s)
            late = not self._within(left_s, call)
            if late:
                span.attributes["error.code"] = "CALL_DEADLINE"
            span.attributes |= {"engine": call.row.label, "device": self.device(call.row)}
        # Copies: a thread that was left behind may still add to the originals.
        ended, records = dict(call.results), list(spans.records)
        missing = _as_data(_late() if late else error("INTERNAL"))
        results = [
            ended.get(index) or ItemResult(id=item.id, error=missing) for index, item in enumerate(request.items)
        ]
        ran = {"engine": call.row.label, "device": self.device(call.row)}
        return answer.model_copy(
            update=ran | {"items": results, "spans": records, "usage": _usage(started_at, boot_s, self.machine)}
        )

    def choose(self, request: CallRequest) -> Choice:
        """Who does it. Raises FUNCTION_UNKNOWN, ENGINE_UNAVAILABLE."""
        asked = request.function, self._device, self._catalog, request.function_version
        return choose(*asked, self._shelf, self._unable)

    def device(self, row: EngineRow) -> str:
        """What an engine computes on, as answers name it."""
        return self.gpu if row.device == "gpu" else row.device

    def engine(self, request: CallRequest, choice: Choice) -> tuple[Engine, Choice]:
        """The engine of a choice, loaded at its first use; of the next one when it turns out not to run here.

        Raises ENGINE_UNAVAILABLE when no other can, and what else an engine's loading raises.
        """
        while choice.row not in self._engines:
            try:
                self._engines[choice.row] = choice.row.load(self._shelf)
            except SafelightError as problem:
                if problem.code not in ("ENGINE_UNAVAILABLE", "WEIGHTS_INVALID"):
                    raise
                self._unable[choice.row] = problem.detail
                choice = self.choose(request)
        return self._engines[choice.row], choice

    def _within(self, left_s: float, call: _Call) -> bool:
        """Let the call work in a thread of its own. False: its time is up, and the thread was left behind."""
        last_word_s = min(LAST_WORD_S, LAST_WORD_SHARE * left_s)
        try:
            if _joined(call.run, left_s - last_word_s):
                if call.broken is not None and not isinstance(call.broken, Exception):
                    raise call.broken
                return True
            call.stopped.set()
            self.abandoned = True
            _joined(call.last_word, last_word_s)
            return False
        except BaseException:
            call.stopped.set()
            self.abandoned = True
            raise


@dataclass(slots=True, eq=False)
class _AtWork:
    """An item that is ours since then. `teller`: of one with marks; `engine`: the span of its engine's work."""

    index: int
    item: Item
    since: datetime
    teller: Teller | None = None
    watched: _Watched | None = None
    engine: Span | None = None


class _Call:
    """What the thread of one call does. `results` are by the place of their item.

    `stopped` asks it to write nothing more. `broken` is what ended it before its last item, if anything did.
    """

    def __init__(
        self,
        runner: Runner,
        request: CallRequest,
        choice: Choice,
        spans: Spans,
        span: Span,
        progress: Progress,
        owner: str,
        boot_s: float | None,
    ) -> None:
        self._runner, self._request, self._choice = runner, request, choice
        self._spans, self._span, self._progress = spans, span, progress
        self._owner, self._boot_s = owner, boot_s
        self._shares = Shares()
        self._marked: dict[int, _AtWork] = {}  # claimed, and without a result: who is stuck when time is up
        self._taken: dict[Task, _AtWork] = {}  # by the engine, which has not given them back
        self._far = [0.0] * len(request.items)  # of each item, 0..1
        self._telling = threading.Lock()
        self._word = threading.Lock()  # held while an item ends: its result object and the answer say the same
        self.http: httpx.Client
        self.results: dict[int, ItemResult] = {}
        self.stopped = threading.Event()
        self.broken: BaseException | None = None

    @property
    def row(self) -> EngineRow:
        """The engine that does it."""
        return self._choice.row

    def run(self) -> None:
        """Work on all items. What is raised is kept in `broken`: a thread would print it."""
        from gpu_functions import transfer  # here and not above: an idle worker has no use for an HTTP client

        try:
            with transfer.client() as self.http:
                self._work()
        except BaseException as problem:
            self.broken = problem

    def last_word(self) -> None:
        """Write the results of the items that are stuck at the deadline, while their links are good. Raises nothing."""
        with self._word:
            for at_work in list(self._marked.values()):
                self._conclude(at_work, ItemResult(id=at_work.item.id, error=_as_data(_late())))

    def _work(self) -> None:
        """Let the engine take item after item. It is loaded for the first: a claim says that the call has begun."""
        tasks = self._tasks()
        for first in tasks:
            problem: Exception = error("INTERNAL", "the engine did not give the item back")
            try:
                engine, self._choice = self._runner.engine(self._request, self._choice)
                given = chain((first,), tasks)
                if isinstance(engine, Together):
                    self._give_back_together(engine.run_many(given))
                else:
                    for task, made in one_by_one(engine, given):
                        self._delivered(self._over(task, made), made)
            except Exception as raised:  # the boundary: a bug in one engine must not take the worker down
                problem = raised
            for task in list(self._taken):
                self._delivered(self._over(task, problem), problem)

    def _tasks(self) -> Iterator[Task]:
        """The items that are ours and could be read, one after the other as they are asked for."""
        for index, item in enumerate(self._request.items):
            if self.stopped.is_set():
                return
            at_work = _AtWork(index, item, datetime.now(UTC))
            self._shares.begin(index)
            task = self._task(at_work) if self._claimed(at_work) else None
            if task:
                yield task

    def _claimed(self, at_work: _AtWork) -> bool:
        """Whether the item is ours; of one that is not the end is told."""
        item = at_work.item
        if item.marks is None:
            return True
        from gpu_functions import marks

        try:
            with self._spans.span("gpu.claim", self._span.span_id, item=at_work.index):
                other = marks.claim(self.http, item.marks, self._owner)
        except Exception as problem:  # whose it is is not known: nothing is done, and no result written
            self._ended(at_work, ItemResult(id=item.id, error=_error_of(problem)))
            return False
        if other is not None:
            self._ended(at_work, ItemResult(id=item.id, duplicate_of=other))
            return False
        at_work.teller = marks.Teller(self.http, item.marks, self._runner.tell_s)
        self._marked[at_work.index] = at_work
        return True

    def _task(self, at_work: _AtWork) -> Task | None:
        """What the engine is given; None when it could not be read, and the end is told."""
        from gpu_functions import transfer

        item, parent = at_work.item, self._span.span_id
        try:
            with self._spans.span("gpu.download", parent, item=at_work.index) as span:
                inputs = {role: transfer.download(self.http, source) for role, source in item.inputs.items()}
                span.attributes["bytes"] = sum(map(len, inputs.values()))
        except Exception as problem:
            self._ended(at_work, ItemResult(id=item.id, error=_error_of(problem)))
            return None
        self._reached(at_work, DOWNLOADED)
        at_work.watched = _Watched(self, at_work)
        at_work.engine = Span("gpu.engine", parent, {"item": at_work.index})
        task = Task(inputs, item.parameters, at_work.watched)
        self._taken[task] = at_work
        return task

    def _give_back_together(self, over: Iterator[tuple[Task, Made | Exception]]) -> None:
        """Deliver what the engine has done beside its further work, which waits when storage is slower than it is."""
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(UPLOADING_MAX, "upload") as uploads:
            for task, made in over:
                waiting.append(uploads.submit(self._delivered, self._over(task, made), made))
                if len(waiting) > UPLOADING_MAX:
                    waiting.popleft().result()
            for one in waiting:
                one.result()

    def _over(self, task: Task, made: Made | Exception) -> _AtWork:
        """The engine has given it back."""
        at_work = self._taken.pop(task)
        assert at_work.engine
        at_work.engine.attributes["engine"] = self.row.label
        self._spans.end(at_work.engine, made if isinstance(made, Exception) else None)
        return at_work

    def _delivered(self, at_work: _AtWork, made: Made | Exception) -> None:
        """Upload what an engine made of an item, or take its error for its result."""
        try:
            if isinstance(made, Exception):
                raise made
            result = self._stored(at_work, *made)
        except Exception as problem:
            result = ItemResult(id=at_work.item.id, error=_error_of(problem))
        self._ended(at_work, result)

    def _stored(self, at_work: _AtWork, outputs: dict[str, Output], facts: Facts) -> ItemResult:
        from gpu_functions import transfer

        item = at_work.item
        if self._choice.passed_over:
            facts = {**facts, "engines_passed_over": list(self._choice.passed_over)}
        self._reached(at_work, WORKED)
        unwritable = sorted(outputs.keys() - item.outputs.keys())
        if unwritable:
            raise error("MESSAGE_INVALID", f"no write URL for the output '{unwritable[0]}'")
        if self.stopped.is_set():
            raise _late()
        with self._spans.span("gpu.upload", self._span.span_id, item=at_work.index) as span:
            stored = {role: transfer.upload(self.http, item.outputs[role], output) for role, output in outputs.items()}
            span.attributes["bytes"] = sum(output.size for output in stored.values())
        if at_work.teller:
            at_work.teller.tell(UPLOADED)
        assert at_work.watched
        return ItemResult(id=item.id, outputs=at_work.watched.shown | stored, facts=facts)

    def _ended(self, at_work: _AtWork, result: ItemResult) -> None:
        """An item has ended, unless its time was up before."""
        with self._word:
            if self.stopped.is_set():
                return
            if at_work.index in self._marked:
                self._conclude(self._marked.pop(at_work.index), result)
            else:
                self._shares.end(at_work.index)
            self.results[at_work.index] = result
        self._tell_host(at_work.index, 1.0)

    def _reached(
        self, at_work: _AtWork, step: float, facts: Facts | None = None, shown: dict[str, StoredOutput] | None = None
    ) -> None:
        """Tell how far the call is, and by its mark how far the item is."""
        if not self.stopped.is_set():
            self._tell_host(at_work.index, step)
            if at_work.teller:
                at_work.teller.tell(step, facts, shown)

    def _tell_host(self, index: int, step: float) -> None:
        with self._telling:
            self._far[index] = step
            with contextlib.suppress(Exception):  # such as a pipe that nobody reads any more: the result will be read
                self._progress(sum(self._far) / len(self._far))

    def _conclude(self, at_work: _AtWork, ended: ItemResult) -> None:
        """Write the result object of an item, with its share of the call's time and spans.

        Raises nothing: when storage does not take it a span says so. The work is done and paid for,
        and the answer tells of it.
        """
        from gpu_functions import marks

        assert at_work.item.marks
        boot_s, self._boot_s = self._boot_s, None  # the first item of a cold call bears its boot
        own_s = round(self._shares.end(at_work.index), 3)
        records = [record for record in list(self._spans.records) if record.attributes.get("item") == at_work.index]
        result = Result(
            owner=self._owner,
            function=self._request.function,
            engine=self.row.label,
            device=self._runner.device(self.row),
            item=ended,
            usage=_usage(at_work.since, boot_s, self._runner.machine).model_copy(update={"run_s": own_s}),
            spans=[self._span.so_far(), *records],
        )
        with (
            contextlib.suppress(Exception),
            self._spans.span("gpu.result", self._span.span_id, item=at_work.index),
        ):
            marks.conclude(self.http, at_work.item.marks, result)


class _Watched:
    """`engine.Work` of one item: what its engine says goes to its marks, what it shows and saves to its links."""

    def __init__(self, call: _Call, at_work: _AtWork) -> None:
        self._call, self._at_work = call, at_work
        self.shown: dict[str, StoredOutput] = {}

    def tell(self, fraction: float, facts: Facts | None = None) -> None:
        step = DOWNLOADED + (WORKED - DOWNLOADED) * min(max(fraction, 0.0), 1.0)
        self._call._reached(self._at_work, step, facts, self.shown)

    def show(self, role: str, output: Output) -> None:
        from gpu_functions import transfer

        outputs = self._at_work.item.outputs
        if role not in outputs:
            raise error("MESSAGE_INVALID", f"no write URL for the output '{role}'")
        if not self._call.stopped.is_set():
            self.shown[role] = transfer.upload(self._call.http, outputs[role], output)

    def checkpoint(self) -> bytes | None:
        from gpu_functions import transfer

        item = self._at_work.item
        return transfer.saved(self._call.http, item.checkpoint) if item.checkpoint else None

    def save(self, checkpoint: bytes) -> None:
        from gpu_functions import transfer

        item = self._at_work.item
        if item.checkpoint and not self._call.stopped.is_set():
            transfer.save(self._call.http, item.checkpoint, checkpoint)


def _joined(work: Callable[[], None], seconds: float) -> bool:
    """Do `work` in a thread; whether it was over in time."""
    thread = threading.Thread(target=work, name="call", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _usage(started_at: datetime, boot_s: float | None, machine: str) -> Usage:
    """What was used until now; `boot_s` is None unless the call was its process's first."""
    return Usage(
        started_at=started_at,
        ended_at=datetime.now(UTC),
        machine=machine,
        cold=boot_s is not None,
        boot_s=round(boot_s or 0.0, 3),
    )


def _late() -> SafelightError:
    return error("CALL_DEADLINE")


def _as_data(problem: SafelightError) -> ItemError:
    return ItemError(code=problem.code, detail=problem.detail)


def _error_of(problem: Exception) -> ItemError:
    """An item's error. Of a foreign exception the class only: its text may quote a URL or a file."""
    if isinstance(problem, SafelightError):
        return _as_data(problem)
    if isinstance(problem, ValidationError):
        where = ", ".join(".".join(map(str, wrong["loc"])) for wrong in problem.errors(include_input=False)[:3])
        return _as_data(error("MESSAGE_INVALID", f"parameters: {where}"))
    return ItemError(code="DECODE_LIMIT" if _is_out_of_memory(problem) else "INTERNAL", detail=type(problem).__name__)


def _is_out_of_memory(problem: Exception) -> bool:
    return (
        isinstance(problem, MemoryError)
        or type(problem).__name__ == "OutOfMemoryError"  # torch's, of a card's memory
        or (type(problem).__module__ == "cv2" and getattr(problem, "code", None) == _OPENCV_NO_MEMORY)
    )
