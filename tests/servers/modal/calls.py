"""What the SDK asks for whoever calls functions: look up, spawn, poll, cancel; and blobs, for what is large."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import Any, Final

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.servers.modal.containers import Containers
from tests.servers.modal.deployments import Deployments
from tests.servers.modal.faults import Faults
from tests.servers.modal.ledger import Call, Ledger, ended_as, new_id
from tests.servers.modal.rpc import Handler, Headers, LostError

LONG_POLL_S: Final = 55.0  # the longest that FunctionGetOutputs waits, whatever is asked for


class Calls:
    """By handler; `blob_url` is where blobs are put and read."""

    def __init__(self, ledger: Ledger, deployments: Deployments, containers: Containers, faults: Faults) -> None:
        self._ledger, self._deployments, self._containers, self._faults = ledger, deployments, containers, faults
        self.blobs: dict[str, bytes] = {}
        self.blob_url = ""

    @property
    def handlers(self) -> dict[str, Handler]:
        """By RPC."""
        return {
            "ClientHello": self._hello,
            "ClassGet": self._class_get,
            "FunctionGet": self._function_get,
            "FunctionMap": self._spawn,
            "FunctionGetOutputs": self._poll,
            "FunctionCallFromId": self._from_id,
            "FunctionCallCancel": self._cancel,
            "BlobCreate": self._blob_create,
            "BlobGet": self._blob_get,
        }

    async def guard(self, name: str, _headers: Headers) -> None:
        """The faults that every request of a client may meet."""
        faults = self._faults
        await self._ledger.until(lambda: not faults.silent)
        if faults.unauthorized:
            raise GRPCError(Status.UNAUTHENTICATED, "Token ID is malformed")
        if faults.forbidden:
            raise GRPCError(Status.PERMISSION_DENIED, "not in this workspace")
        if faults.unavailable:
            raise GRPCError(Status.UNAVAILABLE, "try again")
        if faults.throttled and name in ("FunctionMap", "FunctionGetOutputs"):
            advice = None
            if faults.throttle_s is not None:
                advice = [api_pb2.RPCRetryPolicy(retry_after_secs=faults.throttle_s)]
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "rate limit exceeded", advice)

    async def _hello(self, _request: Any, _headers: Headers) -> Message:
        return api_pb2.ClientHelloResponse()

    async def _class_get(self, request: api_pb2.ClassGetRequest, _: Headers) -> Message:
        self._ledger.counters.lookups += 1
        app = self._deployments.app_named("" if self._faults.no_app else request.app_name)
        class_id = app.class_ids.get(request.object_tag)
        if class_id is None:
            raise GRPCError(Status.NOT_FOUND, "no such class")
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    async def _function_get(self, request: api_pb2.FunctionGetRequest, _: Headers) -> Message:
        app = self._deployments.app_named("" if self._faults.no_app else request.app_name)
        function_id = app.function_ids.get(request.object_tag)
        if function_id is None:
            raise GRPCError(Status.NOT_FOUND, "no such function")
        one = self._deployments.functions[function_id]
        return api_pb2.FunctionGetResponse(function_id=function_id, handle_metadata=one.handle, function=one.data)

    async def _spawn(self, request: api_pb2.FunctionMapRequest, headers: Headers) -> Message:
        item = request.pipelined_inputs[0]
        method, counters, faults = item.input.method_name, self._ledger.counters, self._faults
        counters.spawns[method] += 1
        self._ledger.changed()
        if faults.lose_before:
            faults.lose_before -= 1
            await self._lost()
        if faults.stale or request.function_id not in self._deployments.functions:
            faults.stale = False
            raise GRPCError(Status.NOT_FOUND, "no such function")
        call = self._call_of(request.function_id, item.input, str(headers.get("x-idempotency-key", "")))
        if faults.lose_after:
            faults.lose_after -= 1
            await self._lost()
        made = api_pb2.FunctionPutInputsResponseItem(idx=item.idx, input_id=call.input_id, input_jwt="-")
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id, pipelined_inputs=[made], function_call_jwt="-", max_inputs_outstanding=1000
        )

    def _call_of(self, function_id: str, given: api_pb2.FunctionInput, key: str) -> Call:
        if self._faults.dedupes and key in self._ledger.by_key:
            return self._ledger.by_key[key]
        call = Call(new_id("fc"), function_id, new_id("in"), given)
        self._ledger.calls[call.id] = self._ledger.by_key[key] = self._ledger.by_input[call.input_id] = call
        self._ledger.stored.append((f"input {call.id}", given.args))
        self._ledger.counters.created[call.method] += 1
        self._ledger.queue(function_id).append(call)
        self._ledger.changed()
        return call

    async def _lost(self) -> None:
        if self._faults.lost == "silence":
            await asyncio.Event().wait()  # until the client gives up
        raise LostError

    def _known(self, call_id: str) -> Call:
        call = self._ledger.calls.get(call_id)
        if call is None:
            raise GRPCError(Status.NOT_FOUND, "no such function call")
        return call

    async def _poll(self, request: api_pb2.FunctionGetOutputsRequest, _: Headers) -> Message:
        self._ledger.counters.polls += 1
        call = self._known(request.function_call_id)
        if request.timeout > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(request.timeout, LONG_POLL_S)):
                    await self._ledger.until(lambda: call.result is not None or call.expired)
        if call.expired:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=0)
        if call.result is None:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        item = api_pb2.FunctionGetOutputsItem(
            result=call.result, data_format=call.data_format, idx=0, input_id=call.input_id
        )
        return api_pb2.FunctionGetOutputsResponse(outputs=[item])

    async def _from_id(self, request: api_pb2.FunctionCallFromIdRequest, _: Headers) -> Message:
        call = self._known(request.function_call_id)
        app_id = self._deployments.functions[call.function_id].app_id
        metadata = api_pb2.FunctionCallHandleMetadata(app_id=app_id, function_id=call.function_id)
        return api_pb2.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=1, metadata=metadata)

    async def _cancel(self, request: api_pb2.FunctionCallCancelRequest, _: Headers) -> Message:
        self._ledger.counters.cancels += 1
        call = self._known(request.function_call_id)
        if self._faults.cancel == "too late":
            await self._ledger.until(lambda: call.result is not None)
        elif self._faults.cancel == "honoured" and call.result is None:
            self._ledger.end(call, ended_as(api_pb2.GenericResult.GENERIC_STATUS_TERMINATED))
            self._containers.stop(call, kill=request.terminate_containers)
        return Empty()

    async def _blob_create(self, _request: api_pb2.BlobCreateRequest, _: Headers) -> Message:
        blob_id = new_id("bl")
        url = f"{self.blob_url}/{blob_id}"
        return api_pb2.BlobCreateResponse(
            blob_id=blob_id,
            upload_url=url,
            blob_ids=[blob_id],
            upload_urls=api_pb2.UploadUrlList(items=[url]),
        )

    async def _blob_get(self, request: api_pb2.BlobGetRequest, _: Headers) -> Message:
        return api_pb2.BlobGetResponse(download_url=f"{self.blob_url}/{request.blob_id}")

    async def serve_blobs(self) -> web.AppRunner:
        """A small HTTP server for them, on a free port."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_put("/{blob}", self._put)
        app.router.add_get("/{blob}", self._get)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.blob_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _put(self, request: web.Request) -> web.Response:
        content = self.blobs[request.match_info["blob"]] = await request.read()
        self._ledger.stored.append((f"blob {request.match_info['blob']}", content))
        return web.Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    async def _get(self, request: web.Request) -> web.Response:
        return web.Response(body=self.blobs[request.match_info["blob"]])
