"""What `just bench gpu` gives each engine to do: a whole item, and its heavy part alone.

To measure another engine, add a row to WHOLE, and one to HEAVY when a network does most of its work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from pydantic import JsonValue

from gpu_functions import networks
from gpu_functions.catalog import EngineRow
from gpu_functions.engine import Place, Task
from gpu_functions.style import cube, grid, tensor
from gpu_functions.weights import Shelf
from stack.samples.composites import Sign, Wire, draw_sign, draw_wires
from tests.documents import school
from tests.pixels.gpu_functions import cubes, pictures, weights
from tests.pixels.gpu_functions.style import archives, looks

Item = tuple[dict[str, bytes], dict[str, JsonValue]]  # inputs and parameters
Tensors = tuple[torch.Tensor, ...]
Network = Callable[..., Any]

FULL, SMALL = (6000, 4000), (480, 320)  # pixels: 24 MP, and what shows that everything runs
FACES: Final = 4
HEAD: Final = (0.33, 0.12, 0.22, 0.28)  # of the astronaut's picture: x, y, width, height
PIXELS: Final = 1 << 20  # that a LUT sees in one unit


@cache
def scene(small: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A sky over a town's worth of detail: noise that a JPEG has to keep."""
    width, height = SMALL if small else FULL
    sky = cv2.resize(pictures.shipped("rocket")[:200], (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(1).integers(-6, 7, sky.shape, np.int16)
    return np.asarray(np.clip(sky + grain, 0, 255), np.uint8)


def _jpeg(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return pictures.encode(pixels, ".jpg", Q=92)


def _styled(small: bool) -> Item:
    return {"image": _jpeg(scene(small)), "lut": cubes.text(grid.SIZE, cubes.film)}, {"strength": 0.8}


def _group(small: bool) -> Item:
    """One face when small, else four, each 500 pixels wide."""
    pixels = scene(small).copy()
    height, width = pixels.shape[:2]
    side = 256 if small else height // 2
    person = cv2.resize(pictures.shipped("astronaut"), (side, side), interpolation=cv2.INTER_CUBIC)
    faces: list[JsonValue] = []
    for index in range(1 if small else FACES):
        left, top = (index % 2) * (width // 2), (index // 2) * (height // 2)
        pixels[top : top + side, left : left + side] = person
        x, y, w, h = (value * side for value in HEAD)
        faces.append({"box": [(left + x) / width, (top + y) / height, w / width, h / height]})
    return {"image": _jpeg(pixels)}, {"faces": faces, "fidelity": 0.7}


def _cluttered(small: bool) -> Item:
    """Two wires from edge to edge, and an exit sign."""
    pixels = scene(small)
    height, width = pixels.shape[:2]
    wires = [Wire(0.2, 0.3, 0.03, width / 900), Wire(0.3, 0.4, 0.04, width / 900)]
    pixels, _ = draw_wires(pixels, wires)
    sign = Sign(width // 2, height // 2, width // 12, height // 16)
    pixels, _ = draw_sign(pixels, sign)
    found: list[JsonValue] = [
        {"kind": "power_line", "points": wire.points().round(4).tolist(), "width": wire.width / width} for wire in wires
    ]
    box: list[JsonValue] = [sign.x / width, sign.y / height, sign.width / width, sign.height / height]
    return {"image": _jpeg(pixels)}, {"detections": [*found, {"kind": "exit_sign", "box": box}]}


def _page(small: bool) -> Item:
    """A report card: A4 at 200 dpi."""
    return {"image": pictures.encode(school.report_card(1, dpi=100 if small else 200).pixels, ".jpg", Q=92)}, {}


def _photo(small: bool) -> Item:
    return {"image": _jpeg(scene(small))}, {}


def _two_minds(picture: looks.Picture) -> looks.Picture:
    """An editor who treats dark pictures otherwise than bright ones: a network gains by it, so all folds are taught."""
    graded = looks.fixed(picture)
    if picture.mean() > 100:
        return graded
    return np.asarray(np.rint((graded / 255) ** 0.6 * [0.8, 0.9, 1.0] * 255), np.uint8)


def _pairs(small: bool) -> Item:
    """An archive of pairs that a network is tried on, or the fewest that can be learnt from."""
    count, side = (5, 240) if small else (100, 1024)
    halves = [half for photo in looks.photos(2 * side) for half in photo]
    random = np.random.default_rng(1)
    shots: list[looks.Picture] = []
    for index in range(count):
        half = halves[index % len(halves)]
        top, left = (int(random.integers(0, 1 + size // 8)) for size in half.shape[:2])
        shots.append(
            np.ascontiguousarray(half[top : top + half.shape[0] * 7 // 8, left : left + half.shape[1] * 7 // 8])
        )
    return {"original": archives.archive(archives.paired(shots, _two_minds, ".jpg"))}, {}


def several(function: str, count: int, small: bool) -> list[Task]:
    """So many items of a function as they come in one call: of different pictures."""
    inputs, parameters = WHOLE[function][1](small)
    shift = scene(small).shape[1] // 32
    images = (_jpeg(np.roll(scene(small), shift * index, axis=1)) for index in range(count))
    return [Task(inputs | {"image": image}, parameters) for image in images]


# fmt: off
WHOLE: Final[Mapping[str, tuple[str, Callable[[bool], Item]]]] = {
    # function        what one item is, and how it is made
    "style.apply":    ("photo", _styled),
    "style.train":    ("set of pairs", _pairs),
    "retouch.faces":  ("photo", _group),
    "cleanup.remove": ("photo", _cluttered),
    "splat.make":     ("photo", _photo),
    "ocr.read":       ("page",  _page),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Heavy:
    """The part of an engine that keeps a card busy. `batch` makes what N units need on a device; when it is to be
    small they are smaller, where the network takes that.

    `half`: the narrow type that its network bears; None of what is no network. `moved`: bytes that one unit moves
    at the least, where memory is the limit and not arithmetic.
    """

    unit: str
    network: Callable[[Any], Network]
    batch: Callable[[int, torch.device, bool], Tensors]
    ask: Callable[[Network, Tensors], Any]
    half: torch.dtype | None = None
    moved: int = 0


def _faces(count: int, device: torch.device, _: bool) -> Tensors:
    return (torch.rand(count, 3, 512, 512, device=device) * 2 - 1,)


def _tiles(count: int, device: torch.device, small: bool) -> Tensors:
    side = 128 if small else 512
    hidden = torch.rand(count, 1, side, side, device=device) > 0.9
    return torch.rand(count, 3, side, side, device=device), hidden.float()


def _codes(count: int, device: torch.device, _: bool) -> Tensors:
    lut = cube.parse(cubes.text(grid.SIZE, cubes.film))
    codes = torch.randint(0, 256, (count * PIXELS, 3), dtype=torch.int32, device=device)
    table = torch.from_numpy(lut.table.reshape(-1, 3)).to(device)
    return codes, torch.from_numpy(tensor.axes_of(lut, 255)).to(device), table


def _of_engine(engine: Any) -> Network:
    found: networks.Network = getattr(engine, "network", None) or engine._network
    return found.module


# fmt: off
HEAVY: Final[Mapping[str, Heavy]] = {
    "tensor-lut":    Heavy("megapixel", lambda _: tensor.tetrahedral, _codes, lambda f, x: f(*x), moved=24 * PIXELS),
    "codeformer":    Heavy("face", _of_engine, _faces, lambda f, x: f(*x, weight=0.7)[0], torch.bfloat16),
    "gfpgan":        Heavy("face", _of_engine, _faces, lambda f, x: f(*x, randomize_noise=False)[0], torch.float16),
    "restoreformer": Heavy("face", _of_engine, _faces, lambda f, x: f(*x)[0], torch.float16),
    "lama":          Heavy("tile", _of_engine, _tiles, lambda f, x: f(*x), torch.bfloat16),
}
NETWORKS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {  # what random weights can be made for
    "codeformer.pth":    ("CodeFormer", {}),
    "GFPGANv1.4.pth":    ("GFPGAN", {}),
    "RestoreFormer.pth": ("RestoreFormer", {}),
    "big-lama.pt":       ("LaMa", {"in_nc": 4}),  # a picture and its mask
}
# fmt: on


class Absent(Exception):
    """An engine cannot be measured here; the message says why."""


def place_of(row: EngineRow, device: str, shelf: Shelf, folder: Path) -> tuple[Place, str]:
    """Where an engine is loaded, and whose weights it has: "published", "random" or "none". Raises Absent."""
    if why := replace(row, weights=()).lacks(shelf):
        raise Absent(why)
    files, kind = {}, "published" if row.weights else "none"
    for name in row.weights:
        if (why := shelf.lacks(name)) is None:
            files[name] = shelf.verified(name)
        elif name in NETWORKS:
            files[name], kind = folder / f"{Path(name).stem}.pth", "random"
            architecture, sizes = NETWORKS[name]
            weights.saved(weights.architecture(architecture, **sizes))(files[name])
        else:
            raise Absent(why)
    return Place(device, files), kind
