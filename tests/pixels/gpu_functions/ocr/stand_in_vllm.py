"""A small server that speaks as vLLM's OpenAI server does, for want of a GPU: it reads with PP-OCR what it is sent.

As a program (`stand_in_vllm.py serve FOLDER --port=N ...`) it does what `FOLDER/config.json` says: be ready at
once ("ready"), after some looks ("slow"), never ("never"), or end at once ("ends").
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reads = Callable[[bytes, str], str]  # a JPEG and a prompt -> what stands there


@dataclass
class Peer:
    """`next` scripts answers ahead of the reader's: a status, or a body; `asked` is every prompt in order."""

    reads: Reads
    key: str = ""
    looks: int = 0  # at /health that are answered 503
    next: list[int | bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def server(self, port: int = 0) -> ThreadingHTTPServer:
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                peer.looks -= 1
                self._reply(200 if self.path == "/health" and peer.looks < 0 else 503, b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if peer.key and self.headers.get("Authorization") != f"Bearer {peer.key}":
                    self._reply(401, b"{}")
                    return
                with peer.lock:
                    self._reply(*peer.answer(json.loads(body)))

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gave up is part of the tests
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def answer(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        assert asked["model"] == "PaddleOCR-VL"
        assert asked["temperature"] == 0
        picture, prompt = asked["messages"][0]["content"]
        self.asked.append(prompt["text"])
        if self.next:
            scripted = self.next.pop(0)
            return (scripted, b'{"error": "no"}') if isinstance(scripted, int) else (200, scripted)
        head, _, data = picture["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        said = self.reads(base64.b64decode(data), prompt["text"])
        return 200, said_as(said)


def said_as(text: object) -> bytes:
    """The body of an answer that says `text`."""
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    return json.dumps({"object": "chat.completion", "choices": choices}).encode()


def main() -> None:
    """See the module's docstring."""
    folder = Path(sys.argv[2])
    behaviour = json.loads((folder / "config.json").read_text())["behaviour"]
    if behaviour == "ends":
        sys.exit(3)
    (folder / "pid").write_text(str(os.getpid()))
    looks = {"slow": 3, "never": 10**9}.get(behaviour, 0)
    port = next(int(flag.partition("=")[2]) for flag in sys.argv if flag.startswith("--port="))
    Peer(lambda _, prompt: f"you asked {prompt}", key=os.environ["VLLM_API_KEY"], looks=looks).server(port)
    threading.Event().wait()


if __name__ == "__main__":
    main()
