"""The broker's protocol in bulk: what is cut anywhere arrives whole, and no value of a header becomes another one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from nats.errors import BadSubjectError
from nats.protocol.parser import Parser

from contracts.catalog import CHANNELS
from contracts.channel import Channel
from contracts.phases import PHASE_PROGRESSED, PhaseProgressed
from runtime import clock, wire
from runtime.outbox import outgoing

SAMPLES = Path(__file__).parents[3] / "contracts" / "samples"
HEARD = (
    b'INFO {"max_payload": 1048576}\r\n'
    b"MSG a.b 7 5\r\nhello\r\n"
    b"PING\r\n"
    b"HMSG a.b 7 _INBOX.x 24 29\r\nNATS/1.0\r\nce-id: one\r\n\r\nhello\r\n"
    b"MSG a.b 8 _INBOX.y 2\r\n\r\n\r\n"
    b"+OK\r\n"
    b"HMSG _INBOX.z 7 16 16\r\nNATS/1.0 404\r\n\r\n\r\n"
    b"HMSG a.b 8 24 24\r\nNATS/1.0\r\nce-id: two\r\n\r\n\r\n"
    b"MSG a.b 7 _INBOX.w 0\r\n\r\n"
    b"PONG\r\n"
)


class Recorder:
    """The part of a connection that a parser speaks to: it writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self._ps = Parser(self)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, head: bytes | None) -> None:
        self.told.append((sid, bytes(subject), bytes(reply), head or b"", data))

    async def _process_ping(self) -> None:
        self.told.append("PING")

    async def _process_pong(self) -> None:
        self.told.append("PONG")

    async def _process_info(self, info: object) -> None:
        self.told.append(info)


async def heard(size: int, *, listened: bool) -> list[Any]:
    """What arrives in pieces of that size; subscription 7 may have a listener."""
    nc: Any = Recorder()
    if listened:
        wire._listeners(nc)[b"7"] = lambda *words: nc.told.append((7, *words))
    for at in range(0, len(HEARD), size):
        await nc._ps.parse(HEARD[at : at + size])
    return list(nc.told)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 64, len(HEARD)])
def test_what_arrives_in_pieces_is_heard_as_nats_py_hears_it(size: int) -> None:
    assert asyncio.run(heard(size, listened=True)) == asyncio.run(heard(len(HEARD), listened=False))


def test_taking_over_amid_a_message_loses_none() -> None:
    async def run(cut: int) -> list[Any]:
        nc: Any = Recorder()
        await nc._ps.parse(HEARD[:cut])
        wire._listeners(nc)
        await nc._ps.parse(HEARD[cut:])
        return list(nc.told)

    expected = asyncio.run(heard(len(HEARD), listened=False))
    assert all(asyncio.run(run(cut)) == expected for cut in range(len(HEARD)))


def test_what_followed_on_a_lost_connection_is_not_heard_on_the_next() -> None:
    async def run() -> list[Any]:
        nc: Any = Recorder()
        wire._listeners(nc)[b"7"] = lambda *words: nc.told.append((7, *words))

        async def lost() -> None:
            nc._ps.reset()

        nc._process_ping = lost
        await nc._ps.parse(b"PING\r\nMSG a.b 7 5\r\nhel")
        await nc._ps.parse(b"PONG\r\n")
        return list(nc.told)

    assert asyncio.run(run()) == ["PONG"]


def test_headers_are_read_as_they_were_written() -> None:
    headers = {"Nats-Msg-Id": "a:b", "ce-id": "c", "empty": ""}
    head = wire.head_of(headers).encode()
    assert wire.headers_of(head) == headers
    assert [wire.value_of(head, name) for name in (b"ce-id", b"empty", b"ce-i", b"c")] == ["c", "", None, None]
    assert wire.status_of(head) is None
    assert wire.status_of(b"NATS/1.0 409 Consumer Deleted\r\n\r\n") == "409"


def test_no_value_adds_a_header_and_no_subject_a_line() -> None:
    head = wire.head_of({"a": "x\r\nce-id: forged\n\r"}).encode()
    assert list(wire.headers_of(head)) == ["a"]
    with pytest.raises(BadSubjectError):
        wire.publication("a.b 0\r\nPING", "", head.decode(), b"")
    hint = PhaseProgressed(job_id=uuid4(), phase="p", attempt=1, fraction=0.5, at=clock.now())
    sent = outgoing(PHASE_PROGRESSED, hint, message_id="id", key="k\r\nce-id: forged", source="test", traceparent="")
    assert (sent.headers["ce-id"], sent.headers["ce-subject"]) == ("id", "k  ce-id: forged")


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.subject)
def test_bodies_are_byte_for_byte_what_pydantic_writes(channel: Channel[Any]) -> None:
    message = channel.message.model_validate_json((SAMPLES / f"{channel.message.TYPE}.json").read_bytes())
    sent = outgoing(channel, message, message_id="id", key="key", source="test", traceparent="")
    assert sent.body == message.model_dump_json().encode()
    assert json.loads(sent.body) == message.model_dump(mode="json")
