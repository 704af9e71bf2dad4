"""What the bridge may expect of every provider, run against each of them on real storage.

A provider joins by a class in a test module:

    class TestLocal(ProviderConformance):
        @pytest.fixture(scope="class")
        @classmethod
        async def provider(cls) -> AsyncIterator[Provider]: ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from contracts.artifacts import ObjectRef
from contracts.envelope import CallRequest, CallResponse, Item, ReadUrl, WriteUrl
from contracts.errors import SafelightError
from gpu_bridge.providers.port import Available, Pending, Provider
from runtime.objects import Objects
from tests.integration.wire import picture, sha256, stored

LIVES = timedelta(minutes=5)
INVERSE = "LUT_3D_SIZE 2\n" + "".join(f"{1 - r} {1 - g} {1 - b}\n" for b in (0, 1) for g in (0, 1) for r in (0, 1))


async def styled(objects: Objects, content: bytes, **changes: Any) -> Item:
    """One photo to invert: links to its image and its LUT, and to where the result goes."""
    name = uuid4().hex
    sources = {"image": (content, "image/jpeg"), "lut": (INVERSE.encode(), "application/x-cube-lut")}
    inputs = {}
    for role, (data, media_type) in sources.items():
        ref = await stored(objects, data, media_type)
        inputs[role] = await readable(objects, ref)
    key = f"tests/{name}.png"
    target = WriteUrl(url=await objects.write_url(key, LIVES), key=key)
    return Item(id=name, inputs=inputs | changes.pop("inputs", {}), outputs={"image": target}, **changes)


async def readable(objects: Objects, ref: ObjectRef) -> ReadUrl:
    return ReadUrl(url=await objects.read_url(ref.key, LIVES), sha256=ref.sha256, size=ref.size)


def request(*items: Item, function: str = "style.apply", deadline_s: float = 60) -> CallRequest:
    """A call of its own."""
    deadline = datetime.now(UTC) + timedelta(seconds=deadline_s)
    return CallRequest(call_id=uuid4().hex, function=function, items=list(items), deadline=deadline)


async def ended(provider: Provider, handle: str) -> CallResponse:
    """Poll until the call is over."""
    while isinstance(state := await provider.poll(handle, 1.0), Pending):
        assert state.fraction is None or 0 <= state.fraction <= 1
    return state


async def code_of(provider: Provider, handle: str) -> str:
    """Why a call ended badly: its error is raised, or data of the answer or of its only item."""
    try:
        answer = await ended(provider, handle)
    except SafelightError as problem:
        return problem.code
    problem_data = answer.error or answer.items[0].error
    assert problem_data is not None
    return problem_data.code


@dataclass
class Stall:
    """A server that takes requests and answers none: what reads from it is in mid-call."""

    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    def link(self) -> ReadUrl:
        return ReadUrl(url=f"{self.url}/{uuid4()}", sha256="0" * 64, size=10)


@asynccontextmanager
async def stalling() -> AsyncIterator[Stall]:
    stall = Stall()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        stall.asked.set()
        await reader.read()  # until the caller hangs up
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    stall.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield stall
    server.close()


class ProviderConformance:
    """`provider` is of the implementing class, `objects` and `stall` come from its module."""

    async def test_it_takes_work(self, provider: Provider) -> None:
        assert await provider.availability() == Available()

    async def test_a_call_reads_and_writes_by_links_and_says_what_it_wrote(
        self, provider: Provider, objects: Objects
    ) -> None:
        item = await styled(objects, picture())
        asked = request(item)
        answer = await ended(provider, await provider.submit(asked))
        assert (answer.call_id, answer.function, answer.error) == (asked.call_id, "style.apply", None)
        assert answer.engine
        assert answer.device
        [result] = answer.items
        assert (result.id, result.error) == (item.id, None)
        wrote = result.outputs["image"]
        content = await objects.get(item.outputs["image"].key)
        assert (wrote.key, wrote.sha256, wrote.size) == (item.outputs["image"].key, sha256(content), len(content))
        assert (wrote.media_type, wrote.width, wrote.height) == ("image/png", 256, 256)

    async def test_the_answer_is_given_once(self, provider: Provider, objects: Objects) -> None:
        handle = await provider.submit(request(await styled(objects, picture())))
        await ended(provider, handle)
        with pytest.raises(SafelightError, match="CALL_LOST"):
            await provider.poll(handle, 0.1)

    async def test_one_bad_item_costs_its_neighbours_nothing(self, provider: Provider, objects: Objects) -> None:
        good, bad = await styled(objects, picture()), await styled(objects, b"no picture")
        answer = await ended(provider, await provider.submit(request(bad, good)))
        codes = {result.id: result.error.code if result.error else None for result in answer.items}
        assert codes == {bad.id: "IMAGE_CORRUPT", good.id: None}

    async def test_an_input_that_is_another_one_is_refused(self, provider: Provider, objects: Objects) -> None:
        item = await styled(objects, picture())
        lie = item.inputs["image"].model_copy(update={"sha256": sha256(b"other bytes")})
        exchanged = item.model_copy(update={"inputs": item.inputs | {"image": lie}})
        assert await code_of(provider, await provider.submit(request(exchanged))) == "OBJECT_MISSING"

    async def test_an_unknown_function_is_said_as_data(self, provider: Provider, objects: Objects) -> None:
        item = await styled(objects, picture())
        answer = await ended(provider, await provider.submit(request(item, function="no.such")))
        assert answer.error
        assert answer.error.code == "FUNCTION_UNKNOWN"

    async def test_more_calls_than_workers_all_end(self, provider: Provider, objects: Objects) -> None:
        items = [await styled(objects, picture(width=64)) for _ in range(6)]
        handles = [await provider.submit(request(item)) for item in items]
        answers = await asyncio.gather(*(ended(provider, handle) for handle in handles))
        assert [answer.items[0].id for answer in answers] == [item.id for item in items]

    async def test_a_call_is_over_at_its_deadline(self, provider: Provider, objects: Objects, stall: Stall) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item, deadline_s=1.5))
        assert await asyncio.wait_for(code_of(provider, handle), 6) == "CALL_DEADLINE"

    async def test_a_call_after_its_deadline_is_not_begun(
        self, provider: Provider, objects: Objects, stall: Stall
    ) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item, deadline_s=-1))
        assert await code_of(provider, handle) == "CALL_DEADLINE"
        assert not stall.asked.is_set()

    async def test_waiting_for_news_is_bounded(self, provider: Provider, objects: Objects, stall: Stall) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item))
        assert isinstance(await asyncio.wait_for(provider.poll(handle, 0.05), 3), Pending)
        await provider.cancel(handle)

    async def test_news_that_nobody_took_is_there_for_the_next_who_asks(
        self, provider: Provider, objects: Objects
    ) -> None:
        asked = request(await styled(objects, picture()))
        handle = await provider.submit(asked)
        first = asyncio.create_task(provider.poll(handle, 30))
        await asyncio.sleep(0)  # it asks now
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await ended(provider, handle)).call_id == asked.call_id

    async def test_a_cancelled_call_is_forgotten(self, provider: Provider, objects: Objects, stall: Stall) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item))
        await stall.asked.wait()
        await provider.cancel(handle)
        with pytest.raises(SafelightError, match="CALL_LOST"):
            await provider.poll(handle, 0.1)
        await ended(provider, await provider.submit(request(await styled(objects, picture()))))

    async def test_a_handle_that_nobody_gave_is_lost(self, provider: Provider) -> None:
        with pytest.raises(SafelightError, match="CALL_LOST"):
            await provider.poll("no-such", 0.1)
        await provider.cancel("no-such")
