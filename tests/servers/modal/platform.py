"""The platform as a server on loopback, in a thread of its own: tests may block, and be blocked, as they like."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Self

from grpclib import GRPCError, Status
from modal._serialization import deserialize_data_format
from modal_proto import api_pb2

from tests.servers.modal.calls import Calls
from tests.servers.modal.containers import ROOT, Containers
from tests.servers.modal.deployments import Deployments, Function
from tests.servers.modal.door import Door
from tests.servers.modal.faults import Faults
from tests.servers.modal.ledger import Call, Counters, Ledger
from tests.servers.modal.rpc import Headers, service

TOKEN: Final = ("ak-local", "as-local")
START_S: Final = 10.0


class ModalPlatform:
    """Enter it with `with` or `async with`. `folder` takes the containers' logs."""

    def __init__(self, folder: Path, *, containers_max: int = 2) -> None:
        self.faults = Faults(changed=self._changed)
        self._ledger = Ledger()
        self._deployments = Deployments(self._ledger)
        self._containers = Containers(self._ledger, self._deployments, self.faults, folder, containers_max)
        self._calls = Calls(self._ledger, self._deployments, self._containers, self.faults)
        self._folder = folder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="modal", daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START_S):
            raise RuntimeError("the local Modal platform did not start")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)

    # -- for whoever uses it ------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """The SDK's own variables: with these it talks to this platform, and to nothing else."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": TOKEN[0],
            "MODAL_TOKEN_SECRET": TOKEN[1],
            "MODAL_CONFIG_PATH": os.devnull,
        }

    def deploy(self, module: str, **variables: str) -> str:
        """The real `modal deploy -m module`; returns what it printed. Raises CalledProcessError with it."""
        command = [sys.executable, "-m", "modal", "deploy", "-m", module]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **self.environment(), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
        return done.stdout

    # -- what a test looks at -------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """See Counters."""
        return self._ledger.counters

    @property
    def calls(self) -> dict[str, Call]:
        """By id, in the order of their creation."""
        return dict(self._ledger.calls)

    @property
    def functions(self) -> dict[str, Function]:
        """What is deployed, by name; a class is `Name.*`."""
        return {one.definition.function_name: one for one in self._deployments.functions.values()}

    @property
    def files(self) -> dict[str, bytes]:
        """What a deployment uploaded, by sha256."""
        return dict(self._deployments.files)

    def answer(self, call_id: str) -> Any:
        """What the body of a call returned. Raises KeyError, AssertionError when it did not."""
        call = self._ledger.calls[call_id]
        assert call.result
        assert call.result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
        return deserialize_data_format(call.result.data, call.data_format, None)

    def stored(self) -> list[tuple[str, bytes]]:
        """Everything that Modal would keep: inputs, outputs, blobs, failures, logs, each with its name."""
        logs = [(f"log {path.stem}", path.read_bytes()) for path in sorted(self._folder.glob("*.log"))]
        return [*self._ledger.stored, *logs]

    # -- what a test does to it -----------------------------------------------------------------

    def preempt(self, call_id: str) -> None:
        """SIGINT to the call's container; the same input starts again under the same id."""
        self._do(lambda call: self._containers.preempt(call), call_id)

    def lose(self, call_id: str) -> None:
        """The container is gone and the platform gives up: INTERNAL_FAILURE."""
        self._do(lambda call: self._containers.end(call, "internal"), call_id)

    def oom(self, call_id: str) -> None:
        """The kernel kills the container."""
        self._do(lambda call: self._containers.end(call, "oom"), call_id)

    def time_out(self, call_id: str) -> None:
        """The function's `timeout` passes."""
        self._do(lambda call: self._containers.end(call, "timeout"), call_id)

    def expire(self, call_id: str) -> None:
        """Its arguments and its answer are forgotten, as after 7 days."""

        def forget(call: Call) -> None:
            call.expired = True
            self._ledger.changed()

        self._do(forget, call_id)

    def freeze(self, call_id: str) -> None:
        """Its container does nothing any more (SIGSTOP)."""
        self._do(lambda call: self._containers.send(call, signal.SIGSTOP), call_id)

    def thaw(self, call_id: str) -> None:
        """It goes on where it was."""
        self._do(lambda call: self._containers.send(call, signal.SIGCONT), call_id)

    def retire(self) -> None:
        """Every container that has nothing to do is gone: the next call starts cold."""

        async def act() -> None:
            self._containers.retire()
            await self._ledger.until(lambda: not self._containers.idle)

        self._await(act())

    def shut(self) -> None:
        """An outage: every client's connection breaks and no new one is taken. Containers work on."""
        self._await(self._front.close())

    def reopen(self) -> None:
        """The outage is over."""
        self._await(self._front.open())

    # -- inside ---------------------------------------------------------------------------------

    def _do(self, what: Callable[[Call], Any], call_id: str) -> None:
        async def act() -> None:
            what(self._ledger.calls[call_id])

        self._await(act())

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _changed(self) -> None:
        if self.__dict__.get("_loop") and self._loop:
            self._loop.call_soon_threadsafe(self._ledger.changed)

    async def _guard(self, name: str, headers: Headers) -> None:
        if headers.get("x-modal-client-type") == str(api_pb2.CLIENT_TYPE_CONTAINER):
            return
        self.counters.received[name] += 1
        if (headers.get("x-modal-token-id"), headers.get("x-modal-token-secret")) != TOKEN:
            raise GRPCError(Status.UNAUTHENTICATED, "Token ID is malformed")
        await self._calls.guard(name, headers)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        handlers = {**self._deployments.handlers, **self._calls.handlers, **self._containers.handlers}
        served = service(handlers, self._guard)
        # Containers come in at the back: what happens to clients in front does not reach them.
        self._front, back = Door(served), Door(served)
        blobs = await self._calls.serve_blobs()
        await self._front.open()
        await back.open()
        self.url, self._containers.url = self._front.url, back.url
        scheduling = asyncio.create_task(self._containers.schedule())
        self._ready.set()
        await self._stop.wait()
        scheduling.cancel()
        await asyncio.gather(scheduling, return_exceptions=True)
        await self._containers.close()
        await self._front.close()
        await back.close()
        await blobs.cleanup()
