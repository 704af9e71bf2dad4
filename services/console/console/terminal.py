"""What the commands share: where they go and with which key, what they print, how they end.

Results go to stdout, progress and errors to stderr. Exit codes: 0 all is well, 1 something failed,
2 the command was not understood.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from console import rendering
from console.client import Client, ClientError, Connection

Discover = Callable[[], Connection | None]

_T = TypeVar("_T")

Url = Annotated[
    str | None, typer.Option("--url", envvar="SAFELIGHT_URL", help="Base URL; default: the stack that runs here.")
]
Key = Annotated[
    str | None,
    typer.Option("--api-key", envvar="SAFELIGHT_API_KEY", help="API key; better given by the variable."),
]
OperatorKey = Annotated[
    str | None,
    typer.Option(
        "--operator-key", envvar="SAFELIGHT_OPERATOR_KEY", help="An operator's key; better given by the variable."
    ),
]
AsOperator = Annotated[bool, typer.Option("--as-operator", help="Ask with the operator's key: for any tenant's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the audit.")]
Limit = Annotated[int, typer.Option(min=1, help="How many, newest first.")]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the phase to begin with; may be repeated."),
]
Force = Annotated[bool, typer.Option("--force", help="Buy GPU work again, though a result of the same work is there.")]
Newest = Annotated[bool, typer.Option("--newest", help="On the newest version of the pipeline, not the job's own.")]


def connection(discover: Discover | None, url: str | None, key: str | None, *, operator: bool = False) -> Connection:
    """Where to go: what was asked for, else the stack that runs here.

    A key that was discovered opens the discovered stack and is sent nowhere else. Raises typer.Exit.
    """
    found = discover() if discover and not (url and key) else None
    url = url or (found.url if found else None)
    if found and url == found.url:
        key = key or (found.operator_key if operator else found.api_key)
    if url is None:
        raise fail("No stack runs here. Start one, or say where it is with --url or SAFELIGHT_URL.")
    if not key and operator:
        raise fail("No operator's key. Give it by SAFELIGHT_OPERATOR_KEY or --operator-key.")
    if not key:
        raise fail("No API key. Give it by SAFELIGHT_API_KEY or --api-key.")
    return Connection(url, key)


def run(
    ctx: typer.Context,
    url: str | None,
    key: str | None,
    work: Callable[[Client], Coroutine[Any, Any, _T]],
    *,
    operator: bool = False,
) -> _T:
    """Do this work against the API. What goes wrong is one sentence on stderr. Raises typer.Exit."""
    where = connection(ctx.obj, url, key, operator=operator)

    async def inside() -> _T:
        async with Client(where) as api:
            return await work(api)

    try:
        return asyncio.run(inside())
    except ClientError as problem:
        raise fail(f"{problem.detail} ({problem.code})") from problem
    except OSError as problem:
        raise fail(f"{problem.strerror}: {problem.filename}") from problem
    except KeyboardInterrupt as stopped:
        say("Stopped. What was accepted goes on; `jobs` shows it.")
        raise typer.Exit(128 + signal.SIGINT) from stopped


# -- what is printed -------------------------------------------------------------------------


def now() -> datetime:
    """The time that tables are drawn for."""
    return datetime.now(UTC)


def out(what: RenderableType) -> None:
    """Print a result."""
    _console().print(what)


def show(what: RenderableType) -> None:
    """Show something that is no result."""
    _console(stderr=True).print(what)


def say(text: str) -> None:
    """Tell the person something that is no result."""
    show(Text(rendering.plain(text)))


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, markup=False, emoji=False)  # what the API tells is text, whatever it looks like


def fail(text: str) -> typer.Exit:
    """Say what is wrong; the exit to raise."""
    say(text)
    return typer.Exit(1)


def print_json(value: Any) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


# -- what is typed ---------------------------------------------------------------------------

_AGO: Final = re.compile(r"^(\d{1,6})([smhd])$")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str | None) -> str | None:
    """An ISO time (local without a zone), or `30m`, `2h`, `7d` ago, as the API reads it. Raises BadParameter."""
    if text is None:
        return None
    if ago := _AGO.match(text):
        return (now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat()
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError) as problem:
        raise typer.BadParameter(
            f"{text} is no time: write 2026-01-31T12:00, or 30m, 2h, 7d for so long ago"
        ) from problem


def parameters(assigned: Iterable[str] | None) -> dict[str, Any]:
    """`name=value` pairs. A value that reads as JSON is that, any other is text. Raises BadParameter."""
    found = {}
    for one in assigned or ():
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{one} does not read NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
