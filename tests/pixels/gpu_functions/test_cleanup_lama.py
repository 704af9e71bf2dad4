"""LaMa as published with random weights, and around it networks that can be foreseen: masks, tiles, seams, memory."""

from __future__ import annotations

import tempfile
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from gpu_functions import images, networks
from gpu_functions.catalog import choose
from gpu_functions.cleanup import fill, lama, removal
from gpu_functions.cleanup.fill import Floats
from gpu_functions.cleanup.lama import Lama
from gpu_functions.cleanup.removal import ExitSign, Holes, PowerLine
from tests.pixels.gpu_functions.pictures import decode, deepen, encode, psnr, shipped
from tests.pixels.gpu_functions.test_cleanup import BOX, SAG, with_sign, with_wire
from tests.pixels.gpu_functions.weights import architecture, shelf

WIRE = PowerLine(kind="power_line", points=SAG, width=0.004)
SIGN = ExitSign(kind="exit_sign", box=BOX)
BOTH: Any = {"detections": [WIRE.model_dump(), SIGN.model_dump()]}
DEEP = pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])


def smooth(pictures: Floats, unknown: Floats) -> Floats:
    """A network that continues what it sees as smoothly as can be."""
    return np.stack([fill.membrane(one, hole[..., 0] > 0) for one, hole in zip(pictures, unknown, strict=True)])


def mean(pictures: Floats, unknown: Floats) -> Floats:
    """A network that paints each tile in the one colour that it sees on the average: neighbours disagree."""
    known = 1 - unknown
    colour = (pictures * known).sum(axis=(1, 2), keepdims=True) / known.sum(axis=(1, 2), keepdims=True)
    return np.broadcast_to(colour, pictures.shape).astype(np.float32)


def grey(pictures: Floats, unknown: Floats) -> Floats:
    return np.full(pictures.shape, 0.5, np.float32)


def painted(photo: npt.NDArray[Any], detections: list[Any], paint: lama.Paint) -> removal.Cleaned:
    return removal.clean(photo, detections, lambda pixels, holes: lama.by_painting(pixels, holes, paint))


def as_torchscript(path: Path) -> None:
    """As LaMa is published: the network traced with a picture and a mask, in an archive of TorchScript."""
    network, picture, mask = architecture("LaMa", in_nc=4), torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch would like authors to use another format
        torch.jit.trace(network, (picture, mask), check_trace=False).save(path)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def engine() -> Iterator[Lama]:
    with tempfile.TemporaryDirectory() as place:
        files = shelf(Path(place), commercially=True, big_lama_pt=as_torchscript)
        choice = choose("cleanup.remove", "gpu", shelf=files)
        assert (choice.row.label, choice.passed_over) == ("lama@1", ())
        loaded = choice.row.load(files)
        assert isinstance(loaded, Lama)
        yield loaded


@DEEP
def test_lama_as_published_paints_what_is_masked_and_nothing_else(engine: Lama, deep: bool) -> None:
    camera = shipped("camera")[:144, 288:512]  # the network's time goes with the pixels
    photo: npt.NDArray[Any] = np.ascontiguousarray(deepen(camera) if deep else camera)
    photo[40:60, 80:130] = np.iinfo(photo.dtype).max
    alpha = np.arange(photo[..., 0].size, dtype=np.uint32).reshape(photo.shape[:2]).astype(photo.dtype)
    sign: Any = {"kind": "exit_sign", "box": [80 / 224, 40 / 144, 50 / 224, 20 / 144]}
    outputs, facts = engine.run({"image": encode(np.dstack([photo, alpha]))}, {"detections": [sign]})

    result = images.read(outputs["image"].data)
    changed = (result.pixels != photo).any(axis=2)
    assert result.alpha is not None
    assert (result.alpha == alpha).all()
    assert changed[42:58, 82:128].mean() > 0.9
    assert changed.sum() <= facts["removed"][0]["pixels"] < 1.6 * 20 * 50  # type: ignore[index,call-overload,operator]
    assert not changed[:, :70].any()
    assert facts["fill_bit_depth"] == (16 if deep else 8)
    assert (facts["tiles"], facts["computed_on"]) == (1, "cpu")


def test_the_same_tensors_in_another_file_are_the_same_network(engine: Lama, tmp_path: Path) -> None:
    state = engine._network.module.state_dict()
    assert sum(part.numel() for part in engine._network.module.parameters()) == 50_975_875
    save_file(state, tmp_path / "lama.safetensors")
    other = networks.load(tmp_path / "lama.safetensors", "LaMa", "gpu").module.state_dict()
    (tmp_path / "lama.safetensors").unlink()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


@DEEP
def test_a_wire_and_a_sign_before_the_sky_disappear(deep: bool) -> None:
    truth = deepen(shipped("camera")) if deep else shipped("camera")
    signed, sign = with_sign(truth)
    photo, where = with_wire(signed, 0.0)
    done = painted(photo, [WIRE, SIGN], smooth)
    sky = np.zeros_like(sign)
    sky[:100, 260:] = True
    assert sorted(done.removed) == [0, 1]
    assert psnr(done.pixels, truth, (where | sign) & sky) > 36
    assert (done.pixels[~done.mask] == photo[~done.mask]).all()


@pytest.mark.parametrize(
    ("height", "width"), [(9, 40), (512, 512), (513, 700), (333, 1100), (1300, 520)], ids=lambda side: str(side)
)
def test_each_masked_pixel_is_painted_and_no_other(height: int, width: int) -> None:
    rng = np.random.default_rng(4)
    picture = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
    mask = rng.random((height, width)) < 0.01
    mask[0, 0] = mask[0, -1] = mask[-1, 0] = mask[-1, -1] = True
    result = picture.copy()
    lama.wires(result, mask, mask, grey)
    assert (result[mask] == 128).all()
    assert (result[~mask] == picture[~mask]).all()


def test_tiles_that_disagree_fade_into_each_other() -> None:
    ramp = np.linspace(0, 60_000, 1800)
    picture = np.repeat(np.repeat(ramp[None, :, None], 600, axis=0), 3, axis=2).astype(np.uint16)
    mask = np.zeros(picture.shape[:2], bool)
    mask[280:290] = True
    tiles = len(lama._spans(1800))
    assert tiles == 6
    lama.wires(picture, mask, mask, mean)
    steps = np.abs(np.diff(picture[285].astype(int), axis=0)).max()
    jump = 60_000 / 1800 * lama.STEP  # between the colours of two neighbouring tiles
    assert steps < 1.2 * jump / lama.FADE


def test_no_network_sees_what_it_is_to_replace() -> None:
    seen: list[Floats] = []

    def spy(pictures: Floats, unknown: Floats) -> Floats:
        seen.append(pictures[unknown[..., 0] > 0])
        return smooth(pictures, unknown)

    photo, _ = with_sign(shipped("camera"))
    photo, _ = with_wire(photo, 1.0)
    painted(photo, [WIRE, SIGN], spy)
    assert len(seen) == 2
    assert all(len(pixels) > 100 and not pixels.any() for pixels in seen)


def test_a_large_sign_is_looked_at_whole_and_leaves_no_edge() -> None:
    ys, xs = np.indices((1500, 2000), np.float32)
    truth = np.stack([90 + xs / 40, 120 + ys / 30, 200 - xs / 50], axis=-1).round().astype(np.uint8)
    photo = truth.copy()
    photo[600:800, 700:1200] = (20, 140, 60)
    sizes: list[tuple[int, ...]] = []

    def watched(pictures: Floats, unknown: Floats) -> Floats:
        sizes.append(pictures.shape)
        return smooth(pictures, unknown)

    done = painted(photo, [ExitSign(kind="exit_sign", box=(0.35, 0.4, 0.25, 0.1334))], watched)
    (size,) = sizes
    assert size[0] == 1
    assert size[2] == lama.TILE
    assert psnr(done.pixels, truth, done.mask) > 42


def test_fifty_megapixels_take_memory_for_the_wire_and_not_for_the_picture() -> None:
    picture = np.full((5773, 8660, 3), 90, np.uint8)
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.line(mask, (0, 1000), (8659, 2500), 1, 20)
    wire = mask.view(bool)
    told: list[int] = []

    class Watching:
        def tell(self, fraction: float, facts: Any = None) -> None:
            told.append(facts["tiles"])

        def show(self, role: str, output: Any) -> None: ...
        def checkpoint(self) -> bytes | None: ...
        def save(self, checkpoint: bytes) -> None: ...

    tracemalloc.start()
    lama.wires(picture, wire, wire, grey, Watching())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (picture[wire] == 128).all()
    assert told[-1] < 60  # of 494 tiles in the picture
    assert peak < picture.nbytes / 2


@DEEP
def test_no_detection_leaves_each_bit(engine: Lama, rocket: Any, deep: bool) -> None:
    photo = deepen(rocket) if deep else rocket
    outputs, facts = engine.run({"image": encode(photo)}, {"detections": []})
    assert (decode(outputs["image"].data) == photo).all()
    assert (facts["tiles"], facts["mask_share"]) == (0, 0.0)


def test_the_same_call_paints_the_same_pixels_whatever_else_is_removed() -> None:
    photo, _ = with_wire(shipped("camera"), 0.0)
    twice = [painted(photo, [WIRE], smooth).pixels for _ in range(2)]
    assert (twice[0] == twice[1]).all()
    holes = Holes(np.zeros(photo.shape[:2], bool), np.zeros(photo.shape[:2], bool), [], 0.0)
    untouched = photo.copy()
    lama.by_painting(untouched, holes, grey)
    assert (untouched == photo).all()
