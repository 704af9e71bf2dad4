"""Jobs go through the whole stack while its processes are killed at random; then everything is counted.

The stack's own supervisor starts again what was killed. Clients are good ones: they ask again with the same key
until they have an answer. What must hold at the end is in `audit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import psutil

from stack import control
from stack.home import REPOSITORY, Home
from stack.ports import anywhere
from tests.chaos import audit
from tests.chaos.house import as_new, small_photo

# fmt: off
VICTIMS: Final = {  # how often each is chosen, in parts
    "orchestrator": 6, "gpu-bridge": 4, "output": 4, "ingest": 3, "console": 1, "noop": 2,
    "nats": 3, "postgres": 3, "s3": 1,
}
# fmt: on
ALIKE: Final = 3  # jobs in a row that come with the same photo: their GPU work is one call
PAUSE_S: Final = (1.0, 5.0)  # between kills, at least and at most
BOTH: Final = 0.2  # how often a second one is killed with the first
LOOK_S: Final = 0.25
ANSWER_S: Final = 120.0  # a client that has no answer by then gives up, and the run has failed


@dataclass(frozen=True, slots=True)
class Plan:
    """`jobs` arrive in `seconds` of kills, `photos` of them (a fraction) real ones; all end within `bound_s` after."""

    jobs: int
    seconds: float
    seed: int
    photos: float = 0.2
    bound_s: float = 240.0


@dataclass(slots=True)
class Report:
    """What happened, and what should not have: `wrong` is empty when every guarantee has held."""

    plan: Plan
    kills: Counter[str] = field(default_factory=Counter)
    asked_again: int = 0
    accepted: dict[UUID, str] = field(default_factory=dict)  # job -> pipeline
    storm_s: float = 0.0  # from the first second to the last kill
    calm_s: float = 0.0  # from there until all was over
    counts: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = {
            "seed": self.plan.seed,
            "jobs": ", ".join(f"{n} {name}" for name, n in Counter(self.accepted.values()).most_common()),
            "kills": f"{self.kills.total()}: " + ", ".join(f"{n} {name}" for name, n in self.kills.most_common()),
            "time": f"{self.storm_s:.0f} s of kills, all over {self.calm_s:.1f} s after the last",
            "asked again": f"{self.asked_again} requests",
            **self.counts,
            "verdict": "every guarantee held" if not self.wrong else f"{len(self.wrong)} broken",
        }
        return "\n".join([*(f"{name:<14} {value}" for name, value in rows.items()), *(f"  - {w}" for w in self.wrong)])


@contextlib.contextmanager
def stack_up(folder: Path) -> Iterator[Home]:
    """The embedded stack in a folder, with the no-op pipeline."""
    home = Home(folder / ".safelight")
    home.path.mkdir(parents=True)
    home.write_state({"ports": anywhere()})
    changed = {"SAFELIGHT_HOME": str(home.path), "SAFELIGHT_BENCH_PIPELINES": "true"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        control.up(home)
        yield home
    finally:
        control.down(home)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class Noop:
    """The worker of the no-op phases, which nobody supervises but us."""

    def __init__(self, home: Home) -> None:
        self._log = home.log("noop")
        self._environment = dict(os.environ) | control.setup_environment(home)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def keep(self) -> None:
        """Start it, and start it again whenever it ends, until cancelled."""
        try:
            while True:
                if self.pid is None:
                    with self._log.open("ab") as log:
                        self._process = await asyncio.create_subprocess_exec(
                            *(sys.executable, "-m", "tests.chaos.noop"),
                            cwd=REPOSITORY,
                            env=self._environment,
                            stdout=log,
                            stderr=log,
                        )
                await asyncio.sleep(LOOK_S)
        finally:
            if self._process and self.pid:
                self._process.kill()
                await self._process.wait()


async def storm(home: Home, plan: Plan) -> Report:
    """Everything: jobs, kills, the wait for the last end, the count."""
    report = Report(plan)
    chance = random.Random(plan.seed)  # so that a schedule can be had again
    noop = Noop(home)
    keeper = asyncio.create_task(noop.keep())
    began = time.monotonic()
    try:
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_kill(home, noop, plan, chance, report))
            tasks.create_task(_submit(home, plan, random.Random(plan.seed + 1), report))
        report.storm_s = time.monotonic() - began
        calm = time.monotonic()
        left = await _all_over(home, plan.bound_s)
        report.calm_s = time.monotonic() - calm
        report.wrong += left
        known = control.setup_environment(home)
        report.counts, wrong = await audit.audit(known, report.accepted)
        report.wrong += wrong + _told_secrets(home)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
    return report


# -- kills -------------------------------------------------------------------------------------


async def _kill(home: Home, noop: Noop, plan: Plan, chance: random.Random, report: Report) -> None:
    began = time.monotonic()
    while time.monotonic() - began < plan.seconds:
        await asyncio.sleep(chance.uniform(*PAUSE_S))  # the schedule itself
        for _ in range(2 if chance.random() < BOTH else 1):
            victim = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
            pid = noop.pid if victim == "noop" else home.read_state()["processes"][victim]["pid"]
            if pid is None:
                continue  # it is down already
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                os.kill(pid, signal.SIGKILL)
                report.kills[victim] += 1


# -- jobs --------------------------------------------------------------------------------------


async def _submit(home: Home, plan: Plan, chance: random.Random, report: Report) -> None:
    known = control.client_environment(home)
    photo = small_photo(144, 96)
    headers = {"Authorization": f"Bearer {known['SAFELIGHT_API_KEY']}"}
    real = int(plan.jobs * plan.photos)
    kinds = ["photo"] * real + ["noop"] * (plan.jobs - real)
    chance.shuffle(kinds)
    async with (
        httpx.AsyncClient(base_url=known["SAFELIGHT_URL"], headers=headers, timeout=30) as client,
        asyncio.TaskGroup() as clients,
    ):
        for nth, kind in enumerate(kinds):
            at = chance.uniform(0, plan.seconds)
            key = UUID(int=chance.getrandbits(128))
            same = as_new(photo, str(nth // ALIKE))
            clients.create_task(_client(client, kind, same, at, key, report))


async def _client(client: httpx.AsyncClient, kind: str, photo: bytes, at: float, key: UUID, report: Report) -> None:
    """One upload, for which the client asks until it is answered."""
    await asyncio.sleep(at)
    gives_up = time.monotonic() + ANSWER_S
    form = {"pipeline": kind} | ({"style": "mono"} if kind == "photo" else {})
    while time.monotonic() < gives_up:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.post(
                "/v1/uploads", data=form, files={"file": ("f", photo)}, headers={"Idempotency-Key": str(key)}
            )
            if answer.status_code == 202:
                report.accepted[UUID(answer.json()["job_id"])] = kind
                return
            if answer.status_code < 500:
                report.wrong.append(f"an upload was refused: {answer.status_code} {answer.text[:300]}")
                return
        report.asked_again += 1
        await asyncio.sleep(LOOK_S)
    report.wrong.append(f"an upload had no answer for {ANSWER_S:.0f} s")


# -- the end -----------------------------------------------------------------------------------


async def _all_over(home: Home, bound_s: float) -> list[str]:
    """Wait until nothing is left to do anywhere. Returns what is, when the time is over."""
    deadline = time.monotonic() + bound_s
    while True:
        try:
            left = await audit.left_over(control.setup_environment(home))
        except (OSError, asyncpg.PostgresError, audit.Unreachable) as problem:
            left = [f"{type(problem).__name__}: {problem}"]
        if not left or time.monotonic() > deadline:
            return left
        await asyncio.sleep(LOOK_S)


def _told_secrets(home: Home) -> list[str]:
    """Errors say much, and nothing of this. (Who signs S3 requests is no secret; its name is in every link.)"""
    kept = {value: name for name, value in home.secrets().items() if name != "SAFELIGHT_S3_ACCESS_KEY"}
    logs = {log.name: log.read_text(errors="replace") for log in home.logs.glob("*.log*")}
    return [f"{log} tells {name}" for log, text in logs.items() for value, name in kept.items() if value in text]
