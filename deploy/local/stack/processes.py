"""Child processes that cannot outlive their parent.

Law of this module: whoever starts a Child from the main thread may be killed at any moment, by any
signal, and the child dies with it (Linux: PR_SET_PDEATHSIG, which follows the *thread* that forked;
elsewhere the next start finds the child by its mark and ends it). A child is its own session, so a
Ctrl-C in the terminal reaches the parent alone, and the parent decides the order of the end.

A process is ours when its pid *and* its creation time are on record, or when its environment
carries our mark. A pid alone proves nothing: pids are used again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from stack.accounts import Account

MARK: Final = "SAFELIGHT_STACK"  # in every child's environment: the folder of the stack that it belongs to
LOG_BYTES_MAX: Final = 10 * 1024 * 1024  # a longer log is put aside as NAME.log.1 at the next start
_CREATED_TOLERANCE_S: Final = 2.0  # creation times move with corrections of the clock

# What a process needs from the outside world, whoever it is; nothing else is inherited.
PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")

_LINUX: Final = sys.platform.startswith("linux")
_LIBC: Final = ctypes.CDLL(None) if _LINUX else None
_PR_SET_PDEATHSIG: Final = 1


def base_environment(home: Path) -> dict[str, str]:
    """The environment that every child starts from."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {MARK: str(home)}


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to run: what, where, knowing what, and when it counts as ready.

    `environment` is all that it gets to know: secrets travel here, never in `command`.
    `prepare` runs before each start, `tidy` after each end.
    `gated` programs get a pipe as stdin and begin their work when it is closed: they load meanwhile.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    ready: Callable[[], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 10.0
    account: Account | None = None
    gated: bool = False
    prepare: Callable[[], None] = _nothing
    tidy: Callable[[], None] = _nothing


class Child:
    """A Program that was started. Use from the main thread only (see the module's law)."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self.log = log
        self.created = 0.0
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before it was started."""
        return self._popen.poll() if self._popen else None

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def is_ready(self) -> bool:
        """Whether it runs and answers."""
        return self.is_running and self.program.ready()

    def start(self) -> None:
        """Start it, or start it again. Does not wait."""
        program = self.program
        program.prepare()
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        prefix, switch = program.account.enter(program.folder) if program.account else ((), {})
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                (*prefix, *program.command),
                env=dict(program.environment),
                cwd=program.folder,
                stdin=subprocess.PIPE if program.gated else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
                **switch,
            )
        try:
            self.created = psutil.Process(self._popen.pid).create_time()
        except psutil.NoSuchProcess:
            self.created = time.time()

    def open_gate(self) -> None:
        """Let a gated program begin."""
        if self._popen and self._popen.stdin:
            self._popen.stdin.close()

    def ask_to_stop(self) -> None:
        """Send the signal after which this program drains and ends."""
        if self._popen and self.is_running:
            self._popen.send_signal(self.program.stop_signal)

    def kill(self) -> None:
        """End it now, with everything it started, and wait until all are gone."""
        if self._popen and self.is_running:
            end(_tree(self._popen.pid))
        self.after_end()

    def stop(self) -> None:
        """Ask, wait as long as the program may take, then kill."""
        self.ask_to_stop()
        if self._popen:
            try:
                self._popen.wait(self.program.grace_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self.after_end()

    def after_end(self) -> None:
        """Reap, and put away what the program leaves lying about."""
        if self._popen:
            self._popen.wait()
            self.open_gate()
        self.program.tidy()


def _die_with(parent: int) -> Callable[[], None] | None:
    if not _LINUX or _LIBC is None:
        return None
    prctl, getppid, sigkill = _LIBC.prctl, os.getppid, int(signal.SIGKILL)

    def in_the_child() -> None:  # runs between fork and exec: nothing here may import or take a lock
        prctl(_PR_SET_PDEATHSIG, sigkill)
        if getppid() != parent:  # the parent died before we asked to be told
            os._exit(1)

    return in_the_child


def find(pid: int, created: float) -> psutil.Process | None:
    """The recorded process if it still runs, or None: also when a stranger has its pid by now."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) <= _CREATED_TOLERANCE_S
        return process if same and _runs(process) else None
    except psutil.Error:
        return None


def marked(home: Path) -> list[psutil.Process]:
    """Every process that a stack in `home` started and that still runs, children's children included."""
    mine = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(home) and _runs(process):
                mine.append(process)
        except (psutil.Error, OSError):  # gone meanwhile, or another account's: not ours
            continue
    return mine


def end(processes: Iterable[psutil.Process], grace_s: float = 0.0) -> None:
    """Terminate, wait `grace_s`, kill what is left, and wait until it is gone."""
    left = list(processes)
    if grace_s:
        _each(left, psutil.Process.terminate)
        left = _left_after(left, grace_s)
    _each(left, psutil.Process.kill)
    _left_after(left, 10)


def _left_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Who still runs when the time is over, or sooner when nobody does. A zombie does not run: reaping is its
    parent's affair, and psutil's own wait would take our children's exit codes from us."""
    deadline = time.monotonic() + seconds
    left = [process for process in processes if _runs(process)]
    while left and time.monotonic() < deadline:
        time.sleep(0.01)
        left = [process for process in left if _runs(process)]
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _each(processes: Iterable[psutil.Process], action: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            action(process)
        except psutil.NoSuchProcess:
            continue


def _tree(pid: int) -> list[psutil.Process]:
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
