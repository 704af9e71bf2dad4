"""One multipart body: its form fields, and its file into object storage while it is parsed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from streaming_form_data import StreamingFormDataParser
from streaming_form_data.parser import ParseFailedException
from streaming_form_data.targets import BaseTarget, ValueTarget
from streaming_form_data.validators import MaxSizeValidator, ValidationError

from contracts.errors import error
from ingest.intake import judge_envelope
from ingest.storing import Stored, refuse, storing
from runtime.objects import Objects

FIELD_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Received:
    """What the body held."""

    fields: Mapping[str, str]
    file: Stored


class _File(BaseTarget):  # type: ignore[misc]  # the library has no types
    """Collects what the parser finds of the file, for the coroutine that feeds the parser."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.finished = False
        self.arrived = bytearray()

    def on_start(self) -> None:
        if self.started:
            raise error("REQUEST_INVALID", "one file per upload")
        self.started = True

    def on_data_received(self, chunk: bytes) -> None:
        self.arrived += chunk

    def on_finish(self) -> None:
        self.finished = True


async def receive(
    content_type: str,
    body: AsyncIterator[bytes],
    size_max: int,
    fields: tuple[str, ...],
    objects: Objects | None,
    key: str,
) -> Received:
    """Read the whole body; store its file under `key` unless `objects` is None (then it is only hashed).

    Raises:
        SafelightError: REQUEST_INVALID, UPLOAD_EMPTY, UPLOAD_TOO_LARGE, UPLOAD_INCOMPLETE,
            MEDIA_TYPE_UNSUPPORTED, STORAGE_UNAVAILABLE. No object is left behind then.
    """
    values, part, parser = _parser(content_type, fields)
    body_size = 0
    async with storing(objects, key, size_max) as file:
        async for chunk in arriving(body):
            _feed(parser, chunk)
            if part.arrived:
                arrived = bytes(part.arrived)
                part.arrived.clear()
                await file.take(arrived)
            body_size += len(chunk)
            refuse(judge_envelope(body_size - file.size))
        if not part.started:
            raise error("REQUEST_INVALID", "the body has no part named file")
        if not part.finished:
            raise error("UPLOAD_INCOMPLETE")
        stored = await file.finish()
    texts = {name: target.value.decode("utf-8", "replace") for name, target in values.items() if target.value}
    return Received(texts, stored)


async def arriving(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a request's body. Raises UPLOAD_INCOMPLETE when its client has left."""
    try:
        async for chunk in body:
            if chunk:
                yield chunk
    except ClientDisconnect as problem:
        raise error("UPLOAD_INCOMPLETE") from problem


def _parser(content_type: str, fields: tuple[str, ...]) -> tuple[dict[str, Any], _File, Any]:
    try:
        parser = StreamingFormDataParser(headers={"Content-Type": content_type}, strict=True)
    except ParseFailedException as problem:
        raise error("REQUEST_INVALID", "the body must be multipart/form-data with a boundary") from problem
    values = {name: ValueTarget(validator=MaxSizeValidator(FIELD_BYTES_MAX)) for name in fields}
    for name, target in values.items():
        parser.register(name, target)
    file = _File()
    parser.register("file", file)
    return values, file, parser


def _feed(parser: Any, chunk: bytes) -> None:
    try:
        parser.data_received(chunk)
    except (ParseFailedException, ValidationError, UnicodeDecodeError) as problem:
        raise error("REQUEST_INVALID", "the multipart body is malformed or has a field that is not known") from problem
