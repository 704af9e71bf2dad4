"""A small real service for tests of the supervisor: answers /ready, drains on SIGTERM, does what its arguments say.

    python stand_in.py NAME PORT JOURNAL [--fail] [--leave-child]

It appends `NAME started` and, when it was asked to stop, `NAME drained` to JOURNAL.
`--fail` ends with an error before it is ready; `--leave-child` starts a process in a session of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def main(name: str, port: str, journal: str, *flags: str) -> None:
    def note(what: str) -> None:
        with Path(journal).open("a") as file:
            file.write(f"{name} {what}\n")

    if "--fail" in flags:
        sys.exit("cannot start: the moon is in the wrong phase")
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), _Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    if "--leave-child" in flags:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    note("started")
    server.serve_forever(poll_interval=0.02)
    note("drained")


if __name__ == "__main__":
    main(*sys.argv[1:])
