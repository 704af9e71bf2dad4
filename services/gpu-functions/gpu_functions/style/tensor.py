"""The engine `tensor-lut`: the same look on a GPU, by torch, tetrahedral as on the CPU.

What differs from the CPU is where halves are rounded to: one code value at most. grid_sample would be
shorter, but it is trilinear: other pixels than the CPU's, and slower (see docs/performance.md).

Photos that come together go through the card together: decoded by threads (which ask the predictor, too), their
pixels one after the other in bands, each with its own LUT, and encoded by the same threads while the next ones
are decoded. What comes out is bit for bit what each gives alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from gpu_functions import images
from gpu_functions.engine import OWN_CPU, Made, Place, Task
from gpu_functions.images import Pixels
from gpu_functions.style import kernel
from gpu_functions.style.adaptive import Looks
from gpu_functions.style.apply import CubeLut, Shot, opened
from gpu_functions.style.cube import Cube

BAND_MAX: Final = 1 << 22  # pixels at once: more make a card no faster
BAND_MIN: Final = 1 << 16
PIXEL_BYTES: Final = 152  # of the device, for each pixel of a band
MEMORY_SHARE: Final = 0.5  # of the card's free memory, that a band may take
THREADS_MAX: Final = 8
HELD_BYTES: Final = 512 << 20  # decoded pixels that are collected for one way through the card
FRACTIONS: Final = 65535  # in a cell; 255 and 65535 divide it, so an even grid over 0..1 has whole numbers of them
STRIDE_BITS: Final = 13  # 65² = 4225 < 2¹³, and three sums of a fraction above it fit an int32
STRIDE: Final = (1 << STRIDE_BITS) - 1
T = TypeVar("T")
Part = tuple[int, int, int]  # of a band: which picture's pixels, from, to


class TensorLut(CubeLut):
    """`image` and `lut` -> `image`. The predictor stays on the CPU: it is smaller than the way to the device."""

    def __init__(self, place: Place = OWN_CPU, threads: int | None = None) -> None:
        """Nothing to load but the device. `threads` decode and encode; as many as there are cores, up to 8."""
        self._device = torch.device("cuda" if place.device == "gpu" and torch.cuda.is_available() else "cpu")
        self._threads = threads or min(THREADS_MAX, os.cpu_count() or 1)

    def through(self, pixels: Pixels, lut: Cube, strength: float) -> Pixels:
        """See CubeLut."""
        [styled] = self.all_through([(pixels, lut, strength)])
        return styled

    def all_through(self, pictures: Sequence[tuple[Pixels, Cube, float]]) -> list[Pixels]:
        """Each picture's pixels through its LUT by its strength; those that can be on the device together."""
        done: dict[int, Pixels] = {}
        on_device: list[int] = []
        for index, (pixels, lut, strength) in enumerate(pictures):
            if strength == 0.0:
                done[index] = pixels
            elif strength < 1.0 and not kernel.covers(lut):  # a narrow domain in part: too rare for its own kernel
                done[index] = kernel.apply(pixels, lut, strength)
            else:
                on_device.append(index)
        luts = [kernel.softened(*pictures[index][1:]) for index in on_device]
        styled = apply([pictures[index][0] for index in on_device], luts, self._device)
        done |= dict(zip(on_device, styled, strict=True))
        return [done[index] for index in range(len(pictures))]

    def run_many(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Made | Exception]]:
        """See Together. At most twice HELD_BYTES of pixels and two pictures more are in memory, and their PNGs."""
        opening: list[tuple[Task, Future[Shot]]] = []
        encoding: deque[tuple[Task, Future[Made]]] = deque()
        styles: dict[bytes, Future[Looks]] = {}
        room = HELD_BYTES
        with ThreadPoolExecutor(self._threads, "style") as pool:
            for task in chain(tasks, (None,)):
                if task:
                    opening.append((task, self._opening(pool, task, styles)))
                    room -= images.decoded_bytes(task.inputs.get("image", b""))
                    if room > 0 and len(opening) < self._threads:
                        continue
                yield from _ended(encoding)  # those of the last round, while the new ones are decoded
                encoding = self._encoding(pool, opening)
                opening, room = [], HELD_BYTES
            yield from _ended(encoding)

    def _opening(self, pool: ThreadPoolExecutor, task: Task, styles: dict[bytes, Future[Looks]]) -> Future[Shot]:
        """Decode it in a thread; a style is read once, and before the first picture that waits for it."""
        lut = task.inputs.get("lut")
        if lut is not None and lut not in styles:
            styles[lut] = pool.submit(Looks, lut)
        return pool.submit(opened, task.inputs, task.parameters, lambda lut: styles[lut].result())

    def _encoding(
        self, pool: ThreadPoolExecutor, opening: Sequence[tuple[Task, Future[Shot]]]
    ) -> deque[tuple[Task, Future[Made]]]:
        """What was opened goes through the device together, and what comes out is encoded by threads."""
        found = [_tried(future.result) for _, future in opening]
        shots = [shot for shot in found if isinstance(shot, Shot)]
        pictures = [(shot.picture.pixels, shot.look.lut, shot.strength) for shot in shots]
        styled: Sequence[Pixels | Exception]
        try:
            styled = self.all_through(pictures)
        except Exception:  # such as no memory for all of them: who cannot be helped alone fails alone
            styled = [_tried(self.through, *picture) for picture in pictures]
        pixels = iter(styled)
        encoding: deque[tuple[Task, Future[Made]]] = deque()
        for (task, _), shot in zip(opening, found, strict=True):
            task.work.tell(0.5)
            encoding.append((task, pool.submit(_made, shot, next(pixels) if isinstance(shot, Shot) else None)))
        return encoding


def _ended(encoding: deque[tuple[Task, Future[Made]]]) -> Iterator[tuple[Task, Made | Exception]]:
    while encoding:
        task, future = encoding.popleft()
        yield task, _tried(future.result)


def _made(shot: Shot | Exception, pixels: Pixels | Exception | None) -> Made:
    """The result of a shot. Raises what kept it from being opened or styled."""
    for one in (shot, pixels):
        if isinstance(one, Exception):
            raise one
    assert isinstance(shot, Shot)
    assert isinstance(pixels, np.ndarray)
    return shot.styled(pixels)


def _tried(work: Callable[..., T], *arguments: Any) -> T | Exception:
    try:
        return work(*arguments)
    except Exception as problem:
        return problem


@torch.inference_mode()
def apply(pictures: Sequence[Pixels], luts: Sequence[Cube], device: torch.device) -> list[Pixels]:
    """Each picture (H×W×3, uint8 or uint16) through its LUT on `device`, a band of pixels of them all at a time.

    A band holds pixels of as many pictures as fit, as long as one table of axes serves them all.
    """
    flat = [torch.from_numpy(np.ascontiguousarray(one).reshape(-1, 3)) for one in pictures]
    styled = [torch.empty_like(one) for one in flat]
    pixels_max = band_of(_free_bytes(device))
    for alike in _alike(pictures, luts):
        white = int(np.iinfo(pictures[alike[0]].dtype).max)
        axes = torch.from_numpy(axes_of(luts[alike[0]], white)).to(device)
        tables = np.stack([luts[index].table for index in alike]).reshape(-1, 3)
        table, points = torch.from_numpy(tables).to(device), len(tables) // len(alike)
        for band in bands([len(flat[index]) for index in alike], pixels_max):
            codes = torch.cat([flat[alike[one]][start:end] for one, start, end in band]).to(device).to(torch.int32)
            lengths = [end - start for _, start, end in band]
            first = torch.tensor([one * points for one, _, _ in band], dtype=torch.int32, device=device)
            firsts = first.repeat_interleave(torch.tensor(lengths, device=device))
            colours = tetrahedral(codes, axes, table, firsts).clamp_(0.0, 1.0)
            rounded = colours.mul_(white).round_().to(flat[alike[0]].dtype).cpu()
            for (one, start, end), part in zip(band, torch.split(rounded, lengths), strict=True):
                styled[alike[one]][start:end] = part
    return [one.numpy().reshape(picture.shape) for one, picture in zip(styled, pictures, strict=True)]


def _alike(pictures: Sequence[Pixels], luts: Sequence[Cube]) -> list[list[int]]:
    """Which pictures have the same codes and places in their grids: of the same depth, size and domain."""
    groups: dict[object, list[int]] = {}
    for index, (picture, lut) in enumerate(zip(pictures, luts, strict=True)):
        groups.setdefault((picture.dtype, lut.table.shape[0], lut.low, lut.high), []).append(index)
    return list(groups.values())


def bands(lengths: Sequence[int], most: int) -> Iterator[list[Part]]:
    """All pixels of pictures of these lengths, in order and in bands of at most `most`."""
    band: list[Part] = []
    room = most
    for one, length in enumerate(lengths):
        start = 0
        while start < length:
            end = min(length, start + room)
            band.append((one, start, end))
            room -= end - start
            start = end
            if not room:
                yield band
                band, room = [], most
    if band:
        yield band


def band_of(free_bytes: int | None) -> int:
    """How many pixels a band may have on a device with so much free memory; None: nobody counts it."""
    if free_bytes is None:
        return BAND_MAX
    return int(np.clip(free_bytes * MEMORY_SHARE / PIXEL_BYTES, BAND_MIN, BAND_MAX))


def _free_bytes(device: torch.device) -> int | None:
    """Of a card: what nobody has, and what torch holds in reserve."""
    if device.type != "cuda":
        return None
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + reserve)


def tetrahedral(
    colours: torch.Tensor, axes: torch.Tensor, table: torch.Tensor, first: torch.Tensor | None = None
) -> torch.Tensor:
    """int32 codes [M, 3] by the axes and the table [N³, 3] of a LUT -> float32 colours [M, 3].

    Of several LUTs under each other in `table`, `first` [M] says where each colour's begins.
    The way from corner to corner of a cell goes along the axis with the largest fraction first. A fraction
    and its axis's stride are one integer, so that sorting three of them is a maximum, a minimum and the rest.
    """
    cells, steps = zip(*(axes[channel, colours[:, channel]].unbind(1) for channel in range(3)), strict=True)
    most = torch.maximum(torch.maximum(steps[0], steps[1]), steps[2])
    last = torch.minimum(torch.minimum(steps[0], steps[1]), steps[2])
    corner, left = cells[0] + cells[1] + cells[2], torch.full_like(most, FRACTIONS)
    if first is not None:
        corner += first
    result = torch.zeros_like(colours, dtype=torch.float32)
    for step in (most, steps[0] + steps[1] + steps[2] - most - last, last):
        share = step >> STRIDE_BITS
        result += table[corner] * (left - share)[:, None]
        corner, left = corner + (step & STRIDE), share
    return (result + table[corner] * left[:, None]) / FRACTIONS


def axes_of(lut: Cube, white: int) -> npt.NDArray[np.int32]:
    """Of each channel and code: where its cell begins, and its fraction above its stride. [3, white + 1, 2]"""
    size = lut.table.shape[0]
    codes = np.arange(white + 1) / white
    axes = np.empty((3, white + 1, 2), np.int32)
    for channel, (stride, low, high) in enumerate(zip((size * size, size, 1), lut.low, lut.high, strict=True)):
        place = np.clip((codes - low) / (high - low), 0.0, 1.0) * (size - 1)
        cell = np.clip(np.floor(place), 0, size - 2)
        axes[channel, :, 0] = cell * stride
        axes[channel, :, 1] = np.rint((place - cell) * FRACTIONS).astype(np.int32) << STRIDE_BITS | stride
    return axes
