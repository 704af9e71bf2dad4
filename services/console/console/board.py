"""A table on stderr that follows files on their way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from console import rendering
from console.submitting import Submission
from console.terminal import now

FRAMES_PER_S: Final = 8


class board:  # noqa: N801  # reads as the function that it stands for
    """A table on stderr that follows the submissions; when not live, nothing."""

    def __init__(self, *, live: bool) -> None:
        self._rows: list[Submission] = []
        self._live = Live(
            get_renderable=lambda: rendering.submissions(self._rows, now()),
            console=Console(stderr=True),
            refresh_per_second=FRAMES_PER_S,
            transient=True,
        )
        self._is_live = live and self._live.console.is_terminal

    def __enter__(self) -> Callable[[Any], None]:
        if self._is_live:
            self._live.start()
        return self._rows_changed

    def _rows_changed(self, rows: list[Submission]) -> None:
        self._rows = list(rows)

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()
