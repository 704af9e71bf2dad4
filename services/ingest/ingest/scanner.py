"""The virus scanner: clamd, over its own protocol (`INSTREAM`, in clamd's manual page), if the operator has one.

A file is scanned once it is whole and before it is accepted; one that is infected is removed. Nothing of what clamd
says, which may hold what it found, is kept or told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from contracts.errors import SafelightError, error
from runtime import logs

CONNECT_S: Final = 5.0
ANSWER_S: Final = 120.0  # clamd unpacks archives after the last byte
PIECE_BYTES: Final = 256 * 1024
ANSWER_BYTES: Final = 4096
log = logs.get()


class Scanner:
    """`address` is `unix:/path/of/its/socket` or `tcp:host:port`.

    `required`: while it does not answer nothing is accepted; else files are accepted without it.
    """

    def __init__(self, address: str, *, required: bool = True) -> None:
        kind, _, self._where = address.partition(":")
        if kind not in ("unix", "tcp") or not self._where:
            raise ValueError("SAFELIGHT_CLAMAV reads unix:/path or tcp:host:port")
        self._unix, self._required = kind == "unix", required

    async def check(self, content: AsyncIterator[bytes]) -> None:
        """Read the content through. Raises UPLOAD_INFECTED, SCANNER_UNAVAILABLE."""
        try:
            async with contextlib.aclosing(content):  # type: ignore[type-var]  # our own streams are generators
                verdict = await self._ask(content)
            if verdict.endswith(b" FOUND"):
                raise error("UPLOAD_INFECTED")
            if verdict != b"stream: OK":
                raise error("SCANNER_UNAVAILABLE", "The scanner takes no such file: is StreamMaxLength too short?")
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as problem:
            self._away(error("SCANNER_UNAVAILABLE"), problem)
        except SafelightError as problem:
            if problem.code != "SCANNER_UNAVAILABLE":
                raise
            self._away(problem, problem)

    def _away(self, problem: SafelightError, cause: Exception) -> None:
        log.error("scanner.unavailable", error=type(cause).__name__, accepted=not self._required)
        if self._required:
            raise problem from cause

    async def _ask(self, content: AsyncIterator[bytes]) -> bytes:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await self._connected()
        try:
            # clamd hangs up in mid-stream on what is too long for it: its reason can be read all the same.
            with contextlib.suppress(ConnectionError):
                writer.write(b"zINSTREAM\0")
                async for chunk in content:
                    for at in range(0, len(chunk), PIECE_BYTES):
                        piece = chunk[at : at + PIECE_BYTES]
                        writer.write(len(piece).to_bytes(4) + piece)
                        async with asyncio.timeout(ANSWER_S):
                            await writer.drain()
                writer.write(bytes(4))
                await writer.drain()
            async with asyncio.timeout(ANSWER_S):
                return (await reader.read(ANSWER_BYTES)).rstrip(b"\0\n")
        finally:
            writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._unix:
            return await asyncio.open_unix_connection(self._where)
        host, _, port = self._where.rpartition(":")
        return await asyncio.open_connection(host, int(port))
