"""The bridge alone, with Modal: real processes of it, a local Modal platform that runs what is deployed, real servers.

Who asks for GPU work is the test: it sends commands as the orchestrator does, and reads what was published.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from modal_proto import api_pb2

from contracts.artifacts import ObjectRef
from contracts.envelope import CallResponse
from contracts.phases import RUN_STYLE, STOP_GPU, RunPhase, StopPhase
from runtime.outbox import outgoing, publish
from stack import ports
from tests.chaos.house import PATIENCE_S, House, _Nursery, until
from tests.integration.provider_conformance import INVERSE
from tests.integration.wire import Told, command, send, stored, told
from tests.servers.modal import ModalPlatform

APP: Final = "deploy.modal.app"
BRIDGE, SECOND = "gpu-bridge", "second"
# fmt: off
QUIET: Final = {  # nothing of these when nothing is left to do
    "calls in the ledger":     "SELECT count(*) FROM gpu_bridge.calls WHERE ended_at IS NULL",
    "commands that wait":      "SELECT count(*) FROM gpu_bridge.commands WHERE state = 'waiting'",
    "epochs that are open":    "SELECT count(*) FROM gpu_bridge.epochs WHERE ended_at IS NULL",
    "in the bridge's outbox":  "SELECT count(*) FROM gpu_bridge.outbox",
}
# fmt: on


class Epoch(NamedTuple):
    """A row of the books."""

    epoch: int
    provider: str
    handle: str | None
    code: str | None


@dataclass(frozen=True, slots=True)
class Bought:
    """What became of one call: its epochs as the ledger has them, and what was done for it anywhere.

    `spawns`: calls on Modal that carry it. `paid`: those of them whose body did its work; the others found it
    claimed. `local`: bodies that ran to their end here.
    """

    epochs: list[Epoch]
    spawns: int
    paid: list[str]
    local: int


class ModalHouse(House):
    """A bridge, and a second one when it is asked for. `platform` is what Modal sees, and where it is broken."""

    services = (BRIDGE,)

    def __init__(self, home: Path, platform: ModalPlatform) -> None:
        super().__init__(home)
        self.platform = platform
        self._answers: dict[str, dict[str, bool]] = {}

    def _environment(self, name: str) -> dict[str, str]:
        modal = {**self.platform.environment(), "SAFELIGHT_MODAL_APP": "safelight-gpu"}
        return super()._environment(name) | modal

    async def furnish(self) -> None:
        """Put what commands refer to where it is read from."""
        self._inputs: dict[str, ObjectRef] = {
            "image": await stored(self.objects, self.photo, "image/jpeg", "uploads"),
            "lut": await stored(self.objects, INVERSE.encode(), "application/x-cube-lut", "styles"),
        }

    def start_second(self) -> None:
        """Another bridge on the same servers."""
        if SECOND not in self._nurseries:
            own = {"SAFELIGHT_HTTP_PORT": str(ports.anywhere()[BRIDGE])}
            self._nurseries[SECOND] = _Nursery(BRIDGE, self.folder, self._environment(BRIDGE) | own)
        self.start(SECOND)

    def restart_broker(self) -> None:
        """kill -9 of it; what it had on its disk it still has."""
        [broker] = (server for server in self._servers if server.child.program.name == "nats")
        broker.kill()
        broker.restart()

    # -- what is asked -------------------------------------------------------------------------

    def given(self, **changes: Any) -> RunPhase:
        """A command, by work of its own unless it is given a `strength`."""
        strength = changes.pop("strength", uuid4().int % 10**9 / 10**9)
        return command("style", inputs=self._inputs, strength=strength).model_copy(update=changes)

    async def sent(self, given: RunPhase, message_id: str | None = None) -> RunPhase:
        """The same, on its way to whichever bridge takes it."""
        return await send(self.nc, RUN_STYLE, given, message_id)

    async def outcomes(self, given: RunPhase) -> list[Told]:
        """What was published about a command, but for hints."""
        return [one for one in await told(self.nc, given.key) if not one.subject.endswith(".progressed")]

    async def quiet(self) -> None:
        """Wait until nothing is left anywhere: in the ledger, the outbox, the stream, on Modal."""
        wrong: list[str] = []

        async def nothing_left() -> bool:
            wrong[:] = await self._left()
            return not wrong

        try:
            await until(nothing_left, "quiet", PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"left over: {wrong}\n{self.log(BRIDGE)}") from None

    async def _left(self) -> list[str]:
        [counts] = await self.pool.fetch(f"SELECT {', '.join(f'({query})' for query in QUIET.values())}")
        left = [f"{count} {what}" for what, count in zip(QUIET, counts, strict=True) if count]
        if commands := (await self.nc.jetstream().stream_info("COMMANDS")).state.messages:
            left.append(f"{commands} commands")
        if out := sum(call.result is None for call in self.platform.calls.values()):
            left.append(f"{out} calls on Modal")
        return left

    # -- what was bought -----------------------------------------------------------------------

    async def stopped(self, given: RunPhase) -> None:
        """Nobody waits for it any more."""
        about = given.model_dump(include={"job_id", "phase", "item", "attempt"})
        message = outgoing(STOP_GPU, StopPhase(**about), message_id=f"{given.key}.stop", key=given.key, source="test")
        await publish(self.nc.jetstream(), [message])

    def terminated(self, call_id: str) -> bool:
        """Whether a call on Modal was stopped."""
        result = self.platform.calls[call_id].result
        return result is not None and result.status == api_pb2.GenericResult.GENERIC_STATUS_TERMINATED

    async def bridges_alive(self) -> int:
        """How many keep their leases."""
        return int((await self.ask("SELECT count(*) AS n FROM gpu_bridge.bridges WHERE alive_until > now()"))[0]["n"])

    async def bought(self, given: RunPhase) -> Bought:
        """All that was done for the call that a command follows."""
        [row] = await self.ask("SELECT call FROM gpu_bridge.commands WHERE key = $1", given.key)
        query = "SELECT epoch, provider, handle, code FROM gpu_bridge.epochs WHERE call = $1 ORDER BY epoch"
        epochs = [Epoch(**epoch) for epoch in await self.ask(query, row["call"])]
        answers = {id_: answer for id_ in self.platform.calls if row["call"] in (answer := self._answer(id_))}
        paid = [id_ for id_, answer in answers.items() if answer[row["call"]]]
        local = Counter(line.split()[1] for line in self._read("runs").splitlines())
        return Bought(epochs, len(answers), paid, local[row["call"]])

    def _answer(self, call_id: str) -> dict[str, bool]:
        """Of each item of a call on Modal: whether its body did the work. One that was stopped says nothing."""
        if self.terminated(call_id):
            return {}
        if call_id not in self._answers:
            answer = CallResponse.model_validate(self.platform.answer(call_id))
            assert answer.error is None
            assert [item.error for item in answer.items if item.error] == []
            self._answers[call_id] = {item.id: item.duplicate_of is None for item in answer.items}
        return self._answers[call_id]
