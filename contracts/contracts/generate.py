"""Writes what other languages read: AsyncAPI 3 of all channels, and a JSON Schema per message.

    python -m contracts.generate           write them
    python -m contracts.generate --check   exit 1 and name the files that differ

The committed files are checked in the test run, so that they never drift from the models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from contracts import envelope, message, ocr
from contracts.catalog import CHANNELS
from contracts.topology import BODY_BYTES_MAX, CONSUMERS, STREAMS, Consumer

FOLDER: Final = Path(__file__).parent.parent / "asyncapi"

_HEADERS: Final[dict[str, Any]] = {
    "type": "object",
    "required": [message.HEADER_MESSAGE_ID, message.HEADER_TYPE, message.HEADER_SOURCE, message.HEADER_SUBJECT],
    "properties": {
        message.HEADER_MESSAGE_ID: {"type": "string", "description": "unique; the reader's inbox refuses a second"},
        message.HEADER_ID: {"type": "string", "description": "the same"},
        message.HEADER_SPEC_VERSION: {"const": message.SPEC_VERSION},
        message.HEADER_TYPE: {"type": "string", "description": "family.version.verb"},
        message.HEADER_SOURCE: {"type": "string", "description": "safelight/<service>"},
        message.HEADER_SUBJECT: {"type": "string", "description": "the work: job, or job.phase.attempt"},
        message.HEADER_TRACE: {"type": "string", "description": "W3C trace context"},
    },
}


def documents() -> dict[str, str]:
    """File name -> text of everything that is generated."""
    schemas = {
        **{channel.message.TYPE: channel.message.model_json_schema() for channel in CHANNELS},
        "gpu-call.v1.request": envelope.CallRequest.model_json_schema(),
        "gpu-call.v1.response": envelope.CallResponse.model_json_schema(mode="serialization"),
        "ocr.v1.page": ocr.Page.model_json_schema(),
    }
    named = {f"schemas/{name}.json": _text(schema) for name, schema in schemas.items()}
    return {"safelight.asyncapi.json": _text(asyncapi()), **named}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document: one channel per subject, one receive operation per consumer."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Safelight messages",
            "version": "1",
            "description": "Commands lie on a work-queue stream and have one owner; events are facts with many "
            f"readers. Bodies are JSON of at most {BODY_BYTES_MAX} bytes; metadata rides in headers.",
        },
        "defaultContentType": "application/json",
        "channels": {
            channel.subject: {
                "address": channel.subject,
                "description": f"stream {channel.stream}",
                "messages": {channel.message.TYPE: {"$ref": f"#/components/messages/{channel.message.TYPE}"}},
            }
            for channel in CHANNELS
        },
        "operations": {row.name: operation for row in CONSUMERS if (operation := _operation(row))},
        "components": {
            "messages": {
                channel.message.TYPE: {
                    "name": channel.message.TYPE,
                    "summary": (channel.message.__doc__ or "").splitlines()[0],
                    "headers": _HEADERS,
                    "payload": {"$ref": f"schemas/{channel.message.TYPE}.json"},
                }
                for channel in CHANNELS
            }
        },
        "x-streams": {
            stream.name: {"subjects": list(stream.subjects), "retention": stream.retention} for stream in STREAMS
        },
    }


def _operation(row: Consumer) -> dict[str, Any] | None:
    heard = [channel for channel in CHANNELS if any(_matches(pattern, channel.subject) for pattern in row.subjects)]
    if not heard:
        return None  # it reads dead letters, which are messages of any channel
    return {
        "action": "receive",
        "title": f"{row.owner} reads with the durable {row.name}",
        "channel": {"$ref": f"#/channels/{heard[0].subject}"},
        "x-channels": [channel.subject for channel in heard],
    }


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return given[: len(wanted) - 1] == wanted[:-1]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def drift() -> list[str]:
    """Names of generated files that are missing, differ, or should not be there."""
    wanted = documents()
    found = {str(path.relative_to(FOLDER)): path.read_text() for path in sorted(FOLDER.rglob("*.json"))}
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def main() -> None:
    """See the module's docstring."""
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(["generated contracts differ:", *drift()]) if drift() else 0)
    for stale in set(FOLDER.rglob("*.json")):
        stale.unlink()
    for name, text in documents().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
