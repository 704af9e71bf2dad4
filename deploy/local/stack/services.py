"""The five services, and who gets to know what.

Least privilege: a service's environment holds its own credentials and settings and nobody else's.
The table is the whole truth; a test compares it with compose and with the services' settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Final

from stack import storage
from stack.home import Home, Refusal
from stack.ports import HOST
from stack.processes import Program, base_environment
from stack.servers import ADMIN, DATABASE, http_ok

BUCKET: Final = storage.BUCKET
REGION: Final = "us-east-1"
TENANT: Final = "demo"
OPERATOR: Final = "ops"


@dataclass(frozen=True, slots=True)
class Service:
    """One row: what a service is given. `settings` are its own variables, handed on from the caller when set.

    So are `secrets`, variables of other people's names: what they hold is never written down by us.
    """

    name: str
    servers: tuple[str, ...]  # the servers it has credentials for; "s3-address": it is only told where S3 is
    keys: tuple[str, ...]  # whose API keys it checks
    knows: tuple[str, ...]  # the services whose address it is told
    settings: tuple[str, ...]
    secrets: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """Its name as a Python module, a database role and schema, and (upper-case) in variables."""
        return self.name.replace("-", "_")


_ALL: Final = ("nats", "postgres", "s3")
_BOTH: Final = ("tenants", "operators")
_OPERATORS: Final = ("operators",)
_INGEST: Final = ("ingest",)  # which knows whose an API key is
_BEHIND: Final = ("ingest", "orchestrator", "gpu-bridge", "output")
_ANALYSIS: Final = (
    "SEALED_TENANTS",
    "TENANT_LIMITS",
    "JOBS_OPEN_MAX",
    "LINK_S",
    "TRANSFER_S",
    "IMPORT_S",
    "OUTSIDE_NETWORKS",
    "CLAMAV",
    "CLAMAV_REQUIRED",
    "UPLOAD_BYTES_MAX",
    "ANALYSIS_WORKERS",
    "ANALYSIS_MEMORY_BYTES",
    "DOCUMENTS_WORKERS",
    "DOCUMENTS_MEMORY_BYTES",
)
_MACHINE: Final = ("PIPELINES_DIR", "RUNNING_MAX", "TENANT_WEIGHTS", "GPU_USD_PER_S", "BENCH_PIPELINES")
_LOCAL: Final = ("LOCAL_WORKERS", "LOCAL_MEMORY_BYTES", "LOCAL_IDLE_S")
_BOX: Final = ("BOX", "WEIGHTS_DIR", "ALLOW_NONCOMMERCIAL")
_REMOTE: Final = ("MODAL_APP", "MODAL_ENVIRONMENT", "GPU_TERMS", "GPU_POLICY", "S3_PUBLIC_ENDPOINT")
_MODAL: Final = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")
_RENDER: Final = ("LINK_S", "RENDER_WORKERS", "RENDER_MEMORY_BYTES", "DELIVERY_MEMORY_BYTES", "TEMPLATES_DIR")
_TELLING: Final = ("PUBLIC_URL", "OUTSIDE_NETWORKS", "WEBHOOK_TIMEOUT_S", "WEBHOOK_LEASE_S")
# fmt: off
SERVICES: Final[tuple[Service, ...]] = (
    #       name            servers               keys          knows              settings           secrets
    Service("ingest",       _ALL,                 _BOTH,        ("orchestrator",), _ANALYSIS),
    Service("orchestrator", ("nats", "postgres"), _BOTH,        _INGEST,           _MACHINE),
    Service("gpu-bridge",   _ALL,                 _OPERATORS,   _INGEST,           _LOCAL + _BOX + _REMOTE, _MODAL),
    Service("output",       _ALL,                 _BOTH,        _INGEST,           _RENDER + _TELLING),
    Service("console",      ("s3-address",),      (),           _BEHIND,           ()),
)
# fmt: on

# Handed on to every service when the caller has set them.
_FOR_ALL: Final = (
    "SAFELIGHT_LOG_LEVEL",
    "SAFELIGHT_CORS_ORIGINS",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_METRIC_EXPORT_INTERVAL",
)


def url(ports: Mapping[str, int], name: str) -> str:
    """Where a service, or the S3 server, answers over HTTP."""
    return f"http://{HOST}:{ports[name]}"


def environment(service: Service, ports: Mapping[str, int], secrets: Mapping[str, str]) -> dict[str, str]:
    """The variables of one service, without what every process gets."""
    upper = service.role.upper()
    given = {"SAFELIGHT_HTTP_HOST": HOST, "SAFELIGHT_HTTP_PORT": str(ports[service.name])}
    if "nats" in service.servers:
        given |= _nats(service.name, secrets[f"SAFELIGHT_NATS_PASSWORD_{upper}"], ports)
    if "postgres" in service.servers:
        password = secrets[f"SAFELIGHT_POSTGRES_PASSWORD_{upper}"]
        given["SAFELIGHT_POSTGRES_URL"] = _postgres(service.role, password, ports, DATABASE)
    if "s3" in service.servers:
        given |= _s3(ports, service.name, secrets[storage.secret_of(service.name)], secrets)
    if "s3-address" in service.servers:
        given["SAFELIGHT_S3_ENDPOINT"] = url(ports, "s3")
    if "tenants" in service.keys:
        given["SAFELIGHT_API_KEYS"] = f"{TENANT}:{secrets['SAFELIGHT_API_KEY']}"
    if "operators" in service.keys:
        given["SAFELIGHT_OPERATOR_KEYS"] = f"{OPERATOR}:{secrets['SAFELIGHT_OPERATOR_KEY']}"
    if service.name == "ingest":
        given["SAFELIGHT_GRANT_KEYS"] = secrets["SAFELIGHT_GRANT_KEYS"]
    if service.name == "output":
        given["SAFELIGHT_SIGNING_KEYS"] = secrets["SAFELIGHT_SIGNING_KEYS"]
    if service.name == "orchestrator":
        given["SAFELIGHT_RECEIPT_KEY"] = secrets["SAFELIGHT_RECEIPT_KEY"]
    for other in service.knows:
        given[f"SAFELIGHT_{other.upper().replace('-', '_')}_URL"] = url(ports, other)
    wanted = (*_FOR_ALL, *(f"SAFELIGHT_{name}" for name in service.settings), *service.secrets)
    return given | {name: os.environ[name] for name in wanted if name in os.environ}


def check() -> None:
    """What a service would refuse to start for can be said at once. Raises Refusal."""
    if os.environ.get("SAFELIGHT_MODAL_APP") and find_spec("modal") is None:
        raise Refusal(
            "SAFELIGHT_MODAL_APP is set, but Modal's SDK is not installed: "
            "run `uv sync --inexact --package safelight-gpu-bridge --extra local --extra modal`"
        )


def setup_environment(ports: Mapping[str, int], secrets: Mapping[str, str]) -> dict[str, str]:
    """The variables of `safelight setup`, the one process that may change topology, roles and schemas."""
    roles = {name: value for name, value in secrets.items() if name.startswith("SAFELIGHT_POSTGRES_PASSWORD_")}
    admin = roles.pop("SAFELIGHT_POSTGRES_PASSWORD_ADMIN")
    return {
        **_nats("setup", secrets["SAFELIGHT_NATS_PASSWORD_SETUP"], ports),
        **_s3(ports, secrets["SAFELIGHT_S3_ACCESS_KEY"], secrets["SAFELIGHT_S3_SECRET_KEY"], secrets),
        **roles,
        "SAFELIGHT_POSTGRES_ADMIN_URL": _postgres(ADMIN, admin, ports, DATABASE),
    }


def client_environment(ports: Mapping[str, int], secrets: Mapping[str, str]) -> dict[str, str]:
    """What the client commands need to talk to this stack."""
    keys = ("SAFELIGHT_API_KEY", "SAFELIGHT_OPERATOR_KEY")
    # A stack that was started by an older version has no operator's key until its next start.
    return {"SAFELIGHT_URL": url(ports, "console"), **{name: secrets[name] for name in keys if name in secrets}}


def programs(home: Home, ports: Mapping[str, int], secrets: Mapping[str, str]) -> tuple[Program, ...]:
    """The services as processes. Each drains for up to 20 s when it is asked to stop."""
    return tuple(
        Program(
            name=service.name,
            command=(sys.executable, "-P", "-m", service.role),
            environment=_python_environment(home) | _of_home(service, home) | environment(service, ports, secrets),
            folder=home.path,
            ready=partial(http_ok, ports[service.name], "/ready"),
            grace_s=30,
        )
        for service in SERVICES
    )


def setup_program(home: Home, ports: Mapping[str, int], secrets: Mapping[str, str]) -> Program:
    """`safelight setup` as a process: it loads while the servers start, and begins when its gate is opened."""
    return Program(
        name="setup",
        command=(sys.executable, "-P", "-m", "stack.cli", "setup", "--gated"),
        environment=_python_environment(home) | setup_environment(ports, secrets),
        folder=home.path,
        ready=lambda: False,
        gated=True,
    )


def _of_home(service: Service, home: Home) -> dict[str, str]:
    return {"SAFELIGHT_WEIGHTS_DIR": str(home.weights)} if "WEIGHTS_DIR" in service.settings else {}


def _python_environment(home: Home) -> dict[str, str]:
    # glibc keeps an arena of freed memory per thread; two are enough for processes that mostly wait.
    return base_environment(home.path) | {"MALLOC_ARENA_MAX": "2", "PYTHONUTF8": "1"}


def _nats(user: str, password: str, ports: Mapping[str, int]) -> dict[str, str]:
    return {
        "SAFELIGHT_NATS_URL": f"nats://{HOST}:{ports['nats']}",
        "SAFELIGHT_NATS_USER": user,
        "SAFELIGHT_NATS_PASSWORD": password,
    }


def _postgres(user: str, password: str, ports: Mapping[str, int], database: str) -> str:
    return f"postgresql://{user}:{password}@{HOST}:{ports['postgres']}/{database}"


def _s3(ports: Mapping[str, int], access: str, secret: str, secrets: Mapping[str, str]) -> dict[str, str]:
    return {
        "SAFELIGHT_S3_ENDPOINT": url(ports, "s3"),
        "SAFELIGHT_S3_BUCKET": BUCKET,
        "SAFELIGHT_S3_REGION": REGION,
        "SAFELIGHT_S3_ACCESS_KEY": access,
        "SAFELIGHT_S3_SECRET_KEY": secret,
        "SAFELIGHT_MASTER_KEYS": secrets["SAFELIGHT_MASTER_KEYS"],
    }
