"""The users' commands: submit files, follow jobs, fetch what came out.

`client` is a typer app that any program can take into its own: `app.add_typer(client)`, and
`app(obj=discover)`, where `discover()` returns the Connection of a stack that runs here, or None.
Results go to stdout, progress and errors to stderr. Exit codes: 0 all is well, 1 something failed,
2 the command was not understood.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from console import rendering
from console.client import Client, ClientError, Connection
from console.submitting import Submission, submit_all
from contracts.jobs import Status

Discover = Callable[[], Connection | None]

client = typer.Typer(help="Submit files and follow their jobs.", no_args_is_help=True)

_T = TypeVar("_T")
FRAMES_PER_S: Final = 8

Url = Annotated[
    str | None, typer.Option("--url", envvar="SAFELIGHT_URL", help="Base URL; default: the stack that runs here.")
]
Key = Annotated[
    str | None,
    typer.Option("--api-key", envvar="SAFELIGHT_API_KEY", help="API key; better given by the variable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@client.command()
def submit(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE")],
    pipeline: Annotated[str, typer.Option(help="What is to be done.")] = "photo",
    style: Annotated[str | None, typer.Option(help="Name of a style; none leaves the colours alone.")] = None,
    strength: Annotated[float | None, typer.Option(min=0, max=1, help="How much of the style.")] = None,
    crop: Annotated[str | None, typer.Option(help="Aspect such as 1:1, 4:5, 16:9; none keeps the frame.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until every job has ended.")] = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Upload files; each becomes a job."""
    options = {"pipeline": pipeline, "style": style, "style_strength": strength, "crop": crop}
    fields = {name: str(value) for name, value in options.items() if value is not None}
    with _board(live=watch and not as_json) as show:

        async def work(api: Client) -> list[Submission]:
            return await submit_all(api, files, fields, watch=watch, changed=show)

        rows = _run(ctx, url, api_key, work)
    if as_json:
        _print_json([row.as_json() for row in rows])
    else:
        if watch:
            _out(rendering.submissions(rows, _now()))
        _out(rendering.job_ids(rows))
        for row in rows:
            if error := row.error or (row.job and row.job.error):
                _say(f"{row.path.name}: {error.detail} ({error.code})")
    raise typer.Exit(any(row.failed for row in rows))


@client.command()
def jobs(
    ctx: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only jobs in this status.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only jobs of this pipeline.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """List jobs, newest first."""
    found = _run(ctx, url, api_key, lambda api: api.jobs(status=status, pipeline=pipeline, limit=limit))
    if as_json:
        _print_json([job.model_dump(mode="json") for job in found])
    else:
        _out(rendering.job_list(found, _now()))


@client.command()
def show(
    ctx: typer.Context,
    job: Annotated[UUID, typer.Argument(metavar="JOB")],
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Show one job: its phases, its trace, what came out."""
    found = _run(ctx, url, api_key, lambda api: api.job(job))
    if as_json:
        _print_json(found.model_dump(mode="json"))
    else:
        _out(rendering.job_detail(found, _now()))


@client.command()
def artifacts(
    ctx: typer.Context,
    job: Annotated[UUID, typer.Argument(metavar="JOB")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", file_okay=False, help="Folder to put them in.")
    ] = None,
    phase: Annotated[str | None, typer.Option(help="Only what this phase made, such as variants.")] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """List what a job made; with -o, fetch it and check its SHA-256."""

    async def work(api: Client) -> list[dict[str, Any]]:
        found = [made for made in (await api.job(job)).artifacts if phase in (None, made.phase)]
        if output is None:
            if not as_json:
                _out(rendering.artifact_list(found))
            return [made.model_dump(mode="json") for made in found]
        fetched = []
        for made in found:
            path = await api.download(made, output)
            if not as_json:
                typer.echo(path)
            fetched.append({**made.model_dump(mode="json"), "path": str(path)})
        return fetched

    told = _run(ctx, url, api_key, work)
    if as_json:
        _print_json(told)


def connection(discover: Discover | None, url: str | None, api_key: str | None) -> Connection:
    """Where to go: what was asked for, else the stack that runs here.

    A key that was discovered opens the discovered stack and is sent nowhere else. Raises typer.Exit.
    """
    found = discover() if discover and not (url and api_key) else None
    url = url or (found.url if found else None)
    if found and url == found.url:
        api_key = api_key or found.api_key
    if url is None:
        raise _fail("No stack runs here. Start one, or say where it is with --url or SAFELIGHT_URL.")
    if not api_key:
        raise _fail("No API key. Give it by SAFELIGHT_API_KEY or --api-key.")
    return Connection(url, api_key)


def _run(
    ctx: typer.Context, url: str | None, api_key: str | None, work: Callable[[Client], Coroutine[Any, Any, _T]]
) -> _T:
    where = connection(ctx.obj, url, api_key)

    async def inside() -> _T:
        async with Client(where) as api:
            return await work(api)

    try:
        return asyncio.run(inside())
    except ClientError as problem:
        raise _fail(f"{problem.detail} ({problem.code})") from problem
    except OSError as problem:
        raise _fail(f"{problem.strerror}: {problem.filename}") from problem
    except KeyboardInterrupt as stopped:
        _say("Stopped. What was accepted goes on; `jobs` shows it.")
        raise typer.Exit(128 + signal.SIGINT) from stopped


class _board:  # noqa: N801  # reads as the function that it stands for
    """A table on stderr that follows the submissions; when not live, nothing."""

    def __init__(self, *, live: bool) -> None:
        self._rows: list[Submission] = []
        self._live = Live(
            get_renderable=lambda: rendering.submissions(self._rows, _now()),
            console=Console(stderr=True),
            refresh_per_second=FRAMES_PER_S,
            transient=True,
        )
        self._is_live = live and self._live.console.is_terminal

    def __enter__(self) -> Callable[[Any], None]:
        if self._is_live:
            self._live.start()
        return self._rows_changed

    def _rows_changed(self, rows: list[Submission]) -> None:
        self._rows = list(rows)

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()


def _now() -> datetime:
    return datetime.now(UTC)


def _out(what: RenderableType) -> None:
    Console().print(what)


def _say(text: str) -> None:
    Console(stderr=True).print(Text(rendering.plain(text)))


def _fail(text: str) -> typer.Exit:
    _say(text)
    return typer.Exit(1)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
