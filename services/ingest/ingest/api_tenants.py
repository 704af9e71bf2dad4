"""The HTTP surface for operators: tenants and API keys; and what the other services ask of keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from contracts.errors import error
from ingest import keys, tenants
from ingest.limits import Limits
from ingest.options import defaults
from ingest.tenants import Askers, Tenants
from runtime import clock
from runtime.http import Bounded, Operator, responses, storable
from runtime.idempotency import shown_once
from runtime.keys import INTERNAL_ASKER, OF_OPERATORS, OF_TENANTS, Asker, Given, Scope

router = APIRouter(prefix="/v1/tenants", tags=["tenants"], route_class=Bounded)
internal = APIRouter(include_in_schema=False)

YEAR_S: Final = 366 * 24 * 3600
DAY_S: Final = 24 * 3600
OPERATORS: Final = "-"  # in a tenant's stead: the keys of operators

_REFUSALS: Final = ("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID", "DATABASE_UNAVAILABLE")
_READS: Final = responses(*_REFUSALS, "NOT_FOUND")
_CHANGES: Final = responses(*_REFUSALS, "NOT_FOUND", "STATE_CONFLICT")

Title = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200), AfterValidator(storable)]
KeyName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(storable)
]
Defaults = Annotated[dict[str, JsonValue], AfterValidator(defaults)]
TenantName = Annotated[str, Path(pattern=f"^{tenants.NAME}$")]
Owner = Annotated[str, Path(pattern=f"^({OPERATORS}|{tenants.NAME})$", description="a tenant; `-` for operators")]
KeyId = Annotated[str, Path(pattern=f"^{keys.ID}$")]


def _hands(request: Request) -> Tenants:
    found: Tenants = request.app.state.tenants
    return found


Hands = Annotated[Tenants, Depends(_hands)]


class NewTenant(BaseModel):
    """A tenant to be. `limits` are those that are not everybody's, `options` the defaults of its uploads' options."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=f"^{tenants.NAME}$")]
    title: Title = ""
    limits: Limits = Limits()
    options: Defaults = Field(default_factory=dict)


class TenantChange(BaseModel):
    """What is to be otherwise; what is left out stays. `limits` and `options` are replaced as a whole."""

    model_config = ConfigDict(extra="forbid")

    title: Title | None = None
    limits: Limits | None = None
    options: Defaults | None = None


class TenantView(BaseModel):
    """A tenant. `limits` and `options` are what was set for it."""

    name: str
    title: str
    limits: dict[str, JsonValue]
    options: dict[str, JsonValue]
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str


class TenantPage(BaseModel):
    """Tenants by name."""

    items: list[TenantView]
    next_cursor: str | None


class NewKey(BaseModel):
    """A key to be: who has it, what it may do, and for how many seconds (null: until it is revoked)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "web", "scopes": ["upload"]}]})

    name: KeyName
    scopes: set[Scope] | None = Field(default=None, min_length=1, description="default: all of its kind")
    lives_s: int | None = Field(default=None, ge=60, le=10 * YEAR_S)


class Rotation(BaseModel):
    """For how many seconds the old key works on beside the new one."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: int = Field(default=DAY_S, ge=0, le=YEAR_S)


class KeyView(BaseModel):
    """A key, without what makes it one. `prefix` is how it begins."""

    id: str
    prefix: str
    tenant: str | None
    name: str
    scopes: list[Scope]
    state: Literal["working", "expired", "revoked"]
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    replaces: str | None


class KeyMade(KeyView):
    """A new key. `key` is shown this once, and null in the answer to a repeated request."""

    key: str | None


class KeyList(BaseModel):
    """Keys, newest first; those that do not work any more too."""

    items: list[KeyView]


@router.post("", status_code=201, responses=responses(*_REFUSALS, "STATE_CONFLICT"))
async def make(hands: Hands, operator: Operator, body: NewTenant) -> TenantView:
    """A new tenant. It has no key yet."""
    return _tenant(await hands.make(body.name, _by(operator), **_settings(body)))


@router.get("", responses=responses(*_REFUSALS))
async def page(
    hands: Hands,
    _operator: Operator,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str, Query(pattern=f"^({tenants.NAME})?$")] = "",
) -> TenantPage:
    """Tenants by name. One whose keys the environment names is here when it was made here too."""
    found = await hands.page(limit + 1, cursor)
    more = found[limit - 1].name if len(found) > limit else None
    return TenantPage(items=[_tenant(one) for one in found[:limit]], next_cursor=more)


@router.get("/{tenant}", responses=_READS)
async def show(hands: Hands, _operator: Operator, tenant: TenantName) -> TenantView:
    """One tenant."""
    return _tenant(await hands.one(tenant))


@router.patch("/{tenant}", responses=_READS)
async def change(hands: Hands, operator: Operator, tenant: TenantName, body: TenantChange) -> TenantView:
    """Change what is named; the rest stays."""
    return _tenant(await hands.change(tenant, _by(operator), **_settings(body)))


@router.post("/{tenant}/keys", status_code=201, responses=_READS)
async def make_key(request: Request, hands: Hands, operator: Operator, tenant: Owner, body: NewKey) -> KeyMade:
    """A new key. It is shown in this answer and never again, not even to the same Idempotency-Key."""
    shown_once(request, "key")
    kind = OF_OPERATORS if tenant == OPERATORS else OF_TENANTS
    scopes = body.scopes or kind
    if not scopes <= kind:
        raise error("REQUEST_INVALID", f"scopes: such a key may have {', '.join(sorted(kind))}")
    expires_at = clock.now() + timedelta(seconds=body.lives_s) if body.lives_s else None
    made = await hands.make_key(_whose(tenant), _by(operator), body.name, list(scopes), expires_at)
    return _made(*made)


@router.get("/{tenant}/keys", responses=_READS)
async def list_keys(hands: Hands, _operator: Operator, tenant: Owner) -> KeyList:
    """The keys of a tenant, or of operators."""
    return KeyList(items=[KeyView(**_key(one)) for one in await hands.keys(_whose(tenant))])


@router.post("/{tenant}/keys/{key_id}/rotate", status_code=201, responses=_CHANGES)
async def rotate(
    request: Request, hands: Hands, operator: Operator, tenant: Owner, key_id: KeyId, body: Rotation | None = None
) -> KeyMade:
    """A new key in the stead of this one, which works on for a while: time to put the new one in its place."""
    shown_once(request, "key")
    overlap = timedelta(seconds=(body or Rotation()).overlap_s)
    return _made(*await hands.rotate(_whose(tenant), key_id, _by(operator), overlap))


@router.post("/{tenant}/keys/{key_id}/revoke", responses=_READS)
async def revoke(hands: Hands, operator: Operator, tenant: Owner, key_id: KeyId) -> KeyView:
    """Take a key back. Every service refuses it within 15 s."""
    return KeyView(**_key(await hands.revoke(_whose(tenant), key_id, _by(operator))))


@internal.get(INTERNAL_ASKER)
async def asker(request: Request, given: Given) -> Asker:
    """Whose key or grant the request carries, for the other services; the front door leads nobody here."""
    askers: Askers = request.app.state.askers
    found = await askers(given.credentials) if given else None
    if found is None:
        raise error("UNAUTHENTICATED")
    return found


def _whose(owner: str) -> str | None:
    return None if owner == OPERATORS else owner


def _settings(body: NewTenant | TenantChange) -> dict[str, Any]:
    """What was named of title, limits, options."""
    named = body.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude={"name"})
    return {name: value for name, value in named.items() if getattr(body, name) is not None}


def _by(operator: str) -> str:
    return f"operator:{operator}"


def _tenant(tenant: tenants.Tenant) -> TenantView:
    return TenantView.model_validate({name: getattr(tenant, name) for name in TenantView.model_fields})


def _made(key: tenants.Key, secret: str) -> KeyMade:
    return KeyMade(**_key(key), key=secret)


def _key(key: tenants.Key) -> dict[str, Any]:
    known = {name: getattr(key, name) for name in KeyView.model_fields if name not in ("prefix", "state")}
    over = key.expires_at is not None and key.expires_at <= clock.now()
    state = "revoked" if key.revoked_at else "expired" if over else "working"
    return {**known, "prefix": keys.prefix(key.id), "state": state}
