"""Wraps the functions of the boundaries, so that the process dies at a point: it says so on disk, and kills itself.

Which input a process is at is told by markers: they see what comes in and remember it for the task (`_work`) and for
the tasks that it starts.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from contracts.message import HEADER_SUBJECT
from tests.chaos.points import BOUNDARIES, Boundary, Point, Side

HIT: Final = "hit"  # the file that a process writes before it dies
RUNS: Final = "runs"  # the file with a line for each body that ran to its end: FUNCTION KEY

_work: ContextVar[tuple[str, ...]] = ContextVar("work", default=())
Tell = Callable[[tuple[Any, ...], dict[str, Any]], Sequence[str]]
Told = Callable[[Any], Sequence[str]]


class Trap:
    """Where this process dies, if anywhere. `folder` is where it leaves word.

    One that `freezes` only stops there: whoever wakes it (SIGCONT) has it go on, as if nothing had been.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.point: Point | None = None
        self.freezes = False

    def passes(self, side: Side, boundary: str, work: Sequence[str]) -> None:
        """Returns unless this is the place."""
        if self.point is not None and self.point.is_at(side, boundary, work):
            point, self.point = self.point, None
            write(self.folder / HIT, str(point), sync=True)
            os.kill(os.getpid(), signal.SIGSTOP if self.freezes else signal.SIGKILL)

    def ran(self, function: str, key: str) -> None:
        """A body ran to its end."""
        write(self.folder / RUNS, f"{function} {key}")


def write(path: Path, line: str, *, sync: bool = False) -> None:
    """Append a line at once: several processes write to the file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
        if sync:
            os.fsync(file)
    finally:
        os.close(file)


def install(packages: Sequence[str], trap: Trap) -> None:
    """Wrap everything that a process of these packages passes. Before its modules take the functions over by name.

    From the inside out: a body is counted before its end is a boundary, and a marker speaks before the first one.

    Raises:
        AttributeError: a function is not there any more.
    """
    if {"ingest", "output"} & {*packages}:
        _wrap("runtime.sandbox:Sandbox.run", functools.partial(_counting, trap))
    for row in BOUNDARIES:
        if row.package in ("", *packages):
            guard(trap, row)
    _wrap("runtime.settle:consume_batches", _marks_batches)
    _wrap("runtime.settle:SettleMiddleware.consume_scope", functools.partial(_telling, tell=_one))
    for package in packages:
        for path, tell in _BEGINS.get(package, {}).items():
            _wrap(path, functools.partial(_telling, tell=tell))


def about(message: Any) -> str:
    """`SUBJECT KEY` of a message."""
    return f"{message.subject} {(message.headers or {}).get(HEADER_SUBJECT, '')}"


def _wrap(path: str, wrapper: Callable[[Any], Any]) -> None:
    module_name, _, name = path.partition(":")
    owner: Any = import_module(module_name)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, last, wrapper(getattr(owner, last)))


# -- boundaries ------------------------------------------------------------------------------

# Whose own arguments say more than the task: one message of a batch may be acked and another termed.
_ITS_OWN: Final[dict[str, Callable[[tuple[Any, ...]], Sequence[str]]]] = {
    "runtime.settle:acknowledge": lambda args: [about(delivery) for delivery in args[1]],
    "nats.aio.msg:Msg.ack": lambda args: [about(args[0])],
    "nats.aio.msg:Msg.term": lambda args: [about(args[0])],
}
# What it found says what is worked on from here on.
_FINDS: Final[dict[str, Callable[[Any], Sequence[str]]]] = {
    "orchestrator.store:lock_due": lambda held: ["timer "] if held else [],
    "gpu_bridge.store:begin": lambda calls: [f"lease {call.key}" for call in calls],
    "gpu_bridge.visit:Visitor._news": lambda news: _answered(news),
}
_ONLY: Final[dict[str, Callable[[tuple[Any, ...]], bool]]] = {
    "asyncpg.connection:Connection.fetch": lambda args: "INTO output.inbox" in args[1],
}


def _answered(news: Any) -> Sequence[str]:
    response = getattr(news, "response", None)  # nothing but an end has one
    return [f"answer {item.id}" for item in response.items] if response else []


def guard(trap: Trap, row: Boundary, ask: Callable[[], Sequence[str]] = _work.get) -> None:
    """Let the process pass by the trap before this function and after it. `ask` says what it is at."""
    _wrap(row.path, functools.partial(_guarded, trap, row, ask))


def _guarded(trap: Trap, row: Boundary, ask: Callable[[], Sequence[str]], function: Any) -> Any:
    boundary, own, finds, only = row.name, _ITS_OWN.get(row.path), _FINDS.get(row.path), _ONLY.get(row.path)

    def work(args: tuple[Any, ...]) -> Sequence[str]:
        return own(args) if own else ask()

    def found(result: Any) -> None:
        if finds:
            _work.set(tuple(finds(result)))

    if not inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        def plain(*args: Any, **options: Any) -> Any:
            trap.passes("before", boundary, work(args))
            result = function(*args, **options)
            found(result)
            trap.passes("after", boundary, work(args))
            return result

        return plain

    @functools.wraps(function)
    async def awaited(*args: Any, **options: Any) -> Any:
        if only and not only(args):
            return await function(*args, **options)
        trap.passes("before", boundary, work(args))
        result = await function(*args, **options)
        found(result)
        if boundary in ("ack", "term"):
            await getattr(args[0], "_client", args[0]).flush()  # it is on its way only now
        trap.passes("after", boundary, work(args))
        return result

    return awaited


# -- markers ---------------------------------------------------------------------------------


def _one(args: tuple[Any, ...], _options: dict[str, Any]) -> Sequence[str]:
    return [about(args[2].raw_message)]


_BEGINS: Final[dict[str, dict[str, Tell]]] = {
    "ingest": {"ingest.uploads:Uploads.take": lambda *_: ["request "]},
    "orchestrator": {"orchestrator.store:lock_next": lambda *_: ["admission "]},
    "gpu_bridge": {
        "gpu_bridge.providers.local:LocalProvider.submit": lambda args, _: [f"submission {args[1].call_id}"],
        "gpu_bridge.store:started_if_mine": lambda args, _: [f"start {args[1].key}"],
        "gpu_bridge.store:succeed_if_mine": lambda args, _: [f"outcome {args[1].key}"],
        "gpu_bridge.store:fail_if_mine": lambda args, _: [f"failure {args[1].key}"],
        "gpu_bridge.store:cancel_if_mine": lambda args, _: [f"end {args[1].key}"],
        "gpu_bridge.visit:Visitor._news": lambda args, _: [f"answer {args[1].calls[0].key}"],
        "gpu_bridge.marks:MarkStore.claim": lambda args, _: [f"claim {args[1].key}"],
        "gpu_bridge.marks:MarkStore.void": lambda args, _: [f"void {args[1].key}"],
    },
    "modal": {
        "gpu_bridge.providers.modal:ModalProvider.submit": lambda args, _: [f"submission {args[1].call_id}"],
    },
}


def _telling(function: Any, tell: Tell) -> Any:
    @functools.wraps(function)
    async def awaited(*args: Any, **options: Any) -> Any:
        _work.set(tuple(tell(args, options)))
        return await function(*args, **options)

    return awaited


def _marks_batches(consume: Any) -> Any:
    @functools.wraps(consume)
    async def marked(nc: Any, consumer: Any, handle: Any, **options: Any) -> None:
        async def told(deliveries: Any) -> None:
            _work.set(tuple(about(delivery) for delivery in deliveries))
            await handle(deliveries)

        await consume(nc, consumer, told, **options)

    return marked


def _counting(trap: Trap, run: Any) -> Any:
    """A body in the sandbox: it ran to its end when its result is there."""

    @functools.wraps(run)
    async def counted(self: Any, deadline_s: float, function: str, *args: Any) -> Any:
        result = await run(self, deadline_s, function, *args)
        for one in _work.get():
            trap.ran(function.partition(":")[2], one.partition(" ")[2])
        return result

    return counted
