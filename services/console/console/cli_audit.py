"""`audit`: who did, saw or moved what, for operators: list, export, verify."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from console import audit, rendering_audit
from console.client import Client, ClientError
from console.terminal import Json, Limit, OperatorKey, Url, fail, given, moment, out, print_json, run, say

app = typer.Typer(help="Who did, saw or moved what; needs an operator's key.", no_args_is_help=True)

Since = Annotated[str | None, typer.Option(metavar="TIME", help="Not older: 2026-01-31T12:00, or 30m, 2h, 7d ago.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    subject: Annotated[str | None, typer.Option(help="Only what was done to this id.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of what is this tenant's.")] = None,
    who: Annotated[
        str | None, typer.Option(help="Only this one's acts: tenant:NAME, operator:NAME, room:NAME.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, e.g. artifact.read.")] = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Not younger.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """List the audit's lines, newest first."""
    wanted = {"subject": subject, "tenant": tenant, "who": who, "action": action}
    filters = given({**wanted, "since": moment(since), "until": moment(until)})
    found = run(ctx, url, operator_key, lambda api: audit.newest(api, filters, limit), operator=True)
    if as_json:
        print_json([line.model_dump(mode="json") for line in found])
    else:
        out(rendering_audit.audit_list(found))


@app.command()
def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to write it; it is replaced.")],
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Save every line, oldest first, as JSON lines."""
    run(ctx, url, operator_key, lambda api: audit.export(api, file), operator=True)
    _verified(file, None)


@app.command("verify")
def verify_(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="An export; default: now.")] = None,
    head: Annotated[
        str | None, typer.Option(metavar="NUMBER:HASH", help="A head that was kept before: it must still be there.")
    ] = None,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Check that no line was changed, taken out or put in. It is checked here, not by the service."""
    if file:
        _verified(file, head)
        return

    async def fetched(api: Client) -> Path:
        return await audit.export(api, Path(folder) / "audit.jsonl")

    with tempfile.TemporaryDirectory() as folder:
        _verified(run(ctx, url, operator_key, fetched, operator=True), head)


def _verified(file: Path, head: str | None) -> None:
    try:
        number, hash_ = audit.check(file, head)
    except ClientError as problem:
        raise fail(f"{problem.detail} ({problem.code})") from problem
    say(f"{number} lines, unbroken. Keep this head; `--head` proves later that nothing was cut off:")
    typer.echo(f"{number}:{hash_}")
