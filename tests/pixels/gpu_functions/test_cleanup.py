"""Wires and signs that were painted onto real photos go away, against the known truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gpu_functions import images
from gpu_functions.cleanup import removal
from gpu_functions.cleanup.removal import Cleaned, ExitSign, PowerLine
from gpu_functions.cleanup.telea import TeleaInpaint, by_continuing
from tests.pixels.gpu_functions.pictures import deepen, encode, psnr, shipped

SAG = [(t, 0.1 + 0.05 * t + 0.24 * t * (1 - t)) for t in np.linspace(0, 1, 16)]
BOX = (0.66, 0.08, 0.18, 0.08)  # on the sky of `camera`


def with_wire(photo: npt.NDArray[Any], grey: float, width: float = 2.4) -> tuple[npt.NDArray[Any], Any]:
    """`photo` behind an antialiased wire along SAG, and where the wire is; 8 samples per pixel side."""
    height, breadth = photo.shape[:2]
    large = np.zeros((height * 8, breadth * 8), np.uint8)
    points = np.rint(np.array(SAG) * (breadth * 8, height * 8)).astype(np.int32)
    cv2.polylines(large, [points], False, 255, round(width * 8))
    cover = cv2.resize(large, (breadth, height), interpolation=cv2.INTER_AREA)[..., None] / 255
    white = np.iinfo(photo.dtype).max
    return np.rint(photo * (1 - cover) + grey * white * cover).astype(photo.dtype), cover[..., 0] > 0


def with_sign(photo: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Any]:
    """`photo` behind an EXIT sign that fills BOX, and where the sign is."""
    height, breadth = photo.shape[:2]
    x, y, w, h = (round(v * s) for v, s in zip(BOX, (breadth, height) * 2, strict=True))
    white = int(np.iinfo(photo.dtype).max)
    result, where = photo.copy(), np.zeros(photo.shape[:2], bool)
    result[y : y + h, x : x + w] = np.array([20, 140, 60]) / 255 * white
    cv2.putText(result, "EXIT", (x + 8, y + h - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (white, white, white), 2)
    where[y : y + h, x : x + w] = True
    return result, where


def clean(photo: npt.NDArray[Any], detections: Sequence[PowerLine | ExitSign]) -> Cleaned:
    return removal.clean(photo, detections, by_continuing)


def wire(width: float = 2.4 / 640, shift: float = 0.0) -> PowerLine:
    return PowerLine(kind="power_line", points=[(x, y + shift) for x, y in SAG], width=width)


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("grey", [0.0, 0.9], ids=["dark wire", "bright wire"])
def test_a_wire_before_the_sky_disappears(rocket: Any, deep: bool, grey: float) -> None:
    truth = deepen(rocket) if deep else rocket
    photo, where = with_wire(truth, grey)
    where[:, :90] = where[:, 540:] = False  # the lattice towers: judged below
    done = clean(photo, [wire()])

    assert psnr(photo, truth, where) < 20
    assert psnr(done.pixels, truth, where) > 38  # measured: 46.5 dB, 50 at 16 bit
    assert done.mask[where].mean() > 0.97
    assert (done.pixels[~done.mask] == photo[~done.mask]).all()
    assert done.mask.mean() < 0.03


def test_a_detector_may_be_a_pixel_off(rocket: Any) -> None:
    photo, where = with_wire(rocket, 0.05)
    where[:, :90] = where[:, 540:] = False
    done = clean(photo, [wire(shift=1.5 / 427)])
    assert psnr(done.pixels, rocket, where) > 36


def test_a_wire_over_anything_gets_much_better(rocket: Any) -> None:
    photo, where = with_wire(shipped("chelsea"), 0.08)
    done = clean(photo, [wire(2.4 / 451)])
    assert psnr(done.pixels, shipped("chelsea"), where) > psnr(photo, shipped("chelsea"), where) + 12


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
def test_a_sign_before_the_sky_disappears(deep: bool) -> None:
    grey = shipped("camera")
    truth = deepen(grey) if deep else grey
    photo, where = with_sign(truth)
    x, y, w, h = BOX
    done = clean(photo, [ExitSign(kind="exit_sign", box=(x + 0.004, y + 0.002, w - 0.006, h))])

    assert psnr(photo, truth, where) < 10
    assert psnr(done.pixels, truth, where) > 38
    assert done.mask[where].all()
    assert (done.pixels[~done.mask] == photo[~done.mask]).all()
    assert done.mask.sum() < 1.4 * where.sum()


def test_a_wire_and_a_sign_that_touch_do_not_smear_into_each_other() -> None:
    truth = shipped("camera")
    signed, sign = with_sign(truth)
    photo, where = with_wire(signed, 0.0)
    done = clean(photo, [wire(2.4 / 512), ExitSign(kind="exit_sign", box=BOX)])
    sky = np.zeros_like(sign)
    sky[:100, 260:] = True
    assert psnr(done.pixels, truth, (where | sign) & sky) > 34


def test_what_is_in_front_of_a_wire_stays(rocket: Any) -> None:
    photo, _ = with_wire(rocket, 0.0)
    photo[40:130, 300:330] = rocket[40:130, 300:330] = np.array([40, 90, 30])  # a trunk that hides it
    done = clean(photo, [wire()])
    assert not done.mask[45:125, 306:324].any()


@pytest.mark.parametrize(
    ("detection", "reason"),
    [
        pytest.param(wire(width=0.05), "too_large", id="a beam is not a wire"),
        pytest.param(
            PowerLine(
                kind="power_line", points=[(0, i / 40) if i % 2 else (1, i / 40) for i in range(40)], width=0.009
            ),
            "too_large",
            id="a zigzag over the whole picture",
        ),
        pytest.param(ExitSign(kind="exit_sign", box=(0.1, 0.1, 0.5, 0.5)), "too_large", id="a sign of a quarter"),
        pytest.param(
            PowerLine(kind="power_line", points=[(0.2, 0.3), (0.4, 0.3)], width=0.004), "not_found", id="no wire there"
        ),
        pytest.param(ExitSign(kind="exit_sign", box=(1.5, 0.1, 0.1, 0.1)), "not_found", id="outside the picture"),
    ],
)
def test_what_cannot_be_right_is_left_alone(rocket: Any, detection: PowerLine | ExitSign, reason: str) -> None:
    done = clean(rocket, [detection])
    assert done.left == {0: reason}
    assert not done.mask.any()
    assert (done.pixels == rocket).all()


def test_more_than_the_total_is_refused_and_the_first_ones_are_done(rocket: Any) -> None:
    signs = [ExitSign(kind="exit_sign", box=(0.05 + 0.3 * (i % 3), 0.1 + 0.4 * (i // 3), 0.2, 0.19)) for i in range(6)]
    done = clean(rocket, signs)
    assert 0 in done.removed
    assert "too_much_already" in done.left.values()
    assert done.mask.mean() <= removal.TOTAL_AREA_MAX


def test_the_engine_states_what_it_did(rocket: Any) -> None:
    photo, _ = with_wire(rocket, 0.0)
    parameters: Any = {
        "detections": [
            {"kind": "power_line", "points": [list(p) for p in SAG], "width": 2.4 / 640, "score": 0.8},
            {"kind": "exit_sign", "box": [0.0, 0.0, 0.9, 0.9]},
        ]
    }
    outputs, facts = TeleaInpaint().run({"image": encode(deepen(photo))}, parameters)
    assert images.read(outputs["image"].data).white == 65535
    assert facts["fill_bit_depth"] == 16
    assert [row["detection"] for row in facts["removed"]] == [0]  # type: ignore[union-attr,index,call-overload]
    assert facts["left_alone"] == [{"detection": 1, "kind": "exit_sign", "reason": "too_large"}]
