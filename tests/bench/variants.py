"""`just bench variants`: the six usual variants of a 24 MP photo, beside sharp, Pillow and the floor, in one run.

The photo ships in a package; it is enlarged, gets grain, Display P3 and an orientation to turn, and is a JPEG of some
7 MB. Each contestant has a process of its own, one thread, and takes part in every round; the best round counts, in
CPU seconds. The floor is one decode to the largest picture and the six encodings, with the libraries that we use, and
nothing between them: no resize, no colours, no credit. Peak is resident memory above the idle process, the upload's
bytes not counted; it is told for 50 MP too. Sharp is fetched by npm into a folder that is removed, where there is npm.
Bytes at equal quality are interpolated at one SSIMULACRA2 score, where that is installed (`uv sync --group peers`).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyvips
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from output.render.encode import JPEG_ENCODER, encoded
from output.render.images import decode
from output.render.variants import VARIANTS, variants
from tests.pixels.ingest.pictures import photo

ROUNDS: Final = 4
GRAIN: Final = 9.0  # grey levels, before the lens blurs it
SIZES: Final = {"24 MP": (6000, 4000), "50 MP": (8660, 5773)}
FORMS: Final = [
    {"name": row.names[0], "box": row.box, "format": row.format, "quality": row.quality} for row in VARIANTS
]
SHARP: Final = "sharp@0.35"
SCORE: Final = 75.0  # SSIMULACRA2: "high quality", where nobody sees a difference at a distance of normal reading
P3: Final[bytes] = pyvips.Operation.call("profile_load", "p3")

Sizes = dict[str, int]


def of_a_camera(size: tuple[int, int]) -> bytes:
    """A JPEG as phones write them: in Display P3, lying on a side."""
    large = np.asarray(cv2.resize(photo("china.jpg"), size, interpolation=cv2.INTER_CUBIC), np.float32)
    grain = np.asarray(np.random.default_rng(0).normal(0, GRAIN, large.shape), np.float32)
    noisy = np.clip(large + np.asarray(cv2.GaussianBlur(grain, (0, 0), 0.7)), 0, 255).round().astype(np.uint8)
    image = pyvips.Image.new_from_array(noisy, interpretation="srgb")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", P3)
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    data: bytes = image.jpegsave_buffer(Q=90)
    return data


# -- the contestants ---------------------------------------------------------------------------------


def ours(data: bytes) -> Sizes:
    """What the phase does."""
    return {made.name: len(made.data or b"") for made in variants(data)}


def floor(data: bytes, ready: dict[int, pyvips.Image]) -> Sizes:
    """One decode, and the encodings of what is ready."""
    simplejpeg.decode_jpeg(data, "RGB", min_width=2048)
    return {row.names[0]: len(encoded(ready[row.box or 0], row.format, row.quality)) for row in VARIANTS}


def pillow(data: bytes) -> Sizes:
    """Pillow at its best: a scaled decode, each size from the one before it."""
    image: Image.Image = Image.open(io.BytesIO(data))
    profile = image.info["icc_profile"]
    image.draft("RGB", (2048, 2048))
    sizes, srgb = {}, ImageCms.createProfile("sRGB")
    settings: dict[str, dict[str, Any]] = {
        "jpeg": {"optimize": True},
        "webp": {"method": 2},
        "avif": {"speed": 10, "max_threads": 1},
    }
    for box in sorted({row.box or 0 for row in VARIANTS}, reverse=True):
        image.thumbnail((box, box), Image.Resampling.LANCZOS)
        if profile:
            image = ImageOps.exif_transpose(image)
            converted = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), srgb)
            assert converted is not None
            image, profile = converted, b""
        for row in (row for row in VARIANTS if row.box == box):
            file = io.BytesIO()
            image.save(file, row.format.upper(), quality=row.quality, **settings[row.format])
            sizes[row.names[0]] = len(file.getvalue())
    return sizes


def measured(who: str, file: str, runs: int) -> dict[str, Any]:
    """In a process of its own: the best of some runs, and the memory above what idling takes."""
    data = Path(file).read_bytes()
    contestants: dict[str, Callable[[bytes], Sizes]] = {"ours": ours, "pillow": pillow}
    if who == "floor":
        ready = {box: decode(data, (round(box * 2 / 3), box)) for box in {row.box or 0 for row in VARIANTS}}
        contestants["floor"] = lambda data: floor(data, ready)
    idle = _peak_mib()
    cpu, wall, sizes = [], [], Sizes()
    for _ in range(runs):
        before, started = time.process_time(), time.perf_counter()
        sizes = contestants[who](data)
        cpu.append(time.process_time() - before)
        wall.append(time.perf_counter() - started)
    return {"cpu_s": min(cpu), "wall_s": min(wall), "peak_mib": _peak_mib() - idle, "sizes": sizes}


def _peak_mib() -> float:
    """The most that was ever resident. Linux alone tells it of this program: getrusage counts who started it too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


# -- one run -----------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> None:
    """Print a row per contestant, then bytes at equal quality."""
    parser = argparse.ArgumentParser(prog="bench variants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in which each takes its turn; the best counts")
    parser.add_argument("--worker", nargs=3, metavar=("WHO", "FILE", "RUNS"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker:
        who, file, runs = asked.worker
        print(json.dumps(measured(who, file, int(runs))))
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        commands = {who: _python(who) for who in ("floor", "ours", "pillow")}
        if modules := _sharp(here):
            commands["sharp"] = lambda file: _node(file, modules)
        else:
            print("no npm here: sharp takes no part")
        print(f"{'':<8}{os.cpu_count()} cores   JPEG by {JPEG_ENCODER}")
        for name, size in SIZES.items():
            file = here / f"{size[0]}.jpg"
            file.write_bytes(of_a_camera(size))
            _tell(name, commands, str(file), asked.rounds if name == "24 MP" else 1)
    _tell_quality()


def _tell(name: str, commands: dict[str, Callable[[str], list[str]]], file: str, rounds: int) -> None:
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for who, command in commands.items():
            done = subprocess.run(command(file), check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            known = best.setdefault(who, row)
            known |= {key: min(known[key], row[key]) for key in ("cpu_s", "wall_s")}
            known["peak_mib"] = max(known["peak_mib"], row["peak_mib"])
    lowest = best["floor"]["cpu_s"]
    print(f"{name:<8}{'CPU s':>8}{'to floor':>10}{'wall s':>8}{'peak MiB':>10}   kB")
    for who, row in best.items():
        kilobytes = "  ".join(f"{form} {size / 1000:.0f}" for form, size in row["sizes"].items())
        ratio, peak = row["cpu_s"] / lowest, row["peak_mib"]
        print(f"  {who:<6}{row['cpu_s']:8.3f}{ratio:10.2f}{row['wall_s']:8.3f}{peak:10.0f}   {kilobytes}", flush=True)


def _python(who: str) -> Callable[[str], list[str]]:
    return lambda file: [sys.executable, "-m", "tests.bench", "variants", "--worker", who, file, "2"]


def _node(file: str, modules: Path) -> list[str]:
    script = Path(__file__).parent / "peers" / "sharp.cjs"
    return ["env", f"NODE_PATH={modules}", "node", str(script), file, "2", json.dumps(FORMS)]


def _sharp(folder: Path) -> Path | None:
    """The folder of modules with sharp in it, or None where npm cannot be had."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return None
    done = subprocess.run([npm, "install", "--silent", "--prefix", str(folder), SHARP], capture_output=True)
    return folder / "node_modules" if done.returncode == 0 else None


# -- bytes at equal quality --------------------------------------------------------------------------


def _tell_quality() -> None:
    """Kilobytes that each JPEG encoder needs for one SSIMULACRA2 score, at 1024 pixels."""
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError:
        print("SSIMULACRA2 is not installed: no bytes at equal quality")
        return
    picture = decode(of_a_camera(SIZES["24 MP"]), (683, 1024))
    encoders: dict[str, Callable[[int], bytes]] = {
        JPEG_ENCODER: lambda quality: encoded(picture, "jpeg", quality),
        "turbo, optimal tables": lambda quality: picture.jpegsave_buffer(Q=quality, optimize_coding=True, keep="icc"),
    }
    with tempfile.TemporaryDirectory() as folder:
        original, other = Path(folder) / "original.png", Path(folder) / "other.png"
        picture.pngsave(str(original), keep="none")
        for name, encode in encoders.items():
            points = []
            for quality in (60, 75, 90):
                data = encode(quality)
                pyvips.Image.new_from_buffer(data, "").pngsave(str(other), keep="none")
                points.append((float(compute_ssimulacra2(str(original), str(other))), len(data) / 1000))
            scores, kilobytes = zip(*sorted(points), strict=True)
            at = float(np.interp(SCORE, scores, kilobytes))
            told = "  ".join(f"{score:.1f}: {kb:.0f} kB" for score, kb in points)
            print(f"  {name:<24} at {SCORE:.0f}: {at:6.1f} kB   ({told})", flush=True)
