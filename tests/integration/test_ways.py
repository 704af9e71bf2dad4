"""The other ways in on real servers: parts straight into storage, import of an address, the scanner, the sweep."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from nats.aio.client import Client

from ingest.settings import Settings
from ingest.sweep import Sweep
from runtime import clock
from tests.integration.conftest import SettingsOf, until
from tests.integration.test_tus import long_file
from tests.integration.ways import KEY, MIB, OTHER_KEY, Ways, opened
from tests.integration.wire import picture, sha256, told
from tests.servers.fixtures import EnvironmentOf
from tests.servers.models import S3Server

BYTES_MAX = 24 * MIB
SESSIONS, IMPORT = "/v1/uploads/sessions", "/v1/uploads/import"


@pytest.fixture(scope="module")
async def ways(
    prepared: object, settings_of: SettingsOf, environment_of: EnvironmentOf, s3_server: S3Server
) -> AsyncIterator[Ways]:
    """With the service's own identity at the store: what it may not do there would fail here."""
    own = {
        f"s3_{name}": environment_of("ingest")[f"SAFELIGHT_S3_{name.upper()}"] for name in ("access_key", "secret_key")
    }
    known = settings_of(
        Settings,
        "ingest",
        upload_bytes_max=BYTES_MAX,
        api_keys=f"demo:{KEY},other:{OTHER_KEY}",
        outside_networks="127.0.0.1/32",
        import_s=8,
        **own,
    )
    async with opened(known, s3_server) as made:
        yield made


# -- parts straight into storage --------------------------------------------------------------


async def session(ways: Ways, size: int, **options: Any) -> dict[str, Any]:
    answer = await ways.client.post(SESSIONS, json={"size": size, "options": options})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{SESSIONS}/{made['id']}"
    return made


async def put(part: dict[str, Any], content: bytes) -> httpx.Response:
    async with httpx.AsyncClient() as stranger:  # who has nothing but the link
        return await stranger.put(part["url"], content=content, headers=part["headers"])


def piece(content: bytes, made: dict[str, Any], number: int) -> bytes:
    begin = (number - 1) * made["part_bytes"]
    return content[begin : begin + made["part_bytes"]]


async def test_parts_that_a_client_puts_into_storage_become_an_upload(ways: Ways, nc: Client) -> None:
    content = long_file(19 * MIB + 5)
    made = await session(ways, len(content), crop="4:5")
    assert [part["size"] for part in made["parts"]] == [8 * MIB, 8 * MIB, 3 * MIB + 5]
    for number in (3, 1):
        assert (await put(made["parts"][number - 1], piece(content, made, number))).status_code == 200
    where = f"{SESSIONS}/{made['id']}"

    early = await ways.client.post(f"{where}/complete")
    assert (early.status_code, early.json()["code"]) == (400, "UPLOAD_INCOMPLETE")
    assert "length: 2." in early.json()["detail"]
    shown = (await ways.client.get(where)).json()  # as after a reload: it has forgotten its links
    assert [part["stored"] for part in shown["parts"]] == [True, False, True]
    assert (await put(shown["parts"][1], piece(content, made, 2))).status_code == 200

    done = await ways.client.post(f"{where}/complete")
    assert done.status_code == 202, done.text
    again = await ways.client.post(f"{where}/complete")
    assert again.json()["job_id"] == done.json()["job_id"]
    assert done.headers["Location"] == f"/v1/jobs/{done.json()['job_id']}"
    row = await ways.upload(done.json()["upload_id"])
    assert (row.sha256, row.size, row.media_type) == (sha256(content), len(content), "image/jpeg")
    assert await ways.objects.get(row.key) == content
    [event] = await told(nc, done.json()["job_id"])
    assert event.body["options"]["crop"] == "4:5"
    assert (await put(made["parts"][0], piece(content, made, 1))).status_code in (403, 404), "its links are over"
    assert (await ways.client.delete(where)).status_code == 409


async def test_a_link_takes_its_part_and_nothing_else(ways: Ways) -> None:
    content = picture()
    made = await session(ways, len(content))
    where, part = f"{SESSIONS}/{made['id']}", made["parts"][0]
    longer = {**part, "headers": {}}
    assert (await put(longer, content + b"x")).status_code == 403
    asked = {"parts": [{"number": 1, "sha256": sha256(content)}]}
    [sealed] = (await ways.client.post(f"{where}/parts", json=asked)).json()
    assert (await put(sealed, content[:-1] + b"x")).status_code == 400
    assert [one["stored"] for one in (await ways.client.get(where)).json()["parts"]] == [False]
    assert (await put(sealed, content)).status_code == 200
    assert (await ways.client.post(f"{where}/complete")).status_code == 202


async def test_what_was_put_is_believed_only_once_it_was_read(ways: Ways) -> None:
    made = await session(ways, 1000)
    assert (await put(made["parts"][0], b"text " * 200)).status_code == 200
    for _ in range(2):
        answer = await ways.client.post(f"{SESSIONS}/{made['id']}/complete")
        assert (answer.status_code, answer.json()["code"]) == (415, "MEDIA_TYPE_UNSUPPORTED")
    assert not [one for one in await ways.lying() if made["id"] in one]


async def test_a_session_that_is_given_up_is_gone_with_its_parts(ways: Ways) -> None:
    made = await session(ways, 1000)
    await put(made["parts"][0], bytes(1000))
    where = f"{SESSIONS}/{made['id']}"
    assert (await ways.client.delete(where, headers={"Authorization": f"Bearer {OTHER_KEY}"})).status_code == 404
    assert (await ways.client.delete(where)).status_code == 204
    assert (await ways.client.get(where)).status_code == 404
    assert not [one for one in await ways.lying() if made["id"] in one]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param({}, 422, "REQUEST_INVALID", id="no size"),
        pytest.param({"size": -1}, 422, "REQUEST_INVALID", id="a negative size"),
        pytest.param({"size": 10**30}, 422, "REQUEST_INVALID", id="a size of 31 digits"),
        pytest.param({"size": 0}, 422, "UPLOAD_EMPTY", id="an empty file"),
        pytest.param({"size": BYTES_MAX + 1}, 413, "UPLOAD_TOO_LARGE", id="a byte too many"),
        pytest.param({"size": 9, "options": {"nom": 1}}, 422, "REQUEST_INVALID", id="an unknown field"),
        pytest.param({"size": 9, "options": {"batch": 5}}, 422, "REQUEST_INVALID", id="a batch that is no id"),
        pytest.param({"size": 9, "options": {"style": "no-such"}}, 422, "STYLE_UNKNOWN", id="an unknown style"),
        pytest.param({"size": 9, "key": "../x"}, 422, "REQUEST_INVALID", id="a key of its own"),
    ],
)
async def test_a_session_is_refused_with_its_reason(ways: Ways, body: dict[str, Any], status: int, code: str) -> None:
    answer = await ways.client.post(SESSIONS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


# -- import -----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(answer: Callable[[str, asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """A server of strangers: `answer` writes what each path gets. Its base URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            await answer(path, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def ok(content: bytes, *headers: bytes) -> bytes:
    more = b"".join(header + b"\r\n" for header in headers or (b"Content-Length: %d" % len(content),))
    return b"HTTP/1.1 200 OK\r\n" + more + b"Connection: close\r\n\r\n" + content


def moved(where: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def imported(ways: Ways, url: str, **options: str) -> httpx.Response:
    return await ways.client.post(IMPORT, json={"url": url, "options": options})


async def test_a_file_is_fetched_over_redirects_and_its_address_is_told_to_nobody(ways: Ways, nc: Client) -> None:
    content = long_file(9 * MIB)

    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(moved("/there?token=secret") if path == "/here" else ok(content))

    async with serving(answer) as url:
        got = await imported(ways, f"{url}/here", crop="1:1")
    assert got.status_code == 202, got.text
    original = got.json()["original"]
    assert (original["sha256"], original["size"]) == (sha256(content), len(content))
    assert await ways.objects.get(original["key"]) == content
    [event] = await told(nc, got.json()["job_id"])
    assert event.body["options"]["crop"] == "1:1"
    assert "secret" not in str(event)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.2/", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://[::1]/"),
        *("http://[::ffff:10.0.0.1]/", "http://2130706434/", "http://0x7f000002/", "http://[64:ff9b::a00:1]/"),
        *("file:///etc/passwd", "ftp://example.com/", "http://user@example.com/", "gopher://127.0.0.1:70/", "x", ""),
    ],
)
async def test_an_address_of_our_own_house_is_refused(ways: Ways, url: str) -> None:
    answer = await imported(ways, url)
    assert (answer.status_code, answer.json()["code"]) == (422, "ADDRESS_REFUSED"), answer.text


async def test_a_redirect_into_our_own_house_is_refused(ways: Ways) -> None:
    async def answer(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(moved("http://127.0.0.2:8333/safelight"))

    async with serving(answer) as url:
        got = await imported(ways, url)
    assert (got.status_code, got.json()["code"]) == (422, "ADDRESS_REFUSED")


async def _endless(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(ok(picture(), b"X: y"))
    while True:
        writer.write(bytes(MIB))
        await writer.drain()


async def _slow(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(ok(picture()[:100], b"Content-Length: 14000"))
    await writer.drain()
    await asyncio.sleep(60)  # cancelled with the connection: it is the importer's patience that ends


def _says(answer: bytes) -> Callable[[str, asyncio.StreamWriter], Any]:
    async def say(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    return say


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        pytest.param(_endless, 413, "UPLOAD_TOO_LARGE", id="a body that does not end"),
        pytest.param(_says(ok(b"", b"Content-Length: 99999999999")), 413, "UPLOAD_TOO_LARGE", id="a length too large"),
        pytest.param(_slow, 502, "SOURCE_UNAVAILABLE", id="a body that does not come"),
        pytest.param(_says(ok(picture()[:99], b"Content-Length: 500")), 502, "SOURCE_UNAVAILABLE", id="a cut body"),
        pytest.param(_says(b"HTTP/1.1 404 No\r\n\r\n"), 502, "SOURCE_UNAVAILABLE", id="nothing there"),
        pytest.param(_says(b"\x00\xff\r\n\r\n"), 502, "SOURCE_UNAVAILABLE", id="no HTTP at all"),
        pytest.param(_says(moved("/")), 502, "SOURCE_UNAVAILABLE", id="redirects without an end"),
        pytest.param(_says(ok(b"<html>" * 200)), 415, "MEDIA_TYPE_UNSUPPORTED", id="a page"),
        pytest.param(_says(ok(b"\x1f\x8b" + bytes(600))), 415, "MEDIA_TYPE_UNSUPPORTED", id="packed bytes"),
        pytest.param(_says(ok(b"")), 422, "UPLOAD_EMPTY", id="no bytes"),
    ],
)
async def test_a_source_that_does_not_give_a_file_leaves_nothing(
    ways: Ways, answer: Callable[[str, asyncio.StreamWriter], Any], status: int, code: str
) -> None:
    before = await ways.lying()
    async with serving(answer) as url:
        got = await imported(ways, url)
    assert (got.status_code, got.json()["code"]) == (status, code), got.text
    assert await ways.lying() == before


async def test_an_import_with_the_same_key_acts_once(ways: Ways) -> None:
    async with serving(_says(ok(picture()))) as url:
        headers, body = {"Idempotency-Key": uuid4().hex}, {"url": url}
        answers = [await ways.client.post(IMPORT, json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["job_id"] for answer in answers}) == 1


# -- the sweep --------------------------------------------------------------------------------


async def test_transfers_that_rested_too_long_lose_their_bytes_and_then_their_rows(ways: Ways) -> None:
    content, sweep = long_file(10 * MIB), Sweep(ways.engine, ways.objects)
    kept, rested = await ways.begin(len(content)), await ways.begin(len(content))
    partial = await ways.begin(MIB, upload_concat="partial")
    put_away = await session(ways, 1000)
    await put(put_away["parts"][0], bytes(1000))
    for where in (kept, rested):
        assert (await ways.patch(where, 0, content[: 9 * MIB])).status_code == 204
    assert (await ways.patch(partial, 0, bytes(MIB))).status_code == 204
    done = await ways.tus("POST", content=picture(), upload_length=str(len(picture())))
    over = [where[-36:] for where in (rested, partial, done.headers["Location"])] + [put_away["id"]]
    age = "UPDATE ingest.transfers SET expires_at = now() - interval '{}' WHERE id = ANY(:ids)"
    await ways.ask(age.format("1 s"), ids=over)

    assert await sweep.expired() >= 3
    lying = await ways.lying()
    assert [one for one in lying if any(id_ in one for id_ in over[:2] + over[3:])] == []
    assert [one for one in lying if kept[-36:] in one]
    assert (await ways.tus("HEAD", rested)).status_code == 410
    assert (await ways.client.get(f"{SESSIONS}/{put_away['id']}")).status_code == 410
    row = await ways.upload(done.headers["Safelight-Upload-Id"])
    assert await ways.objects.get(row.key) == picture()
    assert (await ways.patch(kept, 9 * MIB, content[9 * MIB :])).status_code == 204

    await ways.ask(age.format("8 days"), ids=over)
    assert await sweep.expired() == 0
    assert await ways.ask("SELECT id FROM ingest.transfers WHERE id = ANY(:ids)", ids=over) == []


async def test_a_transfer_that_is_being_written_does_not_expire(ways: Ways) -> None:
    where = await ways.begin(1000)
    holds = "expires_at = now(), lease = gen_random_uuid(), leased_until = now() + interval '9 s'"
    await ways.ask(f"UPDATE ingest.transfers SET {holds} WHERE id = :id", id=where[-36:])
    await Sweep(ways.engine, ways.objects).expired()
    assert await ways.ask("SELECT state FROM ingest.transfers WHERE id = :id", id=where[-36:]) == [("open",)]


async def test_objects_that_no_row_refers_to_are_removed_and_all_others_stay(ways: Ways) -> None:
    content, sweep = long_file(10 * MIB), Sweep(ways.engine, ways.objects)
    going = await ways.begin(len(content))
    assert (await ways.patch(going, 0, content[: 9 * MIB])).status_code == 204
    begun = await session(ways, 1000)
    done = await ways.tus("POST", content=picture(), upload_length=str(len(picture())))
    row = await ways.upload(done.headers["Safelight-Upload-Id"])
    orphans = [f"uploads/{uuid4()}", f"transfers/{uuid4()}/{uuid4()}", "transfers/no-id", f"originals/{uuid4()}"]
    for key in orphans:
        await ways.objects.put(key, b"left behind", "image/jpeg")
    unknown = f"uploads/{uuid4()}"
    await ways.objects.begin_parts(unknown)

    assert await sweep.orphans(clock.now() - timedelta(days=1)) == 0, "what is young may be somebody's"
    assert await sweep.orphans(clock.now() + timedelta(minutes=1)) >= len(orphans) + 1
    lying = await ways.lying()
    assert [key for key in lying if key in orphans or unknown in key] == []
    assert f"unfinished uploads/{begun['id']}" in lying
    assert await ways.objects.get(row.key) == picture()
    assert (await ways.patch(going, 9 * MIB, content[9 * MIB :])).status_code == 204


async def test_one_replica_at_a_time_looks_for_orphans(ways: Ways) -> None:
    await ways.objects.put(orphan := f"uploads/{uuid4()}", b"left behind", "image/jpeg")
    sweep, soon = Sweep(ways.engine, ways.objects), clock.now() + timedelta(minutes=1)
    async with ways.engine.begin() as other:
        await other.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('ingest.sweep', 0))")
        assert await sweep.orphans(soon) == 0
        assert orphan in await ways.lying()
    assert await sweep.orphans(soon) >= 1


# -- the scanner ------------------------------------------------------------------------------

# The test file of the antivirus industry, in two halves so that no scanner finds this file.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-" + rb"ANTIVIRUS-TEST-FILE!$H+H*"


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a real clamd that knows EICAR wherever it stands."""
    program = shutil.which("clamd") or shutil.which("clamd", path="/usr/sbin")
    if program is None:
        pytest.skip("clamd is not installed")
    folder = tmp_path_factory.mktemp("clamav")
    folder.chmod(0o755)
    (folder / "eicar.ndb").write_text(f"Eicar-Test-Signature:0:*:{EICAR.hex()}\n")
    socket = folder / "socket"
    settings = {"Foreground": "yes", "LocalSocket": socket, "DatabaseDirectory": folder, "StreamMaxLength": "20M"}
    (folder / "clamd.conf").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    child = subprocess.Popen([program, "-c", folder / "clamd.conf"], stdout=subprocess.DEVNULL)
    try:
        yield socket
    finally:
        child.terminate()
        child.wait(20)


@pytest.fixture
async def scanned(prepared: object, settings_of: SettingsOf, s3_server: S3Server, clamd: Path) -> AsyncIterator[Ways]:
    await until(clamd.exists, 60)
    known = settings_of(Settings, "ingest", api_keys=f"demo:{KEY}", clamav=f"unix:{clamd}")
    async with opened(known, s3_server) as made:
        yield made


async def test_an_infected_file_is_refused_by_every_way_and_not_kept(scanned: Ways) -> None:
    infected, before = picture() + EICAR, await scanned.lying()
    answer = await scanned.client.post("/v1/uploads", files={"file": ("f", infected)})
    assert (answer.status_code, answer.json()["code"]) == (422, "UPLOAD_INFECTED")
    assert "Eicar" not in answer.text
    answer = await scanned.tus("POST", content=infected, upload_length=str(len(infected)))
    assert (answer.status_code, answer.json()["code"]) == (422, "UPLOAD_INFECTED")
    assert await scanned.lying() == before
    assert (await scanned.client.post("/v1/uploads", files={"file": ("f", picture())})).status_code == 202


async def test_a_file_that_the_scanner_does_not_take_is_not_taken(scanned: Ways) -> None:
    answer = await scanned.client.post("/v1/uploads", files={"file": ("f", long_file(21 * MIB))})
    assert (answer.status_code, answer.json()["code"]) == (503, "SCANNER_UNAVAILABLE")


@pytest.mark.parametrize(("required", "status"), [(True, 503), (False, 202)])
async def test_while_the_scanner_is_away_the_setting_decides(
    prepared: object, settings_of: SettingsOf, s3_server: S3Server, tmp_path: Path, required: bool, status: int
) -> None:
    away = {"clamav": f"unix:{tmp_path}/nobody", "clamav_required": required}
    async with opened(settings_of(Settings, "ingest", api_keys=f"demo:{KEY}", **away), s3_server) as made:
        answer = await made.client.post("/v1/uploads", files={"file": ("f", picture())})
    assert answer.status_code == status
    assert status == 202 or (answer.json()["code"], answer.headers["Retry-After"]) == ("SCANNER_UNAVAILABLE", "5")
