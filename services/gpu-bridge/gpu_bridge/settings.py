"""What the gpu-bridge needs to know."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pydantic import Field, field_validator

from gpu_bridge import policy, terms
from runtime.settings import HttpSettings, KeysSettings, NatsSettings, PostgresSettings, S3Settings

GIB = 1024**3
INSTALL_MODAL = "uv sync --inexact --package safelight-gpu-bridge --extra local --extra modal"


class Settings(HttpSettings, KeysSettings, NatsSettings, PostgresSettings, S3Settings):
    """From the environment. `local_workers` CPU calls run at once, each in `local_memory_bytes` of address space.

    `modal_app` names the deployed app; without it Modal is not asked. Its credentials are the SDK's
    own variables (MODAL_TOKEN_ID, MODAL_TOKEN_SECRET). `gpu_terms` is a file of limits and prices,
    `gpu_policy` one of what providers declare and tenants require.
    `box`: this machine has a GPU of its own; its engines find weights in the folder `weights_dir`, and
    `allow_noncommercial` lets those run whose licence forbids a business to use them.
    """

    local_workers: int = Field(default=2, ge=1, le=64)
    local_memory_bytes: int = Field(default=6 * GIB, gt=0)
    local_idle_s: float = Field(default=30, gt=0)
    box: bool = False
    weights_dir: Path | None = None
    allow_noncommercial: bool = False
    modal_app: str | None = None
    modal_environment: str | None = None
    gpu_terms: Path | None = None
    gpu_policy: Path | None = None
    calls_in_flight_max: int = Field(default=5000, ge=1)

    @field_validator("modal_app", "modal_environment", "gpu_terms", "gpu_policy", "weights_dir", mode="before")
    @classmethod
    def _empty_is_none(cls, given: str | Path | None) -> str | Path | None:
        return given or None

    @field_validator("modal_app")
    @classmethod
    def _can_be_asked(cls, name: str | None) -> str | None:
        if name and find_spec("modal") is None:
            raise ValueError(f"Modal's SDK is not installed: run `{INSTALL_MODAL}`")
        return name

    @field_validator("gpu_terms")
    @classmethod
    def _can_be_read(cls, path: Path | None) -> Path | None:
        try:
            terms.read(path)
        except terms.TermsInvalid as problem:
            raise ValueError(str(problem)) from problem
        return path

    @field_validator("gpu_policy")
    @classmethod
    def _can_be_obeyed(cls, path: Path | None) -> Path | None:
        try:
            policy.read(path)
        except policy.PolicyInvalid as problem:
            raise ValueError(str(problem)) from problem
        return path
