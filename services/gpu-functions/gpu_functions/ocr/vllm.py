"""vLLM beside the worker: a process on loopback that lives as long as its worker does, and the words spoken with it.

It writes nowhere: what it would print could be what stands on a page. Its end is bound to ours by a pipe that a
shell reads from, since a worker may be killed at any moment.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import socket
import subprocess  # our own program, an argument list
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import httpx

from contracts.errors import error
from gpu_functions.ocr.scan import Scan

MODEL: Final = "PaddleOCR-VL"
READY_S: Final = 600.0  # loading 2 GB and compiling takes 1 to 3 minutes on a cold machine
LOOK_S: Final = 0.25  # between two looks whether it is ready
ANSWER_S: Final = 120.0  # for one block
TOKENS_MAX: Final = 4096
ANSWER_BYTES_MAX: Final = 1 << 20
JPEG_QUALITY: Final = 92

# Kill the server when nobody holds the other end of stdin any more; end when it ends.
_KEEPER: Final = 'exec 3<&0; "$@" </dev/null & child=$!; (read -r _ <&3; kill "$child") & wait "$child"'
# What it is handed on of ours: where programs and libraries are, and which card. Nobody's tokens.
_VARIABLES: Final = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES")
_FLAGS: Final = (
    "--trust-remote-code",  # of files that are pinned, like the weights
    "--max-num-batched-tokens=16384",
    "--no-enable-prefix-caching",
    "--mm-processor-cache-gb=0",
)


class Server:
    """`vllm serve` with the model in `folder`, on a free port of this machine."""

    def __init__(self, folder: Path, ready_s: float = READY_S) -> None:
        """Start it; `client` waits until it is ready. Raises ENGINE_UNAVAILABLE when there is no vLLM."""
        program = shutil.which("vllm")
        if program is None:
            raise error("ENGINE_UNAVAILABLE", "the program vllm is not installed")
        self._key, port = secrets.token_urlsafe(24), _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._ready_by = time.monotonic() + ready_s
        command = [program, "serve", str(folder), f"--served-model-name={MODEL}", "--host=127.0.0.1", f"--port={port}"]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "sh", *command, *_FLAGS],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _VARIABLES if name in os.environ}
            | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_API_KEY": self._key},
        )

    def client(self) -> Client:
        """Who speaks with it, once it is ready. Raises ENGINE_UNAVAILABLE when it ends or is not ready in time."""
        client = Client(self.url, self._key)
        while not client.is_ready():
            if self._process.poll() is not None:
                raise error("ENGINE_UNAVAILABLE", f"vllm ended with status {self._process.returncode}")
            if time.monotonic() > self._ready_by:
                self.stop()
                raise error("ENGINE_UNAVAILABLE", "vllm was not ready in time")
            threading.Event().wait(LOOK_S)
        return client

    def stop(self) -> None:
        """End it: the pipe closes, and the shell kills it."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(30)


class Client:
    """Asks a server that speaks as OpenAI's does. One for all threads of a process."""

    def __init__(self, url: str, key: str = "", answer_s: float = ANSWER_S) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=httpx.Timeout(answer_s, connect=5.0))

    def is_ready(self) -> bool:
        """Whether it has loaded its model."""
        try:
            return self._http.get("/health", timeout=5.0).is_success
        except httpx.HTTPError:
            return False

    def ask(self, pixels: Scan, prompt: str) -> str:
        """What the model reads in `pixels` (BGR). Raises CALL_LOST, ANSWER_INVALID; neither quotes the answer."""
        done, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        assert done
        picture = f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": prompt}]
        asked = {
            "model": MODEL,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0.0,
            "max_tokens": TOKENS_MAX,
        }
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=asked) as answer:
                answer.raise_for_status()
                body = _bounded(answer)
        except httpx.HTTPStatusError as problem:
            status = problem.response.status_code
            raise error("CALL_LOST" if status >= 500 else "ANSWER_INVALID", f"vllm answered {status}") from None
        except httpx.HTTPError as problem:
            raise error("CALL_LOST", f"vllm does not answer: {type(problem).__name__}") from None
        return _said(body)


def _bounded(answer: httpx.Response) -> bytes:
    """The body. Raises ANSWER_INVALID when it is longer than any block's text."""
    body = bytearray()
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise error("ANSWER_INVALID", "vllm's answer does not end")
    return bytes(body)


def _said(body: bytes) -> str:
    import json

    try:
        answer: Any = json.loads(body)
        said = answer["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        said = None
    if not isinstance(said, str):
        raise error("ANSWER_INVALID", "vllm's answer has no text")
    return said


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_folder(files: Sequence[Path], prefix: str, folder: Path) -> Path:
    """A folder with links to those of `files` whose names begin with `prefix`, under what their names end with."""
    for file in files:
        (folder / file.name.removeprefix(prefix)).symlink_to(file.resolve())
    return folder
