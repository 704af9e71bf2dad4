"""Settings come from the environment, are read once by `main()`, and travel as plain arguments.

A service's Settings class combines the parts that it needs, so that a process is given no
credential it has no use for. Secrets are SecretStr: they never appear in a log line.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime import tls


class _Part(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SAFELIGHT_", frozen=True, extra="ignore")


class HttpSettings(_Part):
    """Where the process listens, and who may ask.

    `api_keys` is `tenant:key,tenant:key`. `operator_keys` is `name:key,name:key`: they open what concerns every tenant.
    They are those to begin with: all others are made over the API, and known to ingest. `cors_origins` are the web
    pages (`https://studio.example,https://...`) from whose browsers this may be asked; none by default.
    """

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=0, le=65535)
    log_level: str = "info"
    api_keys: SecretStr = SecretStr("")
    operator_keys: SecretStr = SecretStr("")
    cors_origins: str = ""


class KeysSettings(_Part):
    """Who is asked whose an API key is that the environment does not name."""

    ingest_url: str = "http://127.0.0.1:8001"


class NatsSettings(_Part):
    """The broker and this service's own account on it. `tls://` with the files of `tls`: see there."""

    nats_url: str = "nats://127.0.0.1:4222"
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    nats_ca_file: Path | None = None
    nats_cert_file: Path | None = None
    nats_key_file: Path | None = None

    @property
    def nats_tls(self) -> ssl.SSLContext | None:
        """The context of a `tls://` broker."""
        if not self.nats_url.startswith("tls://"):
            return None
        return tls.context(self.nats_ca_file, self.nats_cert_file, self.nats_key_file)

    @model_validator(mode="after")
    def _half_a_lock_is_none(self) -> Self:
        if self.nats_ca_file and not self.nats_url.startswith("tls://"):
            raise ValueError("nats_ca_file is set, and nats_url does not begin with tls://")
        return self


class PostgresSettings(_Part):
    """The database as this service's own role: postgresql://role:password@host:port/database[?sslmode=verify-full]."""

    postgres_url: SecretStr

    @field_validator("postgres_url")
    @classmethod
    def _can_be_reached(cls, url: SecretStr) -> SecretStr:
        tls.of_database(url.get_secret_value())
        return url


class S3Settings(_Part):
    """Object storage. `s3_public_endpoint` is what browsers and providers reach, when it differs.

    `master_keys` is `name:secret,name:secret`: they wrap tenants' keys; new ones are wrapped by the first.
    """

    s3_endpoint: str = "http://127.0.0.1:8333"
    s3_public_endpoint: str | None = None
    s3_bucket: str = "safelight"
    s3_region: str = "us-east-1"
    s3_access_key: SecretStr
    s3_secret_key: SecretStr
    s3_ca_file: Path | None = None
    master_keys: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _half_a_lock_is_none(self) -> Self:
        if self.s3_ca_file and not self.s3_endpoint.startswith("https://"):
            raise ValueError("s3_ca_file is set, and s3_endpoint does not begin with https://")
        return self

    @field_validator("master_keys")
    @classmethod
    def _can_wrap(cls, keys: SecretStr) -> SecretStr:
        from runtime.vault import masters  # here: a process without storage has no use for a cipher

        masters(keys)
        return keys


class OutsideSettings(_Part):
    """Requests to addresses that strangers give (webhooks, imports) reach the public internet only.

    `outside_networks` opens private ones beside it: `10.1.0.0/16,127.0.0.1`.
    """

    outside_networks: str = ""
