"""What the gpu-bridge needs to know."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from runtime.settings import HttpSettings, NatsSettings, PostgresSettings, S3Settings

GIB = 1024**3


class Settings(HttpSettings, NatsSettings, PostgresSettings, S3Settings):
    """From the environment. `local_workers` CPU calls run at once, each in `local_memory_bytes` of address space.

    `modal_app` names the deployed app; without it Modal is not asked. Its credentials are the SDK's
    own variables (MODAL_TOKEN_ID, MODAL_TOKEN_SECRET). `gpu_terms` is a file of limits and prices.
    """

    local_workers: int = Field(default=2, ge=1, le=64)
    local_memory_bytes: int = Field(default=6 * GIB, gt=0)
    local_idle_s: float = Field(default=30, gt=0)
    modal_app: str | None = None
    modal_environment: str | None = None
    gpu_terms: Path | None = None
    calls_in_flight_max: int = Field(default=5000, ge=1)
