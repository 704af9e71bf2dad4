"""One call: every item is claimed, downloaded, worked on, uploaded and its result written, or says why not.

The law: domain errors are data, never exceptions; an item's failure is its own; no byte rests
anywhere but in memory; who has not claimed an item does nothing with it; its result is written
last; and the call ends by its deadline whoever is stuck. Native code cannot be interrupted, so the
work is done in a thread that is left behind when time is up. A runner with a thread left behind
says `abandoned`: its process answers, and is then replaced.

What is no Exception (KeyboardInterrupt, a platform's cancellation) goes through: it is the host's
way to end the call, and the restart under the same name finds its own claims.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from contracts.envelope import (
    CallRequest,
    CallResponse,
    Item,
    ItemError,
    ItemResult,
    Marks,
    Result,
    StoredOutput,
    Usage,
)
from contracts.errors import SafelightError, error
from gpu_functions import BORN_S
from gpu_functions.catalog import CATALOG, Choice, EngineRow, choose
from gpu_functions.engine import Engine, Facts, Output
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
        results, records = list(call.results), list(spans.records)
        missing = _as_data(_late() if late else error("INTERNAL"))
        results += [ItemResult(id=item.id, error=missing) for item in request.items[len(results) :]]
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


@dataclass(frozen=True, slots=True)
class _Claimed:
    """An item that is ours, since when, and where its spans begin."""

    http: httpx.Client
    index: int
    item: Item
    marks: Marks
    since: datetime
    first_span: int


class _Call:
    """What the thread of one call does. `results` grows item by item; `stopped` asks it to write nothing more.

    `broken` is what ended it before its last item, if anything did.
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
        self._at_work: _Claimed | None = None
        self._teller: Teller | None = None
        self._word = threading.Lock()  # held while an item ends: its result object and the answer say the same
        self.results: list[ItemResult] = []
        self.stopped = threading.Event()
        self.broken: BaseException | None = None

    @property
    def row(self) -> EngineRow:
        """The engine that does it."""
        return self._choice.row

    def run(self) -> None:
        """Work on one item after the other. What is raised is kept in `broken`: a thread would print it."""
        from gpu_functions import transfer  # here and not above: an idle worker has no use for an HTTP client

        try:
            with transfer.client() as http:
                for index, item in enumerate(self._request.items):
                    self._item(http, index, item)
                    if self.stopped.is_set():
                        return
                    self._tell_host((index + 1) / len(self._request.items))
        except BaseException as problem:
            self.broken = problem

    def last_word(self) -> None:
        """Write the result of the item that is stuck at the deadline, while its link is good. Raises nothing."""
        with self._word:
            if self._at_work:
                self._conclude(self._at_work, ItemResult(id=self._at_work.item.id, error=_as_data(_late())))

    def _item(self, http: httpx.Client, index: int, item: Item) -> None:
        self._teller = None
        if item.marks is None:
            self._ended(self._worked(http, index, item))
            return
        from gpu_functions import marks

        since, first_span = datetime.now(UTC), len(self._spans.records)
        try:
            with self._spans.span("gpu.claim", self._span.span_id, item=index):
                other = marks.claim(http, item.marks, self._owner)
        except Exception as problem:  # whose it is is not known: nothing is done, and no result written
            self._ended(ItemResult(id=item.id, error=_error_of(problem)))
            return
        if other is not None:
            self._ended(ItemResult(id=item.id, duplicate_of=other))
            return
        self._at_work = _Claimed(http, index, item, item.marks, since, first_span)
        self._teller = marks.Teller(http, item.marks, self._runner.tell_s)
        self._ended(self._worked(http, index, item), self._at_work)

    def _ended(self, result: ItemResult, claimed: _Claimed | None = None) -> None:
        """An item has ended, unless its time was up before."""
        with self._word:
            if self.stopped.is_set():
                return
            if claimed:
                self._conclude(claimed, result)
            self.results.append(result)
            self._at_work = None

    def _worked(self, http: httpx.Client, index: int, item: Item) -> ItemResult:
        try:
            return self._steps(http, index, item)
        except Exception as problem:  # the boundary: a bug in one engine must not take the worker down
            return ItemResult(id=item.id, error=_error_of(problem))

    def _steps(self, http: httpx.Client, index: int, item: Item) -> ItemResult:
        from gpu_functions import transfer

        parent = self._span.span_id
        with self._spans.span("gpu.download", parent, item=index) as span:
            inputs = {role: transfer.download(http, source) for role, source in item.inputs.items()}
            span.attributes["bytes"] = sum(map(len, inputs.values()))
        self._reached(index, DOWNLOADED)
        with self._spans.span("gpu.engine", parent, item=index) as span:
            engine, self._choice = self._runner.engine(self._request, self._choice)
            span.attributes["engine"] = self.row.label
            work = _Watched(self, http, index, item)
            outputs, facts = engine.run(inputs, item.parameters, work)
        if self._choice.passed_over:
            facts = {**facts, "engines_passed_over": list(self._choice.passed_over)}
        self._reached(index, WORKED)
        unwritable = sorted(outputs.keys() - item.outputs.keys())
        if unwritable:
            raise error("MESSAGE_INVALID", f"no write URL for the output '{unwritable[0]}'")
        if self.stopped.is_set():
            raise _late()
        with self._spans.span("gpu.upload", parent, item=index) as span:
            stored = {role: transfer.upload(http, item.outputs[role], output) for role, output in outputs.items()}
            span.attributes["bytes"] = sum(output.size for output in stored.values())
        stored = work.shown | stored
        if self._teller:
            self._teller.tell(UPLOADED)
        return ItemResult(id=item.id, outputs=stored, facts=facts)

    def _reached(
        self, index: int, step: float, facts: Facts | None = None, shown: dict[str, StoredOutput] | None = None
    ) -> None:
        """Tell how far the call is, and by its mark how far the item is that is worked on."""
        if not self.stopped.is_set():
            self._tell_host((index + step) / len(self._request.items))
            if self._teller:
                self._teller.tell(step, facts, shown)

    def _tell_host(self, fraction: float) -> None:
        with contextlib.suppress(Exception):  # such as a pipe that nobody reads any more: the result will be read
            self._progress(fraction)

    def _conclude(self, claimed: _Claimed, ended: ItemResult) -> None:
        """Write the result object of an item, with its share of the call's time and spans.

        Raises nothing: when storage does not take it a span says so. The work is done and paid for,
        and the answer tells of it.
        """
        from gpu_functions import marks

        boot_s, self._boot_s = self._boot_s, None  # the first item of a cold call bears its boot
        result = Result(
            owner=self._owner,
            function=self._request.function,
            engine=self.row.label,
            device=self._runner.device(self.row),
            item=ended,
            usage=_usage(claimed.since, boot_s, self._runner.machine),
            spans=[self._span.so_far(), *self._spans.records[claimed.first_span :]],
        )
        with (
            contextlib.suppress(Exception),
            self._spans.span("gpu.result", self._span.span_id, item=claimed.index),
        ):
            marks.conclude(claimed.http, claimed.marks, result)


class _Watched:
    """`engine.Work` of one item: what its engine says goes to its marks, what it shows and saves to its links."""

    def __init__(self, call: _Call, http: httpx.Client, index: int, item: Item) -> None:
        self._call, self._http, self._index, self._item = call, http, index, item
        self.shown: dict[str, StoredOutput] = {}

    def tell(self, fraction: float, facts: Facts | None = None) -> None:
        step = DOWNLOADED + (WORKED - DOWNLOADED) * min(max(fraction, 0.0), 1.0)
        self._call._reached(self._index, step, facts, self.shown)

    def show(self, role: str, output: Output) -> None:
        from gpu_functions import transfer

        if role not in self._item.outputs:
            raise error("MESSAGE_INVALID", f"no write URL for the output '{role}'")
        if not self._call.stopped.is_set():
            self.shown[role] = transfer.upload(self._http, self._item.outputs[role], output)

    def checkpoint(self) -> bytes | None:
        from gpu_functions import transfer

        return transfer.saved(self._http, self._item.checkpoint) if self._item.checkpoint else None

    def save(self, checkpoint: bytes) -> None:
        from gpu_functions import transfer

        if self._item.checkpoint and not self._call.stopped.is_set():
            transfer.save(self._http, self._item.checkpoint, checkpoint)


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
