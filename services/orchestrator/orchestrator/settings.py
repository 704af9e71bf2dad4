"""What the orchestrator needs to know."""

from __future__ import annotations

from runtime.settings import HttpSettings, NatsSettings, PostgresSettings


class Settings(HttpSettings, NatsSettings, PostgresSettings):
    """From the environment. `bench_pipelines` adds the no-op pipeline that `just bench` measures with."""

    bench_pipelines: bool = False
