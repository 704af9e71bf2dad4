"""What the console needs to know: where it listens, and where the services behind it are.

It holds no credential: API keys pass through it to the services, which judge them.
"""

from __future__ import annotations

from pydantic import Field

from runtime.settings import HttpSettings


class Settings(HttpSettings):
    """From the environment. The S3 endpoints only tell the page from where it may load pictures."""

    http_port: int = Field(default=8080, ge=0, le=65535)
    ingest_url: str = "http://127.0.0.1:8001"
    orchestrator_url: str = "http://127.0.0.1:8002"
    gpu_bridge_url: str = "http://127.0.0.1:8003"
    output_url: str = "http://127.0.0.1:8004"
    s3_endpoint: str = "http://127.0.0.1:8333"
    s3_public_endpoint: str | None = None

    @property
    def pictures_from(self) -> str:
        """The origin of signed links, as browsers see it."""
        return self.s3_public_endpoint or self.s3_endpoint
