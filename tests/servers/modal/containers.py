"""Containers: processes of Modal's own entrypoint, what they ask the platform, and how they are broken.

A container belongs to one function (a class is one), takes one input at a time and stays for the next. What stands
here in place of Modal's scheduler: as many containers as there are waiting calls, up to `containers_max` each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.servers.modal.deployments import Deployments, Function
from tests.servers.modal.faults import Faults
from tests.servers.modal.ledger import Call, Ledger, ended_as, new_id
from tests.servers.modal.rpc import Handler, Headers

ROOT: Final = Path(__file__).parents[3]
GRACE_S: Final = 5.0  # from SIGINT to SIGKILL; Modal leaves 30
CRASH_PAUSE_S: Final = (0.2, 5.0)  # before a container that failed to start is started again: doubled, up to
HEARTBEAT_S: Final = "1"  # Modal's is 15: a cancellation reaches the container with a heartbeat
HEADER: Final = "x-local-task"
KEPT_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR")
ENDS: Final = {
    "internal": (api_pb2.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE, "the worker was lost"),
    "oom": (api_pb2.GenericResult.GENERIC_STATUS_KERNEL_OOM_KILL, ""),
    "timeout": (api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT, "the input ran into its timeout"),
}


@dataclass(eq=False)
class Container:
    """One process.

    `asked`: it is up and has asked for an input at least once; `leaves`: it takes no more; `hangs`: it stopped dead.
    """

    id: str
    function: Function
    process: asyncio.subprocess.Process | None = None
    call: Call | None = None
    asked: bool = False
    leaves: bool = False
    hangs: bool = False
    over: bool = False
    cancelled_inputs: list[str] = field(default_factory=list)

    def send(self, what: signal.Signals) -> None:
        """A signal to the process, if it is still there."""
        if self.process and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(what)


class Containers:
    """All of them, and the RPCs that they call."""

    def __init__(self, ledger: Ledger, deployments: Deployments, faults: Faults, folder: Path, most: int) -> None:
        self._ledger, self._deployments, self._faults = ledger, deployments, faults
        self._folder, self._most = folder, most
        self._alive: list[Container] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused: set[str] = set()  # functions whose containers crashed a moment ago
        self._crashes: Counter[str] = Counter()  # in a row, by function
        self.url = ""

    @property
    def handlers(self) -> dict[str, Handler]:
        """By RPC."""
        return {
            "ContainerHello": self._hello,
            "ContainerHeartbeat": self._heartbeat,
            "FunctionGetInputs": self._inputs,
            "FunctionPutOutputs": self._outputs,
            "ContainerStop": self._leave,
            "TaskResult": self._task_result,
        }

    @property
    def idle(self) -> list[Container]:
        """Those that have nothing to do, booting ones included."""
        return [container for container in self._alive if container.call is None]

    async def schedule(self) -> None:
        """Start containers as calls need them, until cancelled."""
        while True:
            needy = self._needy()
            if needy is None:
                await self._ledger.until(lambda: self._needy() is not None)
                continue
            container = Container(new_id("ta"), needy)
            self._alive.append(container)
            self._spawn(self._run(container))

    def stop(self, call: Call, *, kill: bool) -> None:
        """As a cancellation does: with its container, or only its input."""
        container = call.container
        if container is None:
            return
        if kill:
            self._spawn(self._interrupt(container))
        else:
            container.cancelled_inputs.append(call.input_id)

    def retire(self) -> None:
        """Kill those that have nothing to do, as they are after the scaledown window."""
        for container in self.idle:
            container.leaves = True
            container.send(signal.SIGKILL)

    def preempt(self, call: Call) -> None:
        """SIGINT to its container; the input starts again elsewhere under the same ids."""
        if call.container:
            self._spawn(self._interrupt(call.container))

    def send(self, call: Call, what: signal.Signals) -> None:
        """A signal to its container, if it has one."""
        if call.container:
            call.container.send(what)

    def end(self, call: Call, how: str) -> None:
        """Kill its container; the call ends as ENDS says."""
        status, text = ENDS[how]
        self._ledger.end(call, ended_as(status, text))
        if call.container:
            call.container.send(signal.SIGKILL)

    async def close(self) -> None:
        """Kill every process."""
        for container in self._alive:
            container.send(signal.SIGKILL)
        for task in list(self._tasks):
            if task.get_name() != "run":
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work, name=work.__name__.strip("_"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _needy(self) -> Function | None:
        """A function with more calls waiting than containers that will take one."""
        if self._faults.held:
            return None
        for function_id, waiting in self._ledger.waiting.items():
            own = [one for one in self._alive if one.function.id == function_id]
            free = sum(one.call is None and not one.leaves for one in own)
            if len(waiting) > free and len(own) < self._most and function_id not in self._paused:
                return self._deployments.functions[function_id]
        return None

    async def _run(self, container: Container) -> None:
        try:
            if self._faults.cold_s:
                await asyncio.sleep(self._faults.cold_s)
            log = self._folder / f"{container.id}.log"
            with log.open("wb") as output:
                container.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "modal._container_entrypoint",
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=ROOT,
                    env=self._environment(container),
                )
            self._ledger.counters.containers += 1
            await container.process.wait()
        finally:
            self._gone(container)

    def _environment(self, container: Container) -> Mapping[str, str]:
        definition = api_pb2.Function()
        definition.CopyFrom(container.function.definition)
        if self._faults.crash_loop:
            definition.module_name = "no_such_module"
        definition.ClearField(
            "volume_mounts"
        )  # there are none here, and a container commits them by a sync of all disks
        arguments = api_pb2.ContainerArguments(
            task_id=container.id,
            function_id=container.function.id,
            app_id=container.function.app_id,
            function_def=definition,
            app_layout=self._deployments.layout(container.function.app_id),
            environment_name="main",
        )
        path = self._folder / f"{container.id}.arguments"
        path.write_bytes(arguments.SerializeToString())
        return {
            **{name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            **self._deployments.environment_of(definition.image_id),
            "MODAL_SERVER_URL": self.url,
            "MODAL_TASK_ID": container.id,
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONFIG_PATH": os.devnull,
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(path),
            "MODAL_HEARTBEAT_INTERVAL": HEARTBEAT_S,
            "MODAL_OVERRIDE_HEADERS": f"{HEADER}:{container.id}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _gone(self, container: Container) -> None:
        """The process ended, for whatever reason."""
        container.over = True
        self._alive.remove(container)
        call, container.call = container.call, None
        if not container.asked and not container.leaves:
            self._crashed(container.function.id)
        if call:
            call.container = None
            if call.result is None:
                call.restarts += 1
                self._ledger.queue(call.function_id).appendleft(call)
        self._ledger.changed()

    def _crashed(self, function_id: str) -> None:
        self._ledger.counters.crashes += 1
        pause, longest = CRASH_PAUSE_S
        self._paused.add(function_id)
        pause = min(pause * 2 ** self._crashes[function_id], longest)
        asyncio.get_running_loop().call_later(pause, self._resume, function_id)
        self._crashes[function_id] += 1

    def _resume(self, function_id: str) -> None:
        self._paused.discard(function_id)
        self._ledger.changed()

    async def _interrupt(self, container: Container) -> None:
        if container.hangs:  # for good: it would not hear, and if it were woken it might do the work after all
            container.send(signal.SIGKILL)
            return
        container.send(signal.SIGINT)
        container.send(signal.SIGCONT)  # one that was frozen hears it as well
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._ledger.until(lambda: container.over)
        container.send(signal.SIGKILL)

    def _of(self, headers: Headers) -> Container:
        for container in self._alive:
            if container.id == headers.get(HEADER):
                return container
        raise GRPCError(Status.NOT_FOUND, "no such container")

    async def _hello(self, _request: Any, _headers: Headers) -> Message:
        return Empty()

    async def _heartbeat(self, _request: Any, headers: Headers) -> Message:
        container = self._of(headers)
        inputs, container.cancelled_inputs = container.cancelled_inputs, []
        if not inputs:
            return api_pb2.ContainerHeartbeatResponse()
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=api_pb2.CancelInputEvent(input_ids=inputs))

    async def _inputs(self, _request: api_pb2.FunctionGetInputsRequest, headers: Headers) -> Message:
        container = self._of(headers)
        container.asked = True
        self._crashes[container.function.id] = 0
        queue = self._ledger.queue(container.function.id)
        while True:
            await self._ledger.until(lambda: bool(queue) or container.over or container.leaves)
            if container.over:
                raise GRPCError(Status.CANCELLED, "the container is gone")
            if container.leaves:
                return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])
            call = queue.popleft()
            if not self._faults.ends:
                break
            status, text = ENDS[self._faults.ends.pop(0)]
            self._ledger.end(call, ended_as(status, text))
        call.container, container.call = container, call
        call.started += 1
        self._ledger.counters.started[call.method] += 1
        if self._faults.hang:
            self._faults.hang -= 1
            container.hangs = True
            container.send(signal.SIGSTOP)
        self._ledger.changed()
        item = api_pb2.FunctionGetInputsItem(
            input_id=call.input_id, function_call_id=call.id, input=call.input, retry_count=call.restarts
        )
        return api_pb2.FunctionGetInputsResponse(inputs=[item])

    async def _outputs(self, request: api_pb2.FunctionPutOutputsRequest, headers: Headers) -> Message:
        container = self._of(headers)
        for item in request.outputs:
            call = self._ledger.by_input.get(item.input_id)
            if call is None or call.container is not container:
                continue
            call.container = container.call = None
            self._ledger.stored.append((f"output {call.id}", item.result.SerializeToString()))
            if item.result.status == api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
                call.ended += 1
                self._ledger.counters.ended[call.method] += 1
            self._ledger.end(call, item.result, item.data_format)
        return Empty()

    async def _leave(self, _request: api_pb2.ContainerStopRequest, headers: Headers) -> Message:
        self._of(headers).leaves = True
        self._ledger.changed()
        return api_pb2.ContainerStopResponse()

    async def _task_result(self, request: api_pb2.TaskResultRequest, headers: Headers) -> Message:
        self._ledger.stored.append((f"failure {headers.get(HEADER)}", request.result.SerializeToString()))
        return Empty()
