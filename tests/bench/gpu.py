"""`just bench gpu`: every GPU engine of the catalogue at full size, with the architecture that it really has.

Weights are the published ones where `--weights` holds them, else random ones of the same shape, and the table
says which: speed and memory do not depend on their values, what comes out does, and is not looked at. On a card
the table is written to docs/performance.md under the card's name. `--device cpu --small` shows that all of it
runs where no card is; its figures say nothing about a card, and are not written down.

    whole     an item from bytes to bytes: decoding, the network, PNG; seconds are the median; 100 pairs are learnt once
    together  items of one call, as the runner gives them to an engine that takes several at once; by their number
    course    the steps of a style's network, and how many 100 pairs need
    heavy     the network alone, by precision and batch; FLOPs are torch's count (it knows no FFT: LaMa does more)
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from contracts.errors import SafelightError
from gpu_functions.catalog import CATALOG, EngineRow
from gpu_functions.engine import Facts, Place, Task, Together, one_by_one
from gpu_functions.weights import Shelf
from tests.bench import gpu_course
from tests.bench.cards import Card, card_of
from tests.bench.gpu_work import HEAVY, WHOLE, Absent, Heavy, Network, place_of, several

BATCHES: Final = (1, 2, 4, 8, 16, 32)
EMULATED_MAX: Final = 1e11  # FLOPs: a CPU without narrow types takes minutes for more
COMPILED: Final = 4  # the batch that compiling is tried at: it takes a minute for each
RUNS: Final = 5
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "performance.md"
MIB: Final = 1 << 20
WHOLE_HEAD: Final = "| function | engine | weights | seconds per item | items/s | peak MiB |\n|---|---|---|---|---|---|"
TOGETHER: Final = (1, 2, 4, 8, 16)  # items of a call; the bridge sends four
TOGETHER_HEAD: Final = (
    "| function | engine | items | items/s | one by one, items/s | peak MiB |\n|---|---|---|---|---|---|"
)
HEAVY_HEAD: Final = (
    "| engine | unit | GFLOP each | how | batch | units/s | TFLOP/s | of peak | GB/s | of peak | peak MiB |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured on. `card`: its peaks, when they are known."""

    device: torch.device
    card: Card | None
    small: bool

    @property
    def name(self) -> str:
        """The card's name, or that there is none."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"

    def seconds(self, work: Callable[[], Any], once: bool = False) -> float:
        """The median of several runs after one that is not counted; small, or of minutes: of the only one."""
        took = []
        for _ in range(1 if self.small or once else RUNS + 1):
            started = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            took.append(time.perf_counter() - started)
        return statistics.median(took[1:] or took)

    def forget_peak(self) -> None:
        """Begin to look for the peak of memory anew. A process's own peak on a CPU cannot be forgotten."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_mib(self) -> float:
        """Of the card's memory since `forget_peak`; on a CPU of the whole process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / MIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run a network: with TF32, in its narrow type, channels last, compiled."""

    name: str
    tf32: bool = False
    half: bool = False
    channels_last: bool = False
    compiled: bool = False


# fmt: off
VARIANTS: Final = (
    Variant("fp32"),
    Variant("tf32",                          tf32=True),
    Variant("half",                          half=True),
    Variant("half, channels last",           half=True, channels_last=True),
    Variant("half, channels last, compiled", half=True, channels_last=True, compiled=True),
)
# fmt: on


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write down what was measured on a card."""
    parser = argparse.ArgumentParser(prog="bench gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="small pictures, one run, batches of one")
    parser.add_argument("--weights", type=Path, help="folder of the weights that were pulled")
    parser.add_argument("--allow-noncommercial", action="store_true", help="use those that forbid commercial use, too")
    parser.add_argument("engines", nargs="*", help="only these")
    options = parser.parse_args(arguments)
    if options.device == "gpu" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here. `just bench gpu --device cpu --small` shows that the bench runs.")
    device = torch.device("cuda" if options.device == "gpu" else "cpu")
    bench = Bench(device, card_of(torch.cuda.get_device_name()) if device.type == "cuda" else None, options.small)
    if device.type == "cpu":
        torch.set_num_threads(1)
    shelf = Shelf(options.weights, options.allow_noncommercial)
    rows = [row for row in CATALOG if row.device == "gpu" and (not options.engines or row.engine in options.engines)]
    lines = [_about(bench)]
    print(lines[0], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for line in _measured(bench, rows, shelf, options.device, Path(folder)):
            lines.append(line)
            print(line, flush=True)
    if device.type == "cuda" and not options.small:
        _write_down(f"## On a GPU: {bench.name}", "\n".join(lines))


def _about(bench: Bench) -> str:
    where = f"{bench.name}, torch {torch.__version__}, {os.cpu_count()} CPU cores"
    if bench.device.type == "cpu":
        return f"No card: this shows that the bench runs, and says nothing about a GPU. {where}, one thread."
    peaks = "its peaks are not in tests/bench/cards.py"
    if bench.card:
        peaks = f"peaks {bench.card.half:.0f} TFLOP/s in half, {bench.card.gb_per_s:.0f} GB/s ({bench.card.source})"
    return f"Measured by `just bench gpu` on {where}; {peaks}."


def _measured(bench: Bench, rows: Sequence[EngineRow], shelf: Shelf, device: str, folder: Path) -> Iterator[str]:
    """The lines of both tables; an engine that cannot be measured is a line that says why."""
    places, notes = {}, []
    for row in rows:
        try:
            places[row] = place_of(row, device, shelf, folder)
        except Absent as absent:
            notes.append(f"- `{row.label}` ({row.function}) was not measured: {absent}.")
    yield f"\n{WHOLE_HEAD}"
    for row, (place, kind) in places.items():
        if row.function in WHOLE:
            yield _whole(bench, row, place, kind)
        else:
            notes.append(f"- `{row.label}` ({row.function}) has no item in tests/bench/gpu_work.py.")
    yield f"\n{TOGETHER_HEAD}"
    for row, (place, _) in places.items():
        if isinstance(engine := _loaded(row, place), Together):
            yield from _together(bench, row, engine)
    if any(row.function == "style.train" for row in places):
        yield f"\n{gpu_course.HEAD}"
        yield gpu_course.measured(bench.device, bench.small)
    yield f"\n{HEAVY_HEAD}"
    for row, (place, _) in places.items():
        if row.engine in HEAVY:
            yield from _heavy(bench, row, place)
    yield "\n" + "\n".join(notes)


def _loaded(row: EngineRow, place: Place) -> Any:
    from importlib import import_module

    module, _, name = row.path.partition(":")
    return getattr(import_module(module), name)(place)


def _whole(bench: Bench, row: EngineRow, place: Place, kind: str) -> str:
    unit, make = WHOLE[row.function]
    engine, (inputs, parameters) = _loaded(row, place), make(bench.small)
    bench.forget_peak()
    told: Facts = {}
    try:
        took = bench.seconds(lambda: told.update(engine.run(inputs, parameters)[1]), once=row.function == "style.train")
    except (RuntimeError, SafelightError) as problem:  # out of memory is one; another engine may have enough
        return f"| {row.function} | `{row.label}` | {kind} | {type(problem).__name__}: {problem} | | |"
    if "pairs_used" in told:
        unit = f"set of {told['pairs_used']} pairs ({told['kind']})"
    figures = f"{took:.3f} per {unit} | {1 / took:.2f} | {bench.peak_mib():.0f}"
    return f"| {row.function} | `{row.label}` | {kind} | {figures} |"


def _together(bench: Bench, row: EngineRow, engine: Any) -> Iterator[str]:
    """A line per number of items."""
    for count in TOGETHER[:3] if bench.small else TOGETHER:
        tasks = several(row.function, count, bench.small)
        bench.forget_peak()
        rate = count / bench.seconds(partial(_done, engine.run_many, tasks))
        peak = bench.peak_mib()
        alone = count / bench.seconds(partial(_done, partial(one_by_one, engine), tasks))
        yield f"| {row.function} | `{row.label}` | {count} | {rate:.2f} | {alone:.2f} | {peak:.0f} |"


def _done(work: Callable[[Sequence[Task]], Iterator[tuple[Task, Any]]], tasks: Sequence[Task]) -> None:
    """Do it all. Raises what an item ended with."""
    for _, made in work(tasks):
        if isinstance(made, Exception):
            raise made


def _heavy(bench: Bench, row: EngineRow, place: Place) -> Iterator[str]:
    """A line per way and batch. A way that this device does not know, or has no memory for, is a line that says so."""
    heavy = HEAVY[row.engine]
    network = heavy.network(_loaded(row, place))
    flops = _flops(heavy, network, bench)
    for variant in VARIANTS:
        if not _applies(variant, heavy, bench) or (bench.small and variant.half and flops > EMULATED_MAX):
            continue
        ready = _prepared(network, variant)
        for batch in (1,) if bench.small else (COMPILED,) if variant.compiled else BATCHES:
            told = f"| `{row.label}` | {heavy.unit} | {flops / 1e9:.0f} | {_named(variant, heavy)} | {batch} |"
            try:
                yield f"{told} {_figures(bench, heavy, ready, variant, batch, flops)} |"
            except (RuntimeError, NotImplementedError) as problem:  # out of memory is one, too
                yield f"{told} {type(problem).__name__} | | | | | |"
                break


def _applies(variant: Variant, heavy: Heavy, bench: Bench) -> bool:
    if variant.half and heavy.half is None:
        return False
    if heavy.half == torch.bfloat16 and variant.half and bench.card and not bench.card.bf16:
        return False
    if bench.small and (variant.compiled or variant.channels_last):
        return False
    return not variant.tf32 or bool(bench.card and bench.card.tf32 and heavy.half)


def _named(variant: Variant, heavy: Heavy) -> str:
    return variant.name.replace("half", str(heavy.half).removeprefix("torch."))


def _prepared(network: Network, variant: Variant) -> Network:
    torch.set_float32_matmul_precision("high" if variant.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = variant.tf32
    if isinstance(network, torch.nn.Module):
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        network = network.to(memory_format=layout)  # type: ignore[call-overload]  # it has no overload for this
    return torch.compile(network) if variant.compiled else network


def _figures(bench: Bench, heavy: Heavy, network: Network, variant: Variant, batch: int, flops: float) -> str:
    bench.forget_peak()
    tensors = heavy.batch(batch, bench.device, bench.small)
    if variant.channels_last:
        tensors = tuple(one.contiguous(memory_format=torch.channels_last) for one in tensors)
    narrow: AbstractContextManager[Any] = nullcontext()
    if variant.half:
        narrow = torch.autocast(bench.device.type, dtype=heavy.half)
    with torch.inference_mode(), narrow:
        rate = batch / bench.seconds(lambda: heavy.ask(network, tensors))
    tflops, gigabytes = flops * rate / 1e12, heavy.moved * rate / 1e9
    of_flops = of_bytes = "-"
    if bench.card:
        peak = bench.card.half if variant.half else bench.card.tf32 if variant.tf32 else bench.card.fp32
        of_flops = f"{tflops / peak:.1%}" if peak and flops else "-"
        of_bytes = f"{gigabytes / bench.card.gb_per_s:.1%}" if heavy.moved else "-"
    arithmetic = f"{tflops:.2f}" if flops else "-"
    traffic = f"{gigabytes:.1f}" if heavy.moved else "-"
    return f"{rate:.2f} | {arithmetic} | {of_flops} | {traffic} | {of_bytes} | {bench.peak_mib():.0f}"


def _flops(heavy: Heavy, network: Network, bench: Bench) -> float:
    """Of one unit, as torch counts them."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        heavy.ask(network, heavy.batch(1, bench.device, bench.small))
    return float(counter.get_total_flops())


def _write_down(title: str, text: str) -> None:
    """Put the section into the document, in place of one of the same title."""
    written = DOCUMENT.read_text("utf-8")
    section = f"{title}\n\n{text.strip()}\n"
    found = re.search(rf"^{re.escape(title)}\n.*?(?=^## |\Z)", written, re.M | re.S)
    if found:
        written = written[: found.start()] + section + "\n" + written[found.end() :]
    else:
        written = f"{written.rstrip()}\n\n{section}"
    DOCUMENT.write_text(written.rstrip() + "\n", "utf-8")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
