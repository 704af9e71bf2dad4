"""The Python client against the whole stack: both of its faces, and what happens when something breaks."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from PIL import Image

from safelight_client import AsyncClient, Client, Error
from tests.e2e.conftest import Stack


def client_of(stack: Stack, key: str | None = None) -> Client:
    return Client(stack.base_url, key or stack.api_key)


async def test_a_gallery_goes_up_comes_back_and_is_edited_again(
    stack: Stack, samples: dict[str, Path], tmp_path: Path
) -> None:
    def product() -> None:
        told: list[tuple[int, int]] = []
        with client_of(stack) as safelight:
            batch = safelight.create_batch("A wedding", style="mono")
            upload = safelight.upload(
                samples["astronaut.jpg"], batch=batch.id, progress=lambda *at: told.append(at), chunk_bytes=50_000
            )
            job = safelight.wait(upload.job_id)
            assert (job.status, job.options["style"]) == ("succeeded", "mono@1")
            size = samples["astronaut.jpg"].stat().st_size
            assert told == [(min(50_000 * n, size), size) for n in range(1, -(-size // 50_000) + 1)]
            file = safelight.download(job.artifact("web.jpg"), tmp_path / "web.jpg")
            assert Image.open(file).format == "JPEG"
            again = safelight.wait(safelight.re_edit(job.id, crop="1:1"))
            assert again.upload_id == job.upload_id
            assert [one.id for one in safelight.jobs(batch=batch.id)] == [job.id]
            assert safelight.close_batch(batch.id).jobs["total"] == 1
            assert httpx.get(httpx.URL(stack.base_url).join(safelight.link(job.id, "thumb.webp"))).is_success
            assert safelight.erase(batch=batch.id).receipt is not None
            with pytest.raises(Error) as gone:
                safelight.job(job.id)
            assert (gone.value.code, gone.value.status) == ("NOT_FOUND", 404)

    await asyncio.to_thread(product)


async def test_the_same_without_blocking(stack: Stack, samples: dict[str, Path], tmp_path: Path) -> None:
    async with AsyncClient(stack.base_url, stack.api_key) as safelight:
        uploads = await asyncio.gather(*(safelight.upload(samples["coffee.png"], crop="4:5") for _ in range(3)))
        seen = [event.type async for event in safelight.events(uploads[0].job_id)]
        assert seen[-1] == "job.v1.succeeded"
        jobs = await asyncio.gather(*(safelight.wait(upload.job_id) for upload in uploads))
        file = await safelight.download(jobs[0].artifact("variants.thumb.jpg"), tmp_path / "thumb.jpg")
        assert Image.open(file).size[0] <= 400


class Breaking(httpx.HTTPTransport):
    """Loses the connection at some requests, before or after the server has heard them."""

    def __init__(self, breaks: Callable[[httpx.Request, int], str | None]) -> None:
        super().__init__()
        self.count, self.breaks = 0, breaks

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.count += 1
        how = self.breaks(request, self.count)
        if how == "before":
            raise httpx.ReadError("broken")
        answer = super().handle_request(request)
        if how == "after":
            answer.read()
            raise httpx.ReadError("broken")
        return answer


async def test_an_upload_goes_on_where_it_broke_and_is_one_job(stack: Stack, samples: dict[str, Path]) -> None:
    def breaks(request: httpx.Request, n: int) -> str | None:
        return {0: "before", 1: "after"}.get(n % 3) if request.method == "PATCH" else None

    def product() -> None:
        transport = Breaking(breaks)
        with Client(stack.base_url, stack.api_key, transport=transport) as safelight:
            batch = safelight.create_batch()
            photo = io.BytesIO(samples["coffee.png"].read_bytes())
            job = safelight.wait(safelight.upload(photo, chunk_bytes=60_000, batch=batch.id).job_id)
            assert job.status == "succeeded"
            assert [one.id for one in safelight.jobs(batch=batch.id)] == [job.id]

    await asyncio.to_thread(product)


async def test_what_is_refused_has_its_code_and_damage_is_found_out(
    stack: Stack, samples: dict[str, Path], tmp_path: Path
) -> None:
    def product() -> None:
        with client_of(stack) as safelight:
            with pytest.raises(Error) as refused:
                safelight.upload(samples["coffee.png"], style="nobody-made-it")
            assert refused.value.code == "STYLE_UNKNOWN"
            with pytest.raises(Error) as unknown:
                next(safelight.events(uuid4()))
            assert unknown.value.code == "NOT_FOUND"
            job = safelight.wait(safelight.upload(samples["coffee.png"]).job_id)
            damaged = job.artifact("thumb.jpg").model_copy(update={"sha256": "0" * 64})
            with pytest.raises(Error) as found:
                safelight.download(damaged, tmp_path / "thumb.jpg")
            assert found.value.code == "ARTIFACT_DAMAGED"
            assert not list(tmp_path.iterdir()), "nothing half is left"
        with client_of(stack, "slk_nobody") as stranger, pytest.raises(Error) as nobody:
            stranger.job(uuid4())
        assert nobody.value.code == "UNAUTHENTICATED"

    await asyncio.to_thread(product)
