"""`just bench papers`: a long mixed PDF through the whole stack: pages/s, when the first can be read, memory.
`just bench scans`: the same for PDFs of scans alone, one as large as any may be.

Pages are text and scans in turn, each another one, so that no page is known already. Memory is resident, of each
service with its children, sampled four times a second; the one number beside it is what the service took before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx
import psutil

from stack import control
from stack.home import Home
from tests.documents import papers, school

RUNS: Final = ((120, 48), (500, 10))  # pages, and how many of them are scans
SCANS: Final = ((100, 200_000), (500, 200_000))  # pages, and how many bytes each is padded by: 128 MiB are taken
SERVICES: Final = ("ingest", "orchestrator", "gpu-bridge", "output")
LOOK_S: Final = 0.25
PATIENCE_S: Final = 1200.0
MIB: Final = 2**20


def document(pages: int, scans: int) -> bytes:
    """The PDF. Every page is another paper."""
    every = pages / scans

    def each() -> Iterator[papers.Page]:
        scanned = 0
        for n in range(pages):
            make = (school.report_card, school.education_plan)[n % 2]
            if n >= scanned * every:
                scanned += 1
                yield papers.Scan(make(1000 + n, ("en", "es")[n // 2 % 2], dpi=150))
            else:
                yield papers.Born(make(1000 + n, ("en", "es")[n // 2 % 2], dpi=40))

    return papers.pdf(list(each()))


async def measure(home: Home, scans: bool = False) -> None:
    """Send the documents, one after the other; `scans`: those of scans alone."""
    where = control.client_environment(home)
    headers = {"Authorization": f"Bearer {where['SAFELIGHT_API_KEY']}"}
    async with httpx.AsyncClient(base_url=where["SAFELIGHT_URL"], headers=headers, timeout=120) as client:
        for pages, scanned in SCANS if scans else RUNS:
            data = await asyncio.to_thread(papers.slips if scans else document, pages, scanned)
            what = "all scans of A7" if scans else f"{scanned} of them scans"
            print(f"document        {pages} pages, {what}, {len(data) / 1e6:.1f} MB", flush=True)
            await _one(home, client, data, pages)


async def _one(home: Home, client: httpx.AsyncClient, data: bytes, pages: int) -> None:
    before = _memory(home)
    most, began, first = dict(before), time.perf_counter(), None
    answer = await client.post("/v1/uploads", data={"pipeline": "document"}, files={"file": ("f", data)})
    answer.raise_for_status()
    place = f"/v1/jobs/{answer.json()['job_id']}"
    job: dict[str, Any] = {}
    while time.perf_counter() - began < PATIENCE_S:
        for name, used in _memory(home).items():
            most[name] = max(most[name], used)
        job = (await client.get(place)).json()
        if first is None and (page := await _first_page(client, place)):
            first = time.perf_counter() - began
            print(f"  page {page} can be read after {first:.1f} s; the job is {job['status']}", flush=True)
        if job["status"] in ("succeeded", "failed", "dead"):
            break
        await asyncio.sleep(LOOK_S)
    took = time.perf_counter() - began
    print(f"  {job['status']} after {took:.1f} s: {pages / took:.2f} pages/s")
    for phase in job["phases"]:
        print(f"  {phase['name']:<12}  {phase.get('seconds')} s")
    memory = "   ".join(f"{name} {most[name]:.0f} ({before[name]:.0f})" for name in SERVICES)
    print(f"  MiB at most     {memory}", flush=True)


async def _first_page(client: httpx.AsyncClient, place: str) -> str | None:
    for phase in ("ocr", "rasterize"):
        answer = await client.get(f"{place}/phases/{phase}/items", params={"limit": 1})
        for item in answer.json().get("items", []) if answer.is_success else []:
            if any(artifact["name"] == "page.md" for artifact in item["artifacts"]):
                return str(item["item"])
    return None


def _memory(home: Home) -> dict[str, float]:
    used = {}
    for name in SERVICES:
        process = psutil.Process(home.read_state()["processes"][name]["pid"])
        total = 0
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        used[name] = total / MIB
    return used
