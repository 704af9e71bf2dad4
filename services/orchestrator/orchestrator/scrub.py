"""The broker forgets: messages about certain jobs are deleted from the streams that keep messages for a while.

They hold ids, hashes and keys, no bytes of a file; after an erasure not even those. A message is one of theirs when
its `ce-subject` begins with the id. Lines of the audit and erasures themselves stay until the stream forgets them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from nats.js.errors import NotFoundError

from contracts.message import HEADER_SUBJECT
from contracts.topology import STREAMS

if TYPE_CHECKING:
    from nats.js import JetStreamContext

AT_ONCE: Final = 64
BEFORE: Final = timedelta(hours=1)  # an upload is told before its job begins: so long it may have waited
_STAY: Final = ("evt.audit.", "evt.erasure.")


async def scrub(js: JetStreamContext, ids: Set[str], since: datetime) -> dict[str, int]:
    """Delete what was stored about `ids` since then, and a little before; returns how many messages, by stream."""
    return {
        stream.name: await _scrub(js, stream.name, ids, since - BEFORE)
        for stream in STREAMS
        if stream.name != "ADVISORIES"
    }


async def _scrub(js: JetStreamContext, stream: str, ids: Set[str], since: datetime) -> int:
    state = (await js.stream_info(stream)).state
    first, last = await _begins(js, stream, max(1, state.first_seq), state.last_seq, since), state.last_seq
    gone = 0
    for at in range(first, last + 1, AT_ONCE):
        found = await asyncio.gather(*(_message(js, stream, n) for n in range(at, min(at + AT_ONCE, last + 1))))
        for message in found:
            if message is not None and _is_about(message, ids):
                await js.delete_msg(stream, message.seq)
                gone += 1
    return gone


async def _begins(js: JetStreamContext, stream: str, low: int, high: int, since: datetime) -> int:
    """A sequence before which everything is older: halving, for the stream is in the order of its times."""
    while low < high:
        middle = (low + high) // 2
        message = await _message(js, stream, middle, next=True)  # deleted ones tell no time
        if message is not None and message.time < since:
            low = message.seq + 1
        else:
            high = middle
    return low


async def _message(js: JetStreamContext, stream: str, sequence: int, *, next: bool = False) -> Any:
    try:
        return await js.get_msg(stream, sequence, subject=">" if next else None, next=next)
    except NotFoundError:
        return None


def _is_about(message: Any, ids: Set[str]) -> bool:
    if message.subject.startswith(_STAY):
        return False
    return (message.headers or {}).get(HEADER_SUBJECT, "").partition(".")[0] in ids
