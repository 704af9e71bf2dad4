"""`providers`, `gpu`, `upgrade`, for operators: who does GPU work, what that costs, and the CPU's work done again."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import typer

from console import providers, rendering_providers
from console.client import Client
from console.providers import Provider, Say, Upgraded
from console.terminal import Json, OperatorKey, Reason, Url, fail, given, now, out, print_json, run, say

app = typer.Typer(help="Who does GPU work; needs an operator's key.", no_args_is_help=True)
gpu_app = typer.Typer(help="Try a GPU provider; needs an operator's key.", no_args_is_help=True)

RATE_PER_S: Final = 5.0

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `providers list` names it.")]


@app.command("list")
def list_(ctx: typer.Context, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None) -> None:
    """List providers: whether they take work, and why not."""
    found = run(ctx, url, operator_key, providers.every, operator=True)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        out(rendering_providers.provider_list(found, now()))


@app.command()
def pause(
    ctx: typer.Context,
    name: Name,
    reason: Reason = "",
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Give a provider nothing new until it is resumed; what it has goes on."""
    _say(ctx, url, operator_key, name, Say.PAUSE, reason, as_json)


@app.command()
def resume(
    ctx: typer.Context,
    name: Name,
    reason: Reason = "",
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Let a provider work again."""
    _say(ctx, url, operator_key, name, Say.RESUME, reason, as_json)


@app.command()
def drain(
    ctx: typer.Context,
    name: Name,
    reason: Reason = "",
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """As pause, because it is to be empty: `list` shows how many calls it still has."""
    _say(ctx, url, operator_key, name, Say.DRAIN, reason, as_json)


@app.command()
def costs(
    ctx: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=366, help="Of so many last days.")] = 30,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Show what was bought, what it took and what it cost."""
    found = run(ctx, url, operator_key, lambda api: providers.costs(api, days, tenant), operator=True)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering_providers.cost_list(found))


@gpu_app.callback()
def gpu() -> None:
    """Try a GPU provider; needs an operator's key."""


@gpu_app.command("test")
def try_out(
    ctx: typer.Context,
    provider: Annotated[str, typer.Option(help="As `providers list` names it.")],
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Let a provider style a picture of 16 x 16 pixels, by the whole way. It is paid for."""
    if not as_json:
        say(f"Testing {provider}; a cold start may take minutes ...")
    found = run(ctx, url, operator_key, lambda api: providers.test(api, provider), operator=True)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering_providers.tested(found))
    if advice := providers.advice(found):
        say(advice)
    raise typer.Exit(not found.ok)


def upgrade(
    ctx: typer.Context,
    degraded: Annotated[
        bool, typer.Option("--degraded", help="Jobs of which a lesser engine did a part (CPU in place of GPU).")
    ] = False,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    batch: Annotated[UUID | None, typer.Option(help="Only jobs of this batch.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, those that have waited longest first.")] = 100,
    rate: Annotated[float, typer.Option(min=0.01, help="How many a second at most.")] = RATE_PER_S,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also when no GPU provider takes work.")] = False,
    reason: Reason = "",
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Let succeeded jobs do again what a lesser engine did, when the GPU is back. Needs an operator's key."""
    if not degraded:
        raise typer.BadParameter("say what is to be upgraded: --degraded")
    which = given({"tenant": tenant, "batch": str(batch) if batch else None})

    async def work(api: Client) -> Upgraded | list[Provider]:
        if not dry_run and not anyway:
            known = await providers.every(api)
            if not any(one.is_gpu_at_work for one in known):
                return known
        if not dry_run and not as_json:
            say(f"At most {limit} jobs, {rate:g} a second ...")
        return await providers.upgrade(api, which, limit, rate, dry_run=dry_run, reason=reason)

    found = run(ctx, url, operator_key, work, operator=True)
    if not isinstance(found, Upgraded):
        raise fail(_no_gpu(found))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering_providers.upgraded(found, dry_run=dry_run))


def _no_gpu(known: list[Provider]) -> str:
    gpus = [one for one in known if one.here and one.device == "gpu"]
    states = [f"{one.name} is {one.mode}" if one.mode != "working" else f"{one.name} takes no work" for one in gpus]
    why = ", ".join(states) or "none is set up"
    return f"No GPU provider takes work ({why}): all would be degraded again. --anyway upgrades nonetheless."


def _say(
    ctx: typer.Context, url: str | None, key: str | None, name: str, what: Say, reason: str, as_json: bool
) -> None:
    done = run(ctx, url, key, lambda api: providers.say(api, name, what, reason), operator=True)
    if as_json:
        print_json(done.model_dump(mode="json"))
    else:
        out(rendering_providers.provider_list([done], now()))
