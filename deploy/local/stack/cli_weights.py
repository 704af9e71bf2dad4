"""`safelight weights`: the files of models that engines need, where an operator puts them before work comes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from stack.home import Home, Refusal

app = typer.Typer(no_args_is_help=True, help="Weights of engines: list, pull, verify.")
_out = Console()

MB = 1_000_000
Names = Annotated[list[str] | None, typer.Argument(help="Which; all when left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Folder = Annotated[
    Path | None,
    typer.Option(envvar="SAFELIGHT_WEIGHTS_DIR", help="Where they lie.", show_default="weights in the stack's folder"),
]
Noncommercial = Annotated[
    bool,
    typer.Option(
        "--allow-noncommercial",
        envvar="SAFELIGHT_ALLOW_NONCOMMERCIAL",
        help="Also those whose licence forbids commercial use.",
    ),
]
Mirror = Annotated[
    str,
    typer.Option(envvar="SAFELIGHT_WEIGHTS_MIRROR", help="A folder, or an address that holds the files by name."),
]


@app.command("list")
def list_(folder: Folder = None, allow_noncommercial: Noncommercial = False, as_json: AsJson = False) -> None:
    """Every file: where it stands, how big it is, what its licence allows, and which engines need it."""
    shelf = _shelf(folder, allow_noncommercial)
    rows = [_row(shelf, name) for name in _known(None)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("weights", "", "MB", "for", "licence", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        allowed = "" if row["commercial"] else "no commercial use: "
        engines = ", ".join(row["engines"])
        table.add_row(row["name"], row["state"], f"{row['bytes'] / MB:.1f}", engines, allowed + row["licence"])
    _out.print(table)


@app.command()
def pull(
    names: Names = None,
    folder: Folder = None,
    mirror: Mirror = "",
    allow_noncommercial: Noncommercial = False,
) -> None:
    """Fetch what is not here. Goes on where it was interrupted; a file that is not the pinned one is not kept."""
    from contracts.errors import SafelightError
    from gpu_functions.weights import WEIGHTS, usable

    shelf = _shelf(folder, allow_noncommercial)
    wrong = 0
    for name in _known(names) if names else usable(shelf):
        if not WEIGHTS[name].commercial and not allow_noncommercial:
            raise Refusal(f"{name} may not be used commercially ({WEIGHTS[name].licence}); see --allow-noncommercial")
        try:
            with _out.status(f"{name} ...") as line:
                shelf.pull(
                    name,
                    mirror,
                    lambda have, of, name=name, line=line: line.update(f"{name} {have / MB:.0f} of {of / MB:.0f} MB"),
                )
            _out.print(f"{name}: here", highlight=False)
        except SafelightError as problem:
            wrong = 1
            _out.print(f"{name}: {problem.detail}", highlight=False, soft_wrap=True)
    raise typer.Exit(wrong)


@app.command()
def verify(names: Names = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """Hash every file that is here. Exit status 1 when one is not the file that was pinned."""
    shelf = _shelf(folder, True)
    states = {name: shelf.state(name) for name in _known(names)}
    if as_json:
        typer.echo(json.dumps(states, indent=1))
    else:
        for name, state in states.items():
            _out.print(f"{name}: {state}", highlight=False)
    raise typer.Exit(int("wrong" in states.values()))


def _shelf(folder: Path | None, allow_noncommercial: bool) -> Any:
    if find_spec("gpu_functions") is None:
        raise Refusal("the engines are not installed here: run `uv sync`, or this command where they run")
    from gpu_functions.weights import Shelf

    return Shelf(folder or Home.here().weights, allow_noncommercial)


def _known(names: Iterable[str] | None) -> list[str]:
    from gpu_functions.weights import WEIGHTS

    wanted = list(names or WEIGHTS)
    if unknown := sorted(set(wanted) - set(WEIGHTS)):
        raise Refusal(f"there are no weights of the name {unknown[0]}; there are: {', '.join(WEIGHTS)}")
    return wanted


def _row(shelf: Any, name: str) -> dict[str, Any]:
    from gpu_functions.catalog import CATALOG

    weight = shelf.weight(name)
    engines = sorted({f"{row.function} {row.label}" for row in CATALOG if name in row.weights})
    return {
        "name": name,
        "state": shelf.state(name),
        "bytes": weight.size,
        "sha256": weight.sha256,
        "licence": weight.licence,
        "commercial": weight.commercial,
        "engines": engines,
        "url": weight.url,
    }
