"""Nothing that failed is silently gone: it becomes a dead letter, whoever died, and can be replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import nats
import pytest
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from contracts.phases import PHASE_PROGRESSED, PHASE_SUCCEEDED, RUN_NOOP, PhaseProgressed
from contracts.topology import inbox_of
from contracts.uploads import UPLOAD_RECEIVED
from orchestrator.app import build
from orchestrator.settings import Settings
from orchestrator.watch import Watch
from runtime import telemetry, topology
from runtime.outbox import Outgoing, dressed, outgoing, publish
from tests.integration.conftest import SettingsOf, until
from tests.integration.desk import OPS, STEPS_2, Desk, engine_for, pipelines_in, seated, settings_for
from tests.integration.orchestra import bench, calm, earlier, now, phase, pipeline, submit, upload
from tests.integration.wire import served, told, waiting
from tests.servers.models import NatsServer

LETTERS = "/v1/dead-letters"


@pytest.fixture
def settings(prepared: object, settings_of: SettingsOf, tmp_path: Path) -> Settings:
    return settings_for(settings_of, pipelines_in(tmp_path))


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    made = engine_for(settings)
    yield made
    await made.dispose()


@pytest.fixture
async def quiet(engine: AsyncEngine, nats_server: NatsServer) -> AsyncIterator[None]:
    async with calm(engine, nats_server):
        yield


@pytest.fixture
def watch(engine: AsyncEngine, nc: Client) -> Watch:
    return Watch(engine, nc.jetstream())


@asynccontextmanager
async def open_desk(settings: Settings, engine: AsyncEngine, nc: Client) -> AsyncIterator[Desk]:
    """A service of its own, for as long as the test wants it."""
    async with served(build(settings)) as site, seated(site.url, engine, nc) as desk:
        yield desk


# -- processes that die before they settle ----------------------------------------------------------


@asynccontextmanager
async def hasty(nc: Client) -> AsyncIterator[None]:
    """The no-op worker's consumer gives a message up after two silent deliveries of a quarter of a second."""
    js = nc.jetstream()
    config = (await js.consumer_info("COMMANDS", "bench-noop")).config
    config.ack_wait, config.max_deliver = 0.25, 2
    await js.add_consumer("COMMANDS", config)
    try:
        yield
    finally:
        await topology.apply(js)


async def dies_with(nc: Client, stream: str, consumer: str, deliveries: int) -> None:
    """Processes that take a message and die, each before it settles, until the broker gives it up."""
    js = nc.jetstream()
    before = (await js.stream_info("ADVISORIES")).state.messages
    reader = await js.pull_subscribe_bind(consumer, stream)
    taken = 0

    async def given_up() -> bool:
        nonlocal taken
        with suppress(NatsTimeout):
            taken += len(await reader.fetch(1, timeout=0.4))
        return (await js.stream_info("ADVISORIES")).state.messages > before

    await until(given_up)
    assert taken == deliveries
    await reader.unsubscribe()


@pytest.mark.usefixtures("quiet")
async def test_a_command_whose_workers_all_died_is_found_though_the_watcher_was_down(
    settings: Settings, engine: AsyncEngine, nc: Client, watch: Watch
) -> None:
    made = upload("steps", "alice")
    job = made.job_id
    async with hasty(nc):
        async with served(build(settings)):
            await submit(nc, made)

            async def given() -> bool:
                return await waiting(nc, RUN_NOOP) == 1

            await until(given)
        assert (await watch.look()).stranded == {"COMMANDS": 0}
        await dies_with(nc, "COMMANDS", "bench-noop", 2)  # and no orchestrator is there to hear of it
        with capture_logs() as logged:
            assert (await watch.look()).stranded == {"COMMANDS": 1}
            assert (await watch.look()).stranded == {"COMMANDS": 1}
        assert [line for line in logged if line["event"] == "watch.stranded"] == [
            {"event": "watch.stranded", "count": 1, "stream": "COMMANDS", "log_level": "warning"}
        ]
    async with open_desk(settings, engine, nc) as desk:
        await desk.reaches(job, "dead")
        letter = await desk.letter_of(job)
        assert (letter["source"], letter["code"], letter["phase"]) == ("unsettled", "WORKER_LOST", "first")
        assert [tried["code"] for tried in letter["attempts"]] == ["WORKER_LOST"]
        assert await waiting(nc, RUN_NOOP) == 0, "the message has left the work queue"
        with capture_logs() as logged:
            assert (await watch.look()).stranded == {"COMMANDS": 0}
        assert [line["log_level"] for line in logged if line["event"] == "watch.stranded"] == ["info"]
        await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops")
        await desk.reaches(job, "succeeded")


@pytest.mark.usefixtures("quiet")
async def test_an_event_whose_readers_all_died_is_kept_and_sent_again_as_it_came(
    settings: Settings, engine: AsyncEngine, nc: Client
) -> None:
    js = nc.jetstream()
    filter_ = PHASE_PROGRESSED.subject
    config = ConsumerConfig(
        durable_name="frail", filter_subject=filter_, ack_policy=AckPolicy.EXPLICIT, ack_wait=0.25, max_deliver=1
    )
    await js.add_consumer("EVENTS", config)
    hint = PhaseProgressed(job_id=uuid4(), phase="first", attempt=1, fraction=0.5, at=now())
    key = f"{hint.key}.progress"
    await publish(js, [outgoing(PHASE_PROGRESSED, hint, message_id=key, key=hint.key, source="test")])
    try:
        await dies_with(nc, "EVENTS", "frail", 1)
        async with open_desk(settings, engine, nc) as desk:
            [letter] = await until(desk.letters)
            assert (letter["source"], letter["code"], letter["subject"]) == ("undeliverable", "WORKER_LOST", filter_)
            assert letter["job_id"] == str(hint.job_id)
            assert letter["detail"].startswith("frail could not take it")
            await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops")
            first, again = await told(nc, hint.key)
            assert first.body == again.body == json.loads(hint.model_dump_json())
            assert first.headers["ce-id"] == again.headers["ce-id"] == key
            assert again.headers["Nats-Msg-Id"].startswith("replay.")
            assert set(again.headers) == set(first.headers)
            await dies_with(nc, "EVENTS", "frail", 1)  # the same event is lost a second time: a second letter

            async def another() -> bool:
                return [one["state"] for one in await desk.letters()] == ["open", "replayed"]

            await until(another)
    finally:
        await js.delete_consumer("EVENTS", "frail")


@pytest.mark.usefixtures("quiet")
async def test_the_orchestrator_s_account_may_take_messages_out_and_change_no_stream(
    nc: Client, nats_server: NatsServer
) -> None:
    password = nats_server.passwords["orchestrator"]
    mine = await nats.connect(
        nats_server.url, user="orchestrator", password=password, inbox_prefix=inbox_of("orchestrator")
    )
    js = mine.jetstream()
    sent = await js.publish(RUN_NOOP.subject, b"x")
    assert (await js.get_msg("COMMANDS", sent.seq)).data == b"x"
    assert await js.delete_msg("COMMANDS", sent.seq)
    with pytest.raises(NatsTimeout):
        await mine.request("$JS.API.STREAM.PURGE.COMMANDS", b"", timeout=0.2)
    await mine.close()


@pytest.mark.usefixtures("quiet")
async def test_what_alarms_is_measured(engine: AsyncEngine, nc: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    monkeypatch.setattr(telemetry, "_METER", MeterProvider([reader]).get_meter("test"))
    watch = Watch(engine, nc.jetstream())

    async def seen() -> dict[str, float]:
        await watch.look()
        data = reader.get_metrics_data()
        assert data is not None
        found: dict[str, float] = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            [point] = metric.data.data_points
            assert isinstance(point, NumberDataPoint)
            found[metric.name] = point.value
        return found

    nothing = {"safelight.stream.stranded": 0, "safelight.jobs.overdue": 0, "safelight.dead_letters.open": 0}
    assert await seen() == nothing
    async with bench(engine, pipeline(phase("a"))) as desk:
        late, later = await desk.begun(), await desk.begun()  # each has a minute
        await earlier(engine, late, timedelta(seconds=65))
        await earlier(engine, later, timedelta(seconds=75))
        await publish(nc.jetstream(), [dressed("x", "cmd.nobody.v1.run", {"Nats-Msg-Id": "x"}, b"{}")])
        assert await seen() == nothing | {"safelight.stream.stranded": 1, "safelight.jobs.overdue": 1}
        await desk.shell.wake()
        await nc.jetstream().purge_stream("COMMANDS")
        assert await seen() == nothing | {"safelight.dead_letters.open": 2}


# -- one service, from here on ----------------------------------------------------------------------


class TestOverHttp:
    @pytest.fixture(scope="class")
    @classmethod
    async def service(
        cls,
        prepared: object,
        settings_of: SettingsOf,
        nats_server: NatsServer,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> AsyncIterator[tuple[str, AsyncEngine]]:
        settings = settings_for(settings_of, pipelines_in(tmp_path_factory.mktemp("p")), gpu_usd_per_s=0.5)
        engine = engine_for(settings)
        async with calm(engine, nats_server), served(build(settings)) as site:
            yield site.url, engine
        await engine.dispose()

    @pytest.fixture
    async def desk(self, service: tuple[str, AsyncEngine], nc: Client) -> AsyncIterator[Desk]:
        async with seated(*service, nc) as made:
            yield made

    # -- what a letter holds ------------------------------------------------------------------------

    async def test_a_permanent_error_leaves_a_letter_with_all_that_is_known(self, desk: Desk) -> None:
        job = await desk.died(style_strength=0.5)
        letter = await desk.letter_of(job)
        at = letter.pop("created_at")
        assert now() - datetime.fromisoformat(at) < timedelta(minutes=1)
        [tried] = letter.pop("attempts")
        [artifact] = letter.pop("artifacts")
        command = letter.pop("command")
        assert letter == {
            "id": letter["id"],
            "source": "permanent",
            "state": "open",
            "job_id": str(job),
            "tenant": "alice",
            "pipeline": "steps",
            "pipeline_version": 1,
            "phase": "second",
            "item": None,
            "code": "OBJECT_MISSING",
            "detail": "as the test wants",
            "trace_id": letter["trace_id"],
            "subject": "cmd.bench.v1.run",
            "refusal": None,
            "resolution": None,
        }
        assert (tried["phase"], tried["number"], tried["code"]) == ("second", 1, "OBJECT_MISSING")
        assert tried["started_at"] <= tried["ended_at"]
        assert (artifact["phase"], artifact["key"]) == ("first", f"jobs/{job}/first/1/image.png")
        assert (command["phase"], command["attempt"], command["parameters"]) == ("second", 1, {"strength": 0.5})
        [dead] = [one for one in await told(desk.nc, str(job)) if one.subject == "evt.job.v1.dead"]
        assert (dead.body["phase"], dead.body["code"]) == ("second", "OBJECT_MISSING")

    async def test_a_letter_names_the_trace_of_its_job(self, desk: Desk) -> None:
        made, trace = upload("steps", "alice"), "ab" * 16
        desk.codes["alice", "second"] = "OBJECT_MISSING"
        parent = f"00-{trace}-{'cd' * 8}-01"
        message = outgoing(
            UPLOAD_RECEIVED,
            made,
            message_id=str(made.upload_id),
            key=str(made.job_id),
            source="test",
            traceparent=parent,
        )
        await publish(desk.nc.jetstream(), [message])
        await desk.reaches(made.job_id, "dead")
        assert (await desk.letter_of(made.job_id))["trace_id"] == trace

    async def test_exhausted_retries_leave_a_letter_with_every_attempt(self, desk: Desk) -> None:
        job = await desk.died("only", "CALL_LOST", name="stubborn")
        letter = await desk.letter_of(job)
        assert (letter["source"], letter["code"]) == ("exhausted", "CALL_LOST")
        assert [(tried["number"], tried["code"]) for tried in letter["attempts"]] == [
            (n, "CALL_LOST") for n in (1, 2, 3)
        ]
        assert letter["command"]["attempt"] == 3

    async def test_what_the_caller_can_fix_leaves_a_letter_too(self, desk: Desk) -> None:
        job = await desk.died(code="IMAGE_CORRUPT")
        assert await desk.status(job) == "failed"
        assert (await desk.letter_of(job))["source"] == "permanent"

    async def test_a_code_and_words_that_nobody_knows_are_kept_all_the_same(self, desk: Desk) -> None:
        job = await desk.died(code="NO_SUCH_CODE")
        assert (await desk.letter_of(job))["code"] == "INTERNAL"

    # -- a message that nobody could take -----------------------------------------------------------

    async def test_an_event_that_no_reader_can_take_is_kept_with_what_it_says(self, desk: Desk) -> None:
        job, id_ = await desk.begun(), uuid4().hex
        await desk.reaches(job, "succeeded")
        headers = {
            "Nats-Msg-Id": id_,
            "ce-id": id_,
            "ce-subject": str(job),
            "traceparent": f"00-{'ef' * 16}-{'0' * 15}1-01",
        }
        await publish(desk.nc.jetstream(), [dressed(id_, PHASE_SUCCEEDED.subject, headers, b'{"half": "an event"}')])

        async def kept() -> bool:
            return bool(await desk.letters(code="MESSAGE_INVALID"))

        await until(kept)
        [summary] = await desk.letters(code="MESSAGE_INVALID")
        letter = await desk.get(f"{LETTERS}/{summary['id']}", "ops")
        assert (letter["source"], letter["subject"], letter["command"]) == (
            "undeliverable",
            PHASE_SUCCEEDED.subject,
            {"half": "an event"},
        )
        assert (letter["job_id"], letter["tenant"], letter["pipeline"]) == (str(job), "alice", "steps")
        assert letter["trace_id"] == "ef" * 16
        answer = await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops", reason="try")
        assert answer == {"id": letter["id"], "state": "replayed", "job_id": str(job)}

        async def again() -> bool:  # it is as broken as before: another letter
            return len(await desk.letters(code="MESSAGE_INVALID")) == 2

        await until(again)
        assert [line["action"] for line in await desk.audit(letter["id"])] == ["dead-letter.replay"]
        for one in await desk.letters(code="MESSAGE_INVALID", state="open"):
            await desk.post(f"{LETTERS}/{one['id']}/discard", "ops", reason="broken for good")

    async def test_a_body_that_is_no_json_is_told_by_its_length(self, desk: Desk) -> None:
        id_ = uuid4().hex
        await publish(desk.nc.jetstream(), [dressed(id_, PHASE_SUCCEEDED.subject, {"Nats-Msg-Id": id_}, b"\xff\x00")])

        async def kept() -> bool:
            return bool(await desk.letters(code="MESSAGE_INVALID", state="open"))

        await until(kept)
        [summary] = await desk.letters(code="MESSAGE_INVALID", state="open")
        letter = await desk.get(f"{LETTERS}/{summary['id']}", "ops")
        assert (letter["command"], letter["job_id"]) == ({"bytes": 2}, None)
        await desk.post(f"{LETTERS}/{letter['id']}/discard", "ops", reason="x")

    async def test_a_message_that_failed_for_a_reason_that_has_passed_acts_once_when_replayed(self, desk: Desk) -> None:
        """Its database was down for more than an hour, say. One that was taken before is refused by the inbox."""
        lost, taken = upload("steps", "alice"), upload("steps", "alice")
        await submit(desk.nc, taken)
        await desk.reaches(taken.job_id, "succeeded")
        for made in (lost, taken):
            await publish(desk.nc.jetstream(), [_dead(made.upload_id, made.job_id, made.model_dump_json().encode())])

        async def both() -> bool:
            return len(await desk.letters(code="DATABASE_UNAVAILABLE", state="open")) == 2

        await until(both)
        for letter in await desk.letters(code="DATABASE_UNAVAILABLE", state="open"):
            await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops")
        await desk.reaches(lost.job_id, "succeeded")
        for job in (lost.job_id, taken.job_id):
            steps = (await desk.get(f"/v1/jobs/{job}/history"))["steps"]
            assert [step["input"] for step in steps].count("Begin") == 1
            assert len(steps) == 4

    # -- finding them -------------------------------------------------------------------------------

    async def test_letters_are_found_by_what_they_are_about(self, desk: Desk) -> None:
        start = now()
        a = await desk.died("first", "FUNCTION_UNKNOWN")
        middle = now()
        b = await desk.died("second", "FUNCTION_UNKNOWN", tenant="bob")
        c = await desk.died("only", "FUNCTION_UNKNOWN", name="stubborn")
        await desk.post(f"/v1/jobs/{c}/cancel", status=409)
        await desk.post(f"/v1/jobs/{c}/retry")

        async def found(**which: Any) -> list[UUID]:
            return [UUID(one["job_id"]) for one in await desk.letters(code="FUNCTION_UNKNOWN", **which)]

        assert await found() == [c, b, a], "newest first"
        assert await found(phase="second") == [b]
        assert await found(tenant="alice") == [c, a]
        assert await found(pipeline="stubborn") == [c]
        assert await found(since=middle.isoformat()) == [c, b]
        assert await found(until=middle.isoformat()) == [a]
        assert await found(since=start.isoformat(), until=middle.isoformat(), tenant="alice", phase="first") == [a]
        assert await found(since="2020-01-01T00:00:00-11:30") == [c, b, a]
        assert await found(state="open") == [b, a]
        assert await found(state="replayed") == [c]
        assert await found(state="discarded") == []
        assert await desk.letters(code="no such code") == []

    async def test_letters_are_listed_page_by_page(self, desk: Desk) -> None:
        jobs = await desk.all_died(5, code="STYLE_INVALID")
        seen: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await desk.get(LETTERS, "ops", limit=2, code="STYLE_INVALID", **cursor)
            seen += [one["job_id"] for one in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert sorted(seen) == sorted(map(str, jobs))
        times = [one["created_at"] for one in await desk.letters(code="STYLE_INVALID")]
        assert times == sorted(times, reverse=True)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"since": "yesterday"},
            {"since": "2026-01-01T00:00:00"},  # of which zone?
            {"until": "9999-12-31T23:59:59-14:00"},
            {"since": "0001-01-01T00:00:00+14:00"},
            {"state": "closed"},
            {"code": "a\0b"},
            {"tenant": "x" * 201},
            {"limit": "0"},
            {"cursor": "x"},
        ],
        ids=str,
    )
    async def test_a_question_of_the_wrong_shape_is_refused(self, desk: Desk, parameters: dict[str, str]) -> None:
        assert (await desk.get(LETTERS, "ops", 422, **parameters))["code"] == "REQUEST_INVALID"

    # -- replaying one ------------------------------------------------------------------------------

    async def test_a_letter_is_replayed_from_where_it_failed_and_finished_work_is_kept(self, desk: Desk) -> None:
        job = await desk.died()
        letter = await desk.letter_of(job)
        answer = await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops", reason="storage is back")
        assert answer == {"id": letter["id"], "state": "replayed", "job_id": str(job)}
        await desk.reaches(job, "succeeded")
        assert desk.runs(job) == [("first", 1), ("second", 1), ("second", 2), ("third", 1)]
        again = next(c for c in desk.worker.given if (c.job_id, c.phase, c.attempt) == (job, "second", 2))
        assert again.inputs["image"].key == f"jobs/{job}/first/1/image.png"
        resolution = (await desk.letter_of(job))["resolution"]
        assert (resolution["action"], resolution["who"], resolution["why"]) == ("replayed", OPS, "storage is back")
        [line] = await desk.audit(job)
        assert (line["who"], line["action"], line["why"]) == (OPS, "job.replay", "storage is back")
        assert line["details"]["dead_letter"] == letter["id"]
        refused = await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops", 409)
        assert refused["detail"] == "the dead letter is replayed"

    @pytest.mark.parametrize(
        ("wish", "again"),
        [
            ({"start": "start"}, ["first", "second", "third"]),
            ({"start": "first"}, ["first", "second", "third"]),
            ({"start": "third"}, ["second", "third"]),  # what went wrong is always done again
            ({"parameters": {"strength": 0.25}}, ["second", "third"]),
            ({"force": True}, ["second", "third"]),
        ],
        ids=str,
    )
    async def test_a_letter_is_replayed_as_the_operator_says(
        self, desk: Desk, wish: dict[str, Any], again: list[str]
    ) -> None:
        job = await desk.died(style_strength=0.5)
        letter = await desk.letter_of(job)
        done = len(desk.runs(job))
        await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops", **wish)
        await desk.reaches(job, "succeeded")
        assert [name for name, _ in desk.runs(job)[done:]] == again
        strength = [c.parameters.get("strength") for c in desk.worker.given if c.job_id == job and c.phase == "second"]
        assert strength == [0.5, wish.get("parameters", {}).get("strength", 0.5)]
        forced = [c.phase for c in desk.worker.given if c.job_id == job and c.force]
        assert forced == (again if wish.get("force") else [])

    async def test_a_letter_about_a_phase_that_its_job_can_do_without_is_replayed_when_the_job_is_over(
        self, desk: Desk
    ) -> None:
        desk.codes["alice", "maybe"] = "OBJECT_MISSING"
        desk.worker.holds.add(("alice", "sure"))
        job = await desk.begun(name="lenient")
        await desk.at_work(job, "sure")
        del desk.codes["alice", "maybe"]
        letter = await desk.letter_of(job)
        refused = await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops", 409)
        assert refused["detail"] == "the job is running"
        await desk.worker.let_go()
        await desk.reaches(job, "succeeded")
        await desk.post(f"/v1/jobs/{job}/retry", start="sure")  # which has nothing to do with the letter
        await desk.reaches(job, "succeeded")
        assert (await desk.letter_of(job))["state"] == "open"
        await desk.post(f"{LETTERS}/{letter['id']}/replay", "ops")
        await desk.reaches(job, "succeeded")
        assert ("maybe", 2) in desk.runs(job)
        assert (await desk.letter_of(job))["state"] == "replayed"

    async def test_a_letter_is_discarded_with_a_reason_and_stays_so(self, desk: Desk) -> None:
        job = await desk.died()
        letter = (await desk.letter_of(job))["id"]
        for reason in ({}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 501}, {"reason": None}):
            await desk.post(f"{LETTERS}/{letter}/discard", "ops", 422, **reason)
        answer = await desk.post(f"{LETTERS}/{letter}/discard", "ops", reason="the customer left")
        assert answer == {"id": letter, "state": "discarded", "job_id": str(job)}
        resolution = (await desk.letter_of(job))["resolution"]
        assert (resolution["action"], resolution["why"]) == ("discarded", "the customer left")
        for action in ("discard", "replay"):
            refused = await desk.post(f"{LETTERS}/{letter}/{action}", "ops", 409, reason="x")
            assert refused["detail"] == "the dead letter is discarded"
        assert [(line["action"], line["why"]) for line in await desk.audit(letter)] == [
            ("dead-letter.discard", "the customer left")
        ]
        assert await desk.status(job) == "dead"

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            (f"{LETTERS}/{UUID(int=0)}", 404),
            (f"{LETTERS}/replays/{UUID(int=0)}", 404),
            (f"{LETTERS}/1", 422),
            (f"{LETTERS}/replays/1", 422),
        ],
    )
    async def test_what_is_not_there_is_not_found(self, desk: Desk, path: str, status: int) -> None:
        await desk.get(path, "ops", status)
        for action in ("replay", "discard") if "replays" not in path else ("pause", "resume", "cancel"):
            await desk.post(f"{path}/{action}", "ops", status, reason="x")

    async def test_only_one_of_many_who_replay_a_letter_at_once_does(self, desk: Desk) -> None:
        job = await desk.died()
        letter = (await desk.letter_of(job))["id"]
        headers = {"Authorization": "Bearer ops-key-0123456789"}
        answers = await asyncio.gather(
            *(desk.http.post(f"{LETTERS}/{letter}/replay", headers=headers) for _ in range(5))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
        await desk.reaches(job, "succeeded")
        assert desk.runs(job).count(("second", 2)) == 1
        assert len(await desk.audit(job)) == 1

    async def test_a_phase_or_parameter_that_the_pipeline_has_not_is_refused(self, desk: Desk) -> None:
        job = await desk.died()
        letter = (await desk.letter_of(job))["id"]
        for wish in ({"start": "fourth"}, {"parameters": {"strenght": 1}}, {"version": "latest"}):
            answer = await desk.ask(
                "POST", f"{LETTERS}/{letter}/replay", "ops", 422, json={"from": wish.pop("start", None), **wish}
            )
            assert answer["code"] == "REQUEST_INVALID"
        assert (await desk.letter_of(job))["state"] == "open"

    # -- replaying many -----------------------------------------------------------------------------

    async def test_a_dry_run_says_what_would_happen_and_does_nothing(self, desk: Desk) -> None:
        done = await desk.begun("bob")  # each of its phases took two seconds: what an estimate goes by
        await desk.reaches(done, "succeeded")
        second = await desk.all_died(3, "second", "NO_PROVIDER", tenant="bob")
        third = await desk.all_died(2, "third", "NO_PROVIDER", tenant="bob")
        body: dict[str, Any] = {"filter": {"code": "NO_PROVIDER", "tenant": "bob"}, "dry_run": True}
        plan = await desk.post(f"{LETTERS}/replay", "ops", **body)
        assert plan == {
            "count": 5,
            "phases": {"second": 3, "third": 5},
            "estimated": {"seconds": 16.0, "gpu_seconds": 0.0, "usd": 0.0},
            "versions": [{"pipeline": "steps", "pinned": 1, "newest": 1, "count": 5, "differences": []}],
        }
        plan = await desk.post(f"{LETTERS}/replay", "ops", start="start", **body)
        assert plan["phases"] == {"first": 5, "second": 5, "third": 5}
        assert {await desk.status(job) for job in (*second, *third)} == {"dead"}
        assert (await desk.get(f"{LETTERS}/replays", "ops")) == []
        for letter in await desk.letters(code="NO_PROVIDER", tenant="bob"):
            await desk.post(f"{LETTERS}/{letter['id']}/discard", "ops", reason="x")

    async def test_a_replay_of_many_keeps_its_pace_and_tells_how_far_it_is(self, desk: Desk) -> None:
        jobs = await desk.all_died(6, code="DECODE_LIMIT")
        rate = 4.0
        replay = await desk.post(
            f"{LETTERS}/replay",
            "ops",
            202,
            filter={"code": "DECODE_LIMIT"},
            rate_per_s=rate,
            force=True,
            reason="more memory",
        )
        assert (replay["state"], replay["total"], replay["by"], replay["reason"], replay["rate_per_s"]) == (
            "running",
            6,
            OPS,
            "more memory",
            rate,
        )
        for job in jobs:
            await desk.reaches(job, "succeeded")
        done = await _state(desk, replay["id"], "succeeded")
        assert (done["replayed"], done["refused"], done["remaining"]) == (6, 0, 0)
        assert done["ended_at"] is not None
        assert sum(c.force for c in desk.worker.given if c.job_id in jobs) == 12, "two phases of each are done again"
        letters = [await desk.get(f"{LETTERS}/{one['id']}", "ops") for one in await desk.letters(code="DECODE_LIMIT")]
        started = datetime.fromisoformat(replay["created_at"])
        at = sorted(datetime.fromisoformat(one["resolution"]["at"]) for one in letters)
        assert all(n <= (moment - started).total_seconds() * rate + 0.1 for n, moment in enumerate(at, 1)), at
        assert {one["resolution"]["why"] for one in letters} == {"more memory"}
        [line] = await desk.audit(replay["id"])
        assert line["action"] == "dead-letters.replay"
        assert line["details"]["filter"] == {"code": "DECODE_LIMIT"}
        assert line["details"]["count"] == 6
        assert {(await desk.audit(job))[0]["details"]["replay"] for job in jobs} == {replay["id"]}
        listed = await desk.get(f"{LETTERS}/replays", "ops")
        assert listed[0] == done

    async def test_a_replay_is_paused_goes_on_and_is_cancelled(self, desk: Desk) -> None:
        await desk.all_died(8, code="TOO_MANY_ITEMS")
        body: dict[str, Any] = {"filter": {"code": "TOO_MANY_ITEMS"}, "rate_per_s": 3}
        replay = await desk.post(f"{LETTERS}/replay", "ops", 202, **body)
        path = f"{LETTERS}/replays/{replay['id']}"

        async def some(least: int) -> Any:
            found = await desk.get(path, "ops")
            return found["replayed"] >= least and found

        await until(lambda: some(1))
        paused = await desk.post(f"{path}/pause", "ops", reason="too fast")
        assert paused["state"] == "paused"
        await desk.post(f"{path}/pause", "ops", 409)
        second = await desk.post(f"{LETTERS}/replay", "ops", 202, **body)
        assert second["total"] == 0, "the letters are in the hands of the first"
        await _state(desk, second["id"], "succeeded")  # two ticks later, nothing has happened to the paused one
        assert (await desk.get(path, "ops"))["replayed"] == paused["replayed"]
        assert (await desk.post(f"{path}/resume", "ops"))["state"] == "running"
        await until(lambda: some(paused["replayed"] + 1))
        cancelled = await desk.post(f"{path}/cancel", "ops", reason="enough")
        assert (cancelled["state"], cancelled["remaining"]) == ("cancelled", 0)
        for action in ("pause", "resume", "cancel"):
            await desk.post(f"{path}/{action}", "ops", 409)
        left = await desk.letters(code="TOO_MANY_ITEMS", state="open")
        assert len(left) == 8 - cancelled["replayed"]
        third = await desk.post(f"{LETTERS}/replay", "ops", 202, **body | {"rate_per_s": 100})
        assert third["total"] == len(left)
        await _state(desk, third["id"], "succeeded")
        assert (await desk.get(path, "ops"))["replayed"] == cancelled["replayed"]
        actions = [line["action"] for line in await desk.audit(replay["id"])]
        assert actions == ["dead-letters.replay", "replay.pause", "replay.resume", "replay.cancel"]

    async def test_what_a_replay_cannot_do_it_tells_and_another_can_do_later(self, desk: Desk) -> None:
        desk.codes["alice", "maybe"] = "FACT_INVALID"
        desk.worker.holds.add(("alice", "sure"))
        job = await desk.begun(name="lenient")
        await desk.at_work(job, "sure")
        desk.codes.clear()
        good = await desk.died(code="FACT_INVALID")
        body: dict[str, Any] = {"filter": {"code": "FACT_INVALID"}, "rate_per_s": 100}
        first = await desk.post(f"{LETTERS}/replay", "ops", 202, **body)
        done = await _state(desk, first["id"], "succeeded")
        assert (done["total"], done["replayed"], done["refused"]) == (2, 1, 1)
        assert (await desk.letter_of(job))["refusal"] == "the job is running"
        await desk.reaches(good, "succeeded")
        await desk.worker.let_go()
        await desk.reaches(job, "succeeded")
        plan = await desk.post(f"{LETTERS}/replay", "ops", dry_run=True, **body)
        assert (plan["count"], plan["phases"]) == (1, {"maybe": 1, "sure": 1})
        second = await desk.post(f"{LETTERS}/replay", "ops", 202, **body)
        done = await _state(desk, second["id"], "succeeded")
        assert (done["total"], done["replayed"], done["refused"]) == (1, 1, 0)
        assert (await desk.get(f"{LETTERS}/replays/{first['id']}", "ops"))["refused"] == 1
        await desk.reaches(job, "succeeded")

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param({}, id="no filter"),
            pytest.param({"filter": {}}, id="a filter that is empty"),
            pytest.param({"filter": {"code": None}}, id="a filter that asks for nothing"),
            pytest.param({"filter": {"cod": "X"}}, id="a filter that is misspelt"),
            pytest.param({"filter": {"code": "\0"}}, id="a code that no database holds"),
            pytest.param({"filter": {"since": "2026-01-01T00:00:00"}}, id="a time of no zone"),
            pytest.param({"filter": {"code": "X"}, "rate_per_s": 0}, id="no pace"),
            pytest.param({"filter": {"code": "X"}, "rate_per_s": 1e-300}, id="a pace of ages"),
            pytest.param({"filter": {"code": "X"}, "rate_per_s": 1001}, id="a pace beyond reason"),
            pytest.param({"filter": {"code": "X"}, "from": "no-such-phase"}, id="a phase that nobody has"),
            pytest.param({"filter": {"code": "X"}, "parameters": {"no": 1}}, id="a parameter that nobody takes"),
            pytest.param({"filter": {"code": "X"}, "reason": "x" * 501}, id="a reason that is too long"),
            pytest.param({"filter": {"code": "X"}, "dry_run": "maybe"}, id="neither dry nor not"),
        ],
    )
    async def test_a_replay_of_many_of_the_wrong_shape_is_refused(self, desk: Desk, body: dict[str, Any]) -> None:
        for dry in ({}, {"dry_run": True}):
            answer = await desk.ask("POST", f"{LETTERS}/replay", "ops", 422, json=dry | body)
            assert answer["code"] == "REQUEST_INVALID"


def _dead(upload_id: UUID, job: UUID, body: bytes) -> Outgoing:
    """An upload's event as settle buries it when its reader's database stayed away."""
    id_ = f"dead.orchestrator-inputs.{upload_id}"
    headers = {
        "Nats-Msg-Id": id_,
        "ce-id": id_,
        "ce-subject": str(job),
        "safelight-original-id": str(upload_id),
        "safelight-error-code": "DATABASE_UNAVAILABLE",
        "safelight-error-message": "The database does not answer.",
        "safelight-deliveries": "17",
        "safelight-consumer": "orchestrator-inputs",
    }
    return dressed(id_, f"dead.{UPLOAD_RECEIVED.subject}", headers, body)


async def _state(desk: Desk, replay: str, state: str) -> Any:
    async def there() -> Any:
        found = await desk.get(f"{LETTERS}/replays/{replay}", "ops")
        return found["state"] == state and found

    return await until(there)


# -- restarts, replicas and new versions ------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
async def test_a_replay_goes_on_after_a_restart_with_two_replicas_that_share_it(
    settings: Settings, engine: AsyncEngine, nc: Client
) -> None:
    async with open_desk(settings, engine, nc) as desk:
        jobs = await desk.all_died(14)
        body: dict[str, Any] = {"filter": {"tenant": "alice"}, "rate_per_s": 8, "reason": "r"}
        replay = (await desk.post(f"{LETTERS}/replay", "ops", 202, **body))["id"]

        async def begun() -> bool:
            return bool((await desk.get(f"{LETTERS}/replays/{replay}", "ops"))["replayed"])

        await until(begun)
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(served(build(settings))) for _ in range(2)]
        desk = await stack.enter_async_context(seated(sites[0].url, engine, nc))
        assert (await desk.get(f"{LETTERS}/replays/{replay}", "ops"))["remaining"] > 0
        done = await _state(desk, replay, "succeeded")
        assert (done["total"], done["replayed"], done["refused"]) == (14, 14, 0)
        for job in jobs:
            await desk.reaches(job, "succeeded")
            inputs = [step["input"] for step in (await desk.get(f"/v1/jobs/{job}/history"))["steps"]]
            assert inputs.count("Retry") == 1
            assert len(await desk.audit(job)) == 1


@pytest.mark.usefixtures("quiet")
async def test_letters_are_replayed_on_the_newest_version_and_a_dry_run_says_what_is_different(
    settings: Settings, engine: AsyncEngine, nc: Client, settings_of: SettingsOf, tmp_path: Path
) -> None:
    async with open_desk(settings, engine, nc) as desk:
        one, two, three = await desk.all_died(3)
    newer = settings_for(settings_of, pipelines_in(tmp_path, steps=STEPS_2))
    async with open_desk(newer, engine, nc) as desk:
        body: dict[str, Any] = {"filter": {"tenant": "alice"}, "dry_run": True, "version": "newest"}
        plan = await desk.post(f"{LETTERS}/replay", "ops", **body)
        assert (plan["count"], plan["phases"]) == (3, {"second": 3, "fourth": 3})
        assert plan["versions"] == [
            {
                "pipeline": "steps",
                "pinned": 1,
                "newest": 2,
                "count": 3,
                "differences": ["second has another deadline_s", "fourth is new", "third is gone"],
            }
        ]
        assert (await desk.post(f"{LETTERS}/replay", "ops", **body | {"version": "pinned"}))["phases"] == {
            "second": 3,
            "third": 3,
        }
        letter = (await desk.letter_of(one))["id"]
        await desk.post(f"{LETTERS}/{letter}/replay", "ops", version="newest")
        await desk.post(f"/v1/jobs/{two}/retry", status=422, start="fourth")
        await desk.post(f"/v1/jobs/{two}/retry", version="newest", start="fourth")
        replay = await desk.post(
            f"{LETTERS}/replay", "ops", 202, filter={"tenant": "alice"}, version="newest", rate_per_s=100
        )
        assert replay["total"] == 1
        await _state(desk, replay["id"], "succeeded")
        for job in (one, two, three):
            await desk.reaches(job, "succeeded")
            assert desk.runs(job) == [("second", 2), ("fourth", 1)]
            assert (await desk.get(f"/v1/jobs/{job}/history"))["pipeline_version"] == 2
        beside = await desk.begun()
        await desk.reaches(beside, "succeeded")
        assert [name for name, _ in desk.runs(beside)] == ["first", "second", "fourth"]
