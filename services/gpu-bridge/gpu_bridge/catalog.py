"""Which GPU function runs which phase, with what, where, and how long it may take.

The lane is the last word of the command's subject; the provider order is the order of trust:
the first that is allowed and takes work gets the call. Reading these tables is reading what the bridge does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.errors import error


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds: in our queue; from submission to start (cold start); without progress; running. Each has its code."""

    queue_s: float
    start_s: float
    stall_s: float
    run_s: float


@dataclass(frozen=True, slots=True)
class Function:
    """`inputs` are roles of the command that the function reads; `outputs` maps its roles to artifact names.

    `version` rises when the same work would give another result. Calls go together when they
    agree in `alike`: roles whose input must be the same (a gallery's style is loaded once). `long` work tells
    of itself while it runs, and keeps a checkpoint that outlives its epochs.
    """

    name: str
    version: int
    lane: str
    inputs: tuple[str, ...]
    outputs: dict[str, str]
    alike: tuple[str, ...]
    clocks: Clocks
    providers: tuple[str, ...]
    long: bool = False

    @property
    def label(self) -> str:
        """`function@version`"""
        return f"{self.name}@{self.version}"

    @property
    def wants_gpu(self) -> bool:
        """Whether anybody but the own CPU may do it: then the CPU only stands in."""
        return self.providers != _CPU


_IMAGE: Final = {"image": "image.png"}
_STYLE: Final = {"style": "style.safetensors", "cube": "style.cube", "preview": "preview.jpg", "report": "report.json"}
_CUBE: Final = {"cube": "style.cube", "preview": "preview.jpg"}
_PAGE: Final = {"ocr": "ocr.json", "markdown": "page.md"}
_SCENE: Final = {"splat": "splat.ply", "turntable": "turntable.webp"}
# An engine tells nothing while it works on one photo or page; training tells of each step.
_PHOTO: Final = Clocks(queue_s=240, start_s=120, stall_s=120, run_s=240)
_READING: Final = Clocks(queue_s=240, start_s=120, stall_s=480, run_s=600)  # the first call loads a server: 1 to 3 min
_TRAINING: Final = Clocks(queue_s=600, start_s=300, stall_s=120, run_s=1800)
_ANY: Final = ("box", "modal", "local")  # what is paid for already, what is paid for by the second, the CPU
_CPU: Final = ("local",)

# fmt: off
FUNCTIONS: Final[tuple[Function, ...]] = (
    #        name              v  lane       inputs            outputs  alike     clocks     providers in order
    Function("style.apply",    1, "style",   ("image", "lut"), _IMAGE,  ("lut",), _PHOTO,    _ANY),
    Function("style.train",    1, "train",   ("original",),    _STYLE,  (),       _TRAINING, _ANY, long=True),
    Function("style.import",   1, "import",  ("original",),    _CUBE,   (),       _PHOTO,    _CPU),
    Function("retouch.faces",  1, "retouch", ("image",),       _IMAGE,  (),       _PHOTO,    _ANY),
    Function("cleanup.remove", 1, "cleanup", ("image",),       _IMAGE,  (),       _PHOTO,    _ANY),
    Function("ocr.read",       1, "ocr",     ("image",),       _PAGE,   (),       _READING,  _ANY),
    Function("splat.make",     1, "splat",   ("image",),       _SCENE,  (),       _PHOTO,    _ANY),
)
# fmt: on


def allowed(function: Function, engine: str | None, names: Sequence[str], devices: Mapping[str, str]) -> list[str]:
    """Of the providers that are here (name: what it computes on) those that may do it, in the function's order.

    No engine is any; no names are all.
    """
    return [
        name
        for name in function.providers
        if name in devices and (engine is None or devices[name] == engine) and (not names or name in names)
    ]


def function_of(lane: str) -> Function | None:
    """The function that serves a lane, or None."""
    return next((row for row in FUNCTIONS if row.lane == lane), None)


def function_named(name: str) -> Function:
    """The row of a function. Raises FUNCTION_UNKNOWN when there is none (any more)."""
    for row in FUNCTIONS:
        if row.name == name:
            return row
    raise error("FUNCTION_UNKNOWN", f"the catalogue holds no function {name}")
