"""Least rights, tried: what a service's account is not for it is refused, by the broker and the store."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import nats
import pytest
from minio import Minio
from minio.error import S3Error
from nats.aio.client import Client

from contracts.catalog import CHANNELS
from contracts.topology import CONSUMERS, PUBLISHERS, inbox_of
from stack import broker, storage
from stack.setup import SetupSettings, setup
from tests.integration.conftest import until
from tests.servers.models import NatsServer, S3Server

PUBLIC = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::safelight/*"]}
Accounts = Callable[[str], Awaitable[tuple[Client, list[str]]]]
SERVICES = broker.SERVICES


@pytest.fixture
async def account(prepared: object, nats_server: NatsServer) -> AsyncIterator[Accounts]:
    """A connection as a service, and what the broker has refused it so far."""
    opened: list[Client] = []

    async def connected(user: str) -> tuple[Client, list[str]]:
        refused: list[str] = []

        async def note(problem: Exception) -> None:
            refused.append(str(problem).lower())

        password = nats_server.passwords[user]
        nc = await nats.connect(
            nats_server.url, user=user, password=password, error_cb=note, inbox_prefix=inbox_of(user)
        )
        opened.append(nc)
        return nc, refused

    yield connected
    for nc in opened:
        await nc.close()


async def refusals(nc: Client, refused: list[str], wanted: int) -> bool:
    """Whether the broker refused so many attempts since the last time, no more and no fewer."""
    await nc.flush()  # what it says of attempts before this comes first
    await until(lambda: len(refused) >= wanted)
    violations = [one for one in refused if "permissions violation" in one]
    refused.clear()
    return len(violations) == wanted


# -- the broker -------------------------------------------------------------------------------------

EVERYTHING = sorted({*(channel.subject for channel in CHANNELS), "dead.cmd.analysis.v1.run", "dead.evt.job.v1.failed"})


def allowed(service: str, subject: str) -> bool:
    """Whether the table says that a service says this; written here once more, in other words."""
    kind, family = subject.split(".")[:2]
    match kind, family:
        case "cmd", _:
            return service == "orchestrator"
        case "evt", "upload":
            return service in ("ingest", "orchestrator")
        case "evt", "phase" | "audit" | "erasure":
            return True
        case "evt", "cost":
            return service in ("gpu-bridge", "orchestrator")
        case "evt", _:
            return service == "orchestrator"
    reads = {"ingest": "dead.cmd.analysis.v1.run", "output": "dead.evt.job.v1.failed"}
    return service == "orchestrator" or reads.get(service) == subject


def test_every_channel_has_somebody_who_may_say_it_and_every_consumer_an_account() -> None:
    said = [pattern.removesuffix(">") for pattern in PUBLISHERS]
    assert all(any(channel.subject.startswith(one) for one in said) for channel in CHANNELS)
    assert {row.owner for row in CONSUMERS} - {"bench"} <= set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_says_its_own_kinds_only(account: Accounts, service: str) -> None:
    nc, refused = await account(service)
    for subject in EVERYTHING:
        if allowed(service, subject):
            continue
        await nc.publish(subject, b"{}")
        assert await refusals(nc, refused, 1), subject
    granted = broker.may_publish(service)
    for subject in EVERYTHING:
        covered = any(subject == one or (one.endswith(">") and subject.startswith(one[:-1])) for one in granted)
        covered = covered or any(one.endswith(".*") and subject.rpartition(".")[0] == one[:-2] for one in granted)
        assert covered is allowed(service, subject), subject


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reads_its_own_consumers_only(account: Accounts, service: str) -> None:
    nc, refused = await account(service)
    for row in CONSUMERS:
        if row.owner == service:
            continue  # that it may is proved by every test in which it works
        for subject in (
            f"$JS.API.CONSUMER.INFO.{row.stream}.{row.name}",
            f"$JS.API.CONSUMER.MSG.NEXT.{row.stream}.{row.name}",
            f"$JS.ACK.{row.stream}.{row.name}.1.1.1.1.1",
        ):
            await nc.publish(subject, b"", reply=f"{inbox_of(service)}.x")
        assert await refusals(nc, refused, 3), row.name


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_overhears_nobody(account: Accounts, service: str) -> None:
    nc, refused = await account(service)
    others = [f"{inbox_of(other)}.>" for other in SERVICES if other != service]
    subjects = [">", "_INBOX.>", "evt.>", "cmd.>", "$JS.EVENT.>", *others]
    for subject in subjects:
        await nc.subscribe(subject)
    assert await refusals(nc, refused, len(subjects))


# Messages whose readers all died, and those about who is erased.
MAY_TAKE_OUT = (
    "$JS.API.STREAM.MSG.GET.EVENTS",
    *(f"$JS.API.STREAM.MSG.DELETE.{one}" for one in ("COMMANDS", "EVENTS")),
)


@pytest.mark.parametrize("service", SERVICES)
async def test_only_the_orchestrator_takes_single_messages_out_of_a_stream(account: Accounts, service: str) -> None:
    nc, refused = await account(service)
    for subject in (
        "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.STREAM.MSG.DELETE.COMMANDS",
        "$JS.API.STREAM.MSG.DELETE.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.STREAM.PURGE.COMMANDS",
        "$JS.API.STREAM.SNAPSHOT.EVENTS",
    ):
        may = service == "orchestrator" and subject in MAY_TAKE_OUT
        await nc.publish(subject, b"{}", reply=f"{inbox_of(service)}.x")
        assert await refusals(nc, refused, 0 if may else 1), subject


# -- the store --------------------------------------------------------------------------------------


async def test_a_bucket_that_somebody_made_public_is_private_again_after_set_up(
    prepared: SetupSettings, s3_server: S3Server
) -> None:
    bucket = Minio(
        f"127.0.0.1:{s3_server.port}", s3_server.access_key, s3_server.secret_key, secure=False, region="us-east-1"
    )
    bucket.put_object("safelight", "uploads/secret", io.BytesIO(b"x"), 1)
    url = f"{s3_server.endpoint}/safelight/uploads/secret"

    async def answers(address: str, status: int) -> bool:
        async with httpx.AsyncClient() as http:
            return (await http.get(address)).status_code == status

    assert await answers(url, 403)
    bucket.set_bucket_policy("safelight", json.dumps({"Version": "2012-10-17", "Statement": [PUBLIC]}))
    await until(lambda: answers(url, 200))  # so far it reaches: the test would see it
    assert "took a policy off the bucket: it is private" in await setup(prepared)
    await until(lambda: answers(url, 403))
    assert await answers(f"{s3_server.endpoint}/safelight?list-type=2", 403)
    bucket.remove_object("safelight", "uploads/secret")


# What each may do with each folder, in other words than the table's: r reads, w writes and removes, l lists.
MAY = {
    #              uploads  originals  jobs   calls  styles  keys   transfers  anything else
    "ingest":     ("rwl",   "rwl",     "rwl", "r",   "rwl",  "rwl", "rwl",     ""),
    "gpu-bridge": ("r",     "r",       "r",   "rwl", "r",    "r",   "",        ""),
    "output":     ("r",     "r",       "rwl", "r",   "",     "r",   "",        ""),
}  # fmt: skip
FOLDERS = ("uploads", "originals", "jobs", "calls", "styles", "keys", "transfers", "secrets")


@pytest.mark.parametrize("service", MAY)
def test_an_identity_reaches_the_folders_of_its_work_only(
    prepared: SetupSettings, s3_server: S3Server, server_secrets: dict[str, str], service: str
) -> None:
    def bucket(access: str, secret: str) -> Minio:
        return Minio(f"127.0.0.1:{s3_server.port}", access, secret, secure=False, region="us-east-1")

    def allowed(attempt: Callable[[], object]) -> bool:
        try:
            attempt()
        except S3Error as problem:
            if problem.code != "AccessDenied":
                raise
            return False
        return True

    admin = bucket(s3_server.access_key, s3_server.secret_key)
    mine = bucket(service, server_secrets[storage.secret_of(service)])
    for folder, may in zip(FOLDERS, MAY[service], strict=True):
        key = f"{folder}/roles/{service}"
        admin.put_object("safelight", key, io.BytesIO(b"x"), 1)
        attempts = {
            "r": lambda: mine.get_object("safelight", key).close(),  # noqa: B023  # called within its round
            "w": lambda: mine.put_object("safelight", key, io.BytesIO(b"y"), 1),  # noqa: B023
            "l": lambda: list(mine.list_objects("safelight", f"{folder}/roles/")),  # noqa: B023
        }
        assert "".join(letter for letter, attempt in attempts.items() if allowed(attempt)) == may, folder
        signed = mine.presigned_get_object("safelight", key)
        assert (httpx.get(signed).status_code == 200) == ("r" in may), "a link leads no further than who signed it"
        assert allowed(lambda: mine.remove_object("safelight", key)) == ("w" in may), folder  # noqa: B023
        admin.remove_object("safelight", key)
    for attempt in (lambda: mine.make_bucket("other"), lambda: mine.set_bucket_policy("safelight", "{}")):
        assert not allowed(attempt)
