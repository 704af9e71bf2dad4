"""The GPU's way over pictures, on torch's CPU: the pixels of the CPU's engine, and of many what each gives alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from contracts.errors import SafelightError
from gpu_functions import images
from gpu_functions.catalog import CATALOG, choose
from gpu_functions.engine import Made, Place, Task
from gpu_functions.runner import Runner
from gpu_functions.style import adaptive as adapting
from gpu_functions.style import cube, kernel, tensor
from gpu_functions.style.apply import CubeLut
from tests.pixels.gpu_functions import cubes
from tests.pixels.gpu_functions.conftest import Storage
from tests.pixels.gpu_functions.pictures import deepen, encode
from tests.pixels.gpu_functions.test_adaptive import adaptive

CPU = torch.device("cpu")
DEEP = pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
NARROW = "DOMAIN_MIN 0.2 0.1 0\nDOMAIN_MAX 0.9 1 0.7"
WIDE = "DOMAIN_MIN -0.2 -0.1 0\nDOMAIN_MAX 1.9 1 1.7"
DOMAINS = pytest.mark.parametrize("header", ["", NARROW, WIDE], ids=["usual domain", "narrow domain", "wide domain"])


@pytest.fixture(scope="module")
def photo(astronaut: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The face, the suit and the flag: 128×200."""
    return astronaut[60:188, 150:350]


def picture(photo: npt.NDArray[np.uint8], deep: bool) -> images.Pixels:
    return deepen(photo) if deep else photo


@DEEP
@DOMAINS
@pytest.mark.parametrize("size", [2, 33, 40])
def test_the_gpu_engine_gives_the_pixels_of_the_cpu_engine(
    photo: npt.NDArray[np.uint8], deep: bool, header: str, size: int
) -> None:
    pixels, lut = picture(photo, deep), cube.parse(cubes.text(size, cubes.film, header))
    [found], wanted = tensor.apply([pixels], [lut], CPU), kernel.apply(pixels, lut)
    assert found.dtype == pixels.dtype
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1  # half a code may be rounded to either side


@DEEP
@pytest.mark.parametrize("size", [2, 17, 33])
def test_an_identity_gives_back_every_pixel(photo: npt.NDArray[np.uint8], deep: bool, size: int) -> None:
    pixels = picture(photo, deep)
    [found] = tensor.apply([pixels], [cube.parse(cubes.text(size, cubes.identity))], CPU)
    assert (found == pixels).all()


def test_a_picture_of_several_bands_has_no_seams(photo: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    lut = cube.parse(cubes.text(9, cubes.film))
    [whole] = tensor.apply([photo], [lut], CPU)
    monkeypatch.setattr(tensor, "BAND_MAX", 10_007)
    [found] = tensor.apply([photo], [lut], CPU)
    assert (found == whole).all()


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
@DOMAINS
def test_an_engine_on_either_device_does_the_same_work(
    photo: npt.NDArray[np.uint8], strength: float, header: str
) -> None:
    inputs = {"image": encode(photo), "lut": cubes.text(17, cubes.film, header)}
    (one, told), (other, facts) = (
        kind(Place("gpu")).run(inputs, {"strength": strength}) for kind in (tensor.TensorLut, CubeLut)
    )
    assert told == facts
    pixels = [images.read(outputs["image"].data).pixels.astype(int) for outputs in (one, other)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    if strength == 0:
        assert (pixels[0] == photo).all()


def test_a_learnt_style_looks_the_same_from_both(photo: npt.NDArray[np.uint8]) -> None:
    inputs = {"image": encode(photo), "lut": adaptive()}
    (one, told), (other, facts) = (kind().run(inputs, {}) for kind in (tensor.TensorLut, CubeLut))
    assert told == facts
    pixels = [images.read(outputs["image"].data).pixels.astype(int) for outputs in (one, other)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_a_gpu_takes_it_first_and_a_cpu_never() -> None:
    assert choose("style.apply", "gpu", CATALOG).row.engine == "tensor-lut"
    assert choose("style.apply", "cpu", CATALOG).row.engine == "cube-lut"


# -- several together ------------------------------------------------------------------------


def mixed(photo: npt.NDArray[np.uint8]) -> list[Task]:
    """Photos of several sizes, depths and styles; the third, the sixth and the last two cannot be done."""
    film, narrow, learnt = cubes.text(17, cubes.film), cubes.text(9, cubes.film, NARROW), adaptive()
    given: list[tuple[dict[str, bytes], dict[str, Any]]] = [
        ({"image": encode(photo), "lut": film}, {}),
        ({"image": encode(deepen(photo[:70])), "lut": film}, {"strength": 0.5}),
        ({"image": b"\x89PNG not really", "lut": film}, {}),
        ({"image": encode(photo[:, :90]), "lut": learnt}, {}),
        ({"image": encode(photo[20:, 7:]), "lut": learnt}, {"strength": 0.25}),
        ({"image": encode(photo), "lut": b"LUT_3D_SIZE 2"}, {}),
        ({"image": encode(photo), "lut": narrow}, {"strength": 0.5}),
        ({"image": encode(photo), "lut": film}, {"strength": 0}),
        ({"image": encode(photo[::3]), "lut": cubes.text(33, cubes.film)}, {}),
        ({"image": encode(photo)}, {}),
        ({"image": encode(photo), "lut": film}, {"strength": 7}),
    ]
    return [Task(inputs, parameters) for inputs, parameters in given]


def told(made: Made | Exception) -> object:
    """What an item ended with, to compare: bytes and facts, or the error."""
    if isinstance(made, SafelightError):
        return made.code, made.detail
    return type(made) if isinstance(made, Exception) else made


def alone(task: Task) -> object:
    try:
        return told(tensor.TensorLut().run(task.inputs, task.parameters))
    except Exception as problem:
        return told(problem)


@pytest.mark.parametrize("threads", [1, 3, 32])
def test_together_each_gives_what_it_gives_alone_bit_for_bit(
    photo: npt.NDArray[np.uint8], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor, "BAND_MAX", 10_007)  # no multiple of a picture: bands hold pieces of several
    tasks = mixed(photo)
    found = list(tensor.TensorLut(threads=threads).run_many(tasks))
    assert [task for task, _ in found] == tasks
    assert [told(made) for _, made in found] == [alone(task) for task in tasks]
    assert [index for index, (_, made) in enumerate(found) if isinstance(made, Exception)] == [2, 5, 9, 10]


def test_a_style_is_read_once_and_a_band_holds_several_pictures(
    photo: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    passes: list[int] = []
    tetrahedral = tensor.tetrahedral

    def looks(lut: bytes) -> adapting.Looks:
        read.append(lut)
        return adapting.Looks(lut)

    def through(colours: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        passes.append(len(colours))
        return tetrahedral(colours, *more)

    monkeypatch.setattr(tensor, "Looks", looks)
    monkeypatch.setattr(tensor, "tetrahedral", through)
    learnt = adaptive()
    tasks = [Task({"image": encode(np.roll(photo, shift)), "lut": learnt}, {}) for shift in range(6)]
    assert all(not isinstance(made, Exception) for _, made in tensor.TensorLut(threads=6).run_many(tasks))
    assert (len(read), passes) == (1, [6 * 128 * 200])


def test_no_more_is_taken_than_two_rounds(photo: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def tasks(lut: bytes) -> Iterator[Task]:
        for number in range(9):
            taken.append(number)
            yield Task({"image": encode(photo), "lut": lut}, {})

    engine = tensor.TensorLut(threads=2)
    before = [len(taken) for _ in engine.run_many(tasks(cubes.text(3, cubes.film)))]
    assert before == [4, 4, 6, 6, 8, 8, 9, 9, 9], "two are encoded while two are decoded"
    taken.clear()
    monkeypatch.setattr(tensor, "HELD_BYTES", 1)  # each photo is too large for company
    before = [len(taken) for _ in engine.run_many(tasks(cubes.text(3, cubes.film)))]
    assert before == [2, 3, 4, 5, 6, 7, 8, 9, 9]


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


def test_when_the_card_has_no_room_for_all_each_is_tried_alone(
    photo: npt.NDArray[np.uint8], storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = tensor.apply

    def small(pictures: Any, luts: Any, device: torch.device) -> list[images.Pixels]:
        if len(pictures) > 1 or len(pictures[0]) > 100:
            raise OutOfMemoryError("private")
        return apply(pictures, luts, device)

    monkeypatch.setattr(tensor, "apply", small)
    lut = cubes.text(3, cubes.film)
    shots = {"a": photo[:50], "large": photo, "b": photo[50:90]}
    items = [storage.item(name, image=encode(shot), lut=lut) for name, shot in shots.items()]
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    answer = Runner("gpu").run(storage.request("style.apply", *items))
    assert answer.engine == "tensor-lut@1"
    assert [item.error and (item.error.code, item.error.detail) for item in answer.items] == [
        None, ("DECODE_LIMIT", "OutOfMemoryError"), None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("free", "pixels"),
    [
        pytest.param(None, tensor.BAND_MAX, id="no card"),
        pytest.param(139 << 30, tensor.BAND_MAX, id="a large card"),
        pytest.param(300 << 20, (300 << 20) // 2 // tensor.PIXEL_BYTES, id="a card that is nearly full"),
        pytest.param(0, tensor.BAND_MIN, id="a full card"),
    ],
)
def test_a_band_is_as_large_as_the_card_has_memory_for(free: int | None, pixels: int) -> None:
    assert tensor.band_of(free) == pixels


def test_what_a_picture_takes_is_told_by_its_header(photo: npt.NDArray[np.uint8]) -> None:
    assert images.decoded_bytes(encode(photo)) == photo.nbytes
    assert images.decoded_bytes(encode(deepen(photo))) == 2 * photo.nbytes
    assert images.decoded_bytes(b"no picture") == 0
