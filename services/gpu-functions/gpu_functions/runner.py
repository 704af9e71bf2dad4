"""One call: every item is downloaded, worked on and uploaded, or says why not.

The law: domain errors are data, never exceptions; an item's failure is its own; no byte rests
anywhere but in memory; and the call ends by its deadline whoever is stuck. Native code cannot
be interrupted, so the work is done in a thread that is left behind when time is up. A runner
with a thread left behind says `abandoned`: its process answers, and is then replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from contracts.envelope import CallRequest, CallResponse, Item, ItemError, ItemResult
from contracts.errors import SafelightError, error
from gpu_functions.catalog import CATALOG, EngineRow, find
from gpu_functions.engine import Engine
from gpu_functions.spans import Spans, parent_of

if TYPE_CHECKING:
    import httpx

Progress = Callable[[float], None]  # told the fraction 0..1 of the call that is done

DOWNLOADED, WORKED, UPLOADED = 0.2, 0.8, 1.0  # how far an item is after each step: the engine is most of it
_OPENCV_NO_MEMORY: Final = -4  # cv::Error::StsNoMem


class Runner:
    """Runs calls one after the other and keeps the engines that they loaded."""

    def __init__(self, device: str = "cpu", catalog: Sequence[EngineRow] = CATALOG) -> None:
        self._device = device
        self._catalog = catalog
        self._engines: dict[EngineRow, Engine] = {}
        self.abandoned = False

    def run(self, request: CallRequest, progress: Progress = lambda _: None) -> CallResponse:
        """Work on `request`. Raises nothing: see `error` of the response and of each item.

        The response's own error is set only when no item could be begun.
        """
        answer = CallResponse(call_id=request.call_id, function=request.function, device=self._device)
        try:
            row = find(request.function, self._device, self._catalog)
            answer = answer.model_copy(update={"engine": row.label})
            seconds = (request.deadline - datetime.now(UTC)).total_seconds()
            if seconds <= 0:
                raise error("CALL_DEADLINE")
        except SafelightError as refused:
            return answer.model_copy(update={"error": _as_data(refused)})

        spans = Spans()
        with spans.span(
            "gpu.call",
            parent_of(request.traceparent),
            function=request.function,
            engine=row.label,
            device=self._device,
            items=len(request.items),
        ) as span:
            call = _Call(self, request, row, spans, span.span_id, progress)
            thread = threading.Thread(target=call.run, name="call", daemon=True)
            thread.start()
            thread.join(seconds)
            late = thread.is_alive()
            if late:
                call.stopped.set()
                self.abandoned = True
                span.attributes["error.code"] = "CALL_DEADLINE"
        # Copies: a thread that was left behind may still add to the originals.
        results, records = list(call.results), list(spans.records)
        missing = _as_data(error("CALL_DEADLINE" if late else "INTERNAL"))
        results += [ItemResult(id=item.id, error=missing) for item in request.items[len(results) :]]
        return answer.model_copy(update={"items": results, "spans": records})

    def engine(self, row: EngineRow) -> Engine:
        """The engine of `row`, loaded at its first use."""
        if row not in self._engines:
            self._engines[row] = row.load()
        return self._engines[row]


class _Call:
    """What the thread of one call does. `results` grows item by item; `stopped` asks it to write nothing more."""

    def __init__(
        self, runner: Runner, request: CallRequest, row: EngineRow, spans: Spans, parent: str, progress: Progress
    ) -> None:
        self._runner, self._request, self._row = runner, request, row
        self._spans, self._parent, self._progress = spans, parent, progress
        self.results: list[ItemResult] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        from gpu_functions import transfer  # here and not above: an idle worker has no use for an HTTP client

        with transfer.client() as http:
            for index, item in enumerate(self._request.items):
                result = self._item(http, index, item)
                if self.stopped.is_set():
                    return
                self.results.append(result)
                self._reached(index, UPLOADED)

    def _item(self, http: httpx.Client, index: int, item: Item) -> ItemResult:
        try:
            return self._steps(http, index, item)
        except SafelightError as problem:
            return ItemResult(id=item.id, error=_as_data(problem))
        except ValidationError as problem:
            where = ", ".join(".".join(map(str, wrong["loc"])) for wrong in problem.errors(include_input=False)[:3])
            return ItemResult(id=item.id, error=_as_data(error("MESSAGE_INVALID", f"parameters: {where}")))
        except Exception as problem:  # the boundary: a bug in one engine must not take the worker down
            code = "DECODE_LIMIT" if _is_out_of_memory(problem) else "INTERNAL"
            # The class only: the text of a foreign exception may quote a URL or a file.
            return ItemResult(id=item.id, error=ItemError(code=code, detail=type(problem).__name__))

    def _steps(self, http: httpx.Client, index: int, item: Item) -> ItemResult:
        from gpu_functions import transfer

        with self._spans.span("gpu.download", self._parent, item=index) as span:
            inputs = {role: transfer.download(http, source) for role, source in item.inputs.items()}
            span.attributes["bytes"] = sum(map(len, inputs.values()))
        self._reached(index, DOWNLOADED)
        with self._spans.span("gpu.engine", self._parent, item=index, engine=self._row.label):
            outputs, facts = self._runner.engine(self._row).run(inputs, item.parameters)
        self._reached(index, WORKED)
        unwritable = sorted(outputs.keys() - item.outputs.keys())
        if unwritable:
            raise error("MESSAGE_INVALID", f"no write URL for the output '{unwritable[0]}'")
        if self.stopped.is_set():
            raise error("CALL_DEADLINE")
        with self._spans.span("gpu.upload", self._parent, item=index) as span:
            stored = {role: transfer.upload(http, item.outputs[role], output) for role, output in outputs.items()}
            span.attributes["bytes"] = sum(output.size for output in stored.values())
        return ItemResult(id=item.id, outputs=stored, facts=facts)

    def _reached(self, index: int, step: float) -> None:
        if not self.stopped.is_set():
            self._progress((index + step) / len(self._request.items))


def _as_data(problem: SafelightError) -> ItemError:
    return ItemError(code=problem.code, detail=problem.detail)


def _is_out_of_memory(problem: Exception) -> bool:
    return isinstance(problem, MemoryError) or (
        type(problem).__module__ == "cv2" and getattr(problem, "code", None) == _OPENCV_NO_MEMORY
    )
