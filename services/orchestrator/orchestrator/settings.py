"""What the orchestrator needs to know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from runtime.settings import HttpSettings, KeysSettings, NatsSettings, PostgresSettings


class Settings(HttpSettings, KeysSettings, NatsSettings, PostgresSettings):
    """From the environment.

    `pipelines_dir` is a folder of pipeline files beside the built-in ones. `running_max` replaces
    how many commands of a phase are out at once, as JSON by `pipeline.phase`; `tenant_weights` says
    how much more of the room a tenant gets than one of weight 1. `gpu_usd_per_s` is the price of a
    GPU second of today's provider, for estimates; without it they say seconds only.
    `receipt_key` is the secret from which the key is derived that signs receipts of erasures.
    `bench_pipelines` adds the no-op pipeline that `just bench` measures with.
    """

    pipelines_dir: Path | None = None
    running_max: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    tenant_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    gpu_usd_per_s: float | None = Field(default=None, ge=0)
    bench_pipelines: bool = False
    receipt_key: SecretStr
