"""What is left of a job when all is over, in every service: the same for each run, whatever died on the way.

Ids are replaced by words and times are left out; nothing else is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from tests.chaos.house import House
from tests.chaos.points import Tolerance

TIMES: Final = frozenset(
    [
        "deadline",
        "lease_until",
        "retry_at",
        "ready_at",
        "started_at",
        "ended_at",
        "created_at",
        "expires_at",
        "at",
        "wake_at",
        "received_at",
        "id",
        "upload_id",
        "trace_id",
        "traceparent",
        "job_id",
        "progress",
        "ahead",
    ]
)
ENDINGS: Final = frozenset(f"evt.job.v1.{ending}" for ending in ("succeeded", "failed", "dead", "cancelled"))
# fmt: off
ROWS: Final = {
    "uploads":  "SELECT tenant, pipeline, sha256, size, media_type FROM ingest.uploads WHERE job_id = $1",
    "job":      "SELECT * FROM orchestrator.jobs WHERE id = $1",
    "decided":  "SELECT revision, input, effects FROM orchestrator.history WHERE job_id = $1 ORDER BY revision",
    "letters":  "SELECT source, state, code, detail, phase, subject, attempts FROM orchestrator.dead_letters "
                "WHERE job_id = $1",
    "commands": "SELECT key, call, state FROM gpu_bridge.commands WHERE starts_with(key, $1::uuid::text) ORDER BY key",
    "shown":    "SELECT * FROM output.jobs WHERE id = $1",
    "phases":   "SELECT * FROM output.phases WHERE job_id = $1 ORDER BY name, item",
    # Each kind once: an event that the sweep publishes after a newer one is no news any more, and is not shown.
    "shown_as": "SELECT DISTINCT type FROM output.events "
                "WHERE job_id = $1 AND type <> 'phase.v1.progressed' ORDER BY type",
}
# Of the calls that a job's commands follow: they are named by their work.
CALLS: Final = {
    "calls":    "SELECT key, tenant, function, function_version, command, alike, state, code, kept "
                "FROM gpu_bridge.calls WHERE key = ANY($1) ORDER BY key",
    "epochs":   "SELECT epoch, provider, device, ended_at IS NOT NULL AS closed, code FROM gpu_bridge.epochs "
                "WHERE call = ANY($1) ORDER BY call, epoch",
}
# fmt: on
_OF_AN_EPOCH: Final = re.compile(r"(calls/[^/]+/CALL[0-9]+)/[0-9]+/")  # the key of an object


@dataclass(frozen=True, slots=True)
class Left:
    """`rows` by table; `artifacts` by name with their hashes; `told`: events by subject, each counted once by its id;
    `commands` by phase; `runs`: how often each function's body ran to its end."""

    rows: dict[str, list[Any]]
    artifacts: dict[str, str]
    told: dict[str, int]
    commands: dict[str, int]
    runs: dict[str, int]


async def left_of(house: House, job: UUID) -> Left:
    """Read everything. Raises AssertionError for an object that is referred to and is not there."""
    calls = await house.calls(job)
    raw = {name: await house.ask(query, job) for name, query in ROWS.items()}
    raw |= {name: await house.ask(query, calls) for name, query in CALLS.items()}
    ids = {str(job): "JOB"} | {call: f"CALL{n}" for n, call in enumerate(calls)}
    for row in raw["shown"]:
        ids |= {str(row["upload_id"]): "UPLOAD", json.loads(row["original"])["sha256"]: "ORIGINAL"}
    rows = {name: [_plain(row, ids) for row in found] for name, found in raw.items()}
    told = {one.message_id: one.subject for one in house.told if one.job_id == job}
    commands = [
        ".".join(effect.split(".")[1:-1])
        for row in raw["decided"]
        for effect in json.loads(row["effects"])
        if effect.count(".") >= 2 and not effect.split(".")[1].isdecimal() and not effect.endswith(".stop")
    ]
    return Left(
        rows=rows,
        artifacts=await _artifacts(house, raw),
        told=dict(sorted(Counter(told.values()).items())),
        commands=dict(sorted(Counter(commands).items())),
        runs=dict(sorted(Counter(await house.runs(job)).items())),
    )


async def _artifacts(house: House, raw: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    found = {}
    for row in raw["shown"]:
        original = json.loads(row["original"])
        await house.objects.get_checked(original["key"], original["sha256"])
    for row in raw["phases"]:
        for made in json.loads(row["state"])["artifacts"]:
            data = await house.objects.get_checked(made["key"], made["sha256"])
            assert len(data) == made["size"]
            found[f"{row['name']}.{made['name']}"] = made["sha256"]
    return found


def _plain(value: Any, ids: Mapping[str, str]) -> Any:
    """As compared: without times, with words for ids, JSON read."""
    match value:
        case dict():
            return {name: _plain(inner, ids) for name, inner in value.items() if name not in TIMES}
        case list():
            return [_plain(inner, ids) for inner in value]
        case str() if value[:1] in ("{", "["):
            return _plain(json.loads(value), ids)
        case str():
            for id_, word in ids.items():
                value = value.replace(id_, word)
            return _OF_AN_EPOCH.sub(r"\1/EPOCH/", value)
        case UUID():
            return ids.get(str(value), str(value))
        case _:
            return value


# -- what a crash may change -------------------------------------------------------------------


def differences(calm: Left, found: Left, allowed: Tolerance) -> list[str]:
    """What is otherwise than after the calm run, and is not tolerated; one line each."""
    wrong = _wrong_epochs(found)
    least, most = (len(calm.rows["epochs"]) + more for more in allowed.epochs)
    if not least <= len(found.rows["epochs"]) <= most:
        wrong.append(f"{len(found.rows['epochs'])} epochs, not {least} to {most}: {found.rows['epochs']}")
    for function in {*calm.runs, *found.runs, *allowed.runs}:
        often = calm.runs.get(function, 0)
        least, most = allowed.runs.get(function, (often, often))
        if not least <= found.runs.get(function, 0) <= most:
            wrong.append(f"{function} ran {found.runs.get(function, 0)} times to its end, not {least} to {most}")
    wrong += _compared("rows", _without_epochs(calm.rows), _without_epochs(found.rows))
    wrong += _compared("artifacts", calm.artifacts, found.artifacts)
    wrong += _compared("told", calm.told, found.told)
    wrong += _compared("commands", calm.commands, found.commands)
    endings = sum(count for subject, count in found.told.items() if subject in ENDINGS)
    if found.rows["job"] and endings != 1:
        wrong.append(f"{endings} endings were told")
    return wrong


def _wrong_epochs(found: Left) -> list[str]:
    """Each epoch's books are closed, and a call that succeeded has one that ended well: its last."""
    epochs = found.rows["epochs"]
    wrong = [f"an epoch is open: {epoch}" for epoch in epochs if not epoch["closed"]]
    ended_well = [epoch["code"] is None for epoch in epochs]
    succeeded = [call["state"] == "succeeded" for call in found.rows["calls"]]
    if len(succeeded) == 1 and ended_well != [*(False for _ in epochs[1:]), *succeeded]:
        wrong.append(f"the call is {found.rows['calls'][0]['state']}, but its epochs say {epochs}")
    return wrong


def _without_epochs(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """How many there are and how they ended is looked at apart; who did them is not a crash's to change."""
    return rows | {"epochs": sorted({epoch["provider"] for epoch in rows["epochs"]})}


def _compared(where: str, calm: Any, found: Any) -> list[str]:
    if calm == found:
        return []
    if isinstance(calm, dict) and isinstance(found, dict):
        keys = sorted({*calm, *found})
        return [line for key in keys for line in _compared(f"{where}.{key}", calm.get(key), found.get(key))]
    if isinstance(calm, list) and isinstance(found, list) and len(calm) == len(found):
        pairs = enumerate(zip(calm, found, strict=True))
        return [line for n, (one, other) in pairs for line in _compared(f"{where}[{n}]", one, other)]
    return [f"{where}: {found!r}, and after the calm run {calm!r}"]
