"""Spans that travelled home in a provider's answer join the job's trace."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace

from contracts.envelope import SpanRecord

_TRACER = trace.get_tracer("safelight.gpu")


def join(records: Sequence[SpanRecord]) -> None:
    """Re-create the records, parents first; one whose parent is not among them goes under the current span."""
    made: dict[str, trace.Span] = {}
    for record in sorted(records, key=lambda r: (r.start_ns, -r.end_ns)):
        parent = made.get(record.parent_span_id)
        span = _TRACER.start_span(
            record.name,
            context=trace.set_span_in_context(parent) if parent else None,
            start_time=record.start_ns,
            attributes=record.attributes,
        )
        span.end(record.end_ns)
        made[record.span_id] = span
