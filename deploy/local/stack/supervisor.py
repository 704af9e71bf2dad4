"""One foreground process that owns a stack: `python -m stack.supervisor`.

    servers (together) -> setup (once, to its end) -> services (together) -> watch -> services -> servers
            start, wait until ready                    start, wait until ready       stop, in this order

Law: at start-up a process that ends is a failure of the whole, told with its log. Later it is started
again, at once the first time, then with growing pauses. The supervisor sleeps in `select` until a
child ends, a signal comes or a pause is over: it costs nothing while all is well.
"""

from __future__ import annotations

import logging
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import psutil

from stack import ports as port_table
from stack import processes, servers, services
from stack.home import Home, Refusal
from stack.processes import Child, Program

START_S: Final = 60.0  # a start that takes longer has failed; it takes under 10 s on two slow cores
RESTART_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # the pause before the n-th restart in a row
STEADY_S: Final = 60.0  # who ran this long begins at the first pause again
_PROBE_S: Final = 0.05

log = logging.getLogger("supervisor")


class StartFailed(Exception):
    """A process ended, or was not ready in time, while the stack was starting."""

    def __init__(self, name: str, why: str) -> None:
        self.name = name
        super().__init__(f"{name} {why}")


class Stopped(Exception):
    """A signal asked us to end while we were starting."""


class Signals:
    """SIGTERM, SIGINT and SIGHUP as a flag, and a sleep that they and the end of a child cut short."""

    def __init__(self) -> None:
        self.count = 0
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _stop(self, *_: object) -> None:
        self.count += 1

    def wait(self, seconds: float | None) -> None:
        """Sleep until a signal comes, at most `seconds`."""
        if select.select([self._woken], [], [], seconds)[0]:
            self._woken.recv(4096)


@dataclass(slots=True)
class _Run:
    """A child and what we know of its life."""

    child: Child
    status: str = "starting"  # starting | ready | waiting (to be restarted) | stopped
    since: float = field(default_factory=time.monotonic)
    in_a_row: int = 0
    restarts: int = 0
    due: float = 0.0


class Supervisor:
    """Owns `servers`, `setup` and `services` of the stack in `home`, whose lock the caller holds."""

    def __init__(
        self,
        home: Home,
        ports: dict[str, int],
        servers: Sequence[Program],
        setup: Program | None,
        services: Sequence[Program],
        signals: Signals,
    ) -> None:
        self._home = home
        self._ports = ports
        self._signals = signals
        self._servers = [self._run_of(program) for program in servers]
        self._setup = self._run_of(setup) if setup else None
        self._services = [self._run_of(program) for program in services]
        self._began = time.monotonic()
        self._state: dict[str, Any] = {}

    def run(self) -> int:
        """Start, watch until a signal comes, stop. Returns the exit status: 1 when the start failed."""
        try:
            self._tell(status="starting", started_at=datetime.now(UTC).isoformat(), error=None)
            self._start()
            self._tell(status="ready", ready_s=round(time.monotonic() - self._began, 2))
            log.info("stack.ready seconds=%.2f", time.monotonic() - self._began)
            self._watch()
        except Stopped:
            log.info("stack.stopped_while_starting")
        except (StartFailed, RuntimeError, OSError) as problem:
            name = getattr(problem, "name", "supervisor")
            log.error("stack.start_failed process=%s why=%s", name, problem)
            self._tell(error={"process": name, "text": str(problem), "log": str(self._home.log(name))})
            return 1
        finally:
            self._stop()
        return 0

    # --- start

    def _start(self) -> None:
        beginning = [*self._servers, *([self._setup] if self._setup else [])]
        for run in beginning:
            self._begin(run)
        self._await(self._servers)
        if self._setup:
            self._await_setup(self._setup)
        for run in self._services:
            self._begin(run)
        self._await(self._services)

    def _begin(self, run: _Run) -> None:
        run.child.start()
        run.status, run.since = "starting", time.monotonic()
        log.info("process.started name=%s pid=%s", run.child.program.name, run.child.pid)
        self._tell()

    def _await(self, runs: Sequence[_Run]) -> None:
        def all_ready() -> bool:
            for run in runs:
                self._refuse_ended(run)
                if run.status == "starting" and run.child.is_ready():
                    self._note_ready(run)
            return all(run.status == "ready" for run in runs)

        self._until(all_ready, runs)

    def _await_setup(self, run: _Run) -> None:
        run.child.open_gate()
        self._until(lambda: not run.child.is_running, [run])
        if run.child.exit_code:
            raise StartFailed("setup", f"ended with status {run.child.exit_code}")
        run.status = "stopped"
        log.info("setup.done seconds=%.2f", time.monotonic() - run.since)

    def _until(self, condition: Callable[[], bool], runs: Sequence[_Run]) -> None:
        deadline = self._began + START_S
        while not condition():
            if self._signals.count:
                raise Stopped
            if time.monotonic() > deadline:
                late = next((run.child.program.name for run in runs if run.status != "ready"), "stack")
                raise StartFailed(late, f"was not ready within {START_S:.0f} s")
            self._signals.wait(_PROBE_S)

    def _refuse_ended(self, run: _Run) -> None:
        if not run.child.is_running:
            raise StartFailed(run.child.program.name, f"ended with status {run.child.exit_code} before it was ready")

    def _note_ready(self, run: _Run) -> None:
        run.status = "ready"
        log.info("process.ready name=%s seconds=%.2f", run.child.program.name, time.monotonic() - run.since)
        self._tell()

    # --- watch

    def _watch(self) -> None:
        runs = [*self._servers, *self._services]
        while not self._signals.count:
            for run in runs:
                self._look_after(run)
            self._signals.wait(self._next_look(runs))

    def _look_after(self, run: _Run) -> None:
        now = time.monotonic()
        if run.status == "waiting":
            if now >= run.due:
                self._restart(run)
        elif not run.child.is_running:
            self._note_ended(run, now)
        elif run.status == "starting" and run.child.is_ready():
            self._note_ready(run)

    def _note_ended(self, run: _Run, now: float) -> None:
        name, code = run.child.program.name, run.child.exit_code
        run.in_a_row = 0 if now - run.since > STEADY_S else run.in_a_row
        pause = RESTART_S[min(run.in_a_row, len(RESTART_S) - 1)]
        log.warning("process.ended name=%s status=%s restart_in_s=%s", name, code, pause)
        run.child.after_end()
        run.in_a_row += 1
        run.status, run.due = "waiting", now + pause
        self._tell()

    def _restart(self, run: _Run) -> None:
        run.restarts += 1
        try:
            self._begin(run)
        except (RuntimeError, OSError) as problem:
            log.error("process.restart_failed name=%s why=%s", run.child.program.name, problem)
            self._note_ended(run, time.monotonic())

    def _next_look(self, runs: Sequence[_Run]) -> float | None:
        if any(run.status == "starting" for run in runs):
            return _PROBE_S
        now = time.monotonic()
        # A child that ended while we looked at others is seen without its signal, which may have come before.
        if any(run.status == "ready" and not run.child.is_running for run in runs):
            return 0.0
        return min((max(0.0, run.due - now) for run in runs if run.status == "waiting"), default=None)

    # --- stop

    def _stop(self) -> None:
        self._tell(status="stopping")
        for runs in ([self._setup] if self._setup else [], self._services, self._servers):
            self._stop_together(runs)
        processes.end(processes.marked(self._home.path))
        self._tell(status="down")
        log.info("stack.stopped")

    def _stop_together(self, runs: Sequence[_Run]) -> None:
        began = time.monotonic()
        for run in runs:
            run.child.ask_to_stop()
        for run in runs:
            deadline = began + run.child.program.grace_s
            # A second signal means: do not wait any longer.
            while run.child.is_running and time.monotonic() < deadline and self._signals.count < 2:
                self._signals.wait(min(_PROBE_S, deadline - time.monotonic()))
            if run.child.is_running:
                log.warning("process.killed name=%s", run.child.program.name)
            run.child.kill()
            run.status = "stopped"
        if runs:
            self._tell()

    # --- state

    def _run_of(self, program: Program) -> _Run:
        return _Run(Child(program, self._home.log(program.name)))

    def _tell(self, **changes: Any) -> None:
        me = psutil.Process()
        self._state |= changes
        self._state |= {
            "supervisor": {"pid": me.pid, "created": me.create_time()},
            "ports": self._ports,
            "url": f"http://{port_table.HOST}:{self._ports['console']}",
            "moved": {n: p for n, p in self._ports.items() if p != port_table.PORTS[n]},
            "processes": {
                run.child.program.name: {
                    "pid": run.child.pid if run.child.is_running else None,
                    "created": run.child.created,
                    "status": run.status,
                    "restarts": run.restarts,
                    "port": self._ports.get(run.child.program.name),
                    "log": str(run.child.log),
                }
                for run in (*self._servers, *self._services)
            },
        }
        self._home.write_state(self._state)


def clean(home: Home) -> int:
    """End what an earlier supervisor, killed or crashed, left running. Returns how many there were.

    The caller holds the lock, so whoever still runs here has no owner.
    """
    recorded = (
        processes.find(row["pid"], row["created"])
        for row in home.read_state().get("processes", {}).values()
        if row.get("pid")
    )
    left = {process.pid: process for process in (*filter(None, recorded), *processes.marked(home.path))}
    processes.end(left.values(), grace_s=5)
    return len(left)


def supervise(home: Home, make: Callable[[dict[str, int], dict[str, str]], Sequence[Sequence[Program]]]) -> int:
    """Run the stack in `home` until a signal comes. `make` gives (servers, setup, services) for ports and secrets.

    Raises:
        Refusal: a stack is up in this folder already, or the folder is not ours.
    """
    signals = Signals()
    home.create()
    lock = _patiently(home)
    if lock is None:
        raise Refusal(f"a stack is up in {home.path} already")
    with lock:
        ended = clean(home)
        if ended:
            log.warning("stack.cleaned processes=%d", ended)
        secrets = home.make_secrets()
        ports = port_table.choose(home.read_state().get("ports", {}))
        first, setup, second = make(ports, secrets)
        return Supervisor(home, ports, first, setup[0] if setup else None, second, signals).run()


def _patiently(home: Home) -> Any:
    """The lock. Somebody who looks whether we are up holds it for an instant."""
    deadline = time.monotonic() + 1
    while (lock := home.lock()) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return lock


def main() -> int:
    """The stack of this repository, in the foreground."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = Home.here()

    def make(ports: dict[str, int], secrets: dict[str, str]) -> Sequence[Sequence[Program]]:
        start = (servers.postgres, servers.s3, servers.nats)
        return (
            [server(home.path, home.data / server.__name__, ports, secrets) for server in start],
            [services.setup_program(home, ports, secrets)],
            services.programs(home, ports, secrets),
        )

    try:
        services.check()
        return supervise(home, make)
    except Refusal as problem:
        log.error("%s", problem)
        return 2


if __name__ == "__main__":
    sys.exit(main())
