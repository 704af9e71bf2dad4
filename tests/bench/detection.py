"""`just bench detection`: precision and recall of the power line and exit sign detectors, over a known truth.

No freely usable photo shows either, so both are drawn into photos that ship in packages, and into landscapes made
here; the photos and structures as they are, without any, say what is reported where nothing is.

    wires   pixels, with 2 of tolerance: recall: drawn ones that are reported, precision: reported that are drawn
    signs   found when a box overlaps the truth by half (intersection over union); every other box is a mistake

Everything is seeded: two runs print the same. Takes about a minute and needs no stack.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.analysis.signs import find_signs
from ingest.analysis.wires import find_wires
from stack.samples.composites import GREEN, RED, WHITE, Sign, Wire, draw_sign, draw_wires
from tests.pixels.ingest.pictures import BY_FILE, enlarged, iou, photo, share_near, wire_mask

Pixels = NDArray[np.uint8]

SIZE: Final = (1500, 1000)  # width, height: what a 24 MP photo is reduced to
THREE: Final = ((0.06, 0.10, 0.03), (0.09, 0.14, 0.035), (0.13, 0.19, 0.04))  # left, right, sag
ONE: Final = ((0.12, 0.05, 0.03),)
WIDTHS: Final = (1.2, 2.5, 5.0)  # pixels of 1500
DARKER: Final = (0.75, 0.4)  # of the sky's light that the wire takes away: black cable, grey one in haze
BACKGROUNDS: Final = {
    "sky over roofs": "china.jpg",
    "sky over a city": "camera.png",
    "night sky": "rocket.jpg",
    "meadow": "meadow",
    "dunes": "dunes",
    "lattice towers": "towers",
}
FACTORS: Final = (1.0, 1.6)  # at which photos without anything are looked at


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture with what is drawn into it; `truth` (H, W) of 0 and 255 is empty where there is nothing to find."""

    name: str
    picture: Pixels
    truth: Pixels


def main(arguments: Sequence[str]) -> None:
    """Print a table for each detector."""
    argparse.ArgumentParser(prog="bench detection", description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    print("power lines                    scenes   found   recall  precision")
    for name, scenes in BACKGROUNDS.items():
        _tell_wires(name, list(with_wires(scenes)))
    print(f"nothing to find                {_false_alarms(find_wires)}")
    print("exit signs                     scenes   recall  precision")
    for name, sign in SIGNS.items():
        _tell_signs(name, list(with_signs(sign)))
    print(f"nothing to find                {_false_alarms(find_signs)}")


def with_wires(background: str) -> Iterator[Scene]:
    """One wire and three, thin and thick, dark and faint, before one background."""
    plain = SCENERY[background]() if background in SCENERY else fitted(photo(background))
    sky = float(np.median(plain[: plain.shape[0] // 10]))
    behind = int(0.72 * sky) if background == "china.jpg" else None  # its roof stands before the wires
    for (count, lines), width, darker in product({"one": ONE, "three": THREE}.items(), WIDTHS, DARKER):
        wires = [Wire(*line, width) for line in lines]
        picture, truth = draw_wires(plain, wires, round(sky * (1 - darker)), behind)
        if background == "towers":  # the truth ends where a tower stands before the wire
            truth = np.where(_towers()[1] > 0, 0, truth).astype(np.uint8)
        yield Scene(f"{count}, {width} px, -{darker:.0%}", noisy(picture), truth)


def with_signs(sign: Sign) -> Iterator[Scene]:
    """One sign at three sizes in each photo."""
    for name, width in product(("astronaut.png", "coffee.png", "brick.png", "china.jpg", "camera.png", "chelsea.png",
                                "rocket.jpg", "flower.jpg"), (60, 120, 240)):  # fmt: skip
        plain = fitted(photo(name))
        height = round(width * sign.height / sign.width)
        at = Sign(int(0.5 * plain.shape[1]), int(0.12 * plain.shape[0]), width, height, *_look(sign))
        yield Scene(f"{name}, {width} px", *draw_sign(plain, at))


def _look(sign: Sign) -> tuple[str, tuple[int, int, int], tuple[int, int, int], float]:
    return sign.word, sign.plate, sign.ink, sign.tilt


# fmt: off
SIGNS: Final = {
    "EXIT, white on red":             Sign(0, 0, 44, 22),
    "EXIT, white on green":           Sign(0, 0, 44, 22, plate=GREEN),
    "SORTIE, white on green, tilted": Sign(0, 0, 60, 22, "SORTIE", GREEN, WHITE, 4),
    "EXIT, red on white":             Sign(0, 0, 44, 22, plate=WHITE, ink=RED),
}
# fmt: on


# -- landscapes that no package ships ----------------------------------------------------------------


def fitted(pixels: Pixels) -> Pixels:
    """A photo with a long side of 1500 pixels."""
    return enlarged(pixels, max(SIZE) / max(pixels.shape[:2]))


def noisy(pixels: Pixels) -> Pixels:
    """A sensor's noise at low ISO."""
    noise = np.random.default_rng(5).normal(0, 1.5, pixels.shape)
    return np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def sky() -> NDArray[np.float32]:
    """A gradient from blue to haze with soft clouds."""
    width, height = SIZE
    clouds = _rough(3, (height // 60, width // 60))
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    blue, haze = np.array([110, 160, 225], np.float32), np.array([205, 220, 235], np.float32)
    mixed: NDArray[np.float32] = blue * (1 - down) + haze * down + 14 * clouds[..., None]
    return mixed


def meadow() -> Pixels:
    """Grass below a level horizon."""
    picture, (width, height) = sky(), SIZE
    grass = np.array([80, 120, 50], np.float32) + 28 * np.random.default_rng(2).normal(size=(height, width, 1))
    picture[int(0.6 * height) :] = cv2.GaussianBlur(grass.astype(np.float32), (0, 0), 0.8)[int(0.6 * height) :]
    return np.clip(picture, 0, 255).astype(np.uint8)


def dunes() -> Pixels:
    """Smooth ridges of sand, each with a lit and a shaded side: long flat edges that are no wires."""
    picture, (width, height) = sky(), SIZE
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    for k in range(7):
        chance = np.random.default_rng(40 + k)
        crest = height * (0.42 + 0.08 * k) + 40 * np.sin(columns / width * chance.uniform(3, 7) + chance.uniform(0, 6))
        light = np.clip((rows - crest) / 90, 0, 1)
        sand = np.array([224, 190, 140], np.float32) * (0.62 + 0.38 * light)[..., None]
        picture = np.where((rows > crest)[..., None], sand, picture)
    return np.clip(picture + 3 * _rough(9, (height // 3, width // 3))[..., None], 0, 255).astype(np.uint8)


def towers() -> Pixels:
    """Two lattice towers with cross-arms before the sky, a meadow below."""
    return _towers()[0]


def _towers() -> tuple[Pixels, Pixels]:
    picture, bars = meadow(), np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for middle, scale in ((360, 1.0), (1130, 0.8)):
        foot, tip = 650, int(650 - 620 * scale)
        for k in range(14):  # bays, each with its two legs and a cross
            low, high = (int(foot + (tip - foot) * (k + step) / 14) for step in (0, 1))
            wide, slim = (int(70 * scale * (1 - (k + step) / 15)) for step in (0, 1))
            corners = {"A": (-wide, low), "B": (wide, low), "C": (-slim, high), "D": (slim, high)}
            for one, other in ("AC", "BD", "AD", "BC", "CD"):
                ends = [(middle + x, y) for x, y in (corners[one], corners[other])]
                cv2.polylines(bars, [np.array(ends)], False, 255, 2, cv2.LINE_AA)
        for at, reach in ((0.08, 150), (0.22, 190), (0.36, 150)):  # cross-arms, each a flat triangle of bars
            y, out = round(tip + (foot - tip) * at), int(reach * scale)
            cv2.polylines(bars, [np.array([[middle - out, y], [middle, y - 26], [middle + out, y]])], True, 255, 2,
                          cv2.LINE_AA)  # fmt: skip
    cover = bars[..., None] / np.float32(255)
    return np.clip(picture * (1 - cover) + 60 * cover, 0, 255).astype(np.uint8), bars


def fence() -> Pixels:
    """A railing of flat bars across meadow and sky: nothing in it is a power line."""
    picture = meadow()
    for y in range(440, 720, 40):
        cv2.line(picture, (0, y), (SIZE[0], y - 12), (70, 62, 55), 9, cv2.LINE_AA)
    for x in range(40, SIZE[0], 120):
        cv2.line(picture, (x, 420), (x, 760), (60, 52, 46), 12, cv2.LINE_AA)
    return picture


def _rough(seed: int, cells: tuple[int, int]) -> NDArray[np.float32]:
    """Noise about 1 strong, smooth over `SIZE` divided by `cells`."""
    small = np.random.default_rng(seed).normal(size=cells).astype(np.float32)
    return np.asarray(cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC), np.float32)


SCENERY: Final = {"meadow": meadow, "dunes": dunes, "towers": towers, "fence": fence}


# -- counting -----------------------------------------------------------------------------------------


def wires_in(scene: Scene) -> tuple[float, float | None]:
    """Recall, and precision where anything is reported."""
    mask = wire_mask(find_wires(scene.picture), scene.picture.shape)
    return share_near(scene.truth, mask), share_near(mask, scene.truth) if mask.any() else None


def _tell_wires(name: str, scenes: list[Scene]) -> None:
    found = [wires_in(scene) for scene in scenes]
    recalls, precisions = [one[0] for one in found], [one[1] for one in found if one[1] is not None]
    right = f"{np.mean(precisions):9.2f}" if precisions else "        -"
    print(f"  {name:<28} {len(scenes):6} {len(precisions):7}  {np.mean(recalls):7.2f}  {right}", flush=True)


def _tell_signs(name: str, scenes: list[Scene]) -> None:
    hits, others = 0, 0
    for scene in scenes:
        x, y, w, h = cv2.boundingRect(scene.truth)
        height, width = scene.truth.shape
        truth = (x / width, y / height, w / width, h / height)
        right = [iou(one["box"], truth) >= 0.5 for one in find_signs(scene.picture)]
        hits, others = hits + any(right), others + right.count(False)
    precision = hits / (hits + others) if hits + others else 0.0
    print(f"  {name:<28} {len(scenes):6}  {hits / len(scenes):7.2f}  {precision:9.2f}", flush=True)


def _false_alarms(find: object) -> str:
    assert callable(find)
    plain = [enlarged(photo(name), factor) for name, factor in product(BY_FILE, FACTORS)]
    plain += [noisy(make()) for make in SCENERY.values()]
    reported = sum(bool(find(picture)) for picture in plain)
    return f"{reported} of {len(plain)} pictures"
