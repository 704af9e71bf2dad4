"""What commands do with a stack: bring it up, take it down, look at it. No printing here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from stack import processes, services, supervisor
from stack.home import Home, Refusal

UP_S: Final = supervisor.START_S + 30  # the supervisor's own limit, and time to take down what did start
DOWN_S: Final = 60.0  # 30 s for the services to drain, 10 s for the servers, and some
TAIL_LINES: Final = 25
_LOOK_S: Final = 0.05
COMMAND: Final = (sys.executable, "-P", "-m", "stack.supervisor")


class NotReady(Exception):
    """The stack did not start; `tail` is the end of the log that says why."""

    def __init__(self, text: str, log: Path) -> None:
        self.log = log
        self.tail = tail(log, TAIL_LINES)
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Up:
    """A stack that is ready. `already`: it was, before we came."""

    state: dict[str, Any]
    already: bool


def up(home: Home, command: Sequence[str] = COMMAND) -> Up:
    """Start the stack in the background and wait until it is ready.

    Raises:
        NotReady: it did not start, or not in time.
        Refusal: the folder is not ours, or what the environment asks for cannot be started.
    """
    home.create()
    if home.is_up():
        return Up(_await_ready(home, None), already=True)
    services.check()
    home.write_state(home.read_state() | {"status": "down", "error": None})
    log = home.log("supervisor")
    with log.open("ab") as output:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Up(_await_ready(home, started), already=False)


def _await_ready(home: Home, started: subprocess.Popen[bytes] | None) -> dict[str, Any]:
    deadline = time.monotonic() + UP_S
    while time.monotonic() < deadline:
        ended = started.poll() is not None if started else not home.is_up()
        state = home.read_state()
        if state.get("status") == "ready" and not ended:
            return state
        if ended:
            error = state.get("error") or {"text": "the supervisor ended", "log": str(home.log("supervisor"))}
            raise NotReady(error["text"], Path(error["log"]))
        time.sleep(_LOOK_S)
    if started:
        started.terminate()
    raise NotReady(f"the stack was not ready within {UP_S:.0f} s", home.log("supervisor"))


def down(home: Home) -> bool:
    """Take the stack down and wait until everything has ended, by force if it has to be. False when none was up."""
    if home.path.exists() and not home.is_up():
        # Whatever a killed supervisor left behind ends here too.
        return supervisor.clean(home) > 0
    owner = home.read_state().get("supervisor", {})
    process = processes.find(owner["pid"], owner["created"]) if owner else None
    if process is None:
        return False
    process.terminate()
    deadline = time.monotonic() + DOWN_S
    while home.is_up():
        if time.monotonic() > deadline:
            processes.end([process])
            supervisor.clean(home)
        time.sleep(_LOOK_S)
    return True


def status(home: Home) -> dict[str, Any]:
    """The state, checked against what really runs, with memory per process and in all (bytes)."""
    known = home.read_state()
    if not known or not home.is_up():
        return {"status": "down", "home": str(home.path), "processes": {}}
    rows = {name: row | _measured(row) for name, row in known.get("processes", {}).items()}
    owner = known["supervisor"] | {"status": known["status"], "restarts": 0, "log": str(home.log("supervisor"))}
    rows["supervisor"] = owner | _measured(owner)
    return known | {"home": str(home.path), "processes": rows, "memory": sum(row["memory"] for row in rows.values())}


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    process = processes.find(row["pid"], row["created"]) if row.get("pid") else None
    if process is None:
        return {"pid": None, "memory": 0, "running_s": 0.0}
    # The supervisor's children have rows of their own; everybody else's are part of them.
    family = [process] if process.parent() is None or "port" not in row else [process, *process.children(True)]
    memory = sum(_memory(member) for member in family)
    return {"memory": memory, "running_s": round(time.time() - process.create_time(), 1)}


def _memory(process: psutil.Process) -> int:
    """Resident bytes; pages that several processes share are split between them where the system can tell."""
    try:
        detail = process.memory_full_info()
        return int(getattr(detail, "pss", detail.rss))
    except psutil.Error:
        return 0


def setup_environment(home: Home) -> dict[str, str]:
    """The variables of `setup` for the stack in `home`. Raises Refusal when none is up."""
    return services.setup_environment(*_known(home))


def client_environment(home: Home) -> dict[str, str]:
    """Where the stack in `home` is, a tenant's key to it, and an operator's. Raises Refusal when none is up."""
    return services.client_environment(*_known(home))


def _known(home: Home) -> tuple[dict[str, int], dict[str, str]]:
    ports, secrets = home.read_state().get("ports"), home.secrets()
    if not ports or not secrets or not home.is_up():
        raise Refusal("no stack is up here: run `safelight up`")
    return ports, secrets


def tail(log: Path, lines: int) -> list[str]:
    """The last lines of a log; [] when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
