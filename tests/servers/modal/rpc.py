"""A table of handlers as a gRPC service; whatever is not in it answers UNIMPLEMENTED."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto.api_grpc import ModalClientBase

Headers = Mapping[str, Any]
Handler = Callable[[Any, Headers], Awaitable[Message]]
Guard = Callable[[str, Headers], Awaitable[None]]  # told the RPC's name; may raise GRPCError, or never return


class LostError(Exception):
    """Raised by a handler whose answer breaks off instead of arriving."""


def service(handlers: Mapping[str, Handler], guard: Guard) -> ModalClientBase:
    """The service of `handlers`, by the names of Modal's RPCs. Raises KeyError for a name that Modal has not."""
    names = ModalClientBase.__abstractmethods__
    if unknown := handlers.keys() - names:
        raise KeyError(f"no RPC of Modal's: {sorted(unknown)}")
    methods = {name: _rpc(name, handlers.get(name), guard) for name in names}
    made: ModalClientBase = type("Service", (ModalClientBase,), methods)()
    return made


def _rpc(name: str, handler: Handler | None, guard: Guard) -> Callable[[Any, Any], Awaitable[None]]:
    async def answer(_service: Any, stream: Any) -> None:
        request = await stream.recv_message()
        if handler is None:
            raise GRPCError(Status.UNIMPLEMENTED, f"the local platform has no {name}")
        await guard(name, stream.metadata)
        try:
            response = await handler(request, stream.metadata)
        except LostError:
            await stream.cancel()
            return
        await stream.send_message(response)

    return answer
