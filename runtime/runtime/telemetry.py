"""Tracing: one trace per job, from the HTTP request through every message to the last variant.

Shape (a test reads it back): a message's headers carry `traceparent`; whoever consumes it
opens one CONSUMER span under that parent, and everything it publishes carries that span on.
Spans and metrics are exported by OTLP over HTTP when OTEL_EXPORTER_OTLP_ENDPOINT is set, else spans
only give logs and job records their trace id.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache

from opentelemetry import metrics, trace
from opentelemetry.metrics import _Gauge as Gauge
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from contracts.errors import SafelightError
from contracts.message import HEADER_TRACE

_PROPAGATOR = TraceContextTextMapPropagator()
_TRACER = trace.get_tracer("safelight")
_METER = metrics.get_meter("safelight")


def configure(service: str) -> TracerProvider:
    """Install the process's tracer. The caller shuts it down last, so that no span is lost."""
    resource = Resource.create({"service.name": f"safelight-{service}"})
    provider = TracerProvider(resource=resource)
    if exports():
        # 15 MB that few need
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource))
    trace.set_tracer_provider(provider)
    return provider


@cache
def exports() -> bool:
    """Whether spans and metrics go anywhere. Where they do not, a hot path hands the trace on without making a span."""
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def gauge(name: str, unit: str, description: str) -> Gauge:
    """A metric that says how much there is of something now; `set(value, attributes)`."""
    return _METER.create_gauge(name, unit, description)


@contextmanager
def span(
    name: str,
    *,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
    started_at: datetime | None = None,
) -> Iterator[Span]:
    """A span under `traceparent` when given, else under the current span; it began `started_at`, else now.

    An exception marks it as failed with its code or class, never with its text, and goes on.
    """
    context = _PROPAGATOR.extract({HEADER_TRACE: traceparent}) if traceparent else None
    with _TRACER.start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        start_time=int(started_at.timestamp() * 1e9) if started_at else None,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as problem:
            fail(current, problem.code if isinstance(problem, SafelightError) else type(problem).__name__)
            raise


def fail(current: Span, code: str) -> None:
    """Mark a span as failed by an error code."""
    current.set_status(Status(StatusCode.ERROR, code))
    current.set_attribute("error.type", code)


def traceparent() -> str | None:
    """The current span as a W3C traceparent, or None outside a trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(HEADER_TRACE)


def trace_id(parent: str | None) -> str | None:
    """The 32 hex digits of a traceparent's trace id, or None."""
    parts = (parent or "").split("-")
    return parts[1] if len(parts) == 4 else None
