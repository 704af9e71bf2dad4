"""`jobs`: list them, stop them, let them stand still, go on, work again; see how one came to where it is."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer

from console import acting, rendering
from console.acting import Act, Acted
from console.cli_versions import re_edit, show_versions
from console.client import Client, ClientError
from console.jobs import Error
from console.terminal import (
    AsOperator,
    Assign,
    Force,
    Json,
    Key,
    Limit,
    Newest,
    OperatorKey,
    Reason,
    Url,
    given,
    now,
    out,
    parameters,
    print_json,
    run,
    say,
)
from contracts.jobs import Status

app = typer.Typer(help="List jobs, and steer them. Alone, it lists the newest.", invoke_without_command=True)
app.command("re-edit")(re_edit)
app.command("versions")(show_versions)

InStatus = Annotated[Status | None, typer.Option("--status", help="Only jobs in this status.")]
OfPipeline = Annotated[str | None, typer.Option("--pipeline", help="Only jobs of this pipeline.")]
OfBatch = Annotated[UUID | None, typer.Option("--batch", help="Only jobs of this batch.")]
OfTenant = Annotated[str | None, typer.Option("--tenant", help="Whose, for an operator.")]
Jobs = Annotated[list[UUID], typer.Argument(metavar="JOB...")]
Job = Annotated[UUID, typer.Argument(metavar="JOB")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="PHASE",
        help="Begin with this phase, or `start`, or `degraded` for what a lesser engine did; default: what failed.",
    ),
]


@app.callback()
def jobs(
    ctx: typer.Context,
    status: InStatus = None,
    pipeline: OfPipeline = None,
    batch: OfBatch = None,
    limit: Limit = 20,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """List jobs, and steer them. Alone, it lists the newest."""
    if ctx.invoked_subcommand:
        if as_json or status or pipeline or batch:
            raise typer.BadParameter(f"options go behind the command: jobs {ctx.invoked_subcommand} ...")
    else:
        _list(ctx, url, api_key, {"status": status, "pipeline": pipeline, "batch": batch}, limit, as_json)


@app.command("list")
def list_(
    ctx: typer.Context,
    status: InStatus = None,
    pipeline: OfPipeline = None,
    batch: OfBatch = None,
    tenant: OfTenant = None,
    limit: Limit = 20,
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """List jobs, newest first."""
    query = {"status": status, "pipeline": pipeline, "batch": batch, "tenant": tenant}
    key = operator_key if as_operator else api_key
    _list(ctx, url, key, query, limit, as_json, operator=as_operator)


@app.command()
def cancel(
    ctx: typer.Context,
    job: Jobs,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """End jobs; what runs of them is asked to stop."""
    _act(ctx, url, operator_key if as_operator else api_key, job, Act.CANCEL, reason, as_json, as_operator)


@app.command()
def pause(
    ctx: typer.Context,
    job: Jobs,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Let jobs begin nothing more until they are resumed."""
    _act(ctx, url, operator_key if as_operator else api_key, job, Act.PAUSE, reason, as_json, as_operator)


@app.command()
def resume(
    ctx: typer.Context,
    job: Jobs,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Let paused jobs go on."""
    _act(ctx, url, operator_key if as_operator else api_key, job, Act.RESUME, reason, as_json, as_operator)


@app.command()
def retry(
    ctx: typer.Context,
    job: Job,
    from_phase: From = None,
    assign: Assign = None,
    newest: Newest = False,
    force: Force = False,
    reason: Reason = "",
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Let an ended job work again; what went well before is kept."""
    again = acting.again_from(from_phase, parameters(assign), newest, reason, force=force)
    key = operator_key if as_operator else api_key
    acted = run(ctx, url, key, lambda api: acting.retry(api, job, again), operator=as_operator)
    if as_json:
        print_json(acted.model_dump(mode="json"))
    else:
        out(rendering.acted_list([acted], now()))


@app.command()
def history(
    ctx: typer.Context,
    job: Job,
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """Show every decision about a job, and what it waits for."""
    key = operator_key if as_operator else api_key
    found = run(ctx, url, key, lambda api: acting.history(api, job), operator=as_operator)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        out(rendering.history(found, now()))


def _list(
    ctx: typer.Context,
    url: str | None,
    key: str | None,
    query: dict[str, Any],
    limit: int,
    as_json: bool,
    operator: bool = False,
) -> None:
    asked = {name: str(value) for name, value in given(query).items()}
    found = run(ctx, url, key, lambda api: api.jobs(limit=limit, **asked), operator=operator)
    if as_json:
        print_json([job.model_dump(mode="json") for job in found])
    else:
        out(rendering.job_list(found, now()))


def _act(
    ctx: typer.Context,
    url: str | None,
    key: str | None,
    jobs: list[UUID],
    what: Act,
    reason: str,
    as_json: bool,
    operator: bool,
) -> None:
    """Each job for itself: what one refuses does not keep the others."""

    async def work(api: Client) -> tuple[list[Acted], dict[UUID, Error]]:
        done, refused = [], {}
        for job in jobs:
            try:
                done.append(await acting.act(api, job, what, reason))
            except ClientError as problem:
                refused[job] = Error(code=problem.code, detail=problem.detail)
        return done, refused

    done, refused = run(ctx, url, key, work, operator=operator)
    if as_json:
        errors = [{"job_id": str(job), "error": error.model_dump(mode="json")} for job, error in refused.items()]
        print_json([one.model_dump(mode="json") for one in done] + errors)
    else:
        if done:
            out(rendering.acted_list(done, now()))
        for job, error in refused.items():
            say(f"{job}: {error.detail} ({error.code})")
    raise typer.Exit(bool(refused))
