"""A port that gRPC clients come to, and that can be gone for a while."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from grpclib.protocol import H2Protocol
from grpclib.server import Server
from modal._utils.grpc_utils import custom_detail_codec
from modal_proto.api_grpc import ModalClientBase


class Door:
    """Serves `served` on a free port of loopback while it is open; opened again, it is the same port."""

    def __init__(self, served: ModalClientBase) -> None:
        self._served = served
        self._server: _Tracked | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it is, once it was opened."""
        return f"http://127.0.0.1:{self._port}"

    async def open(self) -> None:
        """Listen."""
        # Its protocol is named, or asyncio would leave Nagle's algorithm on: 40 ms for every answer.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self._port))
        listening.listen(1024)
        self._port = listening.getsockname()[1]
        self._server = _Tracked([self._served], status_details_codec=custom_detail_codec)
        await self._server.start(sock=listening)

    async def close(self) -> None:
        """Listen no more, and break every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for transport in server.transports:
                transport.abort()
            await server.wait_closed()


class _Tracked(Server):
    """A Server that knows its connections."""

    def __init__(self, *handlers: Any, **options: Any) -> None:
        super().__init__(*handlers, **options)
        self.transports: list[asyncio.Transport] = []

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        made = protocol.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transports.append(transport)
            made(transport)

        protocol.connection_made = connection_made  # type: ignore[method-assign]
        return protocol
