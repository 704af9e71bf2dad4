"""What ingest needs to know."""

from __future__ import annotations

from pydantic import Field, SecretStr

from ingest.intake import BYTES_MAX_DEFAULT
from ingest.limits import Limits
from runtime.settings import HttpSettings, NatsSettings, OutsideSettings, PostgresSettings, S3Settings

MIB = 1024 * 1024


class Settings(HttpSettings, NatsSettings, OutsideSettings, PostgresSettings, S3Settings):
    """From the environment. `orchestrator_url` is asked which pipelines there are.

    `link_s` is how long a signed link to a style's files works, `transfer_s` how long an upload in pieces may rest.
    `import_s` is how long an import may take: less than the minute after which the front door waits no longer.
    `clamav` is where clamd listens, `unix:/path` or `tcp:host:port`; nothing is scanned without. While it is silent
    nothing is accepted, unless it is not `clamav_required`.
    `sealed_tenants`: whose every upload is sealed, `tenant,tenant` or `*`.
    `grant_keys` (`id:secret,id:secret`) sign upload grants, the first of them new ones.
    `tenant_limits` are those of a tenant that has none of its own, as JSON.
    Beyond `jobs_open_max` jobs that are not over nothing more is taken in.
    """

    orchestrator_url: str = "http://127.0.0.1:8002"
    sealed_tenants: str = ""
    link_s: int = Field(default=900, ge=1, le=7 * 24 * 3600)
    transfer_s: int = Field(default=24 * 3600, ge=1)
    import_s: float = Field(default=50.0, gt=0)
    clamav: str = Field(default="", pattern=r"^(|unix:/.+|tcp:.+:[0-9]+)$")
    clamav_required: bool = True
    grant_keys: SecretStr = SecretStr("")
    tenant_limits: Limits = Limits()
    jobs_open_max: int = Field(default=100_000, ge=1)
    upload_bytes_max: int = Field(default=BYTES_MAX_DEFAULT, gt=0)
    analysis_workers: int = Field(default=2, ge=1, le=64)
    analysis_memory_bytes: int = Field(default=3 * 1024 * MIB, gt=0)
    documents_workers: int = Field(default=2, ge=1, le=64)
    documents_memory_bytes: int = Field(default=1024 * MIB, gt=0)  # PDFium, at most 150 MB of a page's pixels, the file
