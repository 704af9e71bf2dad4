"""`jobs re-edit` and `jobs versions`: a finished photo once more with another style or crop, beside the first."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

import typer

from console import versions
from console.client import Client
from console.jobs import Job
from console.rendering_versions import version_list
from console.terminal import AsOperator, Json, Key, OperatorKey, Url, now, out, print_json, run
from console.versions import Edited
from contracts.jobs import Status

_NONE = "none"  # for a style: leave the colours alone

JobId = Annotated[UUID, typer.Argument(metavar="JOB")]


def re_edit(
    ctx: typer.Context,
    job: JobId,
    style: Annotated[str | None, typer.Option(help="Another style, NAME or NAME@VERSION; none: no style.")] = None,
    strength: Annotated[float | None, typer.Option(min=0, max=1, help="How much of the style.")] = None,
    crop: Annotated[str | None, typer.Option(help="Aspect such as 1:1, 4:5, 16:9; none keeps the frame.")] = None,
    straighten: Annotated[
        bool | None, typer.Option("--straighten/--crooked", help="Whether the crop makes a crooked horizon level.")
    ] = None,
    variants: Annotated[str | None, typer.Option(metavar="JSON", help="The forms to deliver.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Make another version of a finished photo; only what depends on the change is done again."""
    given = {"style": style, "style_strength": strength, "crop": crop, "straighten": straighten}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if style == _NONE:
        wanted["style"] = None
    if variants is not None:
        try:
            wanted["variants"] = json.loads(variants)
        except ValueError as problem:
            raise typer.BadParameter("it is no JSON", param_hint="--variants") from problem
    if not wanted:
        raise typer.BadParameter("name what is to be otherwise, such as --style or --crop")

    async def work(api: Client) -> tuple[Edited, Job | None]:
        edited = await versions.re_edit(api, job, wanted)
        found: Job | None = None
        if watch:
            async for now_ in api.watch(edited.job_id):
                found = now_
        return edited, found

    edited, ended = run(ctx, url, api_key, work)
    if as_json:
        print_json(edited.model_dump(mode="json") | ({"status": ended.status} if ended else {}))
    else:
        out(f"{edited.job_id}  version {edited.version}" + (f"  {ended.status}" if ended else ""))
    raise typer.Exit(bool(ended and ended.status is not Status.SUCCEEDED))


def show_versions(
    ctx: typer.Context,
    job: JobId,
    as_operator: AsOperator = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
    operator_key: OperatorKey = None,
) -> None:
    """List all versions of a job's photo, with what each was asked for."""
    key = operator_key if as_operator else api_key
    found = run(ctx, url, key, lambda api: versions.versions(api, job), operator=as_operator)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        out(version_list(found, now()))
