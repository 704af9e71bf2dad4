"""Who may do what in the bucket: an identity per service, with rights by folder. What is not in the table is refused.

    folder        what lies there                             read by                  written by
    uploads/      files as they came                          ingest, bridge, output   ingest
    originals/    sealed ones                                 ingest, bridge, output   ingest
    jobs/         what phases make                            ingest, bridge, output   ingest, output
    calls/        what GPU functions make, and their marks    ingest, bridge, output   bridge
    transfers/    files of which a part is still to come      ingest                   ingest
    styles/       looks                                       ingest, bridge           ingest; set-up
    keys/         wrapped keys of sealed work                 ingest, bridge, output   ingest; set-up

Links are signed with these identities: a link leads no further than whoever signed it may go. The
orchestrator has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

BUCKET: Final = "safelight"
ADMIN: Final = "setup"
_READ_BY_ALL: Final = ("uploads", "originals", "jobs", "calls", "keys")
# fmt: off
RIGHTS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "ingest":     {"Read": (*_READ_BY_ALL, "styles", "transfers"),
                   "Write": ("uploads", "originals", "jobs", "styles", "transfers", "keys"),
                   "List": ("uploads", "originals", "jobs", "styles", "transfers", "keys")},
    "gpu-bridge": {"Read": (*_READ_BY_ALL, "styles"), "Write": ("calls",), "List": ("calls",)},
    "output":     {"Read": _READ_BY_ALL,              "Write": ("jobs",),  "List": ("jobs",)},
}
# fmt: on


def secret_of(service: str) -> str:
    """The name under which a service's secret is kept."""
    return f"SAFELIGHT_S3_SECRET_KEY_{service.upper().replace('-', '_')}"


def identities(secrets: Mapping[str, str]) -> dict[str, Any]:
    """SeaweedFS's file of identities. An access key is the service's name; set-up's is a secret as its secret is."""
    admin = _identity(ADMIN, secrets["SAFELIGHT_S3_ACCESS_KEY"], secrets["SAFELIGHT_S3_SECRET_KEY"], ["Admin"])
    services = [
        _identity(
            service,
            service,
            secrets[secret_of(service)],
            [f"{action}:{BUCKET}/{folder}/*" for action, folders in rights.items() for folder in folders],
        )
        for service, rights in RIGHTS.items()
    ]
    return {"identities": [admin, *services]}


def _identity(name: str, access: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {"name": name, "credentials": [{"accessKey": access, "secretKey": secret}], "actions": actions}
