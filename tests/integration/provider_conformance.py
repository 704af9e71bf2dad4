"""What the bridge may expect of every provider, run against each of them on real storage.

A provider joins by a class in a test module that also has the fixtures `objects` and `stall`:

    class TestLocal(ProviderConformance):
        @pytest.fixture(scope="class")
        @classmethod
        async def provider(cls) -> AsyncIterator[Provider]: ...

Handles are the provider's own. What a provider can not do (its `capabilities`) is not asked of it.
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
from contracts.envelope import (
    VOID,
    CallRequest,
    CallResponse,
    Claim,
    Item,
    ItemResult,
    Marks,
    ReadUrl,
    Result,
    WriteUrl,
)
from gpu_bridge.providers.port import Available, Broken, Ended, News, Pending, Provider
from runtime.objects import Objects
from tests.integration.conftest import until
from tests.integration.wire import picture, sha256, stored

LIVES = timedelta(minutes=5)
INVERSE = "LUT_3D_SIZE 2\n" + "".join(f"{1 - r} {1 - g} {1 - b}\n" for b in (0, 1) for g in (0, 1) for r in (0, 1))
CALL_S = 60.0  # a call of these tests is over by then, on any provider, its start included
OVER_TIME = frozenset({"CALL_DEADLINE", "CALL_RUN_DEADLINE"})


async def styled(objects: Objects, content: bytes, **changes: Any) -> Item:
    """One photo to invert: links to its image and its LUT, to where the result goes, and to its marks."""
    name = uuid4().hex
    sources = {"image": (content, "image/jpeg"), "lut": (INVERSE.encode(), "application/x-cube-lut")}
    inputs = {}
    for role, (data, media_type) in sources.items():
        ref = await stored(objects, data, media_type)
        inputs[role] = await readable(objects, ref)
    key = f"tests/{name}.png"
    target = WriteUrl(url=await objects.write_url(key, LIVES), key=key)
    inputs |= changes.pop("inputs", {})
    return Item(id=name, inputs=inputs, outputs={"image": target}, marks=await marked(objects, name), **changes)


async def readable(objects: Objects, ref: ObjectRef) -> ReadUrl:
    return ReadUrl(url=await objects.read_url(ref.key, LIVES), sha256=ref.sha256, size=ref.size)


async def marked(objects: Objects, name: str) -> Marks:
    """Links to the marks of the item `name`, which lie where `key_of` says."""
    return Marks(
        claim=await objects.write_url(key_of(name, "claim"), LIVES),
        claimed=await objects.read_url(key_of(name, "claim"), LIVES),
        progress=await objects.write_url(key_of(name, "progress"), LIVES),
        result=await objects.write_url(key_of(name, "result"), LIVES),
    )


def key_of(name: str, mark: str) -> str:
    return f"tests/{name}.{mark}.json"


async def owner_of(objects: Objects, item: Item) -> str:
    """Who has claimed an item. Raises OBJECT_MISSING when nobody has."""
    return Claim.model_validate_json(await objects.get(key_of(item.id, "claim"))).owner


async def result_of(objects: Objects, item: Item) -> Result:
    """The result object of an item. Raises OBJECT_MISSING when there is none."""
    return Result.model_validate_json(await objects.get(key_of(item.id, "result")))


async def has(objects: Objects, item: Item, mark: str) -> bool:
    return await objects.size(key_of(item.id, mark)) is not None


def request(*items: Item, function: str = "style.apply", deadline_s: float = CALL_S, version: int = 1) -> CallRequest:
    """A call of its own."""
    return CallRequest(
        call_id=uuid4().hex,
        function=function,
        function_version=version,
        items=list(items),
        deadline=datetime.now(UTC) + timedelta(seconds=deadline_s),
    )


async def over(provider: Provider, handle: str) -> Ended | Broken:
    """Poll until the call is over, however it ends."""

    async def poll() -> Ended | Broken:
        while isinstance(news := await provider.poll(handle, 1.0), Pending):
            assert news.fraction is None or 0 <= news.fraction <= 1
        return news

    return await asyncio.wait_for(poll(), CALL_S + 10)


async def ended(provider: Provider, handle: str) -> CallResponse:
    """The answer of a call that has one."""
    news = await over(provider, handle)
    assert isinstance(news, Ended), news
    return news.response


async def answered(provider: Provider, asked: CallRequest) -> tuple[str, CallResponse]:
    """Submit and wait: the handle, and the answer."""
    handle = await provider.submit(asked)
    return handle, await ended(provider, handle)


async def code_of(provider: Provider, handle: str) -> str:
    """Why a call ended badly: it broke, or its answer says why, or that of its only item does."""
    news = await over(provider, handle)
    if isinstance(news, Broken):
        return news.code
    problem = news.response.error or news.response.items[0].error
    assert problem is not None
    return problem.code


@dataclass
class Stall:
    """A server that takes requests and answers none: what reads from it is in mid-call."""

    url: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    times: int = 0

    def link(self) -> ReadUrl:
        return ReadUrl(url=f"{self.url}/{uuid4()}", sha256="0" * 64, size=10)


@asynccontextmanager
async def stalling() -> AsyncIterator[Stall]:
    stall = Stall()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        stall.times += 1
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
        assert await provider.health() == Available()

    async def test_it_says_what_it_is(self, provider: Provider) -> None:
        able = provider.capabilities
        assert provider.name
        assert able.device in ("cpu", "gpu")
        assert able.retention_s >= 0

    async def test_capacity_can_be_asked_for_at_any_time(self, provider: Provider) -> None:
        await provider.prewarm("style.apply")

    # -- a call and its answer --------------------------------------------------------------

    async def test_a_call_reads_and_writes_by_links_and_says_what_it_wrote(
        self, provider: Provider, objects: Objects
    ) -> None:
        item = await styled(objects, picture())
        asked = request(item)
        _, answer = await answered(provider, asked)
        assert (answer.call_id, answer.function, answer.error) == (asked.call_id, "style.apply", None)
        assert answer.engine
        assert answer.device
        [result] = answer.items
        assert (result.id, result.error, result.duplicate_of) == (item.id, None, None)
        wrote = result.outputs["image"]
        content = await objects.get(item.outputs["image"].key)
        assert (wrote.key, wrote.sha256, wrote.size) == (item.outputs["image"].key, sha256(content), len(content))
        assert (wrote.media_type, wrote.width, wrote.height) == ("image/png", 256, 256)

    async def test_an_answer_says_what_was_used(self, provider: Provider, objects: Objects) -> None:
        before = datetime.now(UTC)
        _, answer = await answered(provider, request(await styled(objects, picture(width=64))))
        assert answer.usage
        assert before <= answer.usage.started_at <= answer.usage.ended_at <= datetime.now(UTC)
        assert answer.usage.cold or answer.usage.boot_s == 0

    async def test_an_answer_can_be_asked_for_again(self, provider: Provider, objects: Objects) -> None:
        handle, answer = await answered(provider, request(await styled(objects, picture(width=64))))
        assert await provider.poll(handle, 1.0) == Ended(answer)

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

    async def test_one_bad_item_costs_its_neighbours_nothing(self, provider: Provider, objects: Objects) -> None:
        good, bad = await styled(objects, picture()), await styled(objects, b"no picture")
        _, answer = await answered(provider, request(bad, good))
        codes = {result.id: result.error.code if result.error else None for result in answer.items}
        assert codes == {bad.id: "IMAGE_CORRUPT", good.id: None}
        for item, said in zip((bad, good), answer.items, strict=True):
            assert (await result_of(objects, item)).item == said

    async def test_an_input_that_is_another_one_is_refused(self, provider: Provider, objects: Objects) -> None:
        item = await styled(objects, picture())
        lie = item.inputs["image"].model_copy(update={"sha256": sha256(b"other bytes")})
        exchanged = item.model_copy(update={"inputs": item.inputs | {"image": lie}})
        assert await code_of(provider, await provider.submit(request(exchanged))) == "OBJECT_MISSING"

    @pytest.mark.parametrize(
        ("function", "version"),
        [
            pytest.param("no.such", 1, id="no such function"),
            pytest.param("style.apply", 99, id="no such version of it"),
        ],
    )
    async def test_what_no_engine_can_do_is_said_as_data_and_claims_nothing(
        self, provider: Provider, objects: Objects, function: str, version: int
    ) -> None:
        item = await styled(objects, picture(width=64))
        _, answer = await answered(provider, request(item, function=function, version=version))
        assert answer.error
        assert answer.error.code == "FUNCTION_UNKNOWN"
        assert answer.error.detail
        assert not await has(objects, item, "claim")

    async def test_more_calls_than_workers_all_end(self, provider: Provider, objects: Objects) -> None:
        items = [await styled(objects, picture(width=64)) for _ in range(6)]
        handles = [await provider.submit(request(item)) for item in items]
        answers = await asyncio.gather(*(ended(provider, handle) for handle in handles))
        assert [answer.items[0].id for answer in answers] == [item.id for item in items]

    # -- each item once ---------------------------------------------------------------------

    async def test_an_item_is_claimed_with_the_handle_and_its_result_is_what_the_answer_says(
        self, provider: Provider, objects: Objects
    ) -> None:
        items = [await styled(objects, picture(width=64)) for _ in range(2)]
        handle, answer = await answered(provider, request(*items))
        for item, said in zip(items, answer.items, strict=True):
            assert await owner_of(objects, item) == handle
            result = await result_of(objects, item)
            assert result.item == said
            assert (result.owner, result.function) == (handle, "style.apply")
            assert (result.engine, result.device) == (answer.engine, answer.device)
            assert answer.usage
            assert answer.usage.started_at <= result.usage.started_at <= result.usage.ended_at <= answer.usage.ended_at
            assert {span.name for span in result.spans} >= {"gpu.call", "gpu.engine"}

    async def test_an_item_whose_work_is_done_is_not_worked_on_again(
        self, provider: Provider, objects: Objects
    ) -> None:
        item = await styled(objects, picture(width=64))
        first, answer = await answered(provider, request(item))
        result = await objects.get(key_of(item.id, "result"))
        await objects.remove(item.outputs["image"].key)  # so that it shows if anybody writes it again
        second, again = await answered(provider, request(item))
        assert second != first
        assert again.items == [ItemResult(id=item.id, duplicate_of=first)]
        assert await objects.size(item.outputs["image"].key) is None
        assert await objects.get(key_of(item.id, "result")) == result
        assert answer.items[0].duplicate_of is None

    async def test_of_two_calls_for_an_item_at_once_one_works(self, provider: Provider, objects: Objects) -> None:
        items = [await styled(objects, picture(width=64)) for _ in range(3)]
        (one, first), (two, second) = await asyncio.gather(
            answered(provider, request(*items)), answered(provider, request(*items))
        )
        for item, here, there in zip(items, first.items, second.items, strict=True):
            assert {here.duplicate_of, there.duplicate_of} in ({None, one}, {None, two})
            worked = here if here.duplicate_of is None else there
            assert worked.outputs["image"].key == item.outputs["image"].key
            assert (await result_of(objects, item)).item == worked

    async def test_an_item_that_another_call_is_at_is_left_to_it(
        self, provider: Provider, objects: Objects, stall: Stall
    ) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        at_it = await provider.submit(request(item))
        await stall.asked.wait()
        neighbour = await styled(objects, picture(width=64))
        _, answer = await answered(provider, request(item, neighbour))
        assert [one.duplicate_of for one in answer.items] == [at_it, None]
        assert answer.items[1].error is None
        assert stall.times == 1
        assert isinstance(await provider.poll(at_it, 0.01), Pending)
        await provider.cancel(at_it)

    async def test_what_nobody_may_work_on_any_more_is_left_alone(
        self, provider: Provider, objects: Objects, stall: Stall
    ) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        void = Claim(owner=VOID, at=datetime.now(UTC)).model_dump_json().encode()
        await objects.put(key_of(item.id, "claim"), void, "application/json")
        _, answer = await answered(provider, request(item))
        assert answer.items == [ItemResult(id=item.id, duplicate_of=VOID)]
        assert stall.times == 0
        assert not await has(objects, item, "result")

    # -- time -------------------------------------------------------------------------------

    async def test_a_call_is_over_at_its_deadline(self, provider: Provider, objects: Objects, stall: Stall) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        await answered(provider, request(await styled(objects, picture(width=64))))  # it is warm now
        handle = await provider.submit(request(item, deadline_s=3))
        assert await asyncio.wait_for(code_of(provider, handle), 13) in OVER_TIME
        if await has(objects, item, "result"):
            late = await result_of(objects, item)
            assert late.item.error
            assert late.item.error.code == "CALL_DEADLINE"

    async def test_a_call_after_its_deadline_is_not_begun(
        self, provider: Provider, objects: Objects, stall: Stall
    ) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item, deadline_s=-1))
        assert await code_of(provider, handle) in OVER_TIME
        assert not stall.asked.is_set()
        assert not await has(objects, item, "claim")

    async def test_waiting_for_news_is_bounded(self, provider: Provider, objects: Objects, stall: Stall) -> None:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item))
        assert isinstance(await asyncio.wait_for(provider.poll(handle, 0.05), 3), Pending)
        await provider.cancel(handle)

    # -- stopping ---------------------------------------------------------------------------

    async def test_a_cancelled_call_breaks_and_others_go_on(
        self, provider: Provider, objects: Objects, stall: Stall
    ) -> None:
        if not provider.capabilities.cancels:
            pytest.skip("it cannot be asked to stop a call")
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item))
        await stall.asked.wait()
        waiting = asyncio.create_task(over(provider, handle))
        await asyncio.sleep(0)  # it asks now
        await provider.cancel(handle)
        assert isinstance(await waiting, Broken)
        assert isinstance(await over(provider, handle), Broken)
        assert not await has(objects, item, "result")
        await answered(provider, request(await styled(objects, picture(width=64))))

    async def test_a_call_that_is_over_keeps_its_answer_when_it_is_cancelled(
        self, provider: Provider, objects: Objects
    ) -> None:
        handle, answer = await answered(provider, request(await styled(objects, picture(width=64))))
        await provider.cancel(handle)
        assert await provider.poll(handle, 1.0) == Ended(answer)

    async def test_a_handle_that_nobody_gave_is_broken(self, provider: Provider) -> None:
        async def told() -> News | None:
            news = await provider.poll("no-such", 0.1)
            return None if isinstance(news, Pending) else news

        assert isinstance(await until(told), Broken)
        await provider.cancel("no-such")
