"""What is taken out of a picture, and what becomes of each detection; how it is filled is the engine's.

Only what can be found again inside the reported corridor is removed, and what is too large to be what the
report says is refused: a wrong detection must not cost a picture. What is left alone is said in the facts,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, Field, JsonValue

from gpu_functions import images
from gpu_functions.cleanup import corridors
from gpu_functions.cleanup.fill import Mask
from gpu_functions.engine import Facts, Output, input_of

# Shares of the picture's area (width: of its width) above which a detection is left alone.
WIRE_WIDTH_MAX: Final = 0.01  # 40 pixels of 4000: a beam, not a wire
WIRE_AREA_MAX: Final = 0.06  # of the corridor, before it is looked into
SIGN_AREA_MAX: Final = 0.04
TOTAL_AREA_MAX: Final = 0.12  # of everything taken out together
VISIBLE_MIN: Final = 0.2  # of a wire's line: where less is found again, the detection is not believed

Fraction = Annotated[float, Field(ge=-1.0, le=2.0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]


class PowerLine(BaseModel):
    """A wire as `analyze` reports it: points normalised to the upright picture, width as a share of its width."""

    kind: Literal["power_line"]
    points: list[tuple[Fraction, Fraction]] = Field(min_length=2, max_length=256)
    width: Share


class ExitSign(BaseModel):
    """A sign as `analyze` reports it: x, y, width, height, normalised to the upright picture."""

    kind: Literal["exit_sign"]
    box: tuple[Fraction, Fraction, Share, Share]


class CleanupParameters(BaseModel):
    """What to remove."""

    detections: list[Annotated[PowerLine | ExitSign, Field(discriminator="kind")]] = Field(max_length=256)


@dataclass(frozen=True, slots=True)
class Holes:
    """What a fill is given beside the pixels: H×W masks of wires and of signs, which do not overlap.

    `windows` show each sign with enough around it to continue; `widest` is the widest wire in pixels.
    """

    wires: Mask
    signs: Mask
    windows: list[tuple[slice, slice]]
    widest: float


Fill = Callable[[images.Pixels, Holes], None]  # fills the holes in H×W×3 pixels, in place, and writes nothing else


@dataclass(slots=True)
class Cleaned:
    """The new pixels, pixels removed per detection, why others were left alone, and all the pixels that changed."""

    pixels: images.Pixels
    mask: Mask
    removed: dict[int, int] = field(default_factory=dict)
    left: dict[int, str] = field(default_factory=dict)


def run(
    inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], fill: Fill, sign_bits: int = 16
) -> tuple[dict[str, Output], Facts]:
    """An engine's `run`: read, remove, fill, write. `sign_bits`: how deep the fill of a sign is at the most.

    Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, DECODE_LIMIT.
    """
    detections = CleanupParameters.model_validate(parameters).detections
    picture = images.read(input_of(inputs, "image"))
    done = clean(picture.pixels, detections, fill)
    kinds = [detection.kind for detection in detections]
    bits = 8 if picture.white == 255 else 16
    facts: Facts = {
        "removed": [{"detection": i, "kind": kinds[i], "pixels": n} for i, n in done.removed.items()],
        "left_alone": [{"detection": i, "kind": kinds[i], "reason": why} for i, why in done.left.items()],
        "mask_share": round(float(done.mask.mean()), 6),
        "fill_bit_depth": min(bits, sign_bits) if any(kinds[i] == "exit_sign" for i in done.removed) else bits,
    }
    return {"image": images.png(picture.with_pixels(done.pixels))}, facts


def clean(pixels: images.Pixels, detections: Sequence[PowerLine | ExitSign], fill: Fill) -> Cleaned:
    """Remove `detections` from `pixels` (H×W×3, uint8 or uint16); the input is not written to."""
    height, width = pixels.shape[:2]
    done = Cleaned(pixels.copy(), np.zeros((height, width), np.bool_))
    signs = np.zeros((height, width), np.bool_)
    sign_windows = []
    widest = 0.0
    for index, detection in enumerate(detections):
        found = _find(pixels, detection)
        area = sum(int(np.count_nonzero(patch.mask)) for patch in found) if isinstance(found, list) else 0
        if isinstance(found, str):
            done.left[index] = found
        elif area + np.count_nonzero(done.mask) > TOTAL_AREA_MAX * width * height:
            done.left[index] = "too_much_already"
        else:
            for patch in found:
                done.mask[patch.window] |= patch.mask
                if isinstance(detection, ExitSign):
                    signs[patch.window] |= patch.mask
                    sign_windows.append(patch.window)
            if isinstance(detection, PowerLine):
                widest = max(widest, detection.width * width)
            done.removed[index] = area
    if done.mask.any():
        fill(done.pixels, Holes(done.mask & ~signs, signs, sign_windows, widest))
    return done


def _find(pixels: images.Pixels, detection: PowerLine | ExitSign) -> list[corridors.Patch] | str:
    """The pixels that the detection covers, or why it is left alone."""
    height, width = pixels.shape[:2]
    match detection:
        case PowerLine():
            points = [(x * width, y * height) for x, y in detection.points]
            thickness = max(1.0, detection.width * width)
            if (
                detection.width > WIRE_WIDTH_MAX
                or corridors.area_of_line(points, thickness, (width, height)) > WIRE_AREA_MAX * width * height
            ):
                return "too_large"
            patches, seen = corridors.wire(pixels, points, thickness)
            return patches if seen >= VISIBLE_MIN else "not_found"
        case ExitSign():
            x, y, w, h = detection.box
            if w * h > SIGN_AREA_MAX:
                return "too_large"
            patch = corridors.sign(pixels, (x * width, y * height, w * width, h * height))
            return [patch] if patch.mask.any() else "not_found"
