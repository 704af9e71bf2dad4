"""What a test sees of running services: apps on sockets, objects put in, commands sent, messages that came out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID, uuid4

import pyvips
import uvicorn
from fastapi import FastAPI
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from pydantic import JsonValue
from skimage import data as photos

from contracts.artifacts import ObjectRef
from contracts.audit import AUDIT_NOTED
from contracts.channel import Channel
from contracts.phases import RunPhase
from runtime.objects import Objects
from runtime.outbox import outgoing, publish
from runtime.service import Server
from tests.integration.conftest import until


class _Served(Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # signals are pytest's here


@dataclass
class Site:
    """An app that is served on a free port."""

    url: str
    server: Server

    async def quiet(self) -> None:
        """Wait until no request is being worked on, not even one whose client has left."""
        await until(lambda: not self.server.server_state.tasks)


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[Site]:
    """Serve as `runtime.service.run` does, in this process."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = _Served(uvicorn.Config(app, lifespan="on", log_config=None, timeout_graceful_shutdown=5))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started or task.done())
    try:
        yield Site(f"http://127.0.0.1:{listening.getsockname()[1]}", server)
    finally:
        server.should_exit = True
        await task


@dataclass(frozen=True, slots=True)
class Told:
    """One message as the stream holds it."""

    subject: str
    headers: Mapping[str, str]
    body: dict[str, Any]


async def told(nc: Client, key: str, stream: str = "EVENTS") -> list[Told]:
    """The stored messages about `key` (a job, or job.phase.attempt), oldest first."""
    return [one for one in await everything(nc, stream) if one.headers.get("ce-subject") == key]


async def acts(nc: Client, subject: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Who did what to this, and what is told of it: the lines for the audit, in their order."""
    lines = [one.body for one in await told(nc, subject) if one.subject == AUDIT_NOTED.subject]
    return [(line["who"], line["action"], line["details"]) for line in lines]


async def everything(nc: Client, stream: str = "EVENTS") -> list[Told]:
    """Every stored message of a stream, oldest first."""
    read = _read.setdefault((str(nc.connected_url), stream), {})
    last = (await nc.jetstream().stream_info(stream)).state.last_seq
    known = max(read, default=0)
    if last > known:
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=known + 1,
            inactive_threshold=5,
        )
        reader = await nc.jetstream().pull_subscribe("", stream=stream, config=config)
        while known < last:
            for one in await reader.fetch(500, timeout=5):
                known = one.metadata.sequence.stream
                read[known] = Told(one.subject, one.headers or {}, _body(one.data))
        await reader.unsubscribe()
    return [one for _, one in sorted(read.items())]


_read: dict[tuple[str, str], dict[int, Told]] = {}  # by server and stream: what was read is not read again


def _body(data: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError:  # another test's, broken on purpose
        return {}
    return found


async def outcome(nc: Client, command: RunPhase, timeout_s: float = 20.0) -> Told:
    """The one outcome of a command, as soon as it is there."""

    async def ended() -> list[Told]:
        return [one for one in await told(nc, command.key) if not one.subject.endswith((".progressed", ".noted"))]

    ends: list[Told] = await until(ended, timeout_s)
    [found] = ends
    assert found.headers["Nats-Msg-Id"] == f"{command.key}.outcome"
    return found


async def waiting(nc: Client, channel: Channel[RunPhase]) -> int:
    """Commands that nobody has settled yet."""
    info = await nc.jetstream().stream_info("COMMANDS", subjects_filter=channel.subject)
    return sum((info.state.subjects or {}).values())


async def settled(nc: Client, channel: Channel[RunPhase]) -> None:
    """Wait until the work queue holds no command of this channel."""

    async def empty() -> bool:
        return await waiting(nc, channel) == 0

    await until(empty)


async def send(nc: Client, channel: Channel[RunPhase], command: RunPhase, message_id: str | None = None) -> RunPhase:
    """Put a command on its stream. Another message id makes it what a redelivery is: the same command again."""
    message = outgoing(channel, command, message_id=message_id or command.key, key=command.key, source="test")
    await publish(nc.jetstream(), [message])
    return command


def command(phase: str, *, deadline_s: float = 60, job_id: UUID | None = None, **about: Any) -> RunPhase:
    """The first attempt of a phase of a job of its own."""
    inputs: dict[str, ObjectRef] = about.pop("inputs", {})
    parameters: dict[str, JsonValue] = about
    return RunPhase(
        job_id=job_id or uuid4(),
        phase=phase,
        attempt=1,
        tenant="demo",
        inputs=inputs,
        parameters=parameters,
        deadline=datetime.now(UTC) + timedelta(seconds=deadline_s),
    )


async def stored(objects: Objects, content: bytes, media_type: str, folder: str = "tests") -> ObjectRef:
    """An object of its own, in a folder of which a service with rights of its own may have to be able to read."""
    key = f"{folder}/{uuid4()}"
    sha256, size = await objects.put(key, content, media_type)
    return ObjectRef(key=key, sha256=sha256, size=size, media_type=media_type)


def gone() -> ObjectRef:
    """A reference to an object that is not there."""
    return ObjectRef(key=f"tests/{uuid4()}", sha256="0" * 64, size=1, media_type="image/jpeg")


@cache
def picture(suffix: str = ".jpg", width: int = 256) -> bytes:
    """A real photo (NASA's astronaut from the scikit-image wheel), `width` pixels wide."""
    pixels = photos.astronaut()  # type: ignore[no-untyped-call]
    image = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    return bytes(image.thumbnail_image(width).write_to_buffer(suffix))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
