"""What output needs to know."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from runtime.settings import (
    HttpSettings,
    KeysSettings,
    NatsSettings,
    OutsideSettings,
    PostgresSettings,
    S3Settings,
)

MIB = 1024 * 1024


class Settings(HttpSettings, KeysSettings, NatsSettings, PostgresSettings, S3Settings, OutsideSettings):
    """From the environment.

    `link_s` is how long a signed link to an artifact works. `signing_keys` (`secret,secret`: the first signs) sign
    webhooks and links of ours. `public_url` is where callers reach the front door: links that are told begin with it.
    `templates_dir` is a folder with templates of fields beside the built-in ones.
    """

    link_s: int = Field(default=900, ge=1, le=7 * 24 * 3600)
    render_workers: int = Field(default=2, ge=1, le=64)
    render_memory_bytes: int = Field(default=4 * 1024 * MIB, gt=0)  # 120 MP of 16 bit need 2.95 GiB + copies
    delivery_memory_bytes: int = Field(default=3 * 1024 * MIB, gt=0)  # twice 192 MiB read, 128 MiB of PDF, the forms
    templates_dir: Path | None = None
    signing_keys: SecretStr
    public_url: str = Field(default="", pattern=r"^(https?://[^/]+)?$")
    webhook_timeout_s: float = Field(default=20, ge=0.1, le=30)  # Standard Webhooks asks for 15 to 30
    webhook_lease_s: float = Field(default=60, ge=1)  # after so long another process sees to a dead one's endpoints

    @model_validator(mode="after")
    def _a_lease_outlives_two_tries(self) -> Self:
        if self.webhook_lease_s < 2 * self.webhook_timeout_s:
            raise ValueError("webhook_lease_s is at least twice webhook_timeout_s")
        return self
