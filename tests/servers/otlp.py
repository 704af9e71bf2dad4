"""A real OTLP/HTTP receiver: keeps what comes as it came, reads the spans of it, and lets a test wait for them."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it was exported. Ids are lower-case hex; `parent_id` is None for a root; times are ns since 1970."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str | None
    kind: str  # INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER
    failed: bool
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]  # (trace id, span id)


class OtlpReceiver:
    """Listens on a free port of loopback while it is entered."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = defaultdict(list)  # by path: /v1/traces, /v1/metrics, /v1/logs
        self._spans: list[ReceivedSpan] = []
        self._changed = threading.Condition()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._take))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT: the exporter adds /v1/traces."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Everything received so far, in order of arrival."""
        with self._changed:
            return list(self._spans)

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans of one trace so far."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def wait_for(self, enough: Callable[[list[ReceivedSpan]], bool], timeout_s: float = 20.0) -> list[ReceivedSpan]:
        """Wait until `enough(spans)`. Raises AssertionError with the names that did come."""
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self._spans), timeout_s):
                names = sorted(f"{span.service}: {span.name}" for span in self._spans)
                raise AssertionError(f"after {timeout_s} s there are {len(names)} spans: {names}")
            return list(self._spans)

    def _take(self, path: str, body: bytes) -> None:
        spans = list(_read(ExportTraceServiceRequest.FromString(body))) if path == "/v1/traces" else []
        with self._changed:
            self.bodies[path].append(body)
            self._spans.extend(spans)
            self._changed.notify_all()


def _handler(take: Callable[[str, bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the name that http.server calls
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    return Handler


def _read(request: ExportTraceServiceRequest) -> Iterable[ReceivedSpan]:
    for resource in request.resource_spans:
        service = str(_attributes(resource.resource.attributes).get("service.name", ""))
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    name=span.name,
                    service=service,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex() or None,
                    kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    failed=span.status.code == 2,  # STATUS_CODE_ERROR
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
