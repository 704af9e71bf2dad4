"""`batches`: make them, see how far they are, stop them, let what failed in them work again."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from console import batches, rendering
from console.batches import Act
from console.terminal import AsOperator, Json, Key, Limit, OperatorKey, Reason, Url, now, out, print_json, run

app = typer.Typer(help="Jobs that were submitted together.", no_args_is_help=True)

Batch = Annotated[UUID, typer.Argument(metavar="BATCH")]


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What people call it.")] = "",
    pipeline: Annotated[str | None, typer.Option(help="What is to be done with each file.")] = None,
    style: Annotated[str | None, typer.Option(help="The style of each photo that names none.")] = None,
    crop: Annotated[str | None, typer.Option(help="The aspect of each photo that names none.")] = None,
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Who is told when it has ended.")] = None,
    duplicates: Annotated[
        Literal["reuse", "refuse", "keep"] | None, typer.Option(help="What becomes of a file that it has already.")
    ] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Make a batch; `submit --batch ID` puts jobs into it, until `batches close ID`."""
    about = {"pipeline": pipeline, "style": style, "webhook": webhook, "duplicates": duplicates}
    settings: dict[str, Any] = {key: value for key, value in about.items() if value is not None}
    if crop is not None:
        settings["options"] = {"crop": crop}
    made = run(ctx, url, api_key, lambda api: batches.create(api, name, settings))
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        out(rendering.batch_list([made], now()))


@app.command()
def close(
    ctx: typer.Context,
    batch: Batch,
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Take no more uploads into a batch; it has ended when its jobs have."""
    key = operator_key if as_operator else api_key
    found = run(ctx, url, key, lambda api: batches.close(api, batch), operator=as_operator)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering.batch_detail(found))


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Limit = 20,
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """List batches, newest first."""
    key = operator_key if as_operator else api_key
    found = run(ctx, url, key, lambda api: batches.newest(api, limit), operator=as_operator)
    if as_json:
        print_json([batch.model_dump(mode="json") for batch in found])
    else:
        out(rendering.batch_list(found, now()))


@app.command()
def show(
    ctx: typer.Context,
    batch: Batch,
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Show one batch: how many jobs are where, how far it is, how long the rest will take."""
    key = operator_key if as_operator else api_key
    found = run(ctx, url, key, lambda api: batches.show(api, batch), operator=as_operator)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering.batch_detail(found))


@app.command()
def groups(
    ctx: typer.Context,
    batch: Batch,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Show which photos of a batch were taken in a burst or look alike, and the best of each."""
    found = run(ctx, url, api_key, lambda api: batches.groups(api, batch))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering.batch_groups(found))


@app.command()
def cancel(
    ctx: typer.Context,
    batch: Batch,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """End every job of a batch that has not ended."""
    _act(ctx, url, operator_key if as_operator else api_key, batch, Act.CANCEL, reason, as_json, as_operator)


@app.command("retry-failed")
def retry_failed(
    ctx: typer.Context,
    batch: Batch,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Let the jobs of a batch that did not end well work again, from what failed."""
    _act(ctx, url, operator_key if as_operator else api_key, batch, Act.RETRY_FAILED, reason, as_json, as_operator)


def _act(
    ctx: typer.Context,
    url: str | None,
    key: str | None,
    batch: UUID,
    what: Act,
    reason: str,
    as_json: bool,
    operator: bool,
) -> None:
    acted = run(ctx, url, key, lambda api: batches.act(api, batch, what, reason), operator=operator)
    if as_json:
        print_json(acted.model_dump(mode="json"))
    else:
        out(f"{what}: {acted.jobs} jobs of batch {acted.id}")
