"""What output needs to know."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from runtime.settings import HttpSettings, KeysSettings, NatsSettings, PostgresSettings, S3Settings

MIB = 1024 * 1024


class Settings(HttpSettings, KeysSettings, NatsSettings, PostgresSettings, S3Settings):
    """From the environment. `link_s` is how long a signed link to an artifact works.

    `templates_dir` is a folder with templates of fields beside the built-in ones.
    """

    link_s: int = Field(default=900, ge=1, le=7 * 24 * 3600)
    render_workers: int = Field(default=2, ge=1, le=64)
    render_memory_bytes: int = Field(default=4 * 1024 * MIB, gt=0)  # 120 MP of 16 bit need 2.95 GiB + copies
    delivery_memory_bytes: int = Field(default=3 * 1024 * MIB, gt=0)  # twice 192 MiB read, 128 MiB of PDF, the forms
    templates_dir: Path | None = None
