"""What a style's network costs to teach: the steps of `style/network.py`, as 100 pairs need them.

python -m tests.bench.gpu_course      the same on one core of a CPU
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_functions.style import grid, learn, network
from tests.pixels.gpu_functions.style.test_network import ready

PAIRS: Final = 100
HEAD: Final = (
    "| pairs | ms per step of 8 pairs | GFLOP per step | steps of all networks | seconds of all networks |\n"
    "|---|---|---|---|---|"
)


def measured(device: torch.device, small: bool) -> str:
    """A row of the table. Seconds of all networks are those of a step times all steps of all folds: the most it can be.

    FLOPs are torch's count of convolutions and products, forwards and back. The gathers of the LUTs are none: each step
    reads 8 corners of 3 bases for 2048 samples of 8 pairs, 5 MB of float32, and adds to as many.
    """
    count = 16 if small else PAIRS
    pairs = [ready(seed) for seed in range(count)]
    course = network._Course(grid.identity(), pairs, 7, device, None)
    epochs = 1 if small else 5
    course.step(1e-3)  # warm
    _wait(device)
    started = time.perf_counter()
    for _ in range(epochs):
        course.step(1e-3)
    _wait(device)
    step_s = (time.perf_counter() - started) / epochs / _steps(len(course._taught))
    with FlopCounterMode(display=False) as counter:
        error = course._error(np.array(course._taught[: network.BATCH]), mirrored=False)
        torch.autograd.grad(error, course._numbers)
    steps = sum(_steps(taught) for taught in _sets(count)) * learn.COURSE.epochs
    flops = counter.get_total_flops() / 1e9
    return f"| {count} | {step_s * 1e3:.1f} | {flops:.3f} | {steps} | {steps * step_s:.0f} |"


def _sets(count: int) -> list[int]:
    """How many pairs each network is taught: one per fold, and that of all; every sixth says when to stop."""
    folds = [count - len(range(fold, count, learn.COURSE.folds)) for fold in range(learn.COURSE.folds)]
    return [size - max(1, size // network.HELD_OUT) for size in (*folds, count)]


def _steps(taught: int) -> int:
    return max(1, taught // network.BATCH)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(HEAD, measured(torch.device("cpu"), small=False), sep="\n")
