"""`dead-letters`: what could not be done, for operators: list, show, replay, discard."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from console import acting, letters, rendering_letters, terminal
from console.client import Client
from console.letters import DryRun, Replay, ReplayAct, State
from console.terminal import (
    Assign,
    Force,
    Json,
    Limit,
    Newest,
    OperatorKey,
    Reason,
    Url,
    fail,
    given,
    moment,
    now,
    out,
    parameters,
    print_json,
    run,
    say,
)

app = typer.Typer(help="What could not be done; needs an operator's key.", no_args_is_help=True)
replays_app = typer.Typer(help="Replays of many dead letters.", no_args_is_help=True)
app.add_typer(replays_app, name="replays")

RATE_PER_S = 10.0

Letter = Annotated[str, typer.Argument(metavar="ID")]
Code = Annotated[str | None, typer.Option(help="Only this error code.")]
Phase = Annotated[str | None, typer.Option(help="Only this phase.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
Pipeline = Annotated[str | None, typer.Option(help="Only this pipeline.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Not older: 2026-01-31T12:00, or 30m, 2h, 7d ago.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Not younger.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    code: Code = None,
    phase: Phase = None,
    tenant: Tenant = None,
    pipeline: Pipeline = None,
    since: Since = None,
    until: Until = None,
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    limit: Limit = 20,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """List dead letters, newest first."""
    filters = given({**_filters(code, phase, tenant, pipeline, since, until), "state": state})
    found = run(ctx, url, operator_key, lambda api: letters.newest(api, filters, limit), operator=True)
    if as_json:
        print_json([letter.model_dump(mode="json", exclude_unset=True) for letter in found])
    else:
        out(rendering_letters.letter_list(found, now()))


@app.command()
def show(
    ctx: typer.Context, letter: Letter, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None
) -> None:
    """Show one dead letter: why, every attempt, the command, what the job had made."""
    found = run(ctx, url, operator_key, lambda api: letters.show(api, letter), operator=True)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering_letters.letter_detail(found, now()))


@app.command()
def replay(
    ctx: typer.Context,
    letter: Annotated[str | None, typer.Argument(metavar="ID")] = None,
    code: Code = None,
    phase: Phase = None,
    tenant: Tenant = None,
    pipeline: Pipeline = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Every open letter.")] = False,
    from_phase: Annotated[
        str | None,
        typer.Option("--from", metavar="PHASE", help="Begin with this phase, or `start`; default: what failed."),
    ] = None,
    assign: Assign = None,
    newest: Newest = False,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    rate: Annotated[float, typer.Option(min=0.01, help="Of many: how many a second at most.")] = RATE_PER_S,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Of many: do not ask.")] = False,
    reason: Reason = "",
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Do again what could not be done: one letter by its ID, or all that fit the filters."""
    filters = _filters(code, phase, tenant, pipeline, since, until)
    again = acting.again_from(from_phase, parameters(assign), newest, reason, force=force)
    if letter is not None:
        if filters or everything or dry_run:
            raise typer.BadParameter("an ID stands alone: filters, --all and --dry-run are for many letters")
        one = run(ctx, url, operator_key, lambda api: letters.replay(api, letter, again), operator=True)
        _print(one, as_json, lambda: out(rendering_letters.replayed(one)))
        return
    if not filters and not everything:
        raise typer.BadParameter("say which: an ID, filters, or --all")
    filters = filters or letters.EVERY
    if as_json and not dry_run and not yes:
        raise typer.BadParameter("--json asks nothing: add --yes")
    if dry_run or not yes:
        would = run(ctx, url, operator_key, lambda api: letters.dry_run(api, filters, again), operator=True)
        if dry_run:
            _print(would, as_json, lambda: out(rendering_letters.dry_run(would)))
            return
        _ask(would)

    async def work(api: Client) -> Replay:
        return await letters.replay_all(api, filters, again, rate)

    begun = run(ctx, url, operator_key, work, operator=True)
    _print(begun, as_json, lambda: out(rendering_letters.replay_list([begun], now())))


@app.command()
def discard(
    ctx: typer.Context,
    letter: Letter,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept in the audit.")],
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Put a dead letter away for good."""
    done = run(ctx, url, operator_key, lambda api: letters.discard(api, letter, reason), operator=True)
    _print(done, as_json, lambda: out(rendering_letters.replayed(done)))


# -- replays of many -------------------------------------------------------------------------


@replays_app.command("list")
def list_replays(
    ctx: typer.Context, limit: Limit = 20, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None
) -> None:
    """List replays, newest first."""
    found = run(ctx, url, operator_key, lambda api: letters.replays(api, limit), operator=True)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        out(rendering_letters.replay_list(found, now()))


@replays_app.command("show")
def show_replay(
    ctx: typer.Context, replay_id: Letter, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None
) -> None:
    """Show how far a replay is."""
    found = run(ctx, url, operator_key, lambda api: letters.show_replay(api, replay_id), operator=True)
    _print(found, as_json, lambda: out(rendering_letters.replay_list([found], now())))


@replays_app.command("pause")
def pause_replay(
    ctx: typer.Context, replay_id: Letter, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None
) -> None:
    """Let a replay begin nothing more until it is resumed."""
    _act_on_replay(ctx, url, operator_key, replay_id, ReplayAct.PAUSE, as_json)


@replays_app.command("resume")
def resume_replay(
    ctx: typer.Context, replay_id: Letter, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None
) -> None:
    """Let a paused replay go on."""
    _act_on_replay(ctx, url, operator_key, replay_id, ReplayAct.RESUME, as_json)


@replays_app.command("cancel")
def cancel_replay(
    ctx: typer.Context, replay_id: Letter, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None
) -> None:
    """End a replay; what it has replayed goes on."""
    _act_on_replay(ctx, url, operator_key, replay_id, ReplayAct.CANCEL, as_json)


def _act_on_replay(
    ctx: typer.Context, url: str | None, key: str | None, replay_id: str, what: ReplayAct, as_json: bool
) -> None:
    done = run(ctx, url, key, lambda api: letters.act_on_replay(api, replay_id, what), operator=True)
    _print(done, as_json, lambda: out(f"replay {done.id}: {done.state}"))


# -- shared ----------------------------------------------------------------------------------


def _filters(
    code: str | None, phase: str | None, tenant: str | None, pipeline: str | None, since: str | None, until: str | None
) -> dict[str, Any]:
    known = {"code": code, "phase": phase, "tenant": tenant, "pipeline": pipeline}
    return given({**known, "since": moment(since), "until": moment(until)})


def _ask(would: DryRun) -> None:
    """Say what a replay would do, and ask. Raises typer.Exit when there is nothing to do or no consent."""
    if not would.count:
        say("No open dead letter fits.")
        raise typer.Exit
    terminal.show(rendering_letters.dry_run(would))
    if not typer.confirm(f"Replay {would.count} dead letters?", err=True):
        raise fail("Nothing was replayed.")


def _print(what: Any, as_json: bool, shown: Any) -> None:
    if as_json:
        print_json(what.model_dump(mode="json"))
    else:
        shown()
