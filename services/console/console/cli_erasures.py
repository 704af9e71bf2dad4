"""`erase`: somebody's data is gone everywhere, with a receipt; and the receipt is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from console import erasures
from console.client import ClientError
from console.erasures import Erasure
from console.rendering import pairs, plain
from console.terminal import AsOperator, Json, Key, Reason, Url, fail, given, out, print_json, run, say

app = typer.Typer(help="Erase what was uploaded and what was made of it, everywhere.", no_args_is_help=True)

Tenant = Annotated[str | None, typer.Option(help="Whose it is; operators have to say.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def upload(
    ctx: typer.Context,
    id_: Annotated[UUID, typer.Argument(metavar="ID")],
    tenant: Tenant = None,
    yes: Yes = False,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Erase an upload with every version of it."""
    _erase(ctx, {"upload": str(id_), "tenant": tenant, "reason": reason}, yes, as_operator, as_json, url, key)


@app.command()
def batch(
    ctx: typer.Context,
    id_: Annotated[UUID, typer.Argument(metavar="ID")],
    tenant: Tenant = None,
    yes: Yes = False,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Erase a batch with its uploads."""
    _erase(ctx, {"batch": str(id_), "tenant": tenant, "reason": reason}, yes, as_operator, as_json, url, key)


@app.command()
def subject(
    ctx: typer.Context,
    id_: Annotated[str, typer.Argument(metavar="ID", help="As uploads named it in their field `subject`.")],
    tenant: Tenant = None,
    yes: Yes = False,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Erase all uploads about one person or thing."""
    _erase(ctx, {"subject": id_, "tenant": tenant, "reason": reason}, yes, as_operator, as_json, url, key)


@app.command()
def show(
    ctx: typer.Context,
    id_: Annotated[UUID, typer.Argument(metavar="ID")],
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Show an erasure, and its receipt."""
    _told(run(ctx, url, key, lambda api: erasures.show(api, str(id_)), operator=as_operator), as_json)


@app.command()
def verify(
    ctx: typer.Context,
    receipt: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="As `--json` printed it.")],
    public_key: Annotated[str | None, typer.Option(help="Base64, as it was kept; default: the stack is asked.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Check the signature of a receipt."""
    known = public_key or run(ctx, url, key, erasures.public_key)
    try:
        told = erasures.check(receipt, known)
    except ClientError as problem:
        raise fail(f"{problem.detail} ({problem.code})") from problem
    say(f"Signed: {len(told['jobs'])} jobs of {told['tenant']} were erased by {told['ended_at']}.")


def _erase(
    ctx: typer.Context,
    what: dict[str, Any],
    yes: bool,
    as_operator: bool,
    as_json: bool,
    url: str | None,
    key: str | None,
) -> None:
    if not yes and not typer.confirm("This cannot be undone. Erase it?", err=True):
        raise typer.Exit(1)
    _told(run(ctx, url, key, lambda api: erasures.request(api, given(what)), operator=as_operator), as_json)


def _told(erasure: Erasure, as_json: bool) -> None:
    if as_json:
        print_json(erasure.model_dump(mode="json"))
        return
    rows = [("erasure", plain(erasure.id)), ("state", plain(erasure.state)), ("jobs", str(erasure.jobs))]
    for room, counts in ((erasure.receipt or {}).get("rooms") or {}).items():
        for how, kinds in counts.items():
            told = ", ".join(f"{count} {kind.removeprefix('rows.')}" for kind, count in kinds.items() if count)
            if told:
                rows.append((f"{room}, {how}", plain(told)))
    out(pairs(rows))
