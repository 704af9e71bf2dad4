"""`styles`: see them, learn one from pairs of photos, take one over from another tool, give one to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from console import rendering, styles
from console.board import board
from console.client import Client
from console.rendering_styles import style_list, style_versions
from console.styles import IMPORT, TRAIN, Style
from console.submitting import Submission, submit_all
from console.terminal import Json, Key, Url, given, now, out, print_json, run, say
from contracts.jobs import Status
from contracts.uploads import Lane

app = typer.Typer(help="Looks, learnt from pairs of photos or taken over as a .cube.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the style is called, such as wedding-2026.")]
Reference = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="A style; without a version, the newest.")]
InLane = Annotated[Lane | None, typer.Option(help="Who goes first; default: as the pipeline says.")]


@app.command("list")
def list_(ctx: typer.Context, as_json: Json = False, url: Url = None, api_key: Key = None) -> None:
    """List the styles that a photo may name, each with its newest version."""
    found = run(ctx, url, api_key, styles.newest)
    if as_json:
        print_json([style.model_dump(mode="json") for style in found])
    else:
        out(style_list(found, now()))


@app.command()
def show(ctx: typer.Context, style: Reference, as_json: Json = False, url: Url = None, api_key: Key = None) -> None:
    """Show the versions of a style, and how well each was learnt."""
    found = run(ctx, url, api_key, lambda api: styles.versions(api, style))
    if as_json:
        print_json([version.model_dump(mode="json") for version in found])
    else:
        out(style_versions(found, now()))


@app.command()
def train(
    ctx: typer.Context,
    name: Name,
    pairs: Annotated[
        Path,
        typer.Argument(exists=True, readable=True, metavar="ZIP|FOLDER", help="It holds the folders before and after."),
    ],
    lane: InLane = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it is learnt.")] = False,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Learn a style from pairs of photos: the same names in before and after, at least five."""
    with tempfile.TemporaryDirectory() as folder:
        archive = pairs
        if pairs.is_dir():
            archive = Path(folder) / f"{name}.zip"
            try:
                styles.pack(pairs, archive)
            except ValueError as problem:
                raise typer.BadParameter(str(problem), param_hint="ZIP|FOLDER") from problem
        _make(ctx, url, api_key, name, archive, TRAIN, lane, watch, as_json)


@app.command("import")
def import_(
    ctx: typer.Context,
    name: Name,
    look: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, metavar="LOOK.cube")],
    lane: InLane = None,
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Make a style of a 3D LUT from another tool; stays until it is checked."""
    _make(ctx, url, api_key, name, look, IMPORT, lane, True, as_json)


@app.command()
def export(
    ctx: typer.Context,
    style: Reference,
    output: Annotated[Path | None, typer.Option("--output", "-o", dir_okay=False, help="File to write.")] = None,
    part: Annotated[
        Literal["cube", "preview", "report", "style"],
        typer.Option(help="The LUT for other tools, the contact sheet, the report, or all that was learnt."),
    ] = "cube",
    as_json: Json = False,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Fetch a style's file and check its SHA-256: its .cube works in Lightroom, Resolve, Capture One."""
    path = run(ctx, url, api_key, lambda api: styles.export(api, style, part, output))
    if as_json:
        print_json({"path": str(path)})
    else:
        typer.echo(path)


def _make(
    ctx: typer.Context,
    url: str | None,
    key: str | None,
    name: str,
    file: Path,
    to: str,
    lane: Lane | None,
    watch: bool,
    as_json: bool,
) -> None:
    """Send the file; with `watch`, stay until its job has ended, and show the version that it made."""
    fields = given({"name": name, "lane": lane})
    with board(live=watch and not as_json) as changed:

        async def work(api: Client) -> tuple[Submission, Style | None]:
            [row] = await submit_all(api, [file], fields, watch=watch, changed=changed, to=to)
            done = row.job and row.job.status is Status.SUCCEEDED
            return row, await styles.made_by(api, name, row.job.id) if row.job and done else None

        row, style = run(ctx, url, key, work)
    if as_json:
        print_json(row.as_json() | {"style": style and style.model_dump(mode="json")})
    elif style:
        out(style_versions([style], now()))
    else:
        out(rendering.job_ids([row]))
    if error := row.error or (row.job and row.job.error):
        say(f"{file.name}: {error.detail} ({error.code})")
    raise typer.Exit(row.failed)
