"""Servers from wheels: the embedded stack's own programs, in a folder of the test session."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stack import servers
from stack.processes import Child, Program

READY_S = 30.0
PROGRAMS: Mapping[str, Callable[..., Program]] = {"nats": servers.nats, "postgres": servers.postgres, "s3": servers.s3}


class WheelServer:
    """A Child that is waited for."""

    def __init__(self, name: str, home: Path, ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
        program = PROGRAMS[name](home, home / name, ports, secrets)
        self.child = Child(program, home / f"{name}.log")
        self.restart()

    def kill(self) -> None:
        self.child.kill()

    def restart(self) -> None:
        if self.child.is_running:
            self.child.kill()
        self.child.start()
        deadline = time.monotonic() + READY_S
        while not self.child.is_ready():
            if not self.child.is_running or time.monotonic() > deadline:
                self.child.kill()
                log = self.child.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.child.program.name} did not become ready:\n{log}")
            time.sleep(0.02)

    def stop(self) -> None:
        self.child.stop()
