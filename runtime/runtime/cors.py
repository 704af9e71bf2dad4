"""Which web pages may ask a service from their users' browsers, and what they may send and read.

No cookie opens anything here, so what such a page may do is what the key or grant may do that it sends.
"""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

# fmt: off
SENT: Final = [  # uploads in one and in pieces (tus), and event streams
    "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Tus-Resumable", "X-HTTP-Method-Override",
    "X-Requested-With", "X-Request-ID", "Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Concat",
    "Upload-Checksum", "Upload-Defer-Length",
]
READ: Final = [
    "Location", "Retry-After", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed", "Safelight-Upload-Id",
    "Safelight-Job-Id", "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm",
    "Upload-Offset", "Upload-Length", "Upload-Expires", "Upload-Metadata", "Upload-Concat",
]
METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
# fmt: on
PREFLIGHT_S: Final = 3600


def allow(app: FastAPI, origins: str) -> None:
    """Let pages of these origins (with commas between) ask this app; none of them: no page of another origin may."""
    allowed = [origin.strip().rstrip("/") for origin in origins.split(",") if origin.strip()]
    if allowed:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed,
            allow_methods=METHODS,
            allow_headers=SENT,
            expose_headers=READ,
            max_age=PREFLIGHT_S,
        )
