"""The GPU functions' worker with points: `python -m tests.chaos.worker FOLDER ...` in place of `gpu_functions`.

It reads in FOLDER what to do: while a file `hold` is there a call waits before its body, and a file `worker` names the
point at which the next call dies, once. A file `fail` lets the next call fail as if its worker had died.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

HOLD: Final = "hold"
POINT: Final = "worker"
FAIL: Final = "fail"
BEGUN: Final = "begun"  # a line for each call that has come


def replace_worker(folder: Path) -> None:
    """In the bridge: let the local provider start this module."""
    from gpu_bridge.providers import local

    start = asyncio.create_subprocess_exec

    async def started(*command: str, **options: Any) -> asyncio.subprocess.Process:
        python, _, module, *rest = command
        assert module == "gpu_functions"
        return await start(python, "-m", "tests.chaos.worker", str(folder), *rest, **options)

    class Asyncio:
        """The module as the provider sees it."""

        create_subprocess_exec = staticmethod(started)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    vars(local)["asyncio"] = Asyncio()


def main(folder: Path, arguments: list[str]) -> int:
    """As `gpu_functions` does, but for what FOLDER says."""
    from contracts.envelope import ItemError, ItemResult
    from gpu_functions import __main__ as worker
    from gpu_functions import runner
    from tests.chaos import hooks, points

    trap = hooks.Trap(folder)
    read, store = runner._Call._task, runner._Call._stored
    key = ""  # of the call that runs: there is one at a time

    def begun(self: Any, at_work: Any) -> Any:
        """Its inputs are about to be read."""
        nonlocal key
        key = at_work.item.id
        hooks.write(folder / BEGUN, key)
        if (named := folder / POINT).exists():
            trap.point = points.BY_NAME[named.read_text()]
            named.unlink()
        while (folder / HOLD).exists():
            time.sleep(0.01)
        if (folder / FAIL).exists():
            (folder / FAIL).unlink()
            self._ended(at_work, ItemResult(id=key, error=ItemError(code="CALL_LOST")))
            return None
        return read(self, at_work)

    def stored(self: Any, at_work: Any, *made: Any) -> Any:
        """What was made of it is stored, and told to nobody."""
        result = store(self, at_work, *made)
        trap.ran("style" if self.row.function == "style.apply" else self.row.function, key)
        return result

    runner._Call._task = begun  # type: ignore[method-assign]
    runner._Call._stored = stored  # type: ignore[method-assign, assignment]
    for row in points.BOUNDARIES:
        if row.package == "gpu_functions":
            hooks.guard(trap, row, lambda: [f"call {key}"])
    return worker.main(arguments)


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), sys.argv[2:])
    sys.stderr.flush()
    os._exit(status)
