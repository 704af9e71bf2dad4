"""Styles from photos that come one by one: paired by name or time, packed in one go, and no name stays behind."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from nats.aio.client import Client
from PIL import Image
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from contracts.uploads import UploadReceived
from gpu_functions.style.pairs import Archive
from ingest.app import build
from ingest.drafts import PHOTOS_MAX, Drafts, Half
from ingest.pairing import Photo, Role
from ingest.settings import Settings
from ingest.tables import OUTBOX
from ingest.training import archive
from runtime import postgres
from runtime.objects import Objects
from runtime.outbox import Outbox
from tests.integration.conftest import SettingsOf
from tests.integration.test_ingest_styles import MINE, THEIRS, House
from tests.integration.wire import acts, served, told

MIB = 2**20
BYTES_MAX = 3 * MIB


@pytest.fixture(scope="module")
async def running(prepared: object, settings_of: SettingsOf) -> AsyncIterator[tuple[str, Settings]]:
    keys = f"demo:{MINE},other:{THEIRS}"
    known = settings_of(Settings, "ingest", analysis_workers=1, upload_bytes_max=BYTES_MAX, api_keys=keys)
    async with served(build(known)) as site:
        yield site.url, known


@pytest.fixture
async def house(running: tuple[str, Settings], nc: Client) -> AsyncIterator[House]:
    url, known = running
    engine, objects = postgres.create_engine(known.postgres_url.get_secret_value(), service="test"), Objects(known)
    async with (
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {MINE}"}, timeout=30) as mine,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {THEIRS}"}, timeout=30) as theirs,
    ):
        yield House(mine, theirs, engine, objects, nc)
    objects.close()
    await engine.dispose()


def photo(colour: int, taken_at: str | None = None, form: str = "JPEG") -> bytes:
    """A picture of one colour, as a camera would write it."""
    exif = Image.Exif()
    if taken_at:
        exif.get_ifd(0x8769)[0x9003] = taken_at  # DateTimeOriginal
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (colour, 90, 255 - colour)).save(out, form, exif=exif)
    return out.getvalue()


def drafts_of(house: House) -> Drafts:
    return Drafts(house.engine, Outbox(house.engine, OUTBOX, house.nc.jetstream()), house.objects, BYTES_MAX)


async def drafted(house: House, **about: str) -> str:
    answer = await house.mine.post("/v1/styles/drafts", json={"name": f"look-{uuid4().hex[:12]}", **about})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def bring(house: House, draft: str, role: str, name: str, content: bytes, key: str = "") -> httpx.Response:
    fields, headers = {"draft": draft, "role": role, "file_name": name}, {"Idempotency-Key": key} if key else {}
    return await house.mine.post("/v1/uploads", data=fields, files={"file": ("f", content)}, headers=headers)


async def rows(engine: AsyncEngine, query: str, **values: Any) -> list[Any]:
    async with engine.connect() as conn:
        return list((await conn.execute(text(query), values)).all())


async def stored_of(house: House, draft: str) -> list[str]:
    query = (
        "SELECT u.key FROM ingest.draft_photos p JOIN ingest.uploads u ON u.id = p.upload_id WHERE p.draft_id = :draft"
    )
    return [row.key for row in await rows(house.engine, query, draft=UUID(draft))]


async def test_photos_become_pairs_by_name_and_by_time_and_their_names_are_gone(house: House) -> None:
    draft = await drafted(house, lane="interactive")
    burst = "2026:06:01 12:00:07"
    with capture_logs() as logs:
        for n in range(3):
            assert (await bring(house, draft, "before", f"Anna Müller {n}.jpg", photo(n))).status_code == 202
            await bring(house, draft, "after", f"anna müller {n}.png", photo(n + 100, form="PNG"))
        for n in (9, 10):  # a burst, renamed by the other tool
            await bring(house, draft, "before", f"C:\\Photos\\DSC_{n}.jpg", photo(n, burst))
            await bring(house, draft, "after", f"/export/edit-{n * 10}.jpg", photo(n + 100, burst))
        await bring(house, draft, "before", "Opa.jpg", photo(50, "2026:06:01 18:00:00"))
        await bring(house, draft, "after", "nobody's.jpg", photo(60))
        keys = await stored_of(house, draft)
        answer = await house.mine.post(f"/v1/styles/drafts/{draft}/train")
    assert answer.status_code == 202, answer.text
    given = answer.json()
    assert (given["pairs"], given["by_time"]) == (5, 2)
    assert given["unmatched"] == {"before": ["Opa.jpg"], "after": ["nobody's.jpg"]}

    [event] = await told(house.nc, given["job_id"])
    received = UploadReceived.model_validate(event.body)
    assert (received.pipeline, received.lane, received.original.media_type) == (
        "style-training", "interactive", "application/zip",
    )  # fmt: skip
    data = await house.objects.get_checked(received.original.key, received.original.sha256)
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert packed.testzip() is None
        names = packed.namelist()
        colours: dict[str, Any] = {name: Image.open(packed.open(name)).getpixel((0, 0)) for name in names}
    assert names[:2] == ["before/0001.jpg", "after/0001.png"]
    assert len(names) == 10
    for before, after in zip(names[::2], names[1::2], strict=True):
        assert abs(colours[before][0] + 100 - colours[after][0]) < 4, "each with its own"
    assert len(Archive(data).pairs) == 5, "the worker reads it"

    shown = (await house.mine.get(f"/v1/styles/drafts/{draft}")).json()
    assert (shown["state"], shown["job_id"], shown["photos"]) == ("trained", given["job_id"], [])
    assert await stored_of(house, draft) == []
    assert [await house.objects.size(key) for key in keys] == [None] * len(keys), "the photos are in the archive"
    everything = str(logs) + str(event) + data.decode("latin-1")
    for personal in ("Müller", "anna", "DSC_", "edit-9", "Opa", "nobody"):
        assert personal not in everything
    assert (await house.mine.post(f"/v1/styles/drafts/{draft}/train")).status_code == 409


async def test_too_few_pairs_leave_the_draft_open_and_say_who_has_no_partner(house: House) -> None:
    draft = await drafted(house)
    for n in range(4):
        for role in ("before", "after"):
            await bring(house, draft, role, f"{n}.jpg", photo(n))
    await bring(house, draft, "before", "4.jpg", photo(4, "2026:06:01 12:00:00"))
    answer = await house.mine.post(f"/v1/styles/drafts/{draft}/train")
    assert (answer.status_code, answer.json()["code"]) == (422, "TOO_FEW_PAIRS")
    assert "4 pairs" in answer.json()["detail"]
    await bring(house, draft, "after", "x.jpg", photo(5, "2026:06:01 12:00:00"))
    assert (await house.mine.post(f"/v1/styles/drafts/{draft}/train")).status_code == 202


async def test_a_photo_of_a_draft_has_no_job_and_the_same_request_again_is_one_photo(house: House) -> None:
    draft, key = await drafted(house), uuid4().hex
    answers = await asyncio.gather(*(bring(house, draft, "before", "a.jpg", photo(1), key) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    given = answers[0].json()
    assert (given["job_id"], given["status"], "Location" in answers[0].headers) == (None, None, False)
    [shown] = (await house.mine.get(f"/v1/styles/drafts/{draft}")).json()["photos"]
    assert (shown["upload_id"], shown["file_name"], shown["paired"]) == (given["upload_id"], "a.jpg", False)
    [row] = await rows(house.engine, "SELECT job_id FROM ingest.uploads WHERE id = :id", id=UUID(given["upload_id"]))
    assert row.job_id is None


async def test_two_who_train_at_once_start_one_job(house: House) -> None:
    draft = await drafted(house)
    for n in range(5):
        for role in ("before", "after"):
            await bring(house, draft, role, f"{n}.jpg", photo(n))
    answers = await asyncio.gather(*(house.mine.post(f"/v1/styles/drafts/{draft}/train") for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]


@pytest.mark.parametrize(
    ("fields", "content", "status", "code"),
    [
        pytest.param({"role": "middle"}, photo(1), 422, "REQUEST_INVALID", id="no such side"),
        pytest.param({"role": ""}, photo(1), 422, "REQUEST_INVALID", id="no side"),
        pytest.param({"file_name": ""}, photo(1), 422, "REQUEST_INVALID", id="no name"),
        pytest.param({"file_name": "a" * 300}, photo(1), 422, "REQUEST_INVALID", id="a name that is too long"),
        pytest.param({"draft": str(uuid4())}, photo(1), 422, "DRAFT_UNKNOWN", id="a draft that there is not"),
        pytest.param({}, b"PK\3\4" + bytes(60), 415, "MEDIA_TYPE_UNSUPPORTED", id="an archive"),
        pytest.param({}, photo(1) + bytes(BYTES_MAX), 413, "UPLOAD_TOO_LARGE", id="more than one upload may have"),
    ],
)
async def test_what_cannot_be_a_photo_of_a_draft_leaves_nothing(
    house: House, fields: dict[str, str], content: bytes, status: int, code: str
) -> None:
    draft = await drafted(house)
    asked = {"draft": draft, "role": "before", "file_name": "a.jpg", **fields}
    before = set(await house.objects.keys("uploads/"))
    answer = await house.mine.post("/v1/uploads", data=asked, files={"file": ("f", content)})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(await house.objects.keys("uploads/")) <= before
    assert await stored_of(house, draft) == []


async def test_all_photos_of_a_draft_together_are_no_more_than_one_upload(house: House) -> None:
    draft = await drafted(house)
    padded = photo(1) + bytes(BYTES_MAX // 2)
    assert (await bring(house, draft, "before", "a.jpg", padded)).status_code == 202
    answer = await bring(house, draft, "after", "a.jpg", padded)
    assert (answer.status_code, answer.json()["code"]) == (413, "UPLOAD_TOO_LARGE")
    assert PHOTOS_MAX == 400


async def test_a_draft_is_its_tenants_and_is_forgotten_when_it_says_so_or_in_time(house: House) -> None:
    draft, other = await drafted(house), await drafted(house)
    for one in (draft, other):
        await bring(house, one, "before", "a.jpg", photo(1))
    keys = await stored_of(house, draft) + await stored_of(house, other)
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/train")):
        assert (await house.theirs.request(method, f"/v1/styles/drafts/{draft}{path}")).status_code == 404
    assert (await house.mine.delete(f"/v1/styles/drafts/{draft}")).status_code == 204
    assert (await house.mine.get(f"/v1/styles/drafts/{draft}")).status_code == 404
    async with house.engine.begin() as conn:
        await conn.execute(text("UPDATE ingest.drafts SET expires_at = now() WHERE id = :id"), {"id": UUID(other)})
    refused = await bring(house, other, "after", "a.jpg", photo(1))
    assert (refused.status_code, refused.json()["code"]) == (409, "STATE_CONFLICT")
    await drafts_of(house).expire()
    assert await acts(house.nc, draft) == [("tenant:demo", "draft.made", {}), ("tenant:demo", "draft.discarded", {})]
    assert (await acts(house.nc, other))[1:] == [("room:ingest", "draft.expired", {})]
    assert [one[:2] for one in await acts(house.nc, keys[0].rpartition("/")[2])] == [("tenant:demo", "upload.received")]
    assert await rows(house.engine, "SELECT 1 FROM ingest.drafts WHERE id = :id", id=UUID(other)) == []
    assert [await house.objects.size(key) for key in keys] == [None, None]


async def test_a_draft_can_be_trained_when_whoever_packed_it_has_died(house: House) -> None:
    draft = await drafted(house)
    for n in range(5):
        for role in ("before", "after"):
            await bring(house, draft, role, f"{n}.jpg", photo(n))
    drafts = drafts_of(house)
    await drafts.claim("demo", UUID(draft))
    assert (await bring(house, draft, "before", "9.jpg", photo(9))).json()["code"] == "STATE_CONFLICT"
    assert (await house.mine.post(f"/v1/styles/drafts/{draft}/train")).status_code == 409
    async with house.engine.begin() as conn:
        await conn.execute(text("UPDATE ingest.drafts SET claimed_until = now() WHERE id = :id"), {"id": UUID(draft)})
    assert (await house.mine.post(f"/v1/styles/drafts/{draft}/train")).status_code == 202


async def test_packing_holds_a_piece_of_one_photo_and_not_their_size(house: House) -> None:
    key, size = f"tests/{uuid4()}", 32 * MIB
    sha256, _ = await house.objects.put(key, bytes(size), "image/tiff")
    sides: list[Role] = ["before", "after"]
    before, after = (Half(Photo(uuid4(), side, "x", None), key, sha256, size, "image/tiff", True) for side in sides)
    tracemalloc.start()
    try:
        packed = 0
        async for piece in archive(house.objects, [(before, after)] * 3):
            packed += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"\n{packed / MIB:.0f} MiB packed, {peak / MIB:.1f} MiB held at most")
    assert packed > 6 * size
    assert peak < 8 * MIB
