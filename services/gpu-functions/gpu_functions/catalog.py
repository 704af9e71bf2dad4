"""Every GPU function and the engines that can do its work: reading the table is knowing what runs.

Of a function's engines on a device the first that can run is taken. One cannot when its weights are not
here, when they may not be used commercially and nobody has allowed that, or when a package is missing;
the answer tells who was passed over, and why. An engine's class is imported when it is first needed, so
that an idle worker stays small and an image that lacks the packages of one engine runs the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Final, cast

from contracts.errors import error
from gpu_functions.engine import Engine, Place
from gpu_functions.weights import EMPTY, PADDLEOCR_VL, Shelf


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine of one function. `path` is `module:Class`; `device` is where it runs: "cpu" or "gpu".

    `version` rises whenever the same input and parameters may give other pixels, `function_version`
    when the function's inputs, parameters or outputs mean something else: it is what callers ask for.
    `weights` are names in `weights.WEIGHTS`; `packages` are modules that an image may lack. `memory_mb`
    is what it takes at work, of the device's own memory: measured, or the model's size and a half.
    """

    function: str
    engine: str
    version: int
    device: str
    path: str
    memory_mb: int = 0
    weights: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    function_version: int = 1

    @property
    def label(self) -> str:
        """`engine@version`, the name that results and spans carry."""
        return f"{self.engine}@{self.version}"

    def lacks(self, shelf: Shelf) -> str | None:
        """Why this engine cannot run here, in words for an operator; None when it can."""
        for name in self.weights:  # first, for what a licence forbids no package mends
            if why := shelf.lacks(name):
                return why
        missing = next((name for name in self.packages if find_spec(name) is None), None)
        return f"the package {missing} is not installed" if missing else None

    def load(self, shelf: Shelf) -> Engine:
        """Import the class and construct it: the slow part, done once per process.

        Raises WEIGHTS_INVALID when a file is not what its pin says.
        """
        place = Place(self.device, {name: shelf.verified(name) for name in self.weights})
        module, _, name = self.path.partition(":")
        return cast(Engine, getattr(import_module(module), name)(place))


# fmt: off
CATALOG: Final = (
    #         function          engine            v  device path                                       MB
    EngineRow("style.apply",    "cube-lut",       3, "cpu", "gpu_functions.style.apply:CubeLut",       700),
    EngineRow("style.apply",    "tensor-lut",     1, "gpu", "gpu_functions.style.tensor:TensorLut",    900,
              packages=("torch",)),
    EngineRow("style.train",    "pairs-lut",      2, "cpu", "gpu_functions.style.train:PairsLut",      1_200,
              packages=("onnx", "scipy", "skimage")),
    EngineRow("style.train",    "pairs-lut-torch", 2, "gpu", "gpu_functions.style.train:PairsLut",     2_000,
              packages=("onnx", "scipy", "skimage", "torch")),
    EngineRow("style.import",   "cube-import",    1, "cpu", "gpu_functions.style.importing:CubeImport", 150),
    EngineRow("retouch.faces",  "skin-smoothing", 1, "cpu", "gpu_functions.faces.smoothing:SkinSmoothing", 600),
    EngineRow("retouch.faces",  "codeformer",     1, "gpu", "gpu_functions.faces.restoring:CodeFormer", 3500,
              weights=("codeformer.pth",), packages=("torch", "spandrel", "spandrel_extra_arches")),
    EngineRow("retouch.faces",  "gfpgan",         1, "gpu", "gpu_functions.faces.restoring:Gfpgan",    3500,
              weights=("GFPGANv1.4.pth",), packages=("torch", "spandrel")),
    EngineRow("retouch.faces",  "restoreformer",  1, "gpu", "gpu_functions.faces.restoring:RestoreFormer", 3500,
              weights=("RestoreFormer.pth",), packages=("torch", "spandrel")),
    EngineRow("cleanup.remove", "telea-inpaint",  1, "cpu", "gpu_functions.cleanup.telea:TeleaInpaint", 600),
    EngineRow("cleanup.remove", "lama",           1, "gpu", "gpu_functions.cleanup.lama:Lama",         2000,
              weights=("big-lama.pt",), packages=("torch", "spandrel")),
    EngineRow("splat.make",     "sharp",          1, "gpu", "gpu_functions.splat.sharp:Sharp",         12_000,
              weights=("sharp_2572gikvuh.pt",), packages=("sharp", "gsplat", "torch")),
    EngineRow("splat.make",     "relief",         1, "cpu", "gpu_functions.splat.relief:Relief",       600),
    EngineRow("ocr.read",       "paddleocr-vl",   2, "gpu", "gpu_functions.ocr.vl:PaddleOcrVl",       20_000,
              weights=PADDLEOCR_VL, packages=("vllm", "rapidocr", "onnxruntime")),
    EngineRow("ocr.read",       "paddleocr",      1, "gpu", "gpu_functions.ocr.paddle:PaddleOcr",      4_000,
              weights=("PP-OCRv6_det_medium.onnx", "PP-OCRv6_rec_medium.onnx"),
              packages=("paddleocr", "rapidocr", "onnx", "onnxruntime")),
    EngineRow("ocr.read",       "ppocr-onnx",     1, "cpu", "gpu_functions.ocr.ppocr:PpOcr",           1_000,
              packages=("rapidocr", "onnxruntime")),
)
# fmt: on


NOBODY: Final[Mapping[EngineRow, str]] = {}


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that does the work, and why those before it do not: `engine@version: reason`."""

    row: EngineRow
    passed_over: tuple[str, ...] = ()


def choose(
    function: str,
    device: str = "cpu",
    catalog: Sequence[EngineRow] = CATALOG,
    version: int = 1,
    shelf: Shelf = EMPTY,
    unable: Mapping[EngineRow, str] = NOBODY,
) -> Choice:
    """Who does version `version` of `function` on `device`; on a "gpu" the CPU's engines come after its own.

    `unable` are those that turned out not to run here when they were loaded, and why.
    Raises FUNCTION_UNKNOWN, ENGINE_UNAVAILABLE when none of its engines can run here; the name is not repeated.
    """
    known = [row for row in catalog if row.function == function]
    if not known:
        raise error("FUNCTION_UNKNOWN", "no engine has this function")
    serving = [row for row in known if row.function_version == version]
    if not serving:
        here = ", ".join(str(one) for one in sorted({row.function_version for row in known}))
        raise error("FUNCTION_UNKNOWN", f"version {version} of this function was asked for; here is {here}")
    passed: list[str] = []
    for able in (device, "cpu") if device == "gpu" else (device,):
        for row in (row for row in serving if row.device == able):
            why = unable.get(row) or row.lacks(shelf)
            if why is None:
                return Choice(row, tuple(passed))
            passed.append(f"{row.label}: {why}")
    if passed:
        raise error("ENGINE_UNAVAILABLE", "; ".join(passed))
    raise error("FUNCTION_UNKNOWN", f"no engine on the device '{device}' has this function")
