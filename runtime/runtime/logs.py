"""Structured logs: one JSON object a line on stderr, static dotted event names, values as keys.

`work("job.phase.attempt")` puts job, phase and attempt on every line of the current task; the trace
id is added from the current span. Uncaught library logs pass through the same renderer.
No line holds user bytes, file names or text: log references and codes. Of an error a line says its type and where
it came from.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import structlog
from opentelemetry import trace
from structlog.contextvars import bound_contextvars
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import ExcInfo

# Without the values of variables, which hold keys, passwords and users' bytes (and take 200 ms to render).
_TRACE: Final = ExceptionDictTransformer(show_locals=False)
_TOLD: Final = ("exc_type", "is_cause", "frames")  # what an error says may quote what a user gave us


def _trace_id(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        line.setdefault("trace_id", f"{context.trace_id:032x}")
    return line


def work(key: str) -> AbstractContextManager[None]:
    """Name the work on every line inside: `key` is `job` or `job.phase[.item].attempt`, as messages carry it."""
    job, _, rest = key.partition(".")
    unit, _, attempt = rest.rpartition(".")
    phase, _, item = unit.partition(".")
    named = {"job": job, "phase": phase, "item": item, "attempt": int(attempt) if attempt.isdecimal() else None}
    return bound_contextvars(**{name: value for name, value in named.items() if value})


def _where_from(exc_info: ExcInfo) -> list[dict[str, Any]]:
    return _silent(_TRACE(exc_info))


def _silent(chain: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: one[name] for name in _TOLD} | {"exceptions": [_silent(inner) for inner in one["exceptions"]]}
        for one in chain
    ]


def configure(service: str, level: str = "info") -> None:
    """Route structlog and the standard library's logging through one JSON renderer on stderr."""

    def _service(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["service"] = service
        return line

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _service,
        _trace_id,
        structlog.processors.ExceptionRenderer(_where_from),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Request lines hold paths and query strings that people typed; our own spans carry the route instead.
    logging.getLogger("uvicorn.access").disabled = True
    for noisy in ("faststream", "urllib3", "httpx", "alembic", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get() -> structlog.stdlib.BoundLogger:
    """A logger; event names are dotted and static (`outbox.swept`), values are keys."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
