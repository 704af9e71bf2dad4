"""`python -m gpu_functions`: a warm worker that is fed calls through pipes.

    stdin    one CallRequest per line, as JSON
    stdout   {"progress": {"call_id": ..., "fraction": 0..1}}   any number while a call runs
             {"response": {...CallResponse}}                     one per call, in order
    stderr   whatever libraries print

It ends at end of file, and when nobody reads its answers: whoever fed it is gone, and finds what
was done in the result objects. When a call had to be left behind at its deadline it answers and exits
with ABANDONED: the thread that is stuck cannot be stopped otherwise. A worker can be killed at
any moment: it owns nothing but memory. Items with marks are claimed in the name of the request's
call_id, which is the handle of the local provider. SIGINT is ignored, for Ctrl-C in a terminal reaches the
whole group and the parent is the one to decide.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import BaseModel, ValidationError

from contracts.envelope import CallRequest, CallResponse, ItemError
from gpu_functions.catalog import CATALOG, EngineRow
from gpu_functions.runner import Runner
from gpu_functions.weights import Shelf

ABANDONED: Final = 75  # sysexits' EX_TEMPFAIL: start another worker and go on

# A worker is one core's worth of work; more cores are used by more workers. Set before the libraries load.
THREADS: Final = {
    "VIPS_CONCURRENCY": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
SAFETY: Final = {"VIPS_BLOCK_UNTRUSTED": "1"}


class Wire:
    """The real stdout, one JSON object per line, whole lines only."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # progress is told from the thread of the call

    def progress(self, call_id: str, fraction: float) -> None:
        """Tell how far a call is."""
        self._write(json.dumps({"progress": {"call_id": call_id, "fraction": round(fraction, 4)}}))

    def response(self, response: BaseModel) -> None:
        """Answer a call."""
        self._write(f'{{"response":{response.model_dump_json()}}}')

    def _write(self, line: str) -> None:
        with self._lock:
            self._stream.write(line.encode() + b"\n")
            self._stream.flush()


def main(arguments: Sequence[str] | None = None, catalog: Sequence[EngineRow] = CATALOG) -> int:
    """Serve calls until stdin ends. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="gpu_functions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memory-bytes", type=int, help="limit of the address space (RLIMIT_AS), where there is one")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="what engines may compute on")
    parser.add_argument("--weights", type=Path, help="folder of the weights that were pulled")
    parser.add_argument("--allow-noncommercial", action="store_true", help="run what may not be used commercially")
    options = parser.parse_args(arguments)
    if options.memory_bytes:
        _limit_memory(options.memory_bytes)
    os.environ.update(SAFETY)
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shelf = Shelf(options.weights, options.allow_noncommercial)
    return serve(sys.stdin.buffer, _take_stdout(), Runner(options.device, catalog, shelf=shelf))


def serve(requests: BinaryIO, wire: Wire, runner: Runner) -> int:
    """Answer each line of `requests` on `wire`. Returns the exit status."""
    for line in requests:
        try:
            wire.response(_answered(runner, line, wire))
        except BrokenPipeError:
            return 0
        if runner.abandoned:
            return ABANDONED
    return 0


def _answered(runner: Runner, line: bytes, wire: Wire) -> CallResponse:
    try:
        request = CallRequest.model_validate_json(line)
    except ValidationError:
        return CallResponse(call_id="", function="", error=ItemError(code="MESSAGE_INVALID"))
    return runner.run(request, partial(wire.progress, request.call_id), owner=request.call_id)


def _take_stdout() -> Wire:
    """Keep the real stdout for ourselves and let everybody else's file descriptor 1 be stderr."""
    real = os.dup(1)
    os.dup2(2, 1)
    return Wire(os.fdopen(real, "wb"))


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # a thread that was left behind would hold up an ordinary exit
