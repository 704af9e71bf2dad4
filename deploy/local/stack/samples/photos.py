"""The sample photos: a table of what each file is made from, under which licence, and how.

A dozen different photos come as they are or re-encoded; the others are honest derivatives, each of
which exercises one promise of the product (orientation, wide gamut, 16 bits, cleanup, size).
The files are written at run time, so nothing of anybody's is committed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyvips
from numpy.typing import NDArray
from PIL import Image

from stack.samples.composites import Sign, Wire, draw_sign, draw_wires

Pixels = NDArray[np.uint8]
Maker = Callable[[Path], bytes]  # the shipped file's path to the bytes of the sample

CHINA_WIRES: Final = (Wire(0.06, 0.10, 0.03, 1.2), Wire(0.09, 0.14, 0.035, 1.2), Wire(0.13, 0.19, 0.04, 1.6))
CHINA_SKY: Final = 165  # the sky is 200 to 250, the roof 60 to 150
FLOWER_SIGN: Final = Sign(60, 50, 96, 44)
LARGE: Final = (3200, 3750)  # 12.0 megapixels, of 512 x 600

# fmt: off
SOURCES: Final = {
    # import name  folder inside the package  distribution
    "matplotlib":  ("mpl-data/sample_data",   "matplotlib"),
    "skimage":     ("data",                   "scikit-image"),
    "sklearn":     ("datasets/images",        "scikit-learn"),
}

MPL, SKI, SKL    = SOURCES
NASA             = "public domain (NASA)"
NAVY             = "public domain (US Navy)"
PUBLIC           = "public domain"
FREE             = "no known copyright restrictions (Brooklyn Museum)"
CC0              = "CC0"
BY_DANIEL        = "CC BY 2.0 (danielbuechele)"
BY_VULTI         = "CC BY 2.0 (vultilion)"
# fmt: on


@dataclass(frozen=True, slots=True)
class Recipe:
    """One row of SAMPLES."""

    name: str
    package: str
    shipped: str
    licence: str
    make: Maker
    done: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A written file and where it comes from."""

    path: Path
    source: str
    licence: str
    done: str

    @property
    def name(self) -> str:
        return self.path.name


def _load(path: Path) -> Pixels:
    """A shipped photo as (H, W, 3)."""
    image = pyvips.Image.new_from_file(str(path)).colourspace("srgb")[:3]
    return np.asarray(image.numpy(), np.uint8)


def _image(pixels: Pixels) -> pyvips.Image:
    return pyvips.Image.new_from_array(pixels, interpretation="srgb")


def _jpeg(pixels: Pixels, **options: Any) -> bytes:
    return bytes(_image(pixels).jpegsave_buffer(Q=92, **options))


def _as_shipped(path: Path) -> bytes:
    return path.read_bytes()


def _as_jpeg(path: Path) -> bytes:
    return _jpeg(_load(path))


def _as_webp(path: Path) -> bytes:
    return bytes(_image(_load(path)).webpsave_buffer(Q=90))


def _as_avif(path: Path) -> bytes:
    return bytes(_image(_load(path)).heifsave_buffer(Q=80, compression="av1", effort=0))


def _sideways(path: Path) -> bytes:
    """Stored lying on its side as phones do, with what a phone adds: position, serial number, owner, copyright."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Safelight", "Sample One"  # Make, Model
    exif[0x0112] = 6  # Orientation: turn by 90 degrees clockwise to see it upright
    exif[0x013B], exif[0x8298] = "NASA", "Public domain, NASA"  # Artist, Copyright
    details = exif.get_ifd(0x8769)
    details[0x9003], details[0x9011] = "1992:05:28 10:30:00", "-06:00"  # DateTimeOriginal, OffsetTimeOriginal
    details[0xA430], details[0xA431] = "Sample Owner", "SN-0042-4711"  # CameraOwnerName, BodySerialNumber
    position = exif.get_ifd(0x8825)
    position[1], position[2] = "N", (29.0, 33.0, 30.0)  # the Johnson Space Center
    position[3], position[4] = "W", (95.0, 5.0, 33.0)
    lying = Image.fromarray(np.rot90(_load(path)))
    file = BytesIO()
    lying.save(file, "JPEG", quality=92, exif=exif)
    return file.getvalue()


def _display_p3(path: Path) -> bytes:
    wide = _image(_load(path)).icc_transform("p3", input_profile="srgb")
    return bytes(wide.jpegsave_buffer(Q=92))


def _deep(path: Path) -> bytes:
    deep = _image(_load(path)).colourspace("rgb16")
    return bytes(deep.tiffsave_buffer(compression="deflate", predictor="horizontal", level=1))


def _with_wires(path: Path) -> bytes:
    return _jpeg(draw_wires(_load(path), CHINA_WIRES, behind=CHINA_SKY)[0])


def _with_sign(path: Path) -> bytes:
    return _jpeg(draw_sign(_load(path), FLOWER_SIGN)[0])


def _enlarged(path: Path, size: tuple[int, int] = LARGE) -> bytes:
    image = pyvips.Image.new_from_file(str(path))
    large = image.resize(size[0] / image.width, vscale=size[1] / image.height, kernel="cubic")
    return bytes(large.jpegsave_buffer(Q=85))


# fmt: off
SAMPLES: Final = (
    #      name                      pack shipped file             licence    how           what was done
    Recipe("grace-hopper.jpg",       MPL, "grace_hopper.jpg",      NAVY,      _as_shipped,  "as shipped"),
    Recipe("astronaut.jpg",          SKI, "astronaut.png",         NASA,      _as_jpeg,     "JPEG 92"),
    Recipe("coffee.png",             SKI, "coffee.png",            CC0,       _as_shipped,  "as shipped"),
    Recipe("chelsea.webp",           SKI, "chelsea.png",           CC0,       _as_webp,     "WebP 90"),
    Recipe("rocket.jpg",             SKI, "rocket.jpg",            PUBLIC,    _as_shipped,  "as shipped (Adobe RGB)"),
    Recipe("camera.png",             SKI, "camera.png",            CC0,       _as_shipped,  "as shipped (grey)"),
    Recipe("clock.avif",             SKI, "clock_motion.png",      PUBLIC,    _as_avif,     "AVIF 80 (motion blur)"),
    Recipe("hubble.jpg",             SKI, "hubble_deep_field.jpg", NASA,      _as_shipped,  "as shipped"),
    Recipe("coins.png",              SKI, "coins.png",             FREE,      _as_shipped,  "as shipped (grey)"),
    Recipe("brick.png",              SKI, "brick.png",             CC0,       _as_shipped,  "as shipped (grey)"),
    Recipe("china.jpg",              SKL, "china.jpg",             BY_DANIEL, _as_shipped,  "as shipped"),
    Recipe("flower.jpg",             SKL, "flower.jpg",            BY_VULTI,  _as_shipped,  "as shipped"),
    Recipe("astronaut-sideways.jpg", SKI, "astronaut.png",         NASA,      _sideways,    "lying, invented EXIF"),
    Recipe("coffee-p3.jpg",          SKI, "coffee.png",            CC0,       _display_p3,  "in Display P3"),
    Recipe("flower-16bit.tiff",      SKL, "flower.jpg",            BY_VULTI,  _deep,        "widened to 16 bits"),
    Recipe("china-wires.jpg",        SKL, "china.jpg",             BY_DANIEL, _with_wires,  "power lines drawn in"),
    Recipe("flower-exit.jpg",        SKL, "flower.jpg",            BY_VULTI,  _with_sign,   "an exit sign drawn in"),
    Recipe("grace-hopper-12mp.jpg",  MPL, "grace_hopper.jpg",      NAVY,      _enlarged,    "enlarged, for timing"),
)
# fmt: on


def write_samples(folder: Path) -> list[Sample]:
    """Write every sample into `folder`, which is made where it is missing. Raises OSError where it cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(recipe, folder) for recipe in SAMPLES]


def _write(recipe: Recipe, folder: Path) -> Sample:
    path = folder / recipe.name
    path.write_bytes(recipe.make(shipped(recipe)))
    source = f"{SOURCES[recipe.package][1]}: {recipe.shipped}"
    return Sample(path, source, recipe.licence, recipe.done)


def shipped(recipe: Recipe) -> Path:
    """The file in the installed package, found without importing it: importing these three takes seconds."""
    spec = find_spec(recipe.package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{SOURCES[recipe.package][1]} is not installed")
    return Path(spec.origin).parent / SOURCES[recipe.package][0] / recipe.shipped
