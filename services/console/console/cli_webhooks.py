"""`webhooks`: endpoints of a product, whether they are well, what they were told, telling it again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import typer
from rich.console import RenderableType
from rich.text import Text

from console import webhooks
from console.rendering import grid, plain, when
from console.terminal import Json, Key, Limit, Url, now, out, print_json, run, say

app = typer.Typer(help="Endpoints that are told what became of your jobs.", no_args_is_help=True)

Webhook = Annotated[UUID, typer.Argument(metavar="WEBHOOK")]
DAY_S: Final = 24 * 3600


@app.command()
def create(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(metavar="URL", help="Where POST requests are taken.")],
    event: Annotated[list[str] | None, typer.Option(help="What it is told: job.failed, ...; repeat it.")] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Make an endpoint. Its secret is printed this once."""
    made = run(ctx, url, api_key, lambda api: webhooks.create(api, address, event or []))
    if as_json:
        print_json(made.model_dump(mode="json"))
    else:
        out(str(made.id))
        out(made.secret or "")


@app.command("list")
def list_(ctx: typer.Context, limit: Limit = 20, as_json: Json = False, url: Url = None, api_key: Key = None) -> None:
    """List endpoints, newest first, and whether they are well."""
    found = run(ctx, url, api_key, lambda api: webhooks.newest(api, limit))
    if as_json:
        print_json([one.model_dump(mode="json", exclude={"secret"}) for one in found])
    else:
        out(_endpoints(found, now()))


@app.command()
def enable(ctx: typer.Context, webhook: Webhook, url: Url = None, api_key: Key = None) -> None:
    """Let an endpoint work again that was disabled."""
    run(ctx, url, api_key, lambda api: webhooks.enable(api, webhook, True))


@app.command()
def disable(ctx: typer.Context, webhook: Webhook, url: Url = None, api_key: Key = None) -> None:
    """Tell an endpoint nothing any more."""
    run(ctx, url, api_key, lambda api: webhooks.enable(api, webhook, False))


@app.command()
def delete(ctx: typer.Context, webhook: Webhook, url: Url = None, api_key: Key = None) -> None:
    """Delete an endpoint and the log of what it was told."""
    run(ctx, url, api_key, lambda api: webhooks.delete(api, webhook))


@app.command()
def rotate(
    ctx: typer.Context,
    webhook: Webhook,
    overlap: Annotated[int, typer.Option(min=0, help="For how many seconds the old secret signs as well.")] = DAY_S,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Print a new secret; the old one goes on signing for a while."""
    out(run(ctx, url, api_key, lambda api: webhooks.rotate(api, webhook, overlap)))


@app.command()
def ping(ctx: typer.Context, webhook: Webhook, url: Url = None, api_key: Key = None) -> None:
    """Tell an endpoint something that means nothing; `deliveries` shows what came of it."""
    out(run(ctx, url, api_key, lambda api: webhooks.ping(api, webhook)).id)


@app.command()
def deliveries(
    ctx: typer.Context,
    webhook: Webhook,
    status: Annotated[str | None, typer.Option(help="pending, delivered or failed.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Show what an endpoint was told, newest first."""
    found = run(ctx, url, api_key, lambda api: webhooks.deliveries(api, webhook, status, limit))
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        out(_deliveries(found, now()))


@app.command()
def replay(
    ctx: typer.Context,
    webhook: Webhook,
    message: Annotated[str | None, typer.Argument(metavar="MESSAGE", help="One delivery, by its id.")] = None,
    since: Annotated[datetime | None, typer.Option(help="All that has failed since then.")] = None,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Tell it again: one delivery, or all that failed since a time."""
    if (message is None) == (since is None):
        raise typer.BadParameter("write the id of a delivery, or --since")
    if message is not None:
        one = message
        run(ctx, url, api_key, lambda api: webhooks.replay(api, webhook, one))
    elif since is not None:
        at = since.astimezone()
        count = run(ctx, url, api_key, lambda api: webhooks.replay_since(api, webhook, at))
        say(f"{count} deliveries are told again.")


def _endpoints(found: list[webhooks.Webhook], at: datetime) -> RenderableType:
    table = grid("webhook", "made", "state", "events", "url")
    for one in found:
        failing = f"failing since {when(one.failing_since, at)}" if one.failing_since else "well"
        state = failing if one.enabled else f"disabled {one.disabled_code or ''}".strip()
        table.add_row(str(one.id), when(one.created_at, at), state, " ".join(map(plain, one.events)), plain(one.url))
    return table if found else Text("No webhooks.", "dim")


def _deliveries(found: list[webhooks.Delivery], at: datetime) -> RenderableType:
    table = grid("delivery", "told", "type", "status", "tries", "next")
    for one in found:
        due = when(one.due_at, at) if one.due_at else ""
        table.add_row(plain(one.id), when(one.created_at, at), plain(one.type), plain(one.status), str(one.tries), due)
    return table if found else Text("Nothing was told.", "dim")
