"""The API's client and the commands on it, against a small real server that fails as its script says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from typer.testing import CliRunner

from console import cli
from console.client import Client, Connection, Damaged, Refused, Unreachable
from console.jobs import Artifact
from console.submitting import submit_all
from contracts.errors import error
from contracts.jobs import Status
from runtime.http import problem_response
from tests.integration.console_upstream import Served

JOB = UUID(int=7)
KEY = "a-key-of-16-characters"
AT_ONCE = (0.0, 0.0, 0.0)
PHOTO = b"not a photo, but bytes: \x00\xff" * 50_000
THUMB = b"thumb" * 1000


class Api(Served):
    """Says what its attributes are set to."""

    def __init__(self) -> None:
        self.uploads: list[dict[str, Any]] = []
        self.refusals: list[int | None] = []  # what uploads get before the good answer; None: the line breaks
        self.status = Status.SUCCEEDED
        self.streams: list[list[str]] = []  # what each event stream says before it breaks off
        self.resumed: list[str | None] = []
        self.stored = THUMB
        self.items: dict[str, int] | None = None
        self.storage_headers: list[dict[str, str]] = []
        super().__init__(self._app())

    def job(self) -> dict[str, Any]:
        thumb = {
            "name": "thumb.webp",
            "phase": "variants",
            "sha256": hashlib.sha256(THUMB).hexdigest(),
            "size": len(THUMB),
            "media_type": "image/webp",
            "url": f"/v1/jobs/{JOB}/artifacts/variants.thumb.webp",
        }
        return {
            "id": str(JOB),
            "pipeline": "photo",
            "status": self.status,
            "created_at": "2026-01-02T03:04:05Z",
            "ended_at": "2026-01-02T03:04:06Z" if self.status.is_terminal else None,
            "error": {"code": "IMAGE_CORRUPT", "detail": "It is."} if self.status is Status.FAILED else None,
            "phases": [{"name": "variants", "status": self.status, "items": self.items}],
            "artifacts": [thumb],
            "new_in_a_later_version": 1,
        }

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def needs_the_key(request: Request, call_next: Any) -> Response:
            open_ = request.url.path.startswith("/storage")
            if not open_ and request.headers.get("authorization") != f"Bearer {KEY}":
                return problem_response(error("UNAUTHENTICATED"))
            answer: Response = await call_next(request)
            return answer

        @app.post("/v1/uploads")
        async def upload(request: Request) -> Response:
            body = await request.body()
            self.uploads.append({"key": request.headers["idempotency-key"], "body": body})
            refusal = self.refusals.pop(0) if self.refusals else 202
            if refusal is None:
                return StreamingResponse(self._breaking([]), headers={"Content-Length": "100"})
            if refusal != 202:
                return JSONResponse({"code": f"REFUSED_{refusal}", "detail": "No."}, refusal)
            answer = {"upload_id": str(JOB), "job_id": str(JOB), "trace_id": "f" * 32, "status": "queued"}
            return JSONResponse(answer, 202)

        @app.get("/v1/jobs")
        async def jobs(cursor: int = 0, limit: int = 50) -> dict[str, Any]:
            end = cursor + min(limit, 2)
            items = [{**self.job(), "id": str(UUID(int=n))} for n in range(cursor, min(end, 5))]
            return {"items": items, "next_cursor": str(end) if end < 5 else None}

        @app.get("/v1/jobs/{job_id}")
        async def job(job_id: UUID) -> Response:
            return JSONResponse(self.job()) if job_id == JOB else problem_response(error("NOT_FOUND"))

        @app.get("/v1/jobs/{job_id}/events")
        async def events(request: Request) -> StreamingResponse:
            self.resumed.append(request.headers.get("last-event-id"))
            return StreamingResponse(self._breaking(self.streams.pop(0)), media_type="text/event-stream")

        @app.get("/v1/jobs/{job_id}/phases/variants/items")
        async def items(cursor: int = 0) -> dict[str, Any]:
            made = {**self.job()["artifacts"][0], "item": f"p{cursor}"}
            made["url"] = made["url"].replace("variants.", f"variants.p{cursor}.")
            rows = [{"item": f"p{cursor}", "status": "succeeded", "artifacts": [made]}]
            return {"items": rows, "next_cursor": str(cursor + 1) if cursor < 2 else None}

        @app.get("/v1/jobs/{job_id}/artifacts/{name}")
        async def artifact(name: str) -> Response:
            return Response(status_code=307, headers={"Location": f"/storage/{name}?signature=1"})

        @app.get("/storage/{name}")
        async def storage(request: Request) -> Response:
            self.storage_headers.append(dict(request.headers))
            return Response(self.stored)

        return app

    async def _breaking(self, said: list[str]) -> AsyncIterator[str]:
        for piece in said:
            yield piece
        if self.streams:
            raise RuntimeError("the line breaks")
        self.status = Status.SUCCEEDED


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    yield served
    served.stop()


@pytest.fixture
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client(Connection(api.url, KEY), retry_after_s=AT_ONCE) as made:
        yield made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "Geburtstag von Zoë.jpg"
    path.write_bytes(PHOTO)
    return path


# -- uploads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("refusals", [[503, 503], [None, 503]], ids=["busy twice", "a broken line, then busy"])
async def test_an_upload_is_tried_again_whole_and_under_the_same_key(
    api: Api, client: Client, photo: Path, refusals: list[int | None]
) -> None:
    api.refusals = refusals
    submitted = await client.submit(photo, {"pipeline": "photo", "crop": "1:1"})
    assert submitted.job_id == JOB
    assert len(api.uploads) == 3
    assert len({upload["key"] for upload in api.uploads}) == 1
    for upload in api.uploads:
        assert PHOTO in upload["body"]
        assert b'name="crop"\r\n\r\n1:1' in upload["body"]
        assert upload["body"].index(b'name="crop"') < upload["body"].index(b'name="file"')
        assert "Zoë".encode() not in upload["body"], "what people call their files stays with them"


async def test_every_file_has_a_key_of_its_own(api: Api, client: Client, photo: Path) -> None:
    await client.submit(photo, {})
    await client.submit(photo, {})
    assert len({upload["key"] for upload in api.uploads}) == 2


async def test_a_refusal_is_not_tried_again(api: Api, client: Client, photo: Path) -> None:
    api.refusals = [422]
    with pytest.raises(Refused) as refused:
        await client.submit(photo, {})
    assert refused.value.code == "REFUSED_422"
    assert len(api.uploads) == 1


async def test_who_stays_busy_is_given_up(api: Api, client: Client, photo: Path) -> None:
    api.refusals = [503] * 9
    with pytest.raises(Refused):
        await client.submit(photo, {})
    assert len(api.uploads) == 1 + len(AT_ONCE)


async def test_nobody_there_is_told_as_such(photo: Path) -> None:
    async with Client(Connection("http://127.0.0.1:9", KEY), retry_after_s=AT_ONCE) as nowhere:
        with pytest.raises(Unreachable, match="nobody answers"):
            await nowhere.job(JOB)


async def test_one_bad_file_does_not_stop_the_others(api: Api, client: Client, photo: Path, tmp_path: Path) -> None:
    rows = await submit_all(client, [tmp_path / "gone.jpg", photo], {}, watch=True)
    assert [row.failed for row in rows] == [True, False]
    assert rows[0].error is not None
    assert rows[0].error.code == "FILE_UNREADABLE"
    assert rows[1].job is not None
    assert rows[1].job.status is Status.SUCCEEDED


# -- following -------------------------------------------------------------------------------


def said(n: int, kind: str, **data: Any) -> str:
    return f"id: {n}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


async def test_a_broken_stream_goes_on_where_it_broke(api: Api, client: Client) -> None:
    api.status = Status.RUNNING
    moved = {"phase": "variants", "attempt": 0}
    api.streams = [
        ["retry: 1000\n\n", said(4, "phase.v1.progressed", **moved, fraction=0.25)],
        [": still here\n\n", said(9, "phase.v1.progressed", **moved, fraction=0.75)],
        [],
    ]
    seen = [job async for job in client.watch(JOB)]
    assert api.resumed == [None, "4", "9"]
    assert [job.phases[0].progress for job in seen if job.phases[0].progress] == [0.25, 0.75]
    assert seen[-1].status is Status.SUCCEEDED
    assert seen[-1].artifacts, "the end is read whole"


async def test_a_long_list_is_read_page_by_page(client: Client) -> None:
    assert [job.id.int for job in await client.jobs(limit=4)] == [0, 1, 2, 3]
    assert len(await client.jobs(limit=50)) == 5


# -- fetching --------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def thumb(api: Api, **changes: Any) -> Artifact:
    return Artifact.model_validate({**api.job()["artifacts"][0], **changes})


async def test_an_artifact_is_fetched_without_showing_the_key_to_storage(
    api: Api, client: Client, tmp_path: Path
) -> None:
    path = await client.download(thumb(api), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "variants.thumb.webp"
    assert path.read_bytes() == THUMB
    assert "authorization" not in api.storage_headers[0]


async def test_what_items_made_is_among_the_artifacts_and_has_names_of_its_own(
    api: Api, client: Client, tmp_path: Path
) -> None:
    assert [made.item for made in await client.artifacts(JOB)] == [None]
    api.items = {"total": 3, "ended": 3, "gave_up": 0}
    made = await client.artifacts(JOB)
    assert [one.item for one in made] == [None, "p0", "p1", "p2"]
    assert (await client.download(made[2], tmp_path)).name == "variants.p1.thumb.webp"


@pytest.mark.parametrize(
    "stored", [THUMB[:-1], THUMB + b"x", THUMB[:-1] + b"X"], ids=["too short", "too long", "one byte is another"]
)
async def test_damaged_bytes_leave_nothing_behind(api: Api, client: Client, tmp_path: Path, stored: bytes) -> None:
    api.stored = stored
    with pytest.raises(Damaged):
        await client.download(thumb(api), tmp_path)
    assert names(tmp_path) == []


async def test_no_name_writes_outside_the_folder(api: Api, client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    path = await client.download(thumb(api, name="../../evil\x00.sh", phase="../.."), folder)
    assert path.parent == folder
    assert names(tmp_path) == ["out"]


async def test_the_key_goes_to_no_other_host(api: Api, client: Client, tmp_path: Path) -> None:
    elsewhere = thumb(api, url=f"http://elsewhere.invalid/v1/jobs/{JOB}/artifacts/variants.thumb.webp")
    assert (await client.download(elsewhere, tmp_path)).read_bytes() == THUMB, "only the path counts"


# -- commands --------------------------------------------------------------------------------


def run(api: Api, *arguments: str, key: str = KEY) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.client, arguments, obj=lambda: Connection(api.url, key), env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


def test_submit_and_watch_succeed_and_print_json(api: Api, photo: Path) -> None:
    code, out, _ = run(api, "submit", str(photo), "--style", "warm-film", "--strength", "0.5", "--watch", "--json")
    [row] = json.loads(out)
    assert (code, row["job"]["status"], row["error"]) == (0, "succeeded", None)
    assert row["job"]["new_in_a_later_version"] == 1
    assert b'name="style_strength"\r\n\r\n0.5' in api.uploads[0]["body"]


def test_a_failed_job_is_exit_code_1_and_says_why(api: Api, photo: Path) -> None:
    api.status = Status.FAILED
    code, out, err = run(api, "submit", str(photo), "--watch")
    assert code == 1
    assert "IMAGE_CORRUPT" in out
    assert "It is. (IMAGE_CORRUPT)" in err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("submit", "/no/such.jpg"), 2, "does not exist"),
        (("show", "not-a-job"), 2, "Invalid value for 'JOB'"),
        (("show", str(UUID(int=8))), 1, "NOT_FOUND"),
        (("jobs", "--url", "http://127.0.0.1:9", "--api-key", "k"), 1, "nobody answers at http://127.0.0.1:9"),
        (("jobs", "--url", "no url", "--api-key", "k"), 1, "no url"),
    ],
    ids=["a missing file", "no job's name", "an unknown job", "a server that is down", "an address that is none"],
)
def test_what_went_wrong_is_one_clear_message(api: Api, arguments: tuple[str, ...], code: int, told: str) -> None:
    got, _, err = run(api, *arguments)
    assert got == code
    assert told in err
    assert "Traceback" not in err


def test_a_wrong_key_is_told_as_such(api: Api) -> None:
    code, _, err = run(api, "jobs", key="another-key-of-mine")
    assert code == 1
    assert "UNAUTHENTICATED" in err


def test_artifacts_are_fetched_and_named(api: Api, tmp_path: Path) -> None:
    code, out, _ = run(api, "artifacts", str(JOB), "-o", str(tmp_path))
    assert (code, out.strip()) == (0, str(tmp_path / "variants.thumb.webp"))


@pytest.mark.parametrize("arguments", [("jobs",), ("show", str(JOB)), ("artifacts", str(JOB))])
def test_json_is_one_document(api: Api, arguments: tuple[str, ...]) -> None:
    code, out, _ = run(api, *arguments, "--json")
    assert code == 0
    assert json.loads(out)


def test_httpx_really_follows_no_redirect_by_itself(api: Api) -> None:
    """The client relies on it: the key would travel to storage."""
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{api.url}/v1/jobs/{JOB}/artifacts/x", headers=headers).status_code == 307
