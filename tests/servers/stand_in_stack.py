"""A supervisor over stand-ins, as its own process: `python -m tests.servers.stand_in_stack [FLAG...]`.

One stand-in plays the server, two play services; flags go to the second service. The stack's
folder is SAFELIGHT_HOME, as for the real one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from stack import ports
from stack.home import Home
from stack.processes import Program, base_environment
from stack.servers import http_ok
from stack.supervisor import supervise

PROGRAM = Path(__file__).with_name("stand_in.py")


def program(home: Home, name: str, port: int, *flags: str) -> Program:
    """One stand-in."""
    return Program(
        name=name,
        command=(sys.executable, str(PROGRAM), name, str(port), str(home.path / "journal"), *flags),
        environment=base_environment(home.path),
        folder=home.path,
        ready=partial(http_ok, port, "/ready"),
    )


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    home = Home.here()

    def make(chosen: dict[str, int], _secrets: dict[str, str]) -> Sequence[Sequence[Program]]:
        server = program(home, "nats", chosen["nats"])
        services = [program(home, "ingest", chosen["ingest"]), program(home, "output", chosen["output"], *sys.argv[1:])]
        return [server], [], services

    if not home.read_state().get("ports"):  # stay out of the way of a stack that a developer has up
        home.create()
        home.write_state({"ports": ports.anywhere()})
    return supervise(home, make)


if __name__ == "__main__":
    sys.exit(main())
