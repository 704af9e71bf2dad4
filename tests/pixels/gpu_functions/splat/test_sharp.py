"""SHARP behind its gate: who may run it, what it is asked for, and how its gaussians become a file.

Apple's package and weights are not here. What stands in is a small real package with its published interface
(github.com/apple/ml-sharp: `sharp.models`, `sharp.cli.predict`): it says how it was called, and predicts a wall.
"""

from __future__ import annotations

import hashlib
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from contracts.errors import SafelightError
from gpu_functions import images
from gpu_functions.catalog import CATALOG, EngineRow, choose
from gpu_functions.engine import ALONE
from gpu_functions.splat import camera, sharp
from gpu_functions.splat.scene import ply
from gpu_functions.weights import EMPTY, WEIGHTS, Shelf
from tests.pixels.gpu_functions.pictures import deepen, encode
from tests.pixels.gpu_functions.splat import viewer

PUBLISHED = {
    "models/__init__.py": """
        import dataclasses
        import torch

        @dataclasses.dataclass
        class PredictorParams:
            pass

        class Predictor(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.distance = torch.nn.Parameter(torch.zeros(1))

        def create_predictor(params):
            assert isinstance(params, PredictorParams)
            return Predictor()
        """,
    "cli/__init__.py": "",
    "cli/predict.py": """
        import typing
        import torch
        import gsplat

        class Gaussians3D(typing.NamedTuple):
            mean_vectors: torch.Tensor
            singular_values: torch.Tensor
            quaternions: torch.Tensor
            colors: torch.Tensor
            opacities: torch.Tensor

        @torch.no_grad()
        def predict_image(predictor, image, f_px, device):
            assert not predictor.training
            assert image.dtype.name == "uint8" and image.flags["C_CONTIGUOUS"]
            height, width = image.shape[:2]
            z = predictor.distance.expand(height, width)
            v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            means = torch.stack([(u - width / 2) / f_px * z, (v - height / 2) / f_px * z, z], -1).reshape(1, -1, 3)
            count = means.shape[1]
            linear = (torch.from_numpy(image.copy()).float() / 255).reshape(1, -1, 3) ** 2.2
            return Gaussians3D(
                means.to(device),
                torch.full((1, count, 3), 0.6) * z.mean() / f_px,
                torch.tensor([2.0, 0.0, 0.0, 0.0]).expand(1, count, 4),
                linear,
                torch.full((1, count), 1.0),
            )
        """,
}


def written(folder: Path, name: str, modules: dict[str, str]) -> None:
    for path, text in ({"__init__.py": ""} | modules).items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from, for the length of a test."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sharp", "gsplat")]:
        del sys.modules[name]


@pytest.fixture
def published(packages: Path) -> None:
    written(packages, "sharp", PUBLISHED)
    written(packages, "gsplat", {})


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """A checkpoint of the stand-in under the real one's name, pinned like it; the real row but for size and hash."""
    folder = tmp_path / "weights"
    folder.mkdir()
    file = folder / sharp.WEIGHTS
    torch.save({"distance": torch.tensor([2.5])}, file)
    content = file.read_bytes()
    row = replace(WEIGHTS[sharp.WEIGHTS], size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return Shelf(folder, allow_noncommercial=True, known={sharp.WEIGHTS: row})


def row() -> EngineRow:
    return next(row for row in CATALOG if row.engine == "sharp")


def passed_over(shelf: Shelf) -> list[str]:
    choice = choose("splat.make", "gpu", shelf=shelf)
    assert choice.row.engine == "relief"
    return list(choice.passed_over)


# -- the gate -------------------------------------------------------------------------------


def test_without_apples_package_the_relief_works_and_the_answer_says_why(shelf: Shelf) -> None:
    assert passed_over(shelf) == ["sharp@1: the package sharp is not installed"]
    [why] = passed_over(EMPTY)
    assert "forbids commercial use" in why


@pytest.mark.usefixtures("published")
def test_a_licence_for_research_only_keeps_it_shut_until_somebody_accepts_it(shelf: Shelf) -> None:
    [why] = passed_over(replace(shelf, allow_noncommercial=False))
    assert "forbids commercial use, and allow_noncommercial is off" in why
    assert "research only" in why
    [why] = passed_over(replace(shelf, folder=shelf.folder and shelf.folder / "empty"))
    assert why.endswith("are not here: safelight weights pull sharp_2572gikvuh.pt")
    assert choose("splat.make", "gpu", shelf=shelf).row.engine == "sharp"
    assert choose("splat.make", "cpu", shelf=shelf).row.engine == "relief", "it has no CPU path"


@pytest.mark.usefixtures("published")
def test_a_checkpoint_that_was_exchanged_is_not_loaded(shelf: Shelf) -> None:
    assert shelf.folder
    file = shelf.folder / sharp.WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(SafelightError, match="WEIGHTS_INVALID"):
        row().load(shelf)


def test_another_package_of_that_name_is_said_to_be_another(packages: Path, shelf: Shelf) -> None:
    written(packages, "sharp", {"harmonics.py": ""})
    written(packages, "gsplat", {})
    with pytest.raises(SafelightError) as refused:
        row().load(shelf)
    assert refused.value.code == "ENGINE_UNAVAILABLE"
    assert "not Apple's" in refused.value.detail


# -- the work -------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_a_photo_becomes_its_gaussians_in_metres(shelf: Shelf, astronaut: Any) -> None:
    small = astronaut[::4, ::4]
    engine = replace(row(), device="cpu").load(shelf)
    outputs, facts = engine.run({"image": encode(small)}, {"side": 96}, ALONE)
    assert facts == {"preview": False, "gaussians": 128 * 128, "focal_mm": 30.0, "metric": True}
    found = viewer.read(outputs["splat"].data)
    np.testing.assert_allclose(found.positions[:, 2], 2.5)
    focal = camera.focal_px(30.0, 128, 128)
    assert found.positions[0, 0] == pytest.approx((0.5 - 64) / focal * 2.5, rel=1e-4)
    np.testing.assert_allclose(found.scales, 0.6 * 2.5 / focal, rtol=1e-4)
    np.testing.assert_allclose(found.rotations, np.broadcast_to([1, 0, 0, 0], (128 * 128, 4)))
    assert found.opacities.min() > 0.999
    # The wall is linear light by a power of 2.2; the file is sRGB, which differs from that by a few codes.
    assert np.abs(found.colours.reshape(128, 128, 3) * 255 - small).max() < 9
    assert outputs["turntable"].media_type == "image/webp"


def gaussians(count: int = 4, **changes: torch.Tensor) -> Any:
    """Published tensors of a batch of one."""
    plain = {
        "mean_vectors": torch.tensor([0.0, 0.0, 2.0]).repeat(1, count, 1),
        "singular_values": torch.full((1, count, 3), 0.1),
        "quaternions": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(1, count, 1),
        "colors": torch.full((1, count, 3), 0.5),
        "opacities": torch.full((1, count), 0.5),
    }
    return SimpleNamespace(**(plain | changes))


def test_linear_light_is_written_as_srgb() -> None:
    linear = torch.tensor([0.0, 0.002, 0.2140, 1.0, 1.7])[None, :, None].repeat(1, 1, 3)
    found = viewer.read(ply(sharp.scene_of(gaussians(5, colors=linear))).data)
    np.testing.assert_allclose(found.colours[:, 0] * 255, [0, 6.59, 127.5, 255, 255], atol=0.05)


def test_a_quaternion_is_written_real_part_first_and_of_length_one() -> None:
    turned = torch.tensor([[[0.0, 0.0, 3.0, 4.0]] * 4])
    found = viewer.read(ply(sharp.scene_of(gaussians(quaternions=turned))).data)
    np.testing.assert_allclose(found.rotations[0], [0, 0, 0.6, 0.8], atol=1e-6)


def test_half_precision_and_tensors_that_remember_their_gradient_are_taken() -> None:
    scene = sharp.scene_of(gaussians(opacities=torch.full((1, 4), 0.25, dtype=torch.bfloat16).requires_grad_()))
    assert scene.opacities.dtype == np.float32
    assert scene.opacities[0] == 0.25


def test_a_model_that_went_astray_makes_no_scene() -> None:
    with pytest.raises(SafelightError, match="SPLAT_IMPOSSIBLE"):
        sharp.scene_of(gaussians(mean_vectors=torch.full((1, 4, 3), float("nan"))))


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [
        pytest.param(np.zeros((100, 6200, 3), np.uint8), (50, 3072, 3), id="larger than it looks"),
        pytest.param(np.zeros((40, 6200, 3), np.uint8), (32, 3072, 3), id="a line"),
        pytest.param(deepen(np.full((50, 40, 3), 200, np.uint8)), (50, 40, 3), id="16 bit"),
    ],
)
def test_it_is_given_eight_bits_of_a_bounded_size(pixels: Any, shape: tuple[int, ...]) -> None:
    found = sharp.prepared(images.read(encode(pixels)))
    assert found.shape == shape
    assert found.dtype == np.uint8
    assert found.flags["C_CONTIGUOUS"]
    assert abs(int(found[0, 0, 0]) - int(pixels[0, 0, 0] / np.iinfo(pixels.dtype).max * 255)) <= 1


def test_what_is_transparent_is_grey_to_it() -> None:
    pixels = np.dstack([np.full((40, 40, 3), 255), np.eye(40) * 255]).astype(np.uint8)
    found = sharp.prepared(images.read(encode(pixels)))
    assert (found[0, 0] == 255).all()
    assert (found[0, 1] == sharp.GREY).all()


def test_a_picture_too_small_for_it_is_refused() -> None:
    with pytest.raises(SafelightError, match="SPLAT_IMPOSSIBLE"):
        sharp.prepared(images.read(encode(np.zeros((31, 99, 3), np.uint8))))
