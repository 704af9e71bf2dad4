"""The own CPU as a provider: warm child processes that run `gpu_functions`, killable at any time.

A child speaks the envelope as JSON lines over its pipes, gets no credential and no variable of
ours, and works on presigned links like any remote provider. It is started when the first call
comes, retired when idle, and killed when it passes a deadline: the next call gets a new one.

A handle is the request's call_id, and nobody but this process knows it. What became of a call is
kept until KEPT_S after somebody has been told, and of the last ENDED_MAX calls at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from contracts.envelope import CallRequest, CallResponse
from contracts.errors import SafelightError, error
from gpu_bridge.providers.port import Available, Broken, Capabilities, Ended, News, Pending, Unavailable
from runtime import clock, logs

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
KEPT_S: Final = 30.0  # an answer that was taken may be asked for again: who took it may not have come to record it
ENDED_MAX: Final = 1000  # answers that are kept; about 2 KB each
KEPT_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
OWN_CPU: Final = Capabilities(device="cpu", cancels=True, webhooks=False, prewarms=False, shared=False, retention_s=0.0)
OWN_GPU: Final = replace(OWN_CPU, device="gpu")
CUDA_VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "HOME")  # torch keeps compiled kernels at home
DRIVER: Final = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
DRIVER_S: Final = 4.0  # until a driver that hangs counts as gone: it does when a card has fallen off its bus
DRIVER_EVERY_S: Final = 30.0
log = logs.get()


class _Worker:
    """One child process and the calls it serves, one at a time. `arguments` are those of `python -m gpu_functions`."""

    def __init__(self, arguments: tuple[str, ...], variables: tuple[str, ...], authorities: Path | None) -> None:
        self._arguments = arguments
        self._variables = variables
        self._more = {"SSL_CERT_FILE": str(authorities)} if authorities else {}
        self._process: asyncio.subprocess.Process | None = None
        self.idle_since = 0.0

    async def run(self, request: CallRequest, running: _Running) -> CallResponse:
        """Raises CALL_LOST when the child dies."""
        process = await self._started()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(request.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
            while line := await process.stdout.readline():
                answer: dict[str, Any] = json.loads(line)
                if "response" in answer:
                    return CallResponse.model_validate(answer["response"])
                running.progressed(answer["progress"]["fraction"])
        except (OSError, ValueError, KeyError) as problem:
            log.warning("local.worker_garbled", error=type(problem).__name__)
        await self.kill()
        raise error("CALL_LOST")

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gpu_functions",
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={name: os.environ[name] for name in self._variables if name in os.environ} | self._more,
                limit=LINE_BYTES_MAX,
            )
        return self._process


class _Running:
    """A call in flight or over, and what it last said."""

    task: asyncio.Task[Ended | Broken]

    def __init__(self) -> None:
        self.fraction: float | None = None
        self.news = asyncio.Event()
        self.taken = False

    def progressed(self, fraction: float) -> None:
        self.fraction = fraction
        self.news.set()


class LocalProvider:
    """At most `workers` calls at once; more wait for a free child, and their deadlines run.

    `memory_bytes`: address space of a child. A child that was idle for `idle_s` is retired. An
    answer can be asked for again for `kept_s` after it was taken. `authorities`: whose certificates storage may show.
    """

    def __init__(
        self,
        *,
        workers: int,
        memory_bytes: int,
        idle_s: float,
        kept_s: float = KEPT_S,
        authorities: Path | None = None,
    ) -> None:
        self.name = "local"
        self._authorities = authorities
        self.capabilities = OWN_CPU
        self._arguments: tuple[str, ...] = ("--memory-bytes", str(memory_bytes))
        self._variables: tuple[str, ...] = KEPT_VARIABLES
        self._idle_s = idle_s
        self._kept_s = kept_s
        self._free = asyncio.Semaphore(workers)
        self._idle: list[_Worker] = []
        self._calls: dict[str, _Running] = {}
        self._ended: deque[tuple[str, _Running]] = deque()  # the oldest first
        self._kills: set[asyncio.Task[None]] = set()

    async def health(self) -> Available | Unavailable:
        return Available()  # a call waits here for a free child; nothing stands behind this provider

    async def submit(self, request: CallRequest) -> str:
        known = self._calls.get(request.call_id)
        if known and not known.task.done():
            return request.call_id  # the same call again, and it is at it
        running = self._calls[request.call_id] = _Running()
        running.task = asyncio.create_task(self._run(request, running))
        running.task.add_done_callback(lambda _: self._over(request.call_id, running))
        return request.call_id

    async def poll(self, handle: str, wait_s: float) -> News:
        running = self._calls.get(handle)
        if running is None:
            return Broken("CALL_LOST")
        if not running.task.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):  # Python 3.11's wait_for may swallow a cancellation
                    await running.news.wait()
            running.news.clear()
        if not running.task.done():
            return Pending(running.fraction)
        if not running.taken:
            running.taken = True
            asyncio.get_running_loop().call_later(self._kept_s, self._forget, handle, running)
        return Broken("CALL_KILLED") if running.task.cancelled() else running.task.result()

    async def cancel(self, handle: str) -> None:
        running = self._calls.get(handle)
        if running:
            running.task.cancel()  # of one that is over: nothing, and its answer stays
            await asyncio.wait([running.task])

    async def prewarm(self, function: str) -> None:
        return None  # a child is there within a second

    async def close(self) -> None:
        for handle in list(self._calls):
            await self.cancel(handle)
        self._calls.clear()
        self._retire(self._idle[:])
        await asyncio.gather(*self._kills)

    async def _run(self, request: CallRequest, running: _Running) -> Ended | Broken:
        left_s = (request.deadline - clock.now()).total_seconds()
        if left_s <= 0:
            return Broken("CALL_DEADLINE")
        try:
            async with asyncio.timeout(left_s), self._free:
                worker = self._idle.pop() if self._idle else self._fresh()
                try:
                    response = await worker.run(request, running)
                except BaseException:
                    await worker.kill()  # past its deadline or cancelled: what it does now is unknown
                    raise
                if any(item.error and item.error.code == "CALL_DEADLINE" for item in response.items):
                    await worker.kill()  # it gave up on a computation that still runs
                else:
                    self._rest(worker)
                return Ended(response)
        except TimeoutError:
            return Broken("CALL_DEADLINE")
        except SafelightError as problem:
            return Broken(problem.code)
        except Exception as problem:  # such as no child that can be started
            log.error("local.call_failed", error=type(problem).__name__)
            return Broken("CALL_LOST")

    def _fresh(self) -> _Worker:
        return _Worker(self._arguments, self._variables, self._authorities)

    def _over(self, handle: str, running: _Running) -> None:
        running.news.set()
        self._ended.append((handle, running))
        if len(self._ended) > ENDED_MAX:
            self._forget(*self._ended[0])

    def _forget(self, handle: str, running: _Running) -> None:
        with contextlib.suppress(ValueError):  # forgotten already
            self._ended.remove((handle, running))
        if self._calls.get(handle) is running:
            del self._calls[handle]

    def _rest(self, worker: _Worker) -> None:
        clock_s = asyncio.get_running_loop()
        worker.idle_since = clock_s.time()
        self._idle.append(worker)
        clock_s.call_later(self._idle_s, self._retire_rested)

    def _retire_rested(self) -> None:
        rested = asyncio.get_running_loop().time() - self._idle_s
        self._retire([worker for worker in self._idle if worker.idle_since <= rested])

    def _retire(self, workers: list[_Worker]) -> None:
        for worker in workers:
            self._idle.remove(worker)
            kill = asyncio.create_task(worker.kill())
            self._kills.add(kill)
            kill.add_done_callback(self._kills.discard)


class BoxProvider(LocalProvider):
    """The GPU of this machine: one warm child that computes on it, with weights from a folder of ours.

    It is ill when the driver does not answer. A child's address space is not limited: CUDA reserves what it never
    uses; the card's own memory is its limit.
    """

    def __init__(
        self,
        *,
        weights: Path | None,
        allow_noncommercial: bool,
        idle_s: float,
        workers: int = 1,
        authorities: Path | None = None,
    ) -> None:
        super().__init__(workers=workers, memory_bytes=0, idle_s=idle_s, authorities=authorities)
        self.name = "box"
        self.capabilities = OWN_GPU
        self._arguments = (
            "--device",
            "gpu",
            *(("--weights", str(weights)) if weights else ()),
            *(("--allow-noncommercial",) if allow_noncommercial else ()),
        )
        self._variables = KEPT_VARIABLES + CUDA_VARIABLES
        self._felt: Available | Unavailable = Available()
        self._felt_s: float | None = None

    async def health(self) -> Available | Unavailable:
        now_s = asyncio.get_running_loop().time()
        if self._felt_s is None or now_s - self._felt_s > DRIVER_EVERY_S:
            self._felt_s = now_s
            until = clock.now() + timedelta(seconds=DRIVER_EVERY_S)
            self._felt = Available() if await _driver_answers() else Unavailable("PROVIDER_UNAVAILABLE", until)
        return self._felt


async def _driver_answers() -> bool:
    quiet = asyncio.subprocess.DEVNULL
    try:
        asked = await asyncio.create_subprocess_exec(*DRIVER, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        return False
    try:
        async with asyncio.timeout(DRIVER_S):
            return await asked.wait() == 0
    except TimeoutError:
        asked.kill()
        return False
