"""Every GPU function and the engines that can do its work: reading the table is knowing what runs.

An engine's class is imported when it is first needed, so that an idle worker stays small and
an image that lacks the packages of one engine can still run the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, cast

from contracts.errors import error
from gpu_functions.engine import Engine


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine of one function. `path` is `module:Class`; `device` is where it runs: "cpu" or "gpu".

    `version` rises whenever the same input and parameters may give other pixels, `function_version`
    when the function's inputs, parameters or outputs mean something else: it is what callers ask for.
    """

    function: str
    engine: str
    version: int
    device: str
    path: str
    function_version: int = 1

    @property
    def label(self) -> str:
        """`engine@version`, the name that results and spans carry."""
        return f"{self.engine}@{self.version}"

    def load(self) -> Engine:
        """Import the class and construct it: the slow part, done once per process."""
        module, _, name = self.path.partition(":")
        return cast(Engine, getattr(import_module(module), name)())


CATALOG: Final = (
    #         function          engine            v  device path
    EngineRow("style.apply",    "cube-lut",       1, "cpu", "gpu_functions.style:CubeLut"),
    EngineRow("retouch.faces",  "skin-smoothing", 1, "cpu", "gpu_functions.retouch:SkinSmoothing"),
    EngineRow("cleanup.remove", "telea-inpaint",  1, "cpu", "gpu_functions.cleanup:TeleaInpaint"),
)  # fmt: skip


def find(function: str, device: str = "cpu", catalog: Sequence[EngineRow] = CATALOG, version: int = 1) -> EngineRow:
    """The row for version `version` of `function` on `device`; on a "gpu" the CPU's engine serves where none needs one.

    Raises FUNCTION_UNKNOWN; the name is not repeated in the error.
    """
    known = [row for row in catalog if row.function == function]
    if not known:
        raise error("FUNCTION_UNKNOWN", "no engine has this function")
    serving = [row for row in known if row.function_version == version]
    if not serving:
        here = ", ".join(str(one) for one in sorted({row.function_version for row in known}))
        raise error("FUNCTION_UNKNOWN", f"version {version} of this function was asked for; here is {here}")
    for able in (device, "cpu") if device == "gpu" else (device,):
        for row in serving:
            if row.device == able:
                return row
    raise error("FUNCTION_UNKNOWN", f"no engine on the device '{device}' has this function")
