"""Ingest as somebody sees it who brings files in pieces."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from minio import Minio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ingest.app import build
from ingest.settings import Settings
from runtime import postgres
from runtime.objects import Objects
from tests.integration.wire import Site, served
from tests.servers.models import S3Server

MIB = 2**20
KEY, OTHER_KEY = "a-key-of-the-tests-1", "a-key-of-the-tests-2"
TUS = "/v1/uploads/tus"
OCTETS = "application/offset+octet-stream"


def metadata(**fields: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in fields.items())


@dataclass
class Ways:
    """The ways in, with what lies behind them."""

    site: Site
    engine: AsyncEngine
    objects: Objects
    bucket: Minio
    client: httpx.AsyncClient

    async def tus(self, method: str, path: str = TUS, content: Any = None, **headers: str | None) -> httpx.Response:
        """One request; `upload_offset="0"` is the header Upload-Offset, None leaves a default out."""
        given: dict[str, str | None] = {"tus_resumable": "1.0.0", **headers}
        if content is not None:
            given = {"content_type": OCTETS, **given}
        sent = {name.replace("_", "-").encode(): value.encode() for name, value in given.items() if value is not None}
        return await self.client.request(method, path, content=content, headers=sent)

    async def begin(self, size: int, **headers: str) -> str:
        """Where an upload of this size may be sent."""
        answer = await self.tus("POST", upload_length=str(size), **headers)
        assert answer.status_code == 201, answer.text
        return answer.headers["Location"]

    async def patch(self, where: str, offset: int, content: Any, **headers: str | None) -> httpx.Response:
        return await self.tus("PATCH", where, content, upload_offset=str(offset), **headers)

    async def offset(self, where: str) -> int:
        answer = await self.tus("HEAD", where)
        assert answer.status_code == 200
        return int(answer.headers["Upload-Offset"])

    async def upload(self, upload_id: str) -> Any:
        """The row of an upload."""
        [row] = await self.ask("SELECT * FROM ingest.uploads WHERE id = :id", id=UUID(upload_id))
        return row

    async def ask(self, query: str, **values: Any) -> list[Any]:
        async with self.engine.begin() as conn:
            done = await conn.execute(text(query), values)
            return list(done.all()) if done.returns_rows else []

    async def lying(self) -> set[str]:
        """Every object that is there for an upload, whole or in pieces, and every one that is not whole."""

        def listed() -> set[str]:
            found = {
                str(one.object_name)
                for folder in ("uploads/", "transfers/")
                for one in self.bucket.list_objects("safelight", folder, recursive=True)
            }
            return found | {
                f"unfinished {one.object_name}" for one in self.bucket._list_multipart_uploads("safelight").uploads
            }

        return await asyncio.to_thread(listed)


@asynccontextmanager
async def opened(settings: Settings, s3_server: S3Server) -> AsyncIterator[Ways]:
    """Ingest, served in this process."""
    engine = postgres.create_engine(settings.postgres_url.get_secret_value(), service="test")
    objects = Objects(settings)
    bucket = Minio(
        f"127.0.0.1:{s3_server.port}", s3_server.access_key, s3_server.secret_key, secure=False, region="us-east-1"
    )
    async with (
        served(build(settings)) as site,
        httpx.AsyncClient(base_url=site.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client,
    ):
        yield Ways(site, engine, objects, bucket, client)
    objects.close()
    await engine.dispose()
