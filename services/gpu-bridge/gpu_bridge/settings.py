"""What the gpu-bridge needs to know."""

from __future__ import annotations

from pydantic import Field

from runtime.settings import HttpSettings, NatsSettings, PostgresSettings, S3Settings

GIB = 1024**3


class Settings(HttpSettings, NatsSettings, PostgresSettings, S3Settings):
    """From the environment. `local_workers` CPU calls run at once, each in `local_memory_bytes` of address space."""

    local_workers: int = Field(default=2, ge=1, le=64)
    local_memory_bytes: int = Field(default=6 * GIB, gt=0)
    local_idle_s: float = Field(default=30, gt=0)
