"""Back up and restore the database of the embedded stack.

A backup is taken while the stack works. After a restore the events that the broker has kept since
the backup are delivered once more (`topology.rewind`): uploads that the database has never heard of
get their jobs, outcomes reach jobs that still wait for them, and what was taken in before is refused
by the inboxes. So a restore loses nothing that the broker still has (seven days).
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from stack import control, servers, services
from stack.home import Home, Refusal
from stack.processes import Child, base_environment
from stack.setup import SetupSettings, note, prepare_database, rewind

MARGIN: Final = timedelta(minutes=5)  # events from before the backup's snapshot: the inboxes know them
START_S: Final = 60.0


def backup(home: Home, file: Path) -> int:
    """Write the database of the stack that is up to `file`; returns its size in bytes. Raises Refusal."""
    settings = _settings(control.setup_environment(home))
    asyncio.run(note(settings, "database.backed-up", "safelight"))  # before anybody has it
    url = settings.postgres_admin_url.get_secret_value()
    draft = file.with_name(f"{file.name}.new")
    _run(home, url, "pg_dump", "--format=custom", f"--file={draft}")
    draft.replace(file)
    return file.stat().st_size


def restore(home: Home, file: Path) -> datetime:
    """Replace the database of a stack that is down by what `file` holds; returns since when events come once more.

    Raises:
        Refusal: a stack is up, or the file is no backup.
    """
    if not file.is_file():
        raise Refusal(f"there is no file {file}")
    home.create()
    if home.is_up():
        raise Refusal("a stack is up here: run `safelight down` first")
    since = _taken_at(home, file) - MARGIN
    ports, secrets = home.read_state().get("ports"), home.make_secrets()
    if not ports:
        raise Refusal("no stack was ever up here: run `safelight up` and `safelight down` first")
    known = services.setup_environment(ports, secrets)
    with _server(home, "postgres", ports, secrets), _server(home, "nats", ports, secrets):
        settings = _settings(known)
        url = settings.postgres_admin_url.get_secret_value()
        asyncio.run(prepare_database(settings))
        database = make_url(url).database or ""
        _run(
            home,
            url,
            "pg_restore",
            *("--clean", "--if-exists", "--exit-on-error", "--single-transaction", f"--dbname={database}"),
            str(file),
        )
        asyncio.run(note(settings, "database.restored", "safelight", since=since.isoformat()))
        asyncio.run(rewind(settings, since))
    return since


def _settings(known: Mapping[str, str]) -> SetupSettings:
    return SetupSettings.model_validate(
        {name.removeprefix("SAFELIGHT_").lower(): value for name, value in known.items()}
    )


def _taken_at(home: Home, file: Path) -> datetime:
    listed = _run(home, None, "pg_restore", "--list", str(file))
    found = re.search(r"Archive created at (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", listed)
    if not found:
        raise Refusal(f"{file} is no backup")
    return datetime.fromisoformat(found[1]).replace(tzinfo=UTC)


def _run(home: Home, url: str | None, program: str, *arguments: str) -> str:
    environment = base_environment(home.path) | {"TZ": "UTC"}
    if url is not None:  # never on the command line, where anybody could read the password
        parts = make_url(url)
        environment |= {
            "PGHOST": parts.host or "",
            "PGPORT": str(parts.port),
            "PGUSER": parts.username or "",
            "PGPASSWORD": str(parts.password),
            "PGDATABASE": parts.database or "",
        }
    command = (str(servers.postgres_programs() / program), *arguments)
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
    if outcome.returncode:
        raise Refusal(f"{program} failed: {outcome.stderr.strip()[-500:]}")
    return outcome.stdout


@contextmanager
def _server(home: Home, name: str, ports: dict[str, int], secrets: dict[str, str]) -> Iterator[None]:
    make = {"postgres": servers.postgres, "nats": servers.nats}[name]
    child = Child(make(home.path, home.data / name, ports, secrets), home.log(name))
    try:
        child.start()
        asyncio.run(_ready(child))
        yield
    finally:
        child.stop()


async def _ready(child: Child) -> None:
    async with asyncio.timeout(START_S):
        while not child.is_ready():
            if not child.is_running:
                raise Refusal(f"{child.program.name} did not start; see {child.log}")
            await asyncio.sleep(0.05)


def default_name() -> Path:
    """Where a backup goes that was given no name."""
    return Path(f"safelight-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump")
