"""How well a look is learnt from a few pairs, by every way, and how long 20 pairs take.

    just bench style [--short] [--pairs 5 8 15] [--splits 2] [--time 20]

Three editors (`tests/pixels/gpu_functions/style/looks.py`): the same grade for every picture; one who first brings each
to the same light; one who exposes each anew without a reason in it. Of eleven photos some are learnt from and
the others tested on; no photo gives pictures to both. PSNR in dB, means over test pictures and splits.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from typing import Final

import cv2
import numpy as np

from gpu_functions.engine import ALONE
from gpu_functions.style import judge, learn
from gpu_functions.style.learn import WAYS, Lessons
from gpu_functions.style.pairs import Archive
from gpu_functions.style.prepare import Prepared, prepare
from gpu_functions.style.train import PairsLut
from tests.pixels.gpu_functions.style import looks
from tests.pixels.gpu_functions.style.archives import archive, paired

EDITORS: Final = {"same grade": looks.fixed, "evens exposure": looks.levelled, "re-exposes at random": looks.wayward(3)}
BASELINES: Final = ("identity", "histogram", "curves")
SIDE: Final = 384  # pixels of a photo: small enough that nothing scales it on the way, which blurs the truth
LARGE: Final = (3000, 2000)  # 6 MP, 2 MB of JPEG each: what is uploaded, not what is learnt from


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, a row per editor and number of pairs, then the time."""
    asked = argparse.ArgumentParser(prog="just bench style", description=__doc__.splitlines()[0])
    asked.add_argument("--short", action="store_true", help="one split of 5 pairs, the time of 6")
    asked.add_argument("--pairs", type=int, nargs="*", default=[5, 8, 15], help="none: only the time")
    asked.add_argument("--splits", type=int, default=2)
    asked.add_argument("--time", type=int, default=20, help="pairs to time; 0: none")
    wanted = asked.parse_args(arguments)
    if wanted.short:
        wanted.pairs, wanted.splits, wanted.time = [5], 1, 6
    columns = (*BASELINES, *WAYS, "taken")
    print(f"{'editor':<22}{'n':>3}" + "".join(f"{name:>17}" for name in columns) + "   way taken")
    for name, edit in EDITORS.items() if wanted.pairs else ():
        photos = _prepared(edit)
        for count in wanted.pairs:
            rows, taken = zip(*(_row(*sets) for sets in _splits(photos, count, wanted.splits)), strict=True)
            means = {column: np.mean([row[column] for row in rows]) for column in columns}
            print(f"{name:<22}{count:>3}" + "".join(f"{means[c]:17.1f}" for c in columns), "  ", *taken, flush=True)
    if wanted.time:
        _timed(wanted.time)


def _prepared(edit: looks.Edit) -> list[list[Prepared]]:
    """Both halves of each photo as pairs, aligned as training aligns them."""
    halves = [half for photo in looks.photos(SIDE) for half in photo]
    content = Archive(archive(paired(halves, edit)))
    found = [prepare(content, pair, None, index) for index, pair in enumerate(content.pairs)]
    ready = [None if isinstance(one, str) else one[0] for one in found]
    return [[one for one in ready[at : at + 2] if one] for at in range(0, len(ready), 2)]


def _splits(photos: list[list[Prepared]], count: int, splits: int) -> Iterator[tuple[list[Prepared], list[Prepared]]]:
    """Pairs to learn from and to test on, of different photos: one half of each of up to eight, then the other."""
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(photos))
        known = count if count <= 8 else (count + 1) // 2
        pairs = [photos[index][half] for half in (0, 1) for index in order[:known] if half < len(photos[index])]
        yield pairs[:count], [pair for index in order[known:] for pair in photos[index]]


def _row(pairs: list[Prepared], tests: list[Prepared]) -> tuple[dict[str, float], str]:
    """PSNR by column, and the way that pairs left out chose."""
    row = {
        "identity": np.mean([judge.psnr(pair.before.astype(np.float32) / np.float32(255), pair) for pair in tests]),
        "histogram": np.mean([judge.psnr(judge.matched(pair, pairs), pair) for pair in tests]),
        "curves": np.mean([judge.psnr(_curved(pair, pairs), pair) for pair in tests]),
    }
    lessons = Lessons(pairs)
    for name in WAYS:
        learnt = lessons.whole(name)
        row[name] = np.mean([judge.psnr(judge.styled(pair, learnt.lut(pair)), pair) for pair in tests])
    scores = [lessons.scores([*learn.FIXED, *learn.ADAPTIVE], fold) for fold in range(len(lessons.folds))]
    taken = learn.best({name: float(np.mean([of[name] for of in scores])) for name in scores[0]})
    row["taken"] = row[taken]
    return {name: float(value) for name, value in row.items()}, taken


def _curved(pair: Prepared, pairs: list[Prepared]) -> np.ndarray:
    """A curve per channel, from all pixels before, pooled, to all after: what pairs give without colour."""
    steps = np.linspace(0, 100, 257)
    befores, afters = (np.concatenate([getattr(one.samples, side) for one in pairs]) for side in ("before", "after"))
    x, y = np.percentile(befores, steps, axis=0), np.percentile(afters, steps, axis=0)
    plain = pair.before / np.float32(255)
    return np.stack([np.interp(plain[..., c], x[:, c], y[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _timed(count: int) -> None:
    """One training as the engine does it: decoding, aligning, every way without each pair, judging, writing."""
    halves = [half for place in (0, 1) for photo in looks.photos() for half in photo[place : place + 1]][:count]
    large = [np.asarray(cv2.resize(half, LARGE, interpolation=cv2.INTER_CUBIC), np.uint8) for half in halves]
    content = archive(paired(large, looks.fixed, ".jpg"))
    started, busy = time.perf_counter(), time.process_time()
    _, facts = PairsLut().run({"original": content}, {"seed": 0}, ALONE)
    wall, cpu = time.perf_counter() - started, time.process_time() - busy
    load = os.getloadavg()[0]
    size = f"{LARGE[0] * LARGE[1] / 1e6:.0f} MP"
    print(f"{count} pairs of {size}   {wall:.1f} s   {cpu:.1f} CPU s   load {load:.1f}   {facts}")


if __name__ == "__main__":
    main()
