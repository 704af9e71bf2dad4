"""`just bench [idle|orchestration|flat|bridge|streams|zip|photos|papers|scans]`: the whole stack, on free ports.
`just bench analysis|detection|variants|lut|gpu|cost|ocr|documents|style|ways [OPTIONS]`: a part; see `--help`.

    idle            memory and CPU of a stack that has nothing to do, before and after the demo set
    orchestration   jobs/s through six no-op phases, and the latency of one job, beside peers at the same task
    flat            CPU and time per job while the number of jobs grows to 100,000 (takes many minutes)
    bridge          what the bridge adds to a call on Modal, and how many calls one process watches
    streams         a thousand clients follow a thousand jobs: how soon each is told, and what that costs
    zip             a batch read as a ZIP: MB/s, files/s, memory
    photos          seconds per phase of the demo set, and photos/s
    papers          a mixed PDF of 120 pages, and one of 500, the whole way (takes minutes): pages/s, memory
    scans           a PDF of 100 small scans, and one of 500 with 125 MB, the whole way (takes minutes): memory
    analysis        CPU milliseconds of each part of the analysis of a 24 MP photo
    detection       precision and recall of the power line and exit sign detectors, over a known truth
    variants        the usual variants of a 24 MP photo, beside sharp, Pillow and the floor; memory at 50 MP
    lut             a LUT over a picture on one core, beside Pillow, OpenColorIO, numba and torch
    gpu             every GPU engine at full size: items/s, memory, batches, precisions, share of the card's roofline
    ocr             each OCR engine that runs here on school papers: CER, WER, fields, CPU seconds per page
    documents       a corpus of school papers the whole way: CER, WER, fields by condition, pages/s, bills
    style           PSNR of a look learnt from 5, 8, 15 pairs by every way and without; the time of 20 pairs
    ways            MB/s and memory of each way in: 8 uploads of 200 MiB at once, multipart, tus, sessions, import
    cost            what a gallery's photo and 1,000 pages cost, from measured seconds and the price table

Figures are printed with what they were measured on: compare within one run, not between machines.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import psutil

from console.client import Connection
from stack import control, demo
from stack.home import Home
from stack.ports import anywhere
from tests.bench import archive, bridge, orchestration, papers, peers, streams

IDLE_S = 20.0
JOBS, SINGLES = 10_000, 200  # some ten seconds, as the peers take for theirs
FLAT = (1_000, 10_000, 100_000)
REST_S = 40.0
PARTS = {
    "analysis": "tests.bench.analysis",
    "detection": "tests.bench.detection",
    "lut": "tests.bench.lut",
    "gpu": "tests.bench.gpu",
    "cost": "tests.bench.cost",
    "documents": "tests.bench.documents",
    "ocr": "tests.bench.ocr",
    "style": "tests.bench.style",
    "variants": "tests.bench.variants",
    "ways": "tests.bench.ways",
}
MIB = 1024 * 1024


def family(home: Home) -> list[psutil.Process]:
    """Every process of the stack: the supervisor and all below it."""
    owner = psutil.Process(home.read_state()["supervisor"]["pid"])
    return [owner, *owner.children(recursive=True)]


def idle(home: Home, when: str) -> None:
    """Resident memory (sum of RSS, and PSS where shared pages are counted once) and CPU over IDLE_S seconds."""
    before = {process: sum(process.cpu_times()[:2]) for process in family(home)}
    started = time.perf_counter()
    time.sleep(IDLE_S)  # the measurement itself: what does an idle stack use in this time?
    took = time.perf_counter() - started
    alive = [process for process in before if process.is_running()]
    cpu = sum(sum(process.cpu_times()[:2]) - before[process] for process in alive) / took
    rss = sum(p.memory_info().rss for p in alive)
    pss = sum(getattr(p.memory_full_info(), "pss", p.memory_info().rss) for p in alive)
    print(
        f"idle {when:<11} {rss / MIB:6.0f} MiB RSS   {pss / MIB:6.0f} MiB PSS   {cpu:6.2%} of one core   "
        f"({len(alive)} processes)"
    )


def photos(home: Home) -> None:
    """The demo set through the front door."""
    where = control.client_environment(home)
    connection = Connection(where["SAFELIGHT_URL"], where["SAFELIGHT_API_KEY"])
    started = time.perf_counter()
    shown = asyncio.run(demo.show(connection, home.path / "demo", demo.STYLE, live=False))
    took = time.perf_counter() - started
    failed = [row.error or (row.job and row.job.error) for row in shown.rows if row.failed]
    rate = len(shown.rows) / took
    print(f"photos          {len(shown.rows)} in {took:.1f} s ({rate:.2f}/s), {len(failed)} failed {failed or ''}")
    for name, row in demo.seconds_by_phase(shown.rows).items():
        median, longest = row["median_s"], row["longest_s"]
        print(f"  {name:<12}  {row['photos']:3.0f} photos   median {median:.2f} s   longest {longest:.2f} s")


def noop(home: Home) -> None:
    """The cost of orchestration: one process and two, with and without the projection of status; then the peers."""
    print(f"{peers.HEADER}   CPU ms per job")
    for orchestrators, projected in ((1, False), (2, False), (1, True)):
        _tell(
            asyncio.run(
                orchestration.measure(
                    home, orchestrators=orchestrators, projected=projected, jobs=JOBS, singles=SINGLES
                )
            )
        )
    if not peers.is_installed():
        print(peers.INSTALL)
        return
    with orchestration.held(home, sorted(home.read_state()["processes"])):  # the peers have the machine for themselves
        peers.measure(tell=lambda figures: print(peers.row(figures), flush=True))


def flat(home: Home) -> None:
    """Cost per job as their number grows."""
    print(f"{peers.HEADER}   CPU ms per job")
    for jobs in FLAT:
        _tell(asyncio.run(orchestration.measure(home, orchestrators=1, projected=False, jobs=jobs, singles=20)))


def _tell(row: orchestration.Measured) -> None:
    shares = "  ".join(f"{process} {used / row.figures.jobs * 1000:.2f}" for process, used in row.cpu.items())
    print(f"{peers.row(row.figures)}   {shares}   ({row.figures.jobs:,} jobs)", flush=True)


def main() -> None:
    """Start a stack, measure what was asked for, take it down; or measure a part."""
    if len(sys.argv) > 1 and sys.argv[1] in PARTS:
        import_module(PARTS[sys.argv[1]]).main(sys.argv[2:])
        return
    wanted = sys.argv[1:] or ["idle", "orchestration", "photos"]
    known: dict[str, Callable[[Home], None]] = {
        "idle": lambda home: idle(home, "at start"),
        "orchestration": noop,
        "flat": flat,
        "bridge": lambda home: asyncio.run(bridge.measure(home, home.path)),
        "streams": lambda home: asyncio.run(streams.measure(home)),
        "zip": lambda home: asyncio.run(archive.measure(home)),
        "photos": photos,
        "papers": lambda home: asyncio.run(papers.measure(home)),
        "scans": lambda home: asyncio.run(papers.measure(home, scans=True)),
    }
    if strangers := set(wanted) - set(known):
        sys.exit(f"no bench is called {', '.join(sorted(strangers))}; there are {', '.join([*known, *PARTS])}")
    os.environ["SAFELIGHT_BENCH_PIPELINES"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder).resolve() / ".safelight")
        home.path.mkdir()
        home.write_state({"ports": anywhere()})
        os.environ["SAFELIGHT_HOME"] = str(home.path)
        try:
            ready_s = control.up(home).state["ready_s"]
            print(f"machine         {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
            print(f"first start     ready in {ready_s} s")
            for name in wanted:
                known[name](home)
            if "idle" in wanted and len(wanted) > 1:
                time.sleep(REST_S)  # what is kept warm for the next photo is let go in this time
                idle(home, "after work")
        finally:
            control.down(home)


if __name__ == "__main__":
    main()
