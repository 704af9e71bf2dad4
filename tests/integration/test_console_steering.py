"""The commands that steer jobs, batches and dead letters, against a small real server that remembers its requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from typer.testing import CliRunner

from console import cli
from console.client import Client, Connection, Refused, Unreachable
from contracts.errors import SafelightError, error
from runtime.http import problem_response
from tests.integration.console_upstream import Served

TENANTS_KEY, OPERATORS_KEY = "a-tenants-key-of-mine", "an-operators-key-of-mine"
JOB, OTHER, BATCH = UUID(int=7), UUID(int=8), UUID(int=9)
AT = "2026-01-02T03:04:05Z"
LETTER = {
    "id": "l-1",
    "source": "exhausted",
    "state": "open",
    "job_id": str(JOB),
    "tenant": "demo",
    "pipeline": "photo",
    "pipeline_version": 2,
    "phase": "style",
    "item": None,
    "code": "CALL_LOST",
    "detail": "The worker died [/while] it ran the call.",
    "trace_id": "f" * 32,
    "created_at": AT,
    "subject": "dead.cmd.gpu.v1.run.style",
    "new_in_a_later_version": 1,
}
WHOLE = {
    **LETTER,
    "command": {"job_id": str(JOB), "phase": "style", "parameters": {"strength": 0.5}},
    "attempts": [
        {
            "phase": "style",
            "item": "p3",
            "number": 1,
            "started_at": AT,
            "ended_at": AT,
            "code": "CALL_LOST",
            "detail": "",
            "engine": None,
        }
    ],
    "artifacts": [
        {"key": "jobs/7/analyze/1/x.png", "sha256": "0" * 64, "size": 1234, "media_type": "image/png", "name": "x.png"}
    ],
    "resolution": {"who": "operator:ops", "at": AT, "why": "the GPU is back", "action": "replayed"},
}
BATCH_ROW = {
    "id": str(BATCH),
    "name": "gallery",
    "tenant": "demo",
    "created_at": AT,
    "jobs": {"total": 9, "running": 2, "succeeded": 4, "failed": 1, "dead": 1, "cancelled": 1, "degraded": 3},
    "fraction": 0.75,
    "eta_s": 120.0,
    "ended_at": None,
}  # fmt: skip
REPLAY = {
    "id": "r-1",
    "state": "running",
    "total": 12,
    "replayed": 5,
    "refused": 1,
    "remaining": 6,
    "rate_per_s": 10,
    "reason": "the GPU is back",
    "by": "operator:ops",
    "created_at": AT,
    "ended_at": None,
}
DRY_RUN = {
    "count": 12,
    "phases": {"style": 12, "crop": 12},
    "estimated": {"seconds": 240.0, "gpu_seconds": 36.0, "usd": None},
    "versions": [
        {"pipeline": "photo", "pinned": 2, "newest": 2, "count": 9, "differences": []},
        {"pipeline": "photo", "pinned": 1, "newest": 2, "count": 3, "differences": ["style: deadline_s"]},
    ],
}
HISTORY = {
    "job_id": str(JOB),
    "pipeline": "photo",
    "pipeline_version": 2,
    "status": "running",
    "revision": 3,
    "waits": [{"phase": "style", "item": None, "owner": "worker: style", "until": AT, "why": "style is at work"}],
    "steps": [
        {"revision": 1, "at": AT, "input": "Begin", "effects": ["cmd.analysis.v1.run"]},
        {"revision": 2, "at": AT, "input": "Succeeded analyze 1", "effects": []},
    ],
}


class Desk(Served):
    """Answers as the orchestrator is agreed to; `asked` are the changes that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.queries: list[dict[str, str]] = []
        self.uploads: list[bytes] = []
        self.letters = 12
        self.refusal: str | None = None  # what every change is refused with
        super().__init__(self._app())

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def needs_a_key(request: Request, call_next: Any) -> Response:
            key = request.headers.get("authorization", "").removeprefix("Bearer ")
            operators = request.url.path.startswith("/v1/dead-letters")
            if key not in (TENANTS_KEY, OPERATORS_KEY):
                return problem_response(error("UNAUTHENTICATED"))
            if operators and key != OPERATORS_KEY:
                return problem_response(error("FORBIDDEN"))
            answer: Response = await call_next(request)
            return answer

        async def asked(request: Request) -> dict[str, Any]:
            body: dict[str, Any] = await request.json()
            self.asked.append((request.url.path, body))
            if self.refusal:
                raise error(self.refusal)
            return body

        @app.exception_handler(SafelightError)
        async def told(_request: Request, problem: SafelightError) -> Response:
            return problem_response(problem)

        def page(rows: list[dict[str, Any]], request: Request) -> dict[str, Any]:
            self.queries.append(dict(request.query_params))
            start, limit = int(request.query_params.get("cursor", 0)), int(request.query_params["limit"])
            end = start + min(limit, 2)
            return {"items": rows[start:end], "next_cursor": str(end) if end < len(rows) else None}

        @app.post("/v1/uploads")
        async def upload(request: Request) -> Response:
            self.uploads.append(await request.body())
            answer = {"upload_id": str(JOB), "job_id": str(JOB), "trace_id": None, "status": "queued"}
            return JSONResponse(answer, 202)

        @app.get("/v1/jobs")
        async def jobs(request: Request) -> dict[str, Any]:
            row = {"id": str(JOB), "pipeline": "photo", "status": "running", "created_at": AT}
            return page([{**row, "waiting_on": "paused by operator:ops"}], request)

        @app.post("/v1/jobs/{job_id}/re-edit", status_code=202)
        async def edit(job_id: UUID, request: Request) -> dict[str, Any]:
            await asked(request)
            about = {"job_id": str(OTHER), "upload_id": str(BATCH), "edit_of": str(job_id), "version": 2}
            return {**about, "status": "queued", "trace_id": None}

        @app.get("/v1/jobs/{job_id}/versions")
        async def versions() -> dict[str, Any]:
            about = {"status": "succeeded", "degraded": False, "created_at": AT, "ended_at": AT}
            first = {"job_id": str(JOB), "version": 1, "edit_of": None, "options": {"style": "mono@1", "crop": "1:1"}}
            other = {"job_id": str(OTHER), "version": 2, "edit_of": str(JOB), "options": {"style": None, "crop": "1:1"}}
            return {"upload_id": str(BATCH), "versions": [{**first, **about}, {**other, **about}]}

        @app.post("/v1/jobs/{job_id}/{action}")
        async def act(job_id: UUID, action: str, request: Request) -> dict[str, Any]:
            await asked(request)
            if job_id == OTHER:
                raise error("STATE_CONFLICT", "the job is succeeded")
            return {"job_id": str(job_id), "status": "cancelled" if action == "cancel" else "running", "revision": 8}

        @app.get("/v1/jobs/{job_id}/history")
        async def history() -> dict[str, Any]:
            return HISTORY

        @app.post("/v1/batches", status_code=201)
        async def create(request: Request) -> dict[str, Any]:
            return {**BATCH_ROW, "name": (await asked(request))["name"]}

        @app.get("/v1/batches")
        async def batches(request: Request) -> dict[str, Any]:
            return page([BATCH_ROW] * 3, request)

        @app.get("/v1/batches/{batch_id}")
        async def batch() -> dict[str, Any]:
            return BATCH_ROW

        @app.post("/v1/batches/{batch_id}/close")
        async def close(request: Request) -> dict[str, Any]:
            await asked(request)
            return {**BATCH_ROW, "state": "closed"}

        @app.post("/v1/batches/{batch_id}/{action}")
        async def act_on_batch(request: Request) -> dict[str, Any]:
            await asked(request)
            return {"id": str(BATCH), "jobs": 3}

        @app.post("/v1/dead-letters/replay")
        async def replay_all(request: Request) -> Response:
            body = await asked(request)
            if body["dry_run"]:
                return JSONResponse({**DRY_RUN, "count": self.letters})
            return JSONResponse(REPLAY, 202)

        @app.get("/v1/dead-letters/replays")
        async def replays() -> list[dict[str, Any]]:
            return [REPLAY] * 3

        @app.get("/v1/dead-letters/replays/{replay_id}")
        async def replay() -> dict[str, Any]:
            return REPLAY

        @app.post("/v1/dead-letters/replays/{replay_id}/{action}")
        async def act_on_replay(action: str, request: Request) -> dict[str, Any]:
            await asked(request)
            return {**REPLAY, "state": {"pause": "paused", "resume": "running", "cancel": "cancelled"}[action]}

        @app.get("/v1/dead-letters")
        async def letters(request: Request) -> dict[str, Any]:
            return page([{**LETTER, "id": f"l-{n}"} for n in range(5)], request)

        @app.get("/v1/dead-letters/{letter}")
        async def letter(letter: str) -> Response:
            return JSONResponse(WHOLE) if letter == "l-1" else problem_response(error("NOT_FOUND"))

        @app.post("/v1/dead-letters/{letter}/{action}")
        async def act_on_letter(letter: str, action: str, request: Request) -> dict[str, Any]:
            await asked(request)
            state = {"replay": "replayed", "discard": "discarded"}[action]
            return {"id": letter, "state": state, "job_id": str(JOB)}

        return app


@pytest.fixture
def desk() -> Iterator[Desk]:
    served = Desk()
    yield served
    served.stop()


def run(desk: Desk, *arguments: str, typed: str | None = None, **keys: str) -> tuple[int, str, str]:
    known = {"api_key": TENANTS_KEY, "operator_key": OPERATORS_KEY} | keys
    result = CliRunner().invoke(
        cli.client, arguments, obj=lambda: Connection(desk.url, **known), env={"COLUMNS": "160"}, input=typed
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


# -- jobs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("listing", [("jobs",), ("jobs", "list")], ids=["alone", "list"])
def test_jobs_are_listed_with_what_they_wait_for(desk: Desk, listing: tuple[str, ...]) -> None:
    code, out, _ = run(desk, *listing, "--status", "running", "--batch", str(BATCH))
    assert code == 0
    assert str(JOB) in out
    assert "paused by operator:ops" in out
    assert desk.queries == [{"status": "running", "batch": str(BATCH), "limit": "20"}]


def test_an_operator_lists_a_tenants_jobs(desk: Desk) -> None:
    code, _, _ = run(desk, "jobs", "list", "--as-operator", "--tenant", "demo", api_key="nobodys-key-at-all")
    assert code == 0
    assert desk.queries == [{"tenant": "demo", "limit": "20"}]


@pytest.mark.parametrize("action", ["cancel", "pause", "resume"])
def test_a_job_is_asked_with_the_reason(desk: Desk, action: str) -> None:
    code, out, _ = run(desk, "jobs", action, str(JOB), "--reason", "wrong style")
    assert code == 0
    assert str(JOB) in out
    assert desk.asked == [(f"/v1/jobs/{JOB}/{action}", {"reason": "wrong style"})]


def test_a_job_that_refuses_does_not_keep_the_others(desk: Desk) -> None:
    code, out, err = run(desk, "jobs", "cancel", str(OTHER), str(JOB), "--json")
    assert code == 1
    assert json.loads(out) == [
        {"job_id": str(JOB), "status": "cancelled", "revision": 8},
        {"job_id": str(OTHER), "error": {"code": "STATE_CONFLICT", "detail": "the job is succeeded", "phase": None}},
    ]
    code, out, err = run(desk, "jobs", "cancel", str(OTHER), str(JOB))
    assert code == 1
    assert f"{OTHER}: the job is succeeded (STATE_CONFLICT)" in err
    assert str(JOB) in out


def test_a_job_is_retried_from_a_phase_with_other_parameters(desk: Desk) -> None:
    run(desk, "jobs", "retry", str(JOB), "--from", "style", "--newest", "--set", "strength=0.5", "--set", "aspect=1:1")
    run(desk, "jobs", "retry", str(JOB))
    run(desk, "jobs", "retry", str(JOB), "--from", "degraded", "--force")
    assert [body for _, body in desk.asked] == [
        {"from": "style", "parameters": {"strength": 0.5, "aspect": "1:1"}, "version": "newest", "reason": ""},
        {"from": None, "parameters": {}, "version": "pinned", "reason": ""},
        {"from": "degraded", "parameters": {}, "version": "pinned", "reason": "", "force": True},
    ]


def test_the_history_names_decisions_and_waits(desk: Desk) -> None:
    _, out, _ = run(desk, "jobs", "history", str(JOB))
    for part in ("photo, version 2", "Begin", "cmd.analysis.v1.run", "Succeeded analyze", "worker: style"):
        assert part in out


def test_a_job_is_edited_and_its_versions_are_listed(desk: Desk) -> None:
    code, out, _ = run(desk, "jobs", "re-edit", str(JOB), "--style", "none", "--crop", "4:5", "--crooked")
    assert (code, f"{OTHER}  version 2" in out) == (0, True)
    assert desk.asked == [(f"/v1/jobs/{JOB}/re-edit", {"style": None, "crop": "4:5", "straighten": False})]
    assert run(desk, "jobs", "re-edit", str(JOB))[0] == 2, "nothing is to be otherwise"
    _, out, _ = run(desk, "jobs", "versions", str(JOB))
    first, second = [line for line in out.splitlines() if str(JOB) in line or str(OTHER) in line]
    assert "style mono@1, crop 1:1" in first
    assert "style None" in second
    assert "crop" not in second


# -- batches ---------------------------------------------------------------------------------


def test_a_batch_is_made_listed_and_shown(desk: Desk) -> None:
    _, out, _ = run(desk, "batches", "create", "gallery", "--json")
    assert json.loads(out)["id"] == str(BATCH)
    assert desk.asked == [("/v1/batches", {"name": "gallery"})]
    _, out, _ = run(desk, "batches", "list")
    assert out.count(str(BATCH)) == 3, "the list is read over its pages"
    _, out, _ = run(desk, "batches", "show", str(BATCH))
    for part in ("gallery", "75%", "2 min", "succeeded", "degraded"):
        assert part in out


def test_a_batch_is_made_with_settings_and_closed(desk: Desk) -> None:
    run(desk, "batches", "create", "g", "--style", "mono", "--crop", "4:5", "--duplicates", "reuse")
    code, out, _ = run(desk, "batches", "close", str(BATCH))
    assert (code, "closed" in out) == (0, True)
    settings = {"name": "g", "style": "mono", "options": {"crop": "4:5"}, "duplicates": "reuse"}
    assert desk.asked == [("/v1/batches", settings), (f"/v1/batches/{BATCH}/close", {})]


@pytest.mark.parametrize("action", ["cancel", "retry-failed"])
def test_the_jobs_of_a_batch_are_asked_together(desk: Desk, action: str) -> None:
    code, out, _ = run(desk, "batches", action, str(BATCH), "--reason", "why not")
    assert (code, desk.asked) == (0, [(f"/v1/batches/{BATCH}/{action}", {"reason": "why not"})])
    assert "3 jobs" in out


def test_files_are_submitted_into_a_new_batch(desk: Desk, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    code, out, _ = run(desk, "submit", *paths, "--batch", "new", "--lane", "interactive", "--json")
    assert code == 0
    assert [row["batch_id"] for row in json.loads(out)] == [str(BATCH)] * 2
    assert [path for path, _ in desk.asked] == ["/v1/batches"], "one batch for all"
    for body in desk.uploads:
        assert f'name="batch"\r\n\r\n{BATCH}'.encode() in body
        assert b'name="lane"\r\n\r\ninteractive' in body


def test_files_are_submitted_into_a_batch_that_is_there(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    code, out, _ = run(desk, "submit", str(tmp_path / "a.jpg"), "--batch", str(BATCH))
    assert (code, desk.asked) == (0, [])
    assert str(BATCH) in out
    code, _, err = run(desk, "submit", str(tmp_path / "a.jpg"), "--batch", "gallery")
    assert code == 2
    assert "`new`" in err


# -- dead letters ----------------------------------------------------------------------------


def test_letters_are_listed_by_filters(desk: Desk) -> None:
    code, out, _ = run(
        desk, "dead-letters", "list", "--code", "CALL_LOST", "--state", "open", "--since", "2026-01-01T00:00+00:00"
    )
    assert code == 0
    assert [name for name in ("l-0", "l-4") if name in out] == ["l-0", "l-4"]
    assert desk.queries[0] | {"limit": ""} == {
        "code": "CALL_LOST",
        "state": "open",
        "since": datetime(2026, 1, 1, tzinfo=UTC).astimezone().isoformat(),
        "limit": "",
    }
    assert [query.get("cursor") for query in desk.queries] == [None, "2", "4"]


def test_times_are_also_told_as_so_long_ago(desk: Desk) -> None:
    run(desk, "dead-letters", "list", "--since", "2h")
    since = datetime.fromisoformat(desk.queries[0]["since"])
    assert abs(datetime.now(UTC) - timedelta(hours=2) - since) < timedelta(minutes=5)


def test_json_says_all_that_the_service_says(desk: Desk) -> None:
    _, out, _ = run(desk, "dead-letters", "list", "--limit", "1", "--json")
    assert json.loads(out) == [{**LETTER, "id": "l-0"}]


def test_a_letter_is_shown_whole(desk: Desk) -> None:
    _, out, _ = run(desk, "dead-letters", "show", "l-1")
    for part in (
        "CALL_LOST",
        "style.p3",
        "[/while]",
        "f" * 32,
        "jobs/7/analyze/1/x.png",
        "operator:ops",
        '"strength": 0.5',
    ):
        assert part in out


def test_one_letter_is_replayed_at_once(desk: Desk) -> None:
    code, out, _ = run(desk, "dead-letters", "replay", "l-1", "--from", "start", "--reason", "fixed", "--json")
    assert (code, json.loads(out)["state"]) == (0, "replayed")
    again = {"from": "start", "parameters": {}, "version": "pinned", "reason": "fixed"}
    assert desk.asked == [("/v1/dead-letters/l-1/replay", again)]


def test_a_dry_run_asks_nothing_and_changes_nothing(desk: Desk) -> None:
    code, out, _ = run(desk, "dead-letters", "replay", "--code", "CALL_LOST", "--newest", "--dry-run")
    assert code == 0
    for part in ("12", "style", "4 min", "36 s", "not known", "3 pin version 1", "style: deadline_s"):
        assert part in out
    [(path, body)] = desk.asked
    assert (path, body["dry_run"], body["version"]) == ("/v1/dead-letters/replay", True, "newest")
    assert body["filter"] == {"code": "CALL_LOST"}


def test_many_are_replayed_when_the_person_says_yes(desk: Desk) -> None:
    code, out, err = run(
        desk, "dead-letters", "replay", "--phase", "style", "--rate", "2", "--reason", "back", typed="y\n"
    )
    assert code == 0
    assert "Replay 12 dead letters?" in err
    assert "r-1" in out
    assert [body["dry_run"] for _, body in desk.asked] == [True, False]
    assert desk.asked[1][1] == {
        "filter": {"phase": "style"},
        "dry_run": False,
        "rate_per_s": 2.0,
        "from": None,
        "parameters": {},
        "version": "pinned",
        "reason": "back",
    }


@pytest.mark.parametrize("typed", ["n\n", ""], ids=["no", "nobody there"])
def test_without_consent_nothing_is_replayed(desk: Desk, typed: str) -> None:
    code, _, _ = run(desk, "dead-letters", "replay", "--all", typed=typed)
    assert code == 1
    assert [body["dry_run"] for _, body in desk.asked] == [True]


def test_yes_asks_nothing(desk: Desk) -> None:
    code, out, _ = run(desk, "dead-letters", "replay", "--all", "--yes", "--json")
    assert (code, json.loads(out)["id"]) == (0, "r-1")
    assert [body["filter"] for _, body in desk.asked] == [{"since": "1970-01-01T00:00:00Z"}], "an empty one is refused"


def test_nothing_that_fits_is_nothing_to_do(desk: Desk) -> None:
    desk.letters = 0
    code, _, err = run(desk, "dead-letters", "replay", "--all")
    assert code == 0
    assert "No open dead letter fits." in err
    assert len(desk.asked) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "an ID, filters, or --all"),
        (("l-1", "--all"), "an ID stands alone"),
        (("l-1", "--dry-run"), "an ID stands alone"),
        (("--all", "--json"), "add --yes"),
        (("--since", "yesterday"), "is no time"),
        (("--all", "--set", "strength"), "NAME=VALUE"),
    ],
)
def test_a_replay_that_makes_no_sense_is_not_understood(desk: Desk, arguments: tuple[str, ...], told: str) -> None:
    code, _, err = run(desk, "dead-letters", "replay", *arguments)
    assert code == 2
    assert told in err
    assert desk.asked == []


def test_a_letter_is_put_away_with_a_reason_only(desk: Desk) -> None:
    code, _, _ = run(desk, "dead-letters", "discard", "l-1")
    assert (code, desk.asked) == (2, [])
    code, _, _ = run(desk, "dead-letters", "discard", "l-1", "--reason", "a test")
    assert (code, desk.asked) == (0, [("/v1/dead-letters/l-1/discard", {"reason": "a test"})])


def test_replays_are_followed_and_steered(desk: Desk) -> None:
    _, out, _ = run(desk, "dead-letters", "replays", "list")
    assert out.count("r-1") == 3
    _, out, _ = run(desk, "dead-letters", "replays", "show", "r-1", "--json")
    assert json.loads(out)["remaining"] == 6
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        _, out, _ = run(desk, "dead-letters", "replays", action, "r-1")
        assert state in out
    assert [path for path, _ in desk.asked] == [
        f"/v1/dead-letters/replays/r-1/{action}" for action in ("pause", "resume", "cancel")
    ]


def test_no_name_leaves_its_place_in_the_path(desk: Desk) -> None:
    code, _, err = run(desk, "dead-letters", "show", "l-1?x")
    assert code == 1
    assert "NOT_FOUND" in err


# -- keys and failures -----------------------------------------------------------------------


def test_a_tenants_key_opens_no_dead_letters(desk: Desk) -> None:
    code, _, err = run(desk, "dead-letters", "list", operator_key=TENANTS_KEY)
    assert code == 1
    assert "FORBIDDEN" in err


def test_without_an_operators_key_it_says_what_to_do(desk: Desk) -> None:
    code, _, err = run(desk, "dead-letters", "list", operator_key="")
    assert code == 1
    assert "SAFELIGHT_OPERATOR_KEY" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "history", str(JOB)),
        ("jobs", "retry", str(JOB)),
        ("batches", "list"),
        ("batches", "show", str(BATCH)),
        ("batches", "cancel", str(BATCH)),
        ("dead-letters", "show", "l-1"),
        ("dead-letters", "replay", "--all", "--dry-run"),
        ("dead-letters", "discard", "l-1", "--reason", "x"),
        ("dead-letters", "replays", "list"),
        ("dead-letters", "replays", "pause", "r-1"),
    ],
    ids=" ".join,
)
def test_json_is_one_document(desk: Desk, arguments: tuple[str, ...]) -> None:
    code, out, _ = run(desk, *arguments, "--json")
    assert code == 0
    assert json.loads(out)


def test_options_of_the_list_do_not_get_lost_before_a_command(desk: Desk) -> None:
    code, _, err = run(desk, "jobs", "--json", "cancel", str(JOB))
    assert code == 2
    assert "options go behind the command" in err
    assert desk.asked == []


async def test_a_change_that_may_have_been_heard_is_not_asked_for_again(desk: Desk) -> None:
    desk.refusal = "DATABASE_UNAVAILABLE"
    async with Client(Connection(desk.url, TENANTS_KEY), retry_after_s=(0.0, 0.0)) as client:
        with pytest.raises(Refused) as refused:
            await client.post(f"/v1/jobs/{JOB}/cancel", {})
    assert refused.value.code == "DATABASE_UNAVAILABLE"
    assert len(desk.asked) == 1


async def test_a_change_that_nobody_heard_is_told_as_such() -> None:
    async with Client(Connection("http://127.0.0.1:9", TENANTS_KEY), retry_after_s=(0.0,)) as client:
        with pytest.raises(Unreachable):
            await client.post(f"/v1/jobs/{JOB}/cancel", {})
