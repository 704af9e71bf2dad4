"""What a sandboxed decoder may do to us."""

from __future__ import annotations

import os
import signal

from contracts.errors import error


def double(number: int) -> int:
    return number * 2


def pid() -> int:
    return os.getpid()


def parent() -> int:
    return os.getppid()


def hang() -> None:
    while True:
        pass


def grow() -> int:
    return len(bytearray(10**12))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def refuse() -> None:
    raise error("IMAGE_CORRUPT", "cut short")
