"""Runs a plain function in a killable child with limits, for bytes that strangers sent.

A child is forked from a warm, small parent (forkserver with the modules preloaded), serves one
call, and dies. Past its deadline it is killed; past its memory it fails; neither touches the
service. Used by ingest (analysis), output (rendering) and every later phase on the own CPU.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from typing import Any, Final

from pebble import ProcessExpired, ProcessPool

from contracts.errors import error

IDLE_S: Final = 30.0  # a photo comes sooner, or a forked child's start-up is worth its memory


class Sandbox:
    """At most `workers` children at once, each with `memory_bytes` of address space.

    `preload` names modules that the children find already imported. Nothing runs before the first call, and what
    waits for the next one is let go after `idle_s` without any.
    """

    def __init__(self, *, workers: int, memory_bytes: int, preload: Sequence[str] = (), idle_s: float = IDLE_S) -> None:
        self._workers = workers
        self._memory_bytes = memory_bytes
        self._idle_s = idle_s
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._slots = asyncio.Semaphore(workers)  # the deadline counts from when a child is free
        self._pool: ProcessPool | None = None
        self._running = 0
        self._rest: asyncio.TimerHandle | None = None

    async def run(self, deadline_s: float, function: str, *args: object) -> Any:
        """Call `function` (`module:name`) in a child, so that the service itself never imports a decoder.

        Arguments and result are pickled.

        Raises:
            SafelightError: DECODE_LIMIT when the child passed its deadline or its memory, or died.
            Exception: whatever the function raised.
        """
        async with self._slots:
            self._running += 1
            try:
                try:
                    return await self._called(deadline_s, function, *args)
                except BrokenProcessPool:
                    return await self._called(deadline_s, function, *args)
            except TimeoutError as problem:
                raise error("DECODE_LIMIT", f"stopped after {deadline_s:g} s") from problem
            except MemoryError as problem:
                raise error("DECODE_LIMIT", "stopped at its memory limit") from problem
            except ProcessExpired as problem:
                raise error("DECODE_LIMIT", f"the decoder died with exit code {problem.exitcode}") from problem
            finally:
                self._running -= 1
                if not self._running:
                    self._rest = asyncio.get_running_loop().call_later(self._idle_s, self.close)

    async def _called(self, deadline_s: float, *call: object) -> Any:
        return await asyncio.wrap_future(self._ready_pool().schedule(_call, args=call, timeout=deadline_s))

    def _ready_pool(self) -> ProcessPool:
        if self._rest:
            self._rest.cancel()
            self._rest = None
        if self._pool and not self._pool.active:  # a child that dies while none has work takes the pool with it
            self.close()
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._workers,
                max_tasks=1,
                initializer=_limit,
                initargs=(self._memory_bytes,),
                context=self._context,
            )
        return self._pool

    def close(self) -> None:
        """Kill every child. The next call starts new ones."""
        pool, self._pool = self._pool, None
        if pool:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()


def _call(function: str, *args: object) -> Any:
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(*args)


def _limit(memory_bytes: int) -> None:
    if sys.platform == "linux":  # macOS accepts the limit and ignores it
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no user bytes in a core file
