"""Faces redrawn by the published networks with random weights: who runs, on what, and that nothing else is touched.

Random weights restore nothing; what a restored face looks like, only real ones can show. What is shown here
is all around that: files, pins, licences, shapes, batches, and each pixel that is not a face's.
"""

from __future__ import annotations

import copy
import pickle
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from contracts.errors import SafelightError
from gpu_functions import images, networks
from gpu_functions.catalog import CATALOG, EngineRow, choose
from gpu_functions.faces.restoring import BATCH, Restorer
from tests.pixels.gpu_functions.pictures import decode, deepen, encode
from tests.pixels.gpu_functions.weights import architecture, saved, shelf

BOX = (0.33, 0.12, 0.22, 0.25)  # the astronaut's face
ONE: Any = {"faces": [{"box": list(BOX)}]}


def roughness(pixels: npt.NDArray[Any]) -> float:
    """The variance of each pixel about its neighbours."""
    return float(np.var(pixels - cv2.blur(pixels.astype(np.float32), (3, 3))))


def row(engine: str) -> EngineRow:
    return next(row for row in CATALOG if row.engine == engine)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:  # some hundred MB that nobody needs afterwards
        yield Path(place)


class Soft(torch.nn.Module):
    """A network that can be foreseen, and is quick: it blurs."""

    def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.nn.functional.avg_pool2d(faces, 9, stride=1, padding=4, count_include_pad=False),)


@pytest.fixture(scope="module")
def small(folder: Path) -> Restorer:
    """RestoreFormer as published, with the least channels that its shapes allow: seven times faster."""
    sizes = {"ch": 32, "num_res_blocks": 1, "ch_mult": (1,) * 6, "z_channels": 32, "n_embed": 64, "embed_dim": 32}
    files = shelf(folder / "small", RestoreFormer_pth=saved(architecture("RestoreFormer", **sizes)))
    choice = choose("retouch.faces", "gpu", shelf=files)
    assert choice.row.label == "restoreformer@1"
    assert [why.split(":")[0] for why in choice.passed_over] == ["codeformer@1", "gfpgan@1"]
    engine = choice.row.load(files)
    assert isinstance(engine, Restorer)
    return engine


@pytest.fixture
def soft(small: Restorer) -> Restorer:
    """The same engine around a network that blurs."""
    engine = copy.copy(small)
    engine.network = networks.Network(Soft(), torch.device("cpu"))
    return engine


def heard(engine: Restorer) -> list[tuple[tuple[torch.Tensor, ...], dict[str, Any]]]:
    """What the network of `engine` is asked from now on."""
    asked: list[tuple[tuple[torch.Tensor, ...], dict[str, Any]]] = []
    engine.network.module.register_forward_pre_hook(
        lambda _, given, named: asked.append((given, named)), with_kwargs=True
    )
    return asked


def test_codeformer_as_published_redraws_a_face_with_the_fidelity_that_is_asked_for(
    astronaut: Any, folder: Path
) -> None:
    files = shelf(folder / "codeformer", codeformer_pth=saved(architecture("CodeFormer")))
    engine: Any = choose("retouch.faces", "gpu", shelf=files).row.load(files)
    assert sum(part.numel() for part in engine.network.module.parameters()) == 94_112_707
    asked = heard(engine)
    outputs, facts = engine.run({"image": encode(astronaut)}, ONE)

    (given, named), *others = asked
    assert not others
    assert named == {"weight": 0.7}
    assert given[0].shape == (1, 3, 512, 512)
    assert -1.0 <= float(given[0].min()) < -0.9
    assert 0.9 < float(given[0].max()) <= 1.0
    changed = (decode(outputs["image"].data) != astronaut).any(axis=2)
    assert 0.02 < changed.mean() <= facts["mask_share"] < 0.08
    assert facts["computed_on"] == "cpu"
    assert facts["redrawn"][0]["enlarged"] == pytest.approx(2.86, abs=0.05)


def test_restoreformer_redraws_a_face(astronaut: Any, small: Restorer) -> None:
    outputs, facts = small.run({"image": encode(astronaut)}, ONE)
    assert facts["faces_treated"] == 1
    assert (decode(outputs["image"].data) != astronaut).any(axis=2).mean() > 0.02


def test_gfpgan_as_published_redraws_a_face_without_dice(astronaut: Any, folder: Path) -> None:
    files = shelf(folder / "gfpgan", GFPGANv1_4_pth=saved(architecture("GFPGAN")))
    engine: Any = choose("retouch.faces", "gpu", shelf=files).row.load(files)
    asked = heard(engine)
    _, facts = engine.run({"image": encode(astronaut)}, ONE)
    assert [named for _, named in asked] == [{"randomize_noise": False}]
    assert facts["faces_treated"] == 1
    assert facts["redrawn"][0]["change"] > 0.0


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
def test_only_faces_change_and_the_others_are_named_with_the_reason(astronaut: Any, soft: Restorer, deep: bool) -> None:
    picture = deepen(astronaut) if deep else astronaut
    pair = np.hstack([picture, picture[:, ::-1]])
    alpha = np.arange(pair[..., :1].size, dtype=np.uint32).reshape(pair.shape[:2])[..., None].astype(pair.dtype)
    x, y, w, h = BOX
    boxes = [(x / 2, y, w / 2, h), (0.1, 0.1, 0.01, 0.02), (1 - (x + w) / 2, y, w / 2, h), (0.4, 0.75, 0.1, 0.2)]
    parameters: Any = {"faces": [{"box": box} for box in boxes], "fidelity": 0.0}
    asked = heard(soft)
    outputs, facts = soft.run({"image": encode(np.dstack([pair, alpha]))}, parameters)
    result = images.read(outputs["image"].data)

    assert [len(given[0]) for given, _ in asked] == [2], "faces travel together"
    assert result.pixels.dtype == pair.dtype
    assert result.alpha is not None
    assert (result.alpha == alpha[..., 0]).all()
    assert facts["faces_treated"] == 2
    assert facts["faces_skipped"] == [{"face": 1, "reason": "too_small"}, {"face": 3, "reason": "no_face_mesh"}]
    changed = (result.pixels != pair).any(axis=2)
    within = np.zeros_like(changed)
    within[40:230, 140:310] = within[40:230, 1024 - 310 : 1024 - 140] = True
    assert not changed[~within].any()
    assert changed[:, :512].sum() == pytest.approx(changed[:, 512:].sum(), rel=0.1)
    assert changed[98:104, 199:207].all()  # an eye
    assert roughness(result.pixels[98:104, 199:207]) < 0.5 * roughness(pair[98:104, 199:207])


def test_the_same_picture_is_redrawn_in_the_same_way(astronaut: Any, soft: Restorer) -> None:
    first, second = (soft.run({"image": encode(astronaut)}, ONE)[0]["image"].data for _ in range(2))
    assert first == second


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize(
    "parameters",
    [pytest.param({"faces": []}, id="no face"), pytest.param({**ONE, "fidelity": 1.0}, id="all fidelity")],
)
def test_nothing_to_do_leaves_each_bit(astronaut: Any, soft: Restorer, parameters: Any, deep: bool) -> None:
    picture = deepen(astronaut) if deep else astronaut
    outputs, _ = soft.run({"image": encode(picture)}, parameters)
    assert (decode(outputs["image"].data) == picture).all()


def test_many_faces_are_redrawn_in_batches_and_tell_how_far_they_are(astronaut: Any, soft: Restorer) -> None:
    told: list[tuple[float, Any]] = []

    class Watching:
        def tell(self, fraction: float, facts: Any = None) -> None:
            told.append((fraction, facts))

        def show(self, role: str, output: Any) -> None: ...
        def checkpoint(self) -> bytes | None: ...
        def save(self, checkpoint: bytes) -> None: ...

    asked = heard(soft)
    soft.run({"image": encode(astronaut)}, {"faces": [{"box": list(BOX)}] * (BATCH + 1)}, Watching())
    assert [len(given[0]) for given, _ in asked] == [BATCH, 1]
    assert told == [(BATCH / (BATCH + 1), {"faces_treated": BATCH}), (1.0, {"faces_treated": BATCH + 1})]


def _not_torch(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 and nothing")


def test_restorers_wait_for_the_licence_gate_and_skin_is_smoothed_meanwhile(folder: Path) -> None:
    files = shelf(folder / "shut", commercially=True, codeformer_pth=_not_torch)
    choice = choose("retouch.faces", "gpu", shelf=files)
    assert choice.row.label == "skin-smoothing@1"
    assert [why.split(":")[0] for why in choice.passed_over] == ["codeformer@1", "gfpgan@1", "restoreformer@1"]
    assert all("forbids commercial use" in why for why in choice.passed_over)


def _of_another(path: Path) -> None:
    saved(torch.nn.Linear(2, 2))(path)


def _with_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"params_ema": _Touch(path.with_suffix(".touched"))}, protocol=2))


class _Touch:
    """A pickle that writes a file when it is read as pickles are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(_of_another, id="another network"),
        pytest.param(_with_code, id="a pickle with code"),
        pytest.param(_not_torch, id="a torn archive"),
        pytest.param(lambda path: path.write_bytes(b""), id="no bytes"),
    ],
)
def test_a_file_that_is_no_such_network_is_refused(folder: Path, write: Any, request: Any) -> None:
    files = shelf(folder / request.node.name, RestoreFormer_pth=write)
    with pytest.raises(SafelightError, match="WEIGHTS_INVALID"):
        row("restoreformer").load(files)
    assert not list(folder.rglob("*.touched"))


def test_an_answer_of_no_numbers_is_refused_before_a_pixel_is_written(astronaut: Any, soft: Restorer) -> None:
    broken = Soft()
    broken.register_forward_hook(lambda _, given, answer: (answer[0] * float("nan"),))
    soft.network = networks.Network(broken, torch.device("cpu"))
    with pytest.raises(SafelightError, match="WEIGHTS_INVALID"):
        soft.run({"image": encode(astronaut)}, ONE)


def test_a_file_that_was_changed_after_it_was_pinned_is_not_loaded(folder: Path) -> None:
    files = shelf(folder / "changed", RestoreFormer_pth=_of_another)
    assert files.folder is not None
    path = files.folder / "RestoreFormer.pth"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(SafelightError, match="pinned"):
        row("restoreformer").load(files)


def test_what_is_lent_to_spandrel_does_not_stay(small: Restorer) -> None:
    assert "spandrel" in sys.modules
    assert "torchvision" not in sys.modules
    values: npt.NDArray[Any] = np.random.default_rng(0).uniform(0, 1, (2, 3, 4, 4))
    normal = networks._normalize(torch.from_numpy(values), [0.5, 0.4, 0.3], [0.5, 0.25, 0.2])
    truth = (values - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.5, 0.25, 0.2])[:, None, None]
    assert normal.numpy() == pytest.approx(truth)
