"""`safelight keys-at-rest`: which master keys wrap the keys of sealed work, and their rotation.

To rotate: put the new master in front of SAFELIGHT_MASTER_KEYS (`new:SECRET,old:SECRET`; in the embedded stack it
stands in secrets.json), restart the services, run `rotate`, and take the old one out once it wraps nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Annotated

import typer

from stack.home import Refusal

app = typer.Typer(no_args_is_help=True, help="Master keys of sealed work: list, rotate.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """How many tenants' keys each master wraps; the first is the one that wraps new ones."""
    _say(_run(rotates=False), as_json)


@app.command()
def rotate(as_json: AsJson = False) -> None:
    """Wrap every tenant's key by the first master. What is sealed stays as it is; not while tenants are erased."""
    _say(_run(rotates=True), as_json)


def _run(*, rotates: bool) -> Counter[str]:
    from contracts.errors import SafelightError
    from runtime.objects import Objects
    from runtime.settings import NatsSettings, S3Settings
    from stack.cli import complete_environment
    from stack.setup import note

    complete_environment()
    objects = Objects(S3Settings())
    try:
        if rotates:
            asyncio.run(note(NatsSettings(), "keys-at-rest.rotated", "tenants"))
        return asyncio.run(objects.vault.rotate() if rotates else objects.vault.wraps())
    except SafelightError as problem:
        raise Refusal(f"{problem.code}: {problem.detail}") from problem
    finally:
        objects.close()


def _say(wraps: Counter[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(wraps, indent=2))
        return
    for name, count in wraps.items():
        typer.echo(f"{name} wraps the keys of {count} tenants" if count else f"{name} wraps nothing")
