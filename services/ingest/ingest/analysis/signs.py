"""Exit signs: a word of a few letters, one of whose two colours is a saturated red or green.

Both kinds are found: light letters on a coloured plate (ISO 3864 green, red in North America),
and coloured letters on a light plate. In either case the *letters* are what tells a sign from a
tail light, a flag or a flower: three to seven parts of about the same height, on one line, that
fill the plate's width. A coloured plate has to be a wide, filled rectangle; a light one is taken to
reach a little beyond its letters, since on a pale wall it has no edge. Either is set upright and
brought to one height before its letters are looked at, so that small and tilted ones compare.

Signs that show only the running man have no letters and are not found.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.analysis.decode import Pixels

Mask = NDArray[np.uint8]


class _Box(NamedTuple):
    """Pixels, upright."""

    x: int
    y: int
    width: int
    height: int


class _Plate(NamedTuple):
    """What may be a sign: where, and whether its letters are the coloured part."""

    outline: NDArray[np.int32]
    coloured_letters: bool


# fmt: off
HUES: Final = {
    # name      OpenCV's 0..179
    "red":      ((0, 9), (170, 179)),
    "green":    ((45, 90),),
}
# fmt: on
COLOURED: Final = (110, 60)  # least saturation and value of 255: a printed or lit safety colour, not brick or foliage
LIGHT: Final = (80, 150)  # most saturation and least value: white, grey or yellowed by lamp light
LIGHT_MIN: Final = 0.04  # of a candidate must be light: thin letters on a tilted plate are 0.07
HEIGHT_MIN: Final = 14  # pixels: the letters of a lower plate run together
SPECK_SIDE: Final = 9  # pixels around one that say whether it is a speck
SPECK_SHARE: Final = 0.12  # of them that are coloured too: in thin letters a quarter is
PLATE_MIN: Final = (12, 10)  # pixels, upright: what turned by TILT_MAX may be left of a plate of HEIGHT_MIN
WORD_MIN: Final = (8, 6)  # and of the letters on it
UPRIGHT: Final = 48  # pixels of height at which letters are looked at: strokes are then 3 to 8 wide
TILT_MAX: Final = 20  # degrees
ASPECT: Final = (1.2, 5.0)  # width to height: EXIT is 2:1, SORTIE 3:1
AREA_SHARE: Final = (1e-4, 0.08)  # of the picture
LETTER_GAPS: Final = (5, 11, 25)  # pixels between letters that are bridged to see a word
MARGIN: Final = 0.35  # of its height around a word: letters are then 0.6 of the plate, as on real signs
FILLED_MIN: Final = 0.85  # of the plate's rectangle is inside its outline
RIM: Final = 0.05  # of the plate's height is left off all around: it is blurred into what lies behind
CUTS: Final = (1.0, 0.75, 0.5, 1.25, 1.5)  # of Otsu's threshold: blur joins letters at one and opens them at another
CONTRAST_MIN: Final = 60  # levels of saturation between letters and plate
SPREAD_MIN: Final = 14.0  # deviation of saturation: of two parts that far apart, the smaller being 6 %
LETTERS: Final = (3, 7)
LETTER_HEIGHT: Final = (0.3, 0.92)  # of the plate's
ROW_MIN: Final = 0.45  # of the plate's width that the row of letters fills


def find_signs(rgb: Pixels) -> list[dict[str, Any]]:
    """Exit signs of a picture (H, W, 3), as in the facts of `analyze`: boxes normalised."""
    height, width = rgb.shape[:2]
    hsv = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV), np.uint8)
    boxes: list[_Box] = []
    judged: set[tuple[bytes, bool]] = set()  # one word is often found with more than one gap
    for plate in _plates(hsv):
        same = plate.outline.tobytes(), plate.coloured_letters
        box = _Box(*cv2.boundingRect(plate.outline))
        if same in judged or any(_same(box, other) for other in boxes):
            continue
        judged.add(same)
        if _is_sign(plate, hsv):
            boxes.append(box)
    size = np.array([width, height, width, height])
    return [
        {"kind": "exit_sign", "box": (np.array(_inside(box, width, height)) / size).round(5).tolist()} for box in boxes
    ]


def _plates(hsv: Pixels) -> list[_Plate]:
    """Coloured rectangles, then what surrounds a row of coloured parts."""
    found = []
    for name in HUES:
        mask = _without_specks(_of_hue(hsv, name))
        if not cv2.hasNonZero(mask):
            continue
        found += [_Plate(outline, False) for outline in _contours(mask, PLATE_MIN)]
        for gap in LETTER_GAPS:
            joined = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((1, gap), np.uint8))
            found += [_Plate(_around(word), True) for word in _contours(np.asarray(joined, np.uint8), WORD_MIN)]
    found.sort(key=lambda plate: plate.coloured_letters)
    return [plate for plate in found if _plate_like(plate.outline, hsv.shape[0] * hsv.shape[1])]


def _contours(mask: Mask, least: tuple[int, int]) -> list[NDArray[np.int32]]:
    """Outer outlines of the parts of a mask that are at least so wide and so high."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    # Specks are most of them, and have few corners: a part that is large enough has more than four, or is a rectangle.
    boxes = ((contour, cv2.boundingRect(contour)) for contour in contours if len(contour) >= 4)
    return [np.asarray(contour, np.int32) for contour, box in boxes if box[2] >= least[0] and box[3] >= least[1]]


def _around(word: NDArray[np.int32]) -> NDArray[np.int32]:
    """The outline of a plate around a word: its rectangle, wider by MARGIN of its height on every side."""
    (x, y), w, h, tilt = _rectangle(word)
    corners = cv2.boxPoints(((x, y), (w + 2 * MARGIN * h, h + 2 * MARGIN * h), tilt))
    return np.asarray(corners.round(), np.int32).reshape(-1, 1, 2)


def _of_hue(hsv: Pixels, name: str) -> Mask:
    saturation, value = COLOURED
    masks = [cv2.inRange(hsv, (low, saturation, value), (high, 255, 255)) for low, high in HUES[name]]
    mask = masks[0] if len(masks) == 1 else cv2.bitwise_or(*masks)
    return np.asarray(mask, np.uint8)


def _without_specks(mask: Mask) -> Mask:
    """The mask but for pixels that are nearly alone: grain and leaves are most of what would have to be looked at."""
    crowded = cv2.threshold(cv2.blur(mask, (SPECK_SIDE, SPECK_SIDE)), 255 * SPECK_SHARE, 255, cv2.THRESH_BINARY)[1]
    return np.asarray(cv2.bitwise_and(mask, crowded), np.uint8)


def _rectangle(outline: NDArray[np.int32]) -> tuple[tuple[float, float], float, float, float]:
    """Centre, width, height and tilt in degrees of the smallest rectangle, width being the flatter side."""
    (x, y), (w, h), angle = cv2.minAreaRect(outline)
    quarters = round(angle / 90)  # OpenCV's releases disagree on the range of the angle
    w, h = (h, w) if quarters % 2 else (w, h)
    return (x, y), w, h, angle - 90 * quarters


def _plate_like(outline: NDArray[np.int32], picture: int) -> bool:
    _, w, h, tilt = _rectangle(outline)
    return (
        h >= HEIGHT_MIN
        and ASPECT[0] <= w / h <= ASPECT[1]
        and abs(tilt) <= TILT_MAX
        and AREA_SHARE[0] <= w * h / picture <= AREA_SHARE[1]
        and cv2.contourArea(outline) >= FILLED_MIN * w * h
    )


def _is_sign(plate: _Plate, hsv: Pixels) -> bool:
    """Whether a plate carries a word, of light on colour or of colour on light."""
    centre, w, h, tilt = _rectangle(plate.outline)
    box = _inside(_Box(*cv2.boundingRect(plate.outline)), hsv.shape[1], hsv.shape[0])
    hsv = np.ascontiguousarray(hsv[box.y : box.y + box.height, box.x : box.x + box.width])
    if np.count_nonzero(hsv[..., 2] >= LIGHT[1]) < LIGHT_MIN * box.width * box.height:
        return False  # before the costly turning: most candidates are roofs, dresses, berries
    if cv2.meanStdDev(hsv[..., 1])[1].item() < SPREAD_MIN:
        return False
    centre = (centre[0] - box.x, centre[1] - box.y)
    w, h = w - 2 * RIM * h, h - 2 * RIM * h
    scale = UPRIGHT / h
    turn = np.asarray(cv2.getRotationMatrix2D(centre, tilt, scale), np.float64)
    turn[:, 2] += np.array([w, h]) * scale / 2 - centre
    # Hue is an angle and may not be interpolated near red; saturation and value may.
    size = round(w * scale), UPRIGHT
    upright = cv2.warpAffine(hsv, turn, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    saturation = np.ascontiguousarray(upright[..., 1])
    level, coloured = cv2.threshold(saturation, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    pale = saturation[coloured == 0]
    vivid = saturation[coloured > 0]
    if not len(pale) or not len(vivid) or np.median(vivid) - np.median(pale) < CONTRAST_MIN:
        return False
    if (upright[..., 2][coloured == 0] >= LIGHT[1]).mean() < 0.6:
        return False
    nearest = cv2.warpAffine(hsv, turn, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    if max((_of_hue(np.asarray(nearest, np.uint8), name)[coloured > 0] > 0).mean() for name in HUES) < 0.6:
        return False
    cuts = (np.asarray(saturation > level * cut, np.uint8) for cut in CUTS)
    return any(_is_word(cut if plate.coloured_letters else 1 - cut) for cut in cuts)


def _is_word(letters: Mask) -> bool:
    """Whether the parts of an upright plate look like one word."""
    height, width = letters.shape
    _, _, stats, centres = cv2.connectedComponentsWithStats(letters)
    left, wide, high = (stats[:, k] for k in (cv2.CC_STAT_LEFT, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT))
    tall = (high >= LETTER_HEIGHT[0] * height) & (high <= LETTER_HEIGHT[1] * height) & (wide <= 1.3 * high)
    tall[0] = False  # label 0 is the plate
    if not LETTERS[0] <= tall.sum() <= LETTERS[1]:
        return False
    usual = np.median(high[tall])
    one_line = np.ptp(centres[tall, 1]) <= 0.2 * usual
    same_height = np.ptp(high[tall]) <= 0.3 * usual
    fills = (left + wide)[tall].max() - left[tall].min() >= ROW_MIN * width
    return bool(one_line and same_height and fills)


def _same(one: _Box, other: _Box) -> bool:
    """Whether the middle of either lies in the other: one sign, seen as a plate and as a word."""
    x, y = one.x + one.width / 2 - other.x - other.width / 2, one.y + one.height / 2 - other.y - other.height / 2
    return abs(x) <= max(one.width, other.width) / 2 and abs(y) <= max(one.height, other.height) / 2


def _inside(box: _Box, width: int, height: int) -> _Box:
    """The part of a box that lies in the picture."""
    x, y = max(0, box.x), max(0, box.y)
    return _Box(x, y, min(width, box.x + box.width) - x, min(height, box.y + box.height) - y)
