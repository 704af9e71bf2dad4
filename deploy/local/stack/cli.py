"""The `safelight` command: the stack's own commands here, the client's from `console.cli`.

Every command that prints data takes `--json` and then prints one JSON document and nothing else.
What a user did wrong is one sentence on stderr and status 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from stack import cli_keys, cli_weights, control, supervisor
from stack.home import Home, Refusal
from stack.ports import PORTS

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
topology_app = typer.Typer(no_args_is_help=True, help="Streams and consumers on the broker.")
app.add_typer(topology_app, name="topology")
app.add_typer(cli_weights.app, name="weights")
app.add_typer(cli_keys.app, name="keys-at-rest")
_out = Console()
_err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MIB = 1024 * 1024


@app.command()
def up(
    as_json: AsJson = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop with Ctrl-C.")] = False,
) -> None:
    """Start every server and service, and wait until they are ready."""
    if foreground:
        raise typer.Exit(supervisor.main())
    home = Home.here()
    try:
        ready = control.up(home)
    except control.NotReady as problem:
        _say_tail(problem)
        raise typer.Exit(1) from None
    state = ready.state
    if as_json:
        _print_json(
            {name: state[name] for name in ("status", "url", "ports", "moved", "ready_s")} | {"home": str(home.path)}
        )
        return
    _out.print(f"Safelight is {'already ' if ready.already else ''}up at [bold]{state['url']}[/]", highlight=False)
    for name, port in state["moved"].items():
        if not name.startswith("s3-"):
            _out.print(f"  {name} took port {port}, for {PORTS[name]} was in use", highlight=False)
    if not ready.already:
        _out.print(f"  ready in {state['ready_s']} s; data and logs in {home.path}", highlight=False, soft_wrap=True)


@app.command()
def down(as_json: AsJson = False) -> None:
    """Let the services finish what they are doing, then stop everything. Data stay."""
    was_up = control.down(Home.here())
    if as_json:
        _print_json({"status": "down", "was_up": was_up})
    else:
        _out.print("Safelight is down" if was_up else "Safelight was not up")


@app.command()
def status(as_json: AsJson = False) -> None:
    """What runs, where, and how much memory it takes. Exit status 3 when the stack is down."""
    found = control.status(Home.here())
    if as_json:
        _print_json(found)
    elif found["status"] == "down":
        _out.print("Safelight is down")
    else:
        _print_status(found)
    if found["status"] == "down":
        raise typer.Exit(3)


@app.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="ingest, postgres, supervisor, ...; all when left out")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is written.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 40,
) -> None:
    """Show what the processes wrote."""
    home = Home.here()
    found = {path.stem: path for path in sorted(home.logs.glob("*.log"))}
    if service is not None and service not in found:
        _fail(f"there is no log of {service!r}; there are: {', '.join(found) or 'none yet'}")
    wanted = {name: path for name, path in found.items() if service in (None, name)}
    prefix = {name: f"{name:<13}" if service is None else "" for name in wanted}
    ends = {}
    for name, path in wanted.items():
        ends[name] = path.stat().st_size
        for line in control.tail(path, lines):
            typer.echo(prefix[name] + line)
    while follow:
        time.sleep(0.3)
        for name, path in wanted.items():
            with path.open("rb") as file:
                file.seek(ends[name] if path.stat().st_size >= ends[name] else 0)
                for line in file.read().decode(errors="replace").splitlines():
                    typer.echo(prefix[name] + line)
                ends[name] = file.tell()


@app.command()
def setup(
    as_json: AsJson = False,
    gated: Annotated[bool, typer.Option(hidden=True, help="Load, and begin when stdin is closed.")] = False,
) -> None:
    """Bring topology, roles, schemas, bucket and styles to what the code declares. Needs its variables, or a stack."""
    complete_environment()
    from stack.setup import SetupSettings
    from stack.setup import setup as run

    if gated:
        sys.stdin.read()
    done = asyncio.run(run(SetupSettings()))
    _print_done(done, as_json)


@app.command()
def draft(room: Annotated[str, typer.Argument(help="ingest, orchestrator, gpu_bridge or output")]) -> None:
    """Print what a room's next migration has to do: its tables in code against the schema of the stack that is up."""
    from stack.setup import ROOMS, SetupSettings, draft_migration

    known = {row.package: row for row in ROOMS}
    if room not in known:
        _fail(f"no room is called {room!r}; there are: {', '.join(known)}")
    complete_environment()
    typer.echo(asyncio.run(draft_migration(SetupSettings(), known[room])))


@app.command()
def backup(
    file: Annotated[Path | None, typer.Argument(help="Where to; a name with the time when left out.")] = None,
) -> None:
    """Write the database of the stack that is up to a file. Back up the bucket after it, never before."""
    from stack import backup as work

    target = file or work.default_name()
    size = work.backup(Home.here(), target)
    _out.print(f"{target}: {size / MIB:.1f} MB", highlight=False)


@app.command()
def restore(file: Annotated[Path, typer.Argument(help="What `backup` wrote.")]) -> None:
    """Replace the database of a stack that is down; events since the backup are delivered once more when it is up."""
    from stack import backup as work

    since = work.restore(Home.here(), file)
    _out.print(f"restored; events since {since:%Y-%m-%d %H:%M} UTC come once more: run `safelight up`", highlight=False)


@topology_app.command("apply")
def topology_apply(as_json: AsJson = False) -> None:
    """Create or update streams and consumers."""
    complete_environment()
    from runtime.settings import NatsSettings
    from stack.setup import apply_topology

    _print_done(asyncio.run(apply_topology(NatsSettings())), as_json)


@topology_app.command("rewind")
def topology_rewind(
    since: Annotated[datetime, typer.Option(help="The time of the backup, UTC.", formats=["%Y-%m-%dT%H:%M:%SZ"])],
) -> None:
    """Deliver the events since then once more, after a database was restored. Services must be stopped."""
    complete_environment()
    from runtime.settings import NatsSettings
    from stack.setup import rewind

    asyncio.run(rewind(NatsSettings(), since.replace(tzinfo=UTC)))
    _out.print(f"events since {since:%Y-%m-%d %H:%M:%S} UTC come once more", highlight=False)


@topology_app.command("check")
def topology_check(as_json: AsJson = False) -> None:
    """Compare the broker with what the code declares. Exit status 1 when they differ."""
    complete_environment()
    from runtime.settings import NatsSettings
    from runtime.topology import TopologyMismatch
    from stack.setup import check_topology

    try:
        asyncio.run(check_topology(NatsSettings()))
        differences: list[str] = []
    except TopologyMismatch as mismatch:
        differences = mismatch.differences
    if as_json:
        _print_json({"same": not differences, "differences": differences})
    else:
        _out.print("\n".join(differences) or "the broker is as declared", highlight=False, markup=False)
    if differences:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    own = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    first = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    if first not in own | {"topology", "weights", "keys-at-rest"}:
        _mount_client()
    if first in (None, "demo"):
        _mount_demo()
    try:
        app(prog_name="safelight", obj=_discover)
    except Refusal as problem:
        _fail(str(problem))


def _mount_client() -> None:
    from console.cli import client  # submit, jobs, show, artifacts, batches, dead-letters

    app.add_typer(client)


def _discover() -> Any:
    """The stack that runs here as a Connection, or None: the client's commands then ask where to go."""
    from console.client import Connection

    try:
        known = control.client_environment(Home.here())
    except (Refusal, OSError):
        return None
    return Connection(known["SAFELIGHT_URL"], known["SAFELIGHT_API_KEY"], known.get("SAFELIGHT_OPERATOR_KEY"))


def _mount_demo() -> None:
    from stack.demo import demo  # it loads image libraries, which no other command needs

    app.command()(demo)


def complete_environment() -> None:
    """A person who calls us has a local stack in mind when the variables are not set."""
    if "SAFELIGHT_NATS_PASSWORD" not in os.environ:
        os.environ.update(control.setup_environment(Home.here()))


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _print_done(done: list[str], as_json: bool) -> None:
    if as_json:
        _print_json({"done": done})
    else:
        _out.print("\n".join(done) or "nothing to do", highlight=False, markup=False)


def _print_status(found: dict[str, Any]) -> None:
    table = Table("process", "status", "pid", "port", "up for", "memory", "restarts", box=None, pad_edge=False)
    for name, row in found["processes"].items():
        cells = (row["pid"] or "", row.get("port") or "", f"{row['running_s']:.0f} s", f"{row['memory'] / MIB:.0f} MB")
        table.add_row(name, row["status"], *map(str, cells), str(row["restarts"]))
    _out.print(f"Safelight is {found['status']} at [bold]{found['url']}[/]", highlight=False)
    _out.print(table)
    _out.print(
        f"{found['memory'] / MIB:.0f} MB in all; data and logs in {found['home']}", highlight=False, soft_wrap=True
    )


def _say_tail(problem: control.NotReady) -> None:
    _err.print(f"Safelight did not start: {problem}", highlight=False, markup=False, soft_wrap=True)
    for line in problem.tail:
        _err.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    _err.print(f"The whole log: {problem.log}", highlight=False, markup=False, soft_wrap=True)


def _fail(sentence: str) -> NoReturn:
    _err.print(f"safelight: {sentence}", highlight=False, markup=False, soft_wrap=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
