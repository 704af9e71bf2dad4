"""Spans that travel home in the response: a GPU function exports no telemetry itself.

Names and attributes are API. None of them holds user data.

    span          attributes
    gpu.call      function, engine, device, items
    gpu.claim     item                   item = position in the request, from 0; of items with marks
    gpu.download  item, bytes
    gpu.engine    item, engine           of items that are worked on together they overlap
    gpu.upload    item, bytes
    gpu.result    item                   of items with marks; travels in the answer only
    each          error.code, when it ended with an error
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from contracts.envelope import SpanRecord
from contracts.errors import SafelightError

Attributes = dict[str, str | int | float | bool]


@dataclass(slots=True)
class Span:
    """A span that runs; `attributes` may be added to until it ends."""

    name: str
    parent_span_id: str
    attributes: Attributes
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))
    start_ns: int = field(default_factory=time.time_ns)

    def so_far(self) -> SpanRecord:
        """The span as if it ended now."""
        return SpanRecord(
            name=self.name,
            span_id=self.span_id,
            parent_span_id=self.parent_span_id,
            start_ns=self.start_ns,
            end_ns=time.time_ns(),
            attributes=dict(self.attributes),
        )


@dataclass(slots=True)
class Spans:
    """Collects the finished spans of one call, in the order in which they end."""

    records: list[SpanRecord] = field(default_factory=list)

    @contextmanager
    def span(self, name: str, parent: str, **attributes: str | int | float | bool) -> Iterator[Span]:
        """Record what happens inside as a child of the span id `parent`."""
        span = Span(name, parent, attributes)
        try:
            yield span
        except BaseException as problem:
            self.end(span, problem)
            raise
        self.end(span)

    def end(self, span: Span, problem: BaseException | None = None) -> None:
        """Record a span that was begun by hand, as over now; `problem` is what ended it, if anything did."""
        if problem is not None:
            span.attributes["error.code"] = problem.code if isinstance(problem, SafelightError) else "INTERNAL"
        self.records.append(span.so_far())


def parent_of(traceparent: str | None) -> str:
    """The span id in a W3C traceparent (`00-trace-span-flags`); empty without one."""
    parts = (traceparent or "").split("-")
    return parts[2] if len(parts) >= 4 and len(parts[2]) == 16 else ""
