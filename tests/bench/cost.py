"""`just bench cost`: what a photo of a gallery and 1,000 pages cost, from seconds that are measured and terms.toml.

The engines of the CPU are measured here: CPU seconds on one core, 24 MP photos and A4 pages as in gpu_work. A
card's seconds are given, as `just bench gpu` has printed them: `--gpu L4 --seconds style.apply=0.9`, once for
each function. What nobody has measured is left out, and said. Prices and their dates are those of terms.toml.

    a gallery's bill = price x (photos x (work + transfer) + containers x (cold start + idle))

Cold start and idle are paid once for each container: so more containers make a gallery faster and dearer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Final

import cv2

from deploy.modal.app import CONTAINERS_MAX, IDLE_S
from gpu_bridge import terms
from gpu_functions.catalog import choose
from gpu_functions.engine import ALONE
from gpu_functions.weights import EMPTY
from tests.bench.gpu_work import WHOLE

PHOTO: Final = ("style.apply", "retouch.faces", "cleanup.remove")
PAGE: Final = ("ocr.read",)
GALLERIES: Final = (200, 500)
PAGES: Final = 1000
AUD_PER_USD: Final = 1.53  # assumed; --aud takes another
COLD_S: Final = {"cpu": 8.0, "gpu": 30.0}  # assumed: a container's boot, imports and weights
WIRE_MB_PER_S: Final = 100.0  # assumed, between a provider and object storage
SEED_AUD, SEED_S = 0.007, (3.0, 4.0)  # per photo: what this is to be compared with
PROVIDER: Final = "modal"
GPU_ASSUMED: Final = "L4"  # what is deployed first


def main(arguments: Sequence[str]) -> None:
    """Measure what can be, and print the tables."""
    parser = argparse.ArgumentParser(prog="bench cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small pictures: to see that it runs")
    parser.add_argument("--aud", type=float, default=AUD_PER_USD, help="Australian dollars for one US dollar")
    parser.add_argument("--gpu", default="L4", help="the card that --seconds were measured on")
    parser.add_argument("--seconds", action="append", default=[], metavar="FUNCTION=S", help="of one item on the card")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    given = {name: float(seconds) for name, _, seconds in (one.partition("=") for one in options.seconds)}
    work: dict[str, dict[str, float]] = {"cpu": {}, options.gpu: given}
    wire: dict[str, float] = {}
    print("| function | engine on the CPU | CPU seconds | bytes in and out, MB |\n|---|---|---|---|")
    for function in (*PHOTO, *PAGE):
        label, work["cpu"][function], megabytes = _measured(function, options.small)
        wire[function] = megabytes / WIRE_MB_PER_S
        print(f"| {function} | `{label}` | {work['cpu'][function]:.2f} | {megabytes:.1f} |", flush=True)
    _tell(terms.read(), work, wire, options.aud)


def _measured(function: str, small: bool) -> tuple[str, float, float]:
    """The engine, its CPU seconds for an item once it is warm, and MB that travel."""
    row = choose(function, "cpu").row
    engine, (inputs, parameters) = row.load(EMPTY), WHOLE[function][1](small)
    outputs, _ = engine.run(inputs, parameters, ALONE)
    started = time.process_time()
    engine.run(inputs, parameters, ALONE)
    took = time.process_time() - started
    return row.label, took, (sum(map(len, inputs.values())) + sum(len(one.data) for one in outputs.values())) / 1e6


def _tell(known: terms.Terms, work: Mapping[str, Mapping[str, float]], wire: Mapping[str, float], aud: float) -> None:
    head = "".join(f" {n} photos, {c} at once |" for n in GALLERIES for c in (1, CONTAINERS_MAX))
    print(
        f"\n| a photo costs, {known.currency} (A$) on {PROVIDER} | seconds |{head}\n|---|---|{'---|' * head.count('|')}"
    )
    for device, seconds in work.items():
        if missing := [name for name in PHOTO if name not in seconds]:
            print(f"| {device} | not measured: {', '.join(missing)} |")
            continue
        each = sum(seconds[name] + wire[name] for name in PHOTO)
        print(f"| {device} | {each:.2f} |{_cells(known, device, each, aud)}")
    for each in SEED_S:
        print(f"| {GPU_ASSUMED}, at the seed's pace | {each:.2f} |{_cells(known, GPU_ASSUMED, each, aud)}")
    print(f"| the seed's own figure | {SEED_S[0]:.0f}-{SEED_S[1]:.0f} | {SEED_AUD / aud:.5f} (A${SEED_AUD}) |")
    print(
        f"\n| device | seconds that A${SEED_AUD} buys for a photo of {GALLERIES[0]} / {GALLERIES[1]}, one container |"
    )
    print("|---|---|")
    for device in sorted({price.device for price in known.prices if price.provider == PROVIDER}):
        bought = [max(0.0, _affordable(known, device, photos, aud)) for photos in GALLERIES]
        print(f"| {device} | {' / '.join(f'{seconds:.1f}' for seconds in bought)} |")
    print(f"\n| {PAGES:,} pages cost, {known.currency} (A$) | seconds per page | one container |\n|---|---|---|")
    for device, seconds in work.items():
        if missing := [name for name in PAGE if name not in seconds]:
            print(f"| {device} | not measured: {', '.join(missing)} |")
            continue
        each = sum(seconds[name] + wire[name] for name in PAGE)
        cost = _bill(known, device, PAGES, each, 1)
        print(f"| {device} | {each:.2f} | {cost:.4f} (A${cost * aud:.4f}) |")


def _cells(known: terms.Terms, device: str, each: float, aud: float) -> str:
    """What one photo costs, for each size of gallery and number of containers."""
    cells = []
    for photos in GALLERIES:
        for containers in (1, CONTAINERS_MAX):
            cost = _bill(known, device, photos, each, containers) / photos
            cells.append(f" {cost:.5f} (A${cost * aud:.5f}) |")
    return "".join(cells)


def _bill(known: terms.Terms, device: str, items: int, each: float, containers: int) -> float:
    """What `items` of `each` seconds cost on a device. Raises SystemExit when its price is not known."""
    cold_s = COLD_S["cpu" if device == "cpu" else "gpu"]
    cost = known.bill(PROVIDER, device, items * each + containers * IDLE_S, containers * cold_s).cost
    if cost is None:
        raise SystemExit(f"terms.toml has no price for {device} on {PROVIDER}")
    return cost


def _affordable(known: terms.Terms, device: str, photos: int, aud: float) -> float:
    """The seconds of a photo at which it costs what the seed's does."""
    fixed, second = _bill(known, device, 0, 0.0, 1), _bill(known, device, 1, 1.0, 0)
    return (SEED_AUD / aud - fixed / photos) / second
