"""`just bench analysis`: CPU milliseconds of each part of the analysis of a 24 MP JPEG, on one core.

The photos ship in packages; they are enlarged to 6000 x 4000 and get a sensor's noise, so that their JPEGs are as
long (7 to 10 MB) and as slow to decode as a camera's. Each part's best of several runs counts, in CPU time, because
others use the machine; what the whole takes is measured by itself, not added up, and again in a child of its own, as
the service runs it, beginning and end of the child included. Needs no stack.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import cv2
import numpy as np

from ingest.analysis import analyze
from ingest.analysis.alike import phash
from ingest.analysis.decode import Photo, Pixels, decode, read_header
from ingest.analysis.eyes import judge
from ingest.analysis.faces import find_faces
from ingest.analysis.horizon import horizon
from ingest.analysis.quality import at_size, blur, exposure, noise
from ingest.analysis.signs import find_signs
from ingest.analysis.wires import find_wires
from runtime.sandbox import Sandbox
from tests.pixels.ingest.pictures import jpeg, photo

SIZE: Final = (6000, 4000)
RUNS: Final = 7
MEMORY_BYTES: Final = 3 * 2**30  # of address space, as the service gives
GRAIN: Final = 9.0  # grey levels, before the lens blurs it: 8 MB at quality 90
# fmt: off
PHOTOS: Final = {
    "a street":   "china.jpg",
    "a portrait": "astronaut.png",
    "a flower":   "flower.jpg",
    "a table":    "coffee.png",
    "a city":     "camera.png",
}
# fmt: on


def main(arguments: Sequence[str]) -> None:
    """Print a row per photo: each part, then the whole."""
    parser = argparse.ArgumentParser(prog="bench analysis", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS, help="of each part; the best counts")
    runs = parser.parse_args(arguments).runs
    cv2.setNumThreads(1)
    heads = ("decode", "faces", "eyes", "wires", "signs", "quality", "horizon", "phash", "all", "child")
    print(f"CPU ms, {os.cpu_count()} cores  MB  " + "".join(f"{head:>9}" for head in heads))
    for name, file in PHOTOS.items():
        data = of_a_camera(file)
        whole = _decoded(data)
        rgb = whole.rgb
        shades = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
        grey = at_size(shades)
        faces = find_faces(rgb)
        parts: tuple[Callable[[], object], ...] = (
            partial(_decoded, data),
            partial(find_faces, rgb),
            partial(judge, rgb, faces),
            partial(find_wires, rgb),
            partial(find_signs, rgb),
            partial(_quality, shades),
            partial(horizon, grey),
            partial(phash, grey),
            partial(analyze, data),
        )
        row = "".join(f"{cpu_ms(part, runs):9.1f}" for part in parts)
        print(f"  {name:<15} {len(data) / 1e6:4.1f}  {row}{child_ms(data, runs):9.1f}", flush=True)


def of_a_camera(file: str) -> bytes:
    """A 24 MP JPEG of a shipped photo."""
    large = np.asarray(cv2.resize(photo(file), SIZE, interpolation=cv2.INTER_CUBIC), np.float32)
    grain = np.asarray(np.random.default_rng(0).normal(0, GRAIN, large.shape), np.float32)
    noisy = large + np.asarray(cv2.GaussianBlur(grain, (0, 0), 0.7))
    return jpeg(np.clip(noisy, 0, 255).round().astype(np.uint8))


def _decoded(data: bytes) -> Photo:
    return decode(data, read_header(data))


def _quality(grey: Pixels) -> list[dict[str, Any]]:
    grey = at_size(grey)
    return [blur(grey), exposure(grey), noise(grey)]


def child_ms(data: bytes, runs: int) -> float:
    """The least CPU time of a child that serves one photo, in milliseconds."""

    async def serve() -> float:
        sandbox = Sandbox(workers=1, memory_bytes=MEMORY_BYTES, preload=["ingest.analysis.warm"])
        try:
            took: list[float] = [await sandbox.run(60, "tests.bench.analysis:analyzed_s", data) for _ in range(runs)]
            return min(took)
        finally:
            sandbox.close()

    return asyncio.run(serve()) * 1000


def analyzed_s(data: bytes) -> float:
    """Analyze, and tell the CPU seconds of this process' whole life."""
    analyze(data)
    return time.process_time()


def cpu_ms(part: Callable[[], object], runs: int) -> float:
    """The least CPU time of some runs, in milliseconds."""
    took = []
    for _ in range(runs):
        start = time.process_time()
        part()
        took.append(time.process_time() - start)
    return min(took) * 1000
