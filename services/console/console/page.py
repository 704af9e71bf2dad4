"""The browser page: files of this package, served with headers that leave an injected script nothing.

No inline code, no other origin than ours except pictures from object storage, and Trusted Types,
so that not even our own code can turn a string into markup.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

FILES: Final = Path(__file__).parent / "static"

_POLICY: Final = {
    "default-src":               "'none'",
    "script-src":                "'self'",
    "style-src":                 "'self'",
    "connect-src":               "'self'",
    "img-src":                   "'self' blob: {pictures}",
    "base-uri":                  "'none'",
    "form-action":               "'none'",
    "frame-ancestors":           "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types":             "'none'",
}  # fmt: skip


def headers(pictures_from: str) -> dict[str, str]:
    """The headers of every file of the page. `pictures_from` is the URL of object storage."""
    parts = urlsplit(pictures_from)
    policy = "; ".join(f"{name} {value}" for name, value in _POLICY.items())
    return {
        "content-security-policy": policy.format(pictures=f"{parts.scheme}://{parts.netloc}"),
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",  # kept, but asked about each time: a new release shows at once
    }


class Page(StaticFiles):
    """The page and its files, each with `headers`."""

    def __init__(self, pictures_from: str) -> None:
        super().__init__(directory=FILES, html=True)
        self._headers = headers(pictures_from)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await super().__call__(scope, receive, send_with_headers)
