"""Runs a service that may die at a point: `python -m tests.chaos.victim SERVICE --folder DIR [--at POINT]`.

With `--nursery` nothing runs at first: the service is loaded and waits. Each line of stdin (a point's name, or an
empty one) makes a process of it, whose id is answered. Loading takes two seconds of a core, making one takes none.
`setup` in place of a service sets the servers up.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

from tests.chaos import timing

FREEZE: Final = "freeze "  # before a point's name: it stops there, and does not die
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(prog="victim", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("service")
    parser.add_argument("--folder", type=Path, required=True, help="where it leaves word")
    parser.add_argument("--at", default="", help="the name of a point, after `freeze ` to stop there only")
    parser.add_argument("--nursery", action="store_true")
    options = parser.parse_args()
    die_with_parent()
    timing.shorten_topology()
    if options.service == "setup":
        _set_up()
        return
    run, arm = _loaded(options.service, options.folder)
    if options.nursery:
        _serve(run, arm)
        return
    arm(options.at)
    run()


def _set_up() -> None:
    from stack.setup import SetupSettings, setup

    asyncio.run(setup(SetupSettings()))


def _loaded(service: str, folder: Path) -> tuple[Callable[[], None], Callable[[str], None]]:
    """The service's `main`, and what gives it a point to die at."""
    from tests.chaos import hooks, points

    package = service.replace("-", "_")
    trap = hooks.Trap(folder)
    hooks.install([package, "modal"] if "SAFELIGHT_MODAL_APP" in os.environ else [package], trap)
    timing.shorten_constants(package)
    if package == "gpu_bridge":
        from tests.chaos import worker

        worker.replace_worker(folder)

    def arm(name: str) -> None:
        trap.freezes = name.startswith(FREEZE)
        name = name.removeprefix(FREEZE)
        trap.point = points.BY_NAME[name] if name else None

    run: Callable[[], None] = import_module(f"{package}.app").main
    return run, arm


def _serve(run: Callable[[], None], arm: Callable[[str], None]) -> None:
    assert threading.active_count() == 1, "a fork would leave threads behind"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            _be_born(run, arm, line.strip())
        print(pid, file=answers, flush=True)


def _be_born(run: Callable[[], None], arm: Callable[[str], None], at: str) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        arm(at)
        run()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def die_with_parent() -> None:
    """Let the system end this process when the one that started it is gone."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


if __name__ == "__main__":
    main()
