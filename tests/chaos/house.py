"""The services of the matrix: real processes on real servers, with short waits, made in an instant by nurseries."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID, uuid4

import asyncpg
import httpx
import nats
import psutil
import pyvips
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from contracts.message import HEADER_ID, HEADER_SUBJECT
from contracts.topology import STREAMS
from runtime.objects import Objects
from runtime.settings import S3Settings
from stack import ports, processes, services
from stack.home import REPOSITORY, new_secrets
from tests.chaos import hooks, worker
from tests.chaos.points import Point
from tests.chaos.timing import CONSUMERS
from tests.chaos.victim import FREEZE
from tests.servers.wheels import WheelServer

T = TypeVar("T")
SERVICES: Final = ("ingest", "orchestrator", "gpu-bridge", "output")
PATIENCE_S: Final = 45.0  # what takes longer never comes
LOOK_S: Final = 0.03
PIPELINES: Final = Path(__file__).parent / "pipelines"
# fmt: off
QUIET: Final = {  # nothing of these when nothing is left to do
    "in ingest's outbox":           "SELECT count(*) FROM ingest.outbox",
    "in the orchestrator's outbox": "SELECT count(*) FROM orchestrator.outbox",
    "in the bridge's outbox":       "SELECT count(*) FROM gpu_bridge.outbox",
    "calls in the ledger":          "SELECT count(*) FROM gpu_bridge.calls WHERE ended_at IS NULL",
    "commands for the bridge":      "SELECT count(*) FROM gpu_bridge.commands WHERE state = 'waiting'",
    "units that wait":              "SELECT count(*) FROM orchestrator.waiting",
    "counted as waiting":           "SELECT coalesce(sum(abs(count)), 0) FROM orchestrator.waiting_counts",
    "counted as out":               "SELECT coalesce(sum(abs(count)), 0) FROM orchestrator.running",
}
# fmt: on
# One of everything: a test has one core, and one job at a time.
SETTINGS: Final = {
    "SAFELIGHT_PIPELINES_DIR": str(PIPELINES),
    "SAFELIGHT_ANALYSIS_WORKERS": "1",
    "SAFELIGHT_RENDER_WORKERS": "1",
    "SAFELIGHT_LOCAL_WORKERS": "1",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONUTF8": "1",
}


async def until(holds: Callable[[], Awaitable[T | None]], what: str, patience_s: float = PATIENCE_S) -> T:
    """What `holds` gives as soon as it is true."""
    clock = asyncio.get_running_loop()
    deadline = clock.time() + patience_s
    while True:
        if found := await holds():
            return found
        assert clock.time() < deadline, f"not within {patience_s:.0f} s: {what}"
        await asyncio.sleep(LOOK_S)


def small_photo(width: int, height: int) -> bytes:
    """A JPEG of a gradient: it shows nobody, so its phases are few and fast."""
    gradient = pyvips.Image.xyz(width, height).linear([1.5, 2], [10, 20])
    picture: bytes = gradient.bandjoin(90).cast("uchar").jpegsave_buffer()
    return picture


def as_new(photo: bytes, name: str) -> bytes:
    """The same picture as another file, by a comment in it: work that nobody has asked for before."""
    comment = name.encode()
    return photo[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + photo[2:]


@dataclass(frozen=True, slots=True)
class Told:
    """An event about a job as the broker got it."""

    subject: str
    job_id: UUID
    message_id: str


class Census(NamedTuple):
    """Rows of uploads, of jobs that were decided about, of jobs that are shown; and objects of uploads."""

    uploads: int
    decided: int
    shown: int
    stored: int

    def since(self, before: Census) -> Census:
        """What has come since then."""
        return Census(*(now - then for now, then in zip(self, before, strict=True)))


class _Nursery:
    """One service, loaded; its processes are forks (see `victim`)."""

    def __init__(self, service: str, folder: Path, environment: dict[str, str]) -> None:
        self.log = folder / f"{service}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.chaos.victim", service, "--folder", str(folder), "--nursery"),
                env=environment,
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )

    def bear(self, at: str) -> int:
        """A process that dies at a point, or never; its id."""
        assert self._process.stdin
        assert self._process.stdout
        print(at, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"the nursery has ended: {self.log.read_text()[-3000:]}"
        return int(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


class House:
    """Servers, services, and what a test does with them. Open it in the main thread."""

    services: Sequence[str] = SERVICES

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "word"  # where processes leave word
        self.ports = ports.anywhere()
        self.secrets = new_secrets()
        self.told: list[Told] = []
        self._servers: list[WheelServer] = []
        self._nurseries: dict[str, _Nursery] = {}
        self._running: dict[str, int] = {}
        self.photo: bytes = (
            pyvips.Image.xyz(96, 64).linear([2, 3], [10, 20]).bandjoin(90).cast("uchar").jpegsave_buffer()
        )

    # -- processes ---------------------------------------------------------------------------

    def open(self) -> None:
        """Start the servers, set them up, load the services and start each."""
        self.folder.mkdir()
        for name in self.services:  # they load while the servers start
            self._nurseries[name] = _Nursery(name, self.folder, self._environment(name))
        self._servers = [WheelServer(name, self.home, self.ports, self.secrets) for name in ("postgres", "s3", "nats")]
        set_up = services.setup_environment(self.ports, self.secrets)
        command = (sys.executable, "-m", "tests.chaos.victim", "setup", "--folder", str(self.folder))
        subprocess.run(command, env=processes.base_environment(self.home) | set_up, cwd=REPOSITORY, check=True)
        for name in self.services:
            self.start(name)

    def close(self) -> None:
        """End everything, and whatever it has started."""
        for nursery in self._nurseries.values():
            nursery.close()
        for server in self._servers:
            server.stop()
        processes.end(processes.marked(self.home))

    def start(self, service: str, point: Point | None = None, *, freezes: bool = False) -> None:
        """Start a service; with a point it dies there, or only freezes."""
        assert not self.is_running(service)
        at = f"{FREEZE if freezes else ''}{point}" if point else ""
        self._running[service] = self._nurseries[service].bear(at)

    def thaw(self, service: str) -> None:
        """Let one that froze go on."""
        os.kill(self._running[service], signal.SIGCONT)

    def is_running(self, service: str) -> bool:
        """Whether its process is there."""
        return service in self._running and psutil.pid_exists(self._running[service])

    async def kill(self, service: str) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(self._running[service], signal.SIGKILL)
        await self.gone(service)

    async def gone(self, service: str) -> None:
        """Wait until its process has ended."""

        async def ended() -> bool:
            return not self.is_running(service)

        await until(ended, f"{service} is gone")

    def log(self, service: str) -> str:
        """The end of what its processes have written."""
        return self._nurseries[service].log.read_text(errors="replace")[-6000:]

    def _environment(self, name: str) -> dict[str, str]:
        row = next(row for row in services.SERVICES if row.name == name)
        given = services.environment(row, self.ports, self.secrets)
        # Without a master nothing is sealed: whether a photo would be depends on who can be asked just then.
        given.pop("SAFELIGHT_MASTER_KEYS", None)
        return processes.base_environment(self.home) | given | SETTINGS

    # -- what processes leave ------------------------------------------------------------------

    @property
    def hit(self) -> str:
        """The point that a process has died at since `forget`, or nothing."""
        return self._read(hooks.HIT).strip()

    def forget(self) -> None:
        """Before a point."""
        for name in (hooks.HIT, hooks.RUNS, worker.BEGUN, worker.POINT, worker.HOLD):
            (self.folder / name).unlink(missing_ok=True)
        self.told.clear()

    async def runs(self, job_id: UUID) -> list[str]:
        """The functions whose bodies ran to their end for a job."""
        names = (str(job_id), *await self.calls(job_id))
        lines = self._read(hooks.RUNS).splitlines()
        return sorted(line.split()[0] for line in lines if any(name in line for name in names))

    async def begun(self, job_id: UUID) -> bool:
        """Whether a GPU function was given a call of the job."""
        begun = self._read(worker.BEGUN)
        return any(call in begun for call in await self.calls(job_id))

    async def calls(self, job_id: UUID) -> list[str]:
        """The calls that a job's commands follow, by their keys."""
        query = "SELECT DISTINCT call FROM gpu_bridge.commands WHERE starts_with(key, $1::uuid::text) ORDER BY call"
        return [row["call"] for row in await self.ask(query, job_id) if row["call"]]

    def hold_calls(self) -> None:
        """Let calls wait before their bodies until `release_calls`."""
        (self.folder / worker.HOLD).touch()

    def release_calls(self) -> None:
        (self.folder / worker.HOLD).unlink(missing_ok=True)

    def fail_call(self) -> None:
        """The next call fails with CALL_LOST."""
        (self.folder / worker.FAIL).touch()

    def arm_worker(self, point: Point) -> None:
        """The worker of the next call dies at this point."""
        (self.folder / worker.POINT).write_text(str(point))

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    # -- clients -------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Look into the servers, and listen to what is told."""
        given = services.setup_environment(self.ports, self.secrets)
        self.pool = await asyncpg.create_pool(given["SAFELIGHT_POSTGRES_ADMIN_URL"], min_size=1, max_size=3)
        self.nc: Client = await nats.connect(
            given["SAFELIGHT_NATS_URL"], user=given["SAFELIGHT_NATS_USER"], password=given["SAFELIGHT_NATS_PASSWORD"]
        )
        await self.nc.subscribe("evt.job.v1.*", cb=self._heard)
        key = self.secrets["SAFELIGHT_API_KEY"]
        self.http = httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=20)
        known = {name.removeprefix("SAFELIGHT_").lower(): value for name, value in given.items()}
        self.objects = Objects(S3Settings.model_validate(known))

    async def disconnect(self) -> None:
        await self.http.aclose()
        await self.nc.close()
        await self.pool.close()
        self.objects.close()

    async def _heard(self, message: Msg) -> None:
        headers = message.headers or {}
        self.told.append(Told(message.subject, UUID(headers[HEADER_SUBJECT]), headers[HEADER_ID]))

    async def ask(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows, as the database's administrator."""
        return [dict(row) for row in await self.pool.fetch(query, *values)]

    async def census(self) -> Census:
        """How much there is of everything that an upload makes one of."""
        [[uploads, decided, shown]] = await self.pool.fetch(
            "SELECT (SELECT count(*) FROM ingest.uploads), (SELECT count(*) FROM orchestrator.jobs), "
            "(SELECT count(*) FROM output.jobs)"
        )
        stored = await asyncio.to_thread(self._stored)
        return Census(uploads, decided, shown, stored)

    def _stored(self) -> int:
        return sum(1 for _ in self.objects._client.list_objects(services.BUCKET, "uploads/", recursive=True))

    async def upload(self, pipeline: str, **options: str) -> UUID:
        """Upload a photo as a good client does: again with the same key until it is answered. The job's id."""
        key = str(uuid4())
        photo = as_new(self.photo, key)

        async def answered() -> UUID | None:
            answer = await self._post(
                "ingest",
                "/v1/uploads",
                data={"pipeline": pipeline, **options},
                files={"file": ("f", photo)},
                headers={"Idempotency-Key": key},
            )
            if answer is None or answer.status_code >= 500:
                return None
            assert answer.status_code == 202, answer.text
            return UUID(answer.json()["job_id"])

        return await until(answered, f"an answer to an upload for {pipeline}")

    async def cancel(self, job_id: UUID) -> None:
        """Cancel a job: 409 says that an earlier try has done it."""

        async def answered() -> bool:
            answer = await self._post("orchestrator", f"/v1/jobs/{job_id}/cancel", json={"reason": "chaos"})
            return answer is not None and answer.status_code in (200, 409)

        await until(answered, f"{job_id} is cancelled")

    async def _post(self, service: str, path: str, **request: Any) -> httpx.Response | None:
        try:
            return await self.http.post(services.url(self.ports, service) + path, **request)
        except httpx.TransportError:
            return None

    async def ended(self, job_id: UUID) -> None:
        """Wait until readers are shown that the job has ended."""

        async def over() -> bool:
            return bool(await self.ask("SELECT 1 FROM output.jobs WHERE id = $1 AND ended_at IS NOT NULL", job_id))

        try:
            await until(over, f"{job_id} has ended")
        except AssertionError:
            seen = await self.ask("SELECT input, effects FROM orchestrator.history WHERE job_id = $1", job_id)
            raise AssertionError(f"{job_id} has not ended: {seen}") from None

    async def clean(self) -> None:
        """Forget all jobs and messages: what one crash has left must not be the next one's."""
        for service in SERVICES:
            if self.is_running(service):
                await self.kill(service)
        for stream in STREAMS:
            await self.nc.jetstream().purge_stream(stream.name)
        tables = await self.ask(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname = ANY($1) "
            "AND tablename NOT IN ('alembic_version', 'pipelines', 'audit')",
            [service.replace("-", "_") for service in SERVICES],
        )
        await self.pool.execute(f"TRUNCATE {', '.join(row['name'] for row in tables)} CASCADE")
        for service in SERVICES:
            self.start(service)

    async def quiet(self) -> None:
        """Wait until nothing is left anywhere: in no outbox, no line, no ledger, no stream."""
        wrong: list[str] = []

        async def nothing_left() -> bool:
            wrong[:] = await self._left()
            return not wrong

        try:
            await until(nothing_left, "quiet", 15)
        except AssertionError:
            raise AssertionError(f"left over: {wrong}") from None

    async def _left(self) -> list[str]:
        [counts] = await self.pool.fetch(f"SELECT {', '.join(f'({query})' for query in QUIET.values())}")
        left = [f"{count} {what}" for what, count in zip(QUIET, counts, strict=True) if count]
        js = self.nc.jetstream()
        for row in CONSUMERS:
            try:
                found = await js.consumer_info(row.stream, row.name)
            except NotFoundError:
                continue
            if found.num_pending or found.num_ack_pending:
                left.append(f"{row.name}: {found.num_pending} pending, {found.num_ack_pending} to be acked")
        if commands := (await js.stream_info("COMMANDS")).state.messages:
            left.append(f"{commands} commands")
        return left
