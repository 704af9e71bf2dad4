"""One try: a signed POST to an endpoint, bounded in time, and what came of it as a value; no answer is kept."""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Final

import httpcore

from contracts.errors import SafelightError
from output.webhooks.schedule import Answer, code_of
from runtime import clock, outside

CONNECT_S: Final = 5.0
DRAINED_BYTES: Final = 16 * 1024  # of an answer are read, so that its connection can be used again
DRAIN_S: Final = 0.5


async def send(
    pool: httpcore.AsyncConnectionPool,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    open_: outside.Networks,
    timeout_s: float,
) -> Answer:
    """Tell an endpoint. The status line alone decides; a redirect is an answer like another."""
    began = time.monotonic()
    status, code, retry_after = None, None, None
    sent = [("content-type", "application/json"), ("user-agent", "Safelight-Webhooks/1"), *headers.items()]
    limits = {"connect": CONNECT_S}  # of the rest, the whole is bounded
    try:
        async with (
            asyncio.timeout(timeout_s),
            pool.stream(
                "POST", outside.check_url(url, open_), headers=sent, content=body, extensions={"timeout": limits}
            ) as response,
        ):
            status = response.status
            code = code_of(status)
            retry_after = _retry_after_s(response.headers)
            await _drain(response)
    except SafelightError as problem:
        code = problem.code
    except (TimeoutError, httpcore.TimeoutException):
        code = "WEBHOOK_TIMEOUT" if status is None else code
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as problem:
        broken = "WEBHOOK_TLS" if isinstance(problem.__context__, ssl.SSLError) else "WEBHOOK_UNREACHABLE"
        code = broken if status is None else code
    return Answer(status, code, round(time.monotonic() - began, 3), retry_after)


async def _drain(response: httpcore.Response) -> None:
    read = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            async for piece in response.aiter_stream():
                read += len(piece)
                if read > DRAINED_BYTES:
                    return
    except TimeoutError:
        return  # the connection is closed, for the answer is not at its end


def _retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """`Retry-After` in seconds: a number, or a date. None for anything else."""
    text = next((value.decode("latin-1").strip() for name, value in headers if name.lower() == b"retry-after"), "")
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
        return max((at - clock.now()).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
