"""`tenants`, `keys`, for operators: who may ask, with which keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from console import tenants
from console.rendering_tenants import key_list, tenant_list
from console.tenants import Key
from console.terminal import Json, OperatorKey, Url, given, now, out, print_json, run, say

app = typer.Typer(help="Who may ask; needs an operator's key.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of tenants and operators; needs an operator's key.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TENANT")]
Title = Annotated[str | None, typer.Option(help="What people call it.")]
Owner = Annotated[str, typer.Argument(metavar="TENANT", help="Whose keys; `-` for operators.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")]


@app.command("list")
def list_(ctx: typer.Context, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None) -> None:
    """List tenants, by name."""
    found = run(ctx, url, operator_key, tenants.every, operator=True)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        out(tenant_list(found, now()))


@app.command()
def make(
    ctx: typer.Context,
    name: Name,
    title: Title = None,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Make a tenant. It has no key yet."""
    about = given({"title": title})
    _shown(ctx, url, operator_key, lambda api: tenants.make(api, name, about), as_json)


@app.command()
def change(
    ctx: typer.Context,
    name: Name,
    title: Title = None,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Change a tenant; what is not named stays."""
    about = given({"title": title})
    _shown(ctx, url, operator_key, lambda api: tenants.change(api, name, about), as_json)


def _shown(ctx: typer.Context, url: str | None, key: str | None, work: Any, as_json: bool) -> None:
    tenant = run(ctx, url, key, work, operator=True)
    if as_json:
        print_json(tenant.model_dump(mode="json"))
    else:
        out(tenant_list([tenant], now()))


# -- keys ------------------------------------------------------------------------------------


@keys_app.command("list")
def list_keys(
    ctx: typer.Context, owner: Owner, as_json: Json = False, url: Url = None, operator_key: OperatorKey = None
) -> None:
    """List the keys of a tenant, newest first."""
    found = run(ctx, url, operator_key, lambda api: tenants.keys(api, owner), operator=True)
    if as_json:
        print_json([one.model_dump(mode="json", exclude={"key"}) for one in found])
    else:
        out(key_list(found, now()))


@keys_app.command("make")
def make_key(
    ctx: typer.Context,
    owner: Owner,
    name: Annotated[str, typer.Option(help="Who has it: web, phone-app.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="upload, read; an operator's: read, operate. May be repeated; default: all."),
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="How long it works; default: until revoked.")] = None,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Make a key. It is printed once, on stdout; nobody can show it again."""
    about = given({"name": name, "scopes": scope or None, "lives_s": days and round(days * 24 * 3600)})
    _made(run(ctx, url, operator_key, lambda api: tenants.make_key(api, owner, about), operator=True), as_json)


@keys_app.command()
def rotate(
    ctx: typer.Context,
    owner: Owner,
    id_: Id,
    overlap_h: Annotated[float, typer.Option(min=0, help="Hours for which the old key works on.")] = 24,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Make a new key in the stead of one, which works on for a while. The new one is printed once, on stdout."""
    about = {"overlap_s": round(overlap_h * 3600)}
    _made(run(ctx, url, operator_key, lambda api: tenants.rotate(api, owner, id_, about), operator=True), as_json)


@keys_app.command()
def revoke(
    ctx: typer.Context,
    owner: Owner,
    id_: Id,
    as_json: Json = False,
    url: Url = None,
    operator_key: OperatorKey = None,
) -> None:
    """Take a key back: every service refuses it within 15 s."""
    found = run(ctx, url, operator_key, lambda api: tenants.revoke(api, owner, id_), operator=True)
    if as_json:
        print_json(found.model_dump(mode="json", exclude={"key"}))
    else:
        out(key_list([found], now()))


def _made(key: Key, as_json: bool) -> None:
    if as_json:
        print_json(key.model_dump(mode="json"))
    else:
        whose = "operators" if key.tenant is None else key.tenant
        say(f"{key.name} of {whose} ({', '.join(key.scopes)}); it is shown this once:")
        typer.echo(key.key)
