"""The users' commands: submit files, follow jobs, fetch what came out; and those of who looks after them.

`client` is a typer app that any program can take into its own: `app.add_typer(client)`, and
`app(obj=discover)`, where `discover()` returns the Connection of a stack that runs here, or None.
What the commands share is in `terminal`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from console import batches, rendering
from console.board import board
from console.cli_audit import app as audit_app
from console.cli_batches import app as batches_app
from console.cli_erasures import app as erasures_app
from console.cli_jobs import app as jobs_app
from console.cli_letters import app as letters_app
from console.cli_providers import app as providers_app
from console.cli_providers import gpu_app, upgrade
from console.cli_styles import app as styles_app
from console.cli_tenants import app as tenants_app
from console.cli_tenants import keys_app
from console.cli_webhooks import app as webhooks_app
from console.client import Client
from console.submitting import Submission, submit_all
from console.terminal import AsOperator, Json, Key, OperatorKey, Url, now, out, print_json, run, say
from contracts.uploads import Lane

client = typer.Typer(help="Submit files and follow their jobs.", no_args_is_help=True)
client.add_typer(jobs_app, name="jobs")
client.add_typer(batches_app, name="batches")
client.add_typer(styles_app, name="styles")
client.add_typer(webhooks_app, name="webhooks")
client.add_typer(letters_app, name="dead-letters")
client.add_typer(audit_app, name="audit")
client.add_typer(erasures_app, name="erase")
client.add_typer(providers_app, name="providers")
client.add_typer(gpu_app, name="gpu")
client.add_typer(tenants_app, name="tenants")
client.add_typer(keys_app, name="keys")
client.command()(upgrade)

NEW: Final = "new"


def _batch(text: str) -> str:
    try:
        return text if text == NEW else str(UUID(text))
    except ValueError as problem:
        raise typer.BadParameter("write the id of a batch, or `new`") from problem


@client.command()
def submit(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, metavar="FILE")],
    pipeline: Annotated[str, typer.Option(help="What is to be done.")] = "photo",
    style: Annotated[
        str | None, typer.Option(help="A style, NAME or NAME@VERSION; none leaves the colours alone.")
    ] = None,
    strength: Annotated[float | None, typer.Option(min=0, max=1, help="How much of the style.")] = None,
    crop: Annotated[str | None, typer.Option(help="Aspect such as 1:1, 4:5, 16:9; none keeps the frame.")] = None,
    variants: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A JSON file: the table of forms to deliver.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Of a document, with commas between, such as en,es: hints.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Which fields are read out of a document, such as report-card.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="ID|new", parser=_batch, help="The batch that the jobs belong to.")
    ] = None,
    lane: Annotated[Lane | None, typer.Option(help="Who goes first; default: interactive, in a batch bulk.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until every job has ended.")] = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Upload files; each becomes a job."""
    options = {"pipeline": pipeline, "style": style, "style_strength": strength, "crop": crop, "lane": lane}
    options |= {"languages": languages, "template": template, "variants": variants.read_text() if variants else None}
    fields = {name: str(value) for name, value in options.items() if value is not None}
    with board(live=watch and not as_json) as show:

        async def work(api: Client) -> list[Submission]:
            if batch == NEW:
                name = f"{len(files)} files, {datetime.now().astimezone():%Y-%m-%d %H:%M}"
                fields["batch"] = str((await batches.create(api, name)).id)
            elif batch:
                fields["batch"] = batch
            return await submit_all(api, files, fields, watch=watch, changed=show)

        rows = run(ctx, url, api_key, work)
    if as_json:
        print_json([row.as_json() | {"batch_id": fields.get("batch")} for row in rows])
    else:
        if watch:
            out(rendering.submissions(rows, now()))
        out(rendering.job_ids(rows))
        if batch:
            out(f"batch {fields['batch']}")
        for row in rows:
            if error := row.error or (row.job and row.job.error):
                say(f"{row.path.name}: {error.detail} ({error.code})")
    raise typer.Exit(any(row.failed for row in rows))


@client.command()
def show(
    ctx: typer.Context,
    job: Annotated[UUID, typer.Argument(metavar="JOB")],
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Show one job: its phases, its trace, what came out."""
    key = operator_key if as_operator else api_key
    found = run(ctx, url, key, lambda api: api.job(job), operator=as_operator)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering.job_detail(found, now()))


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
        found = [made for made in await api.artifacts(job) if phase in (None, made.phase)]
        if output is None:
            if not as_json:
                out(rendering.artifact_list(found))
            return [made.model_dump(mode="json") for made in found]
        fetched = []
        for made in found:
            path = await api.download(made, output)
            if not as_json:
                typer.echo(path)
            fetched.append({**made.model_dump(mode="json"), "path": str(path)})
        return fetched

    told = run(ctx, url, api_key, work)
    if as_json:
        print_json(told)
