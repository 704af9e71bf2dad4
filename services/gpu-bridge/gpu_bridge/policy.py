"""Who may be given sensitive work: what a provider declares beside what a tenant requires. Pure, but for the file.

A provider is barred by each requirement that its declaration does not meet; what it does not say, it
does not meet. Own machines meet every policy, for there nothing leaves the house: so the own CPU is always
left. The decision is made anew each time that work is about to go out, so that a retry, an upgrade and a
replay obey the policy of that moment.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpu_bridge.catalog import FUNCTIONS

Agreement = Literal["BAA", "DPA", "FERPA", "SOC2"]
DEFAULT: Final = resources.files("gpu_bridge") / "policy.toml"


class Declared(BaseModel):
    """What a provider declares, as read on a day at a place. `own`: a machine of ours, and nothing else matters.

    `retention_s`: how long it keeps what a call brings and answers; None: it does not say. `agreements` are
    in force; `offered` are those that could be. `regions` is empty where it may run anywhere.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    own: bool = False
    retention_s: float | None = Field(default=None, ge=0)
    regions: tuple[str, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    offered: tuple[Agreement, ...] = ()
    as_of: date
    source: str = Field(min_length=1)


class Required(BaseModel):
    """What a tenant requires for sensitive work. No regions: any will do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agreements: tuple[Agreement, ...] = ()
    regions: tuple[str, ...] = ()
    retention_s_max: float = Field(ge=0)


class Policy(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    providers: Mapping[str, Declared]
    default: Required
    tenants: Mapping[str, Required] = Field(default_factory=dict)

    def of(self, tenant: str) -> Required:
        """What a tenant requires: its own row, else everybody's."""
        return self.tenants.get(tenant, self.default)

    def bars(self, tenant: str, provider: str) -> tuple[str, ...]:
        """Why a provider is not given a tenant's sensitive work, a sentence for each reason; empty when it may be."""
        declared = self.providers.get(provider)
        return ("it declares nothing",) if declared is None else why_barred(declared, self.of(tenant))

    def barred(self, tenant: str, names: Sequence[str]) -> dict[str, str]:
        """Those of the providers that are barred, and why."""
        found = {name: self.bars(tenant, name) for name in names}
        return {name: "; ".join(reasons) for name, reasons in found.items() if reasons}


def why_barred(declared: Declared, required: Required) -> tuple[str, ...]:
    """Each requirement that a declaration does not meet, in words."""
    if declared.own:
        return ()
    told = [f"no {name} is in force" for name in required.agreements if name not in declared.agreements]
    if required.regions and not declared.regions:
        told.append(f"it may run anywhere, and only {', '.join(required.regions)} is allowed")
    elif required.regions and (strange := [one for one in declared.regions if not _within(one, required.regions)]):
        told.append(f"it runs in {', '.join(strange)}, and only {', '.join(required.regions)} is allowed")
    if declared.retention_s is None:
        told.append("it does not say for how long it keeps data")
    elif declared.retention_s > required.retention_s_max:
        told.append(f"it keeps data for {declared.retention_s:g} s, and {required.retention_s_max:g} s are allowed")
    return tuple(told)


def _within(region: str, allowed: Sequence[str]) -> bool:
    return any(region == one or region.startswith(f"{one}-") for one in allowed)


class PolicyInvalid(Exception):
    """The file of policies cannot be used; the message says why."""


def read(path: Path | None = None) -> Policy:
    """The policies of a file, or those that ship. Raises PolicyInvalid."""
    try:
        found = Policy.model_validate(tomllib.loads((path or DEFAULT).read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise PolicyInvalid(f"{path}: {problem}") from problem
    except ValidationError as problem:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors())
        raise PolicyInvalid(f"{path or 'policy.toml'}: {where}") from problem
    for name in dict.fromkeys(name for function in FUNCTIONS for name in function.providers):
        if name not in found.providers:
            raise PolicyInvalid(f"{path}: providers.{name}: Field required")
    return found
