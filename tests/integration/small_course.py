"""A worker for which 20 pairs are a large set: `python -m tests.integration.small_course` in place of `gpu_functions`.

A test has no time for 60 pairs and 80 epochs. All else is the worker that is shipped.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest

from gpu_functions.engine import Place
from gpu_functions.style.learn import Course
from gpu_functions.style.train import PairsLut

COURSE: Final = Course(pairs_min=20, folds=3, epochs=40)


class Small(PairsLut):
    """`pairs-lut` with that course."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, COURSE)


@contextmanager
def worker() -> Iterator[None]:
    """Let the own CPU and the box start this module."""
    from gpu_bridge.providers import local

    class Asyncio:
        """The module as these providers see it."""

        async def create_subprocess_exec(self, *command: str, **options: Any) -> asyncio.subprocess.Process:
            if command[1:3] == ("-m", "gpu_functions"):
                command = (command[0], "-m", __name__, *command[3:])
            return await asyncio.create_subprocess_exec(*command, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "asyncio", Asyncio())
        yield


def main() -> int:
    """As `gpu_functions` does, with another course."""
    from gpu_functions import __main__ as shipped
    from gpu_functions.catalog import CATALOG

    rows = [
        replace(row, path="tests.integration.small_course:Small") if row.function == "style.train" else row
        for row in CATALOG
    ]
    return shipped.main(catalog=rows)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
