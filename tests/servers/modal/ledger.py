"""What the platform knows of calls, and what it has counted."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modal_proto import api_pb2

if TYPE_CHECKING:
    from tests.servers.modal.containers import Container


def new_id(prefix: str) -> str:
    """An id of Modal's form: `fc-` and letters."""
    return f"{prefix}-{secrets.token_hex(11)}"


@dataclass(eq=False)
class Call:
    """A function call with its one input."""

    id: str
    function_id: str
    input_id: str
    input: api_pb2.FunctionInput
    result: api_pb2.GenericResult | None = None
    data_format: api_pb2.DataFormat.ValueType = api_pb2.DATA_FORMAT_UNSPECIFIED
    expired: bool = False
    container: Container | None = None
    restarts: int = 0
    started: int = 0  # how often it was handed to a container
    ended: int = 0  # how often its body ran to its end

    @property
    def method(self) -> str:
        """`run` or `warm`; empty for a plain function."""
        return self.input.method_name


@dataclass
class Counters:
    """By method where that matters: `started["run"]`."""

    spawns: Counter[str] = field(default_factory=Counter)  # received, lost ones included
    created: Counter[str] = field(default_factory=Counter)  # calls made of them
    started: Counter[str] = field(default_factory=Counter)  # inputs handed to a container: bodies begun
    ended: Counter[str] = field(default_factory=Counter)  # bodies that ran to their end
    received: Counter[str] = field(default_factory=Counter)  # requests of clients, by RPC, silenced ones included
    polls: int = 0
    cancels: int = 0
    lookups: int = 0
    containers: int = 0  # processes started
    crashes: int = 0  # processes that failed before they asked for an input


@dataclass
class Ledger:
    """Calls by id, what waits by function, everything that was ever stored, and a way to wait for a change."""

    calls: dict[str, Call] = field(default_factory=dict)
    waiting: dict[str, deque[Call]] = field(default_factory=dict)
    by_key: dict[str, Call] = field(default_factory=dict)
    by_input: dict[str, Call] = field(default_factory=dict)
    stored: list[tuple[str, bytes]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    _waiters: set[asyncio.Future[None]] = field(default_factory=set)

    def changed(self) -> None:
        """Wake those who wait. In the platform's loop only."""
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when `holds`; looked at after every change."""
        while not holds():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def queue(self, function_id: str) -> deque[Call]:
        """The calls of a function that no container has."""
        return self.waiting.setdefault(function_id, deque())

    def end(
        self,
        call: Call,
        result: api_pb2.GenericResult,
        data_format: api_pb2.DataFormat.ValueType = api_pb2.DATA_FORMAT_UNSPECIFIED,
    ) -> None:
        """The first end of a call stands."""
        if call.result is None:
            call.result, call.data_format = result, data_format
        if call in self.queue(call.function_id):
            self.queue(call.function_id).remove(call)
        self.changed()


def ended_as(status: api_pb2.GenericResult.GenericStatus.ValueType, text: str = "") -> api_pb2.GenericResult:
    """A result without an answer."""
    return api_pb2.GenericResult(status=status, exception=text)
