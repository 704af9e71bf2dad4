"""A visit: what the provider says of a submission, what its marks say, what its clocks say, and what follows.

no handle (the answer was lost)     the claim tells: somebody's -> that is the handle; nobody's -> once more,
                                    under the same epoch; still nobody's -> a void claim, and back to the queue
an answer, or an end without one    the result object is the truth
a clock has run out                 who waits is told at once; the provider is asked to stop; the call is let go
                                    when it is seen to be over, or after a while
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from contracts.envelope import VOID, CallResponse, Claim, ItemResult, Progress, Result, SpanRecord, Usage
from contracts.errors import SafelightError
from contracts.phases import PHASE_PROGRESSED, PhaseProgressed
from gpu_bridge import store
from gpu_bridge.acts import SOURCE
from gpu_bridge.call import Call, State, about, kept, numbers, overdue, shown
from gpu_bridge.catalog import Function
from gpu_bridge.ledger import Ledger
from gpu_bridge.marks import MarkStore
from gpu_bridge.providers.port import Broken, Ended, News, Pending, Provider
from gpu_bridge.store import Run
from gpu_bridge.submission import submitted
from gpu_bridge.vendors import Vendors
from gpu_bridge.watches import Watch, Watches
from runtime import clock, logs
from runtime.outbox import outgoing, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

POLL_S: Final = 10.0  # a poll that has no answer by then is given up
POLL_WAIT_S: Final = 4.0  # of a provider in this process, which can be listened to
CANCEL_S: Final = 5.0
SUBMISSIONS_MAX: Final = 2  # of one epoch
PROVIDERS_DOING: Final = (
    "CALL_START_DEADLINE",
    "CALL_STALLED",
    "CALL_RUN_DEADLINE",
    "CALL_LOST",
    "CALL_KILLED",
    "CALL_EXPIRED",
)
log = logs.get()


class Visitor:
    """Visits watches. `room` is set when a call has ended: another may go."""

    def __init__(
        self,
        ledger: Ledger,
        marks: MarkStore,
        vendors: Vendors,
        js: JetStreamContext,
        watches: Watches,
        room: asyncio.Event,
        functions: Sequence[Function],
    ) -> None:
        self._ledger = ledger
        self._marks = marks
        self._vendors = vendors
        self._js = js
        self._watches = watches
        self._room = room
        self._functions = {function.name: function for function in functions}

    async def accepted(self, provider: Provider, handle: str, calls: Sequence[Call]) -> None:
        """A provider has given its handle."""
        ours = []
        for call in calls:
            try:
                state = await self._ledger.accepted(call, handle)
            except SafelightError as problem:  # noted when the claim is read
                log.warning("watcher.handle_not_noted", key=call.key, code=problem.code)
                state = call.state
            if state is not None:
                ours.append(call)
        if ours:
            self._watches.add(Watch(provider, handle, ours))

    async def look(self, watch: Watch) -> None:
        """One visit."""
        if watch.handle is None:
            await self._ask_the_claim(watch)
            return
        if watch.is_stopping and watch.stopped_at is None:
            await self._tell_to_stop(watch)
        news = await self._news(watch)
        match news:
            case Ended(response):
                await self._ended(watch, response)
            case Broken(code):
                await self._broken(watch, code)
            case _:
                await self._pending(watch, news.fraction if news else None)

    async def _news(self, watch: Watch) -> News | None:
        """What the provider says; None when it cannot be asked."""
        provider, handle = watch.provider, watch.handle
        if provider is None or handle is None:  # not here any more
            return None
        wait_s = 0.0 if provider.capabilities.shared else POLL_WAIT_S
        try:
            async with asyncio.timeout(POLL_S):
                return await self._listen(watch, provider, handle, wait_s)
        except Exception as problem:
            code = problem.code if isinstance(problem, SafelightError) else type(problem).__name__
            log.warning("watcher.provider_silent", provider=provider.name, error=code)
            if code == "PROVIDER_UNAUTHORIZED":
                await self._ledger.pause(provider.name, str(problem))
            return None

    async def _listen(self, watch: Watch, provider: Provider, handle: str, wait_s: float) -> News:
        """Poll; a stop that comes meanwhile ends the wait."""
        if not wait_s:
            return await provider.poll(handle, 0.0)
        poll = asyncio.ensure_future(provider.poll(handle, wait_s))
        wanted = asyncio.ensure_future(watch.wanted.wait())
        try:
            await asyncio.wait((poll, wanted), return_when=asyncio.FIRST_COMPLETED)
            return poll.result() if poll.done() else Pending(watch.fraction)
        finally:
            poll.cancel()
            wanted.cancel()
            await asyncio.gather(poll, wanted, return_exceptions=True)

    # -- it is over -----------------------------------------------------------------------------

    async def _ended(self, watch: Watch, response: CallResponse) -> None:
        items = {item.id: item for item in response.items}
        alone = len(watch.calls) == 1
        for call in list(watch.calls):
            item = items.get(call.key)
            if item is not None and item.duplicate_of:
                await self._followed(watch, call, item.duplicate_of)
                continue
            if response.error is not None:
                item = ItemResult(id=call.key, error=response.error)
            # The answer is of the whole call. Of one among many, or when the two might differ, the object is asked.
            doubtful = item is None or item.error is not None or not alone
            if doubtful and (result := await self._marks.result(call)) is not None:
                await self._settle_result(watch, call, result)
            elif item is None:
                await self._without_answer(watch, call, "CALL_LOST")
            else:
                usage, spans = (response.usage, response.spans) if alone else (None, ())
                await self._settle(watch, call, item, response.engine, response.device, usage, spans)

    async def _followed(self, watch: Watch, call: Call, owner: str) -> None:
        """The work is another submission's: of this epoch, since its answer was lost; or nobody's any more."""
        claim = await self._marks.claim(call)
        if claim is None or claim.owner != owner or owner == watch.handle:
            await self._without_answer(watch, call, "CALL_LOST")
        else:
            await self._follow(watch, call, claim)

    async def _follow(self, watch: Watch, call: Call, claim: Claim) -> None:
        """Watch the submission that has claimed the epoch, whose handle we were never given; a void one is no more."""
        self._watches.drop(watch, call)
        if claim.owner == VOID:
            await self._ledger.give_back(call, Run(code="CALL_START_DEADLINE"), refused=True)
            self._room.set()
        elif await self._ledger.accepted(call, claim.owner) is not None:
            await self._ledger.started(call, claim.at)
            found = Watch(watch.provider, claim.owner, [call], adopted=True, started_at=claim.at, heard_at=claim.at)
            self._watches.add(found)

    async def _broken(self, watch: Watch, code: str) -> None:
        for call in list(watch.calls):
            await self._without_answer(watch, call, code)

    async def _without_answer(self, watch: Watch, call: Call, code: str) -> None:
        """The provider says that it is over, and no more: the result object may say how."""
        result = await self._marks.result(call)
        if result is not None:
            await self._settle_result(watch, call, result)
            return
        provider = watch.provider
        run = Run(code=code)
        if code in PROVIDERS_DOING:
            self._vendors.failed(call)
        if call.state is State.STOPPING:
            await self._ledger.let_go(call, run)
        elif watch.adopted and provider is not None and not provider.capabilities.shared:
            await self._ledger.give_back(call, run, refused=False)  # it died with the bridge whose child it was
        else:
            await self._ledger.fail(call, run)
        self._over(watch, call)

    async def _settle_result(self, watch: Watch, call: Call, result: Result) -> None:
        await self._settle(watch, call, result.item, result.engine, result.device, result.usage, result.spans)

    async def _settle(
        self,
        watch: Watch,
        call: Call,
        item: ItemResult,
        engine: str,
        device: str,
        usage: Usage | None,
        spans: Sequence[SpanRecord],
    ) -> None:
        """The function has ended, well or badly: the provider has done its part."""
        self._vendors.breaker.succeeded(call.provider, call.function)
        if call.started_at is None and usage is not None:
            await self._ledger.started(call, usage.started_at)
        try:
            if item.error is not None:
                run = self._run(call, device, usage, item.error.code)
                await (
                    self._ledger.let_go(call, run)
                    if call.state is State.STOPPING
                    else self._ledger.fail(call, run, item.error.detail, spans)
                )
            else:
                function = self._functions[call.function]
                barred = self._vendors.barred(call.tenant, function) if call.sensitive else {}
                found = kept(call, function, item, engine, device, barred)
                await self._ledger.succeed(call, found, self._run(call, device, usage, None), spans)
        except SafelightError as problem:
            if problem.row.transient:
                raise
            await self._ledger.fail(call, Run(code=problem.code), problem.detail)
        self._over(watch, call)

    def _run(self, call: Call, device: str, usage: Usage | None, code: str | None) -> Run:
        if usage is None:
            return Run(code=code, device=device or None)
        lasted_s = max(0.0, (usage.ended_at - usage.started_at).total_seconds())
        run_s = lasted_s if usage.run_s is None else min(max(0.0, usage.run_s), lasted_s)
        machine = usage.machine or device
        bill = self._vendors.terms.bill(call.provider, machine, run_s, usage.boot_s)
        return Run(code, machine, usage.cold, run_s, bill, self._vendors.terms.currency)

    def _over(self, watch: Watch, call: Call) -> None:
        """Room is made by whole submissions: what waits for it would otherwise go one by one, as these end."""
        self._watches.drop(watch, call)
        if not watch.calls:
            self._room.set()

    # -- it is not over -------------------------------------------------------------------------

    async def _pending(self, watch: Watch, fraction: float | None) -> None:
        now = clock.now()
        long = self._functions[watch.calls[0].function].long
        if fraction is not None and not long:
            await self._heard(watch, fraction, now, now)
        elif watch.looked_at is None or now - watch.looked_at >= timedelta(seconds=self._watches.marks_every_s()):
            watch.looked_at = now
            await self._look_at_marks(watch)
            if not watch.calls:
                return
        if watch.stopped_at is not None:
            if now >= watch.stopped_at + timedelta(seconds=self._watches.pace.stop_grace_s):
                for call in list(watch.calls):  # it stops itself at its deadline; the claim is of this epoch only
                    log.warning("watcher.never_seen_over", key=call.key, provider=call.provider)
                    await self._ledger.let_go(call, Run(code=call.code or "CALL_KILLED"))
                    self._over(watch, call)
            return
        function = self._functions[watch.calls[0].function]
        deadline = max(call.deadline for call in watch.calls)
        spawned_at = watch.calls[0].spawned_at
        clocks, total = function.clocks, len(watch.calls)
        code = overdue(clocks, total, spawned_at, watch.started_at, watch.heard_at, deadline, now)
        if code == "CALL_START_DEADLINE":
            await self._never_started(watch)
        elif code is not None:
            self._vendors.failed(watch.calls[0])
            for call in list(watch.calls):
                if call.state is not State.STOPPING and not await self._ledger.stop(call, code):
                    self._watches.drop(watch, call)
            self._watches.hurry(watch)

    async def _look_at_marks(self, watch: Watch) -> None:
        """What the function says of itself: that it has begun, and how far it is."""
        if watch.started_at is None:
            for call in list(watch.calls):
                claim = await self._marks.claim(call)
                if claim is None:
                    continue
                if claim.owner != watch.handle:
                    await self._follow(watch, call, claim)
                    continue
                watch.started_at = watch.heard_at = claim.at
                await self._ledger.started(call, claim.at)
                break
            return
        told = [progress for call in watch.calls if (progress := await self._marks.progress(call))]
        if told:
            newest = max(told, key=lambda progress: progress.at)
            share = sum(progress.fraction for progress in told) / len(watch.calls)
            await self._heard(watch, min(1.0, share), newest.at, clock.now(), newest)

    async def _heard(
        self, watch: Watch, fraction: float, at: datetime, now: datetime, told: Progress | None = None
    ) -> None:
        if watch.started_at is None:
            watch.started_at = at
            for call in watch.calls:
                await self._ledger.started(call, at)
        if fraction == watch.fraction:
            return
        watch.fraction, watch.heard_at = fraction, min(at, now)
        if not watch.is_stopping:
            await self._tell_progress(watch, fraction, told)

    async def _tell_progress(self, watch: Watch, fraction: float, told: Progress | None) -> None:
        hints = []
        more: dict[str, Any] = {}
        if told and len(watch.calls) == 1:  # of a batch's calls nobody knows whose numbers these are
            function = self._functions[watch.calls[0].function]
            more = {"facts": numbers(told), "artifacts": list(shown(watch.calls[0], function, told))}
        async with self._ledger.engine.connect() as conn:
            for call in watch.calls:
                for one in await store.followers(conn, call.key):
                    message = PhaseProgressed(**about(one.command), fraction=fraction, at=clock.now(), **more)
                    key = one.command.key
                    id_ = f"{key}.progress.{call.epoch}.{fraction:.3f}"
                    hints.append(outgoing(PHASE_PROGRESSED, message, message_id=id_, key=key, source=SOURCE))
        try:
            await publish(self._js, hints)
        except SafelightError:
            log.info("watcher.progress_lost")

    async def _never_started(self, watch: Watch) -> None:
        """A void claim keeps it from starting late; then another provider may have it."""
        self._vendors.failed(watch.calls[0])
        for call in list(watch.calls):
            claim = await self._marks.void(call)
            if claim is not None:  # it has started after all
                if claim.owner != watch.handle:
                    await self._follow(watch, call, claim)
                else:
                    watch.started_at = watch.heard_at = claim.at
                continue
            run = Run(code="CALL_START_DEADLINE")
            if call.state is State.STOPPING:
                await self._ledger.let_go(call, run)
            else:
                await self._ledger.give_back(call, run, refused=True)
            self._over(watch, call)
        if not watch.calls and watch.provider is not None and watch.handle is not None:
            await self._cancel(watch.provider, watch.handle)

    # -- the answer was lost --------------------------------------------------------------------

    async def _ask_the_claim(self, watch: Watch) -> None:
        """Whether the provider has it is open. The claim tells, by and by."""
        for call in list(watch.calls):
            claim = await self._marks.claim(call)
            if claim is None:
                continue
            await self._follow(watch, call, claim)
        if not watch.calls:
            return
        if watch.is_stopping:
            await self._never_started(watch)
            return
        now = clock.now()
        provider = watch.provider
        asked_s = self._watches.pace.spawn_lease_s * watch.submissions
        gone = watch.adopted and provider is not None and not provider.capabilities.shared  # with its bridge
        if not gone and now < watch.calls[0].spawned_at + timedelta(seconds=asked_s):
            return
        if provider is None or watch.submissions >= SUBMISSIONS_MAX or now >= watch.calls[0].deadline:
            await self._never_started(watch)
            return
        watch.submissions += 1
        watch.adopted = False  # it is ours from here on
        async with self._ledger.engine.connect() as conn:
            commands = await store.commands_of(conn, [call.key for call in watch.calls])
        try:
            handle = await submitted(
                provider, self._functions[watch.calls[0].function], watch.calls, commands, self._marks
            )
        except SafelightError as problem:
            log.warning("watcher.still_open", provider=provider.name, code=problem.code)
            if problem.code == "PROVIDER_UNAUTHORIZED":
                await self._ledger.pause(provider.name, problem.detail)
            return
        calls = list(watch.calls)
        for call in calls:
            self._watches.drop(watch, call)
        await self.accepted(provider, handle, calls)

    # -- stops ----------------------------------------------------------------------------------

    async def _tell_to_stop(self, watch: Watch) -> None:
        watch.stopped_at = clock.now()
        if watch.provider is not None and watch.handle is not None:
            await self._cancel(watch.provider, watch.handle)

    async def _cancel(self, provider: Provider, handle: str) -> None:
        """Once, bounded: a provider that does not hear it is left to the call's own deadline."""
        try:
            async with asyncio.timeout(CANCEL_S):
                await provider.cancel(handle)
        except Exception as problem:
            log.warning("watcher.cancel_unheard", provider=provider.name, error=type(problem).__name__)
