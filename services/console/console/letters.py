"""Dead letters: what could not be done, looked at, replayed and discarded. All of it needs an operator's key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import Field

from console.client import Client, quoted
from console.jobs import Read

PATH: Final = "/v1/dead-letters"
REPLAYS: Final = f"{PATH}/replays"
EVERY: Final = {"since": "1970-01-01T00:00:00Z"}  # the filter for all there are: an empty one is refused


class State(StrEnum):
    """What has become of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Attempt(Read):
    """One try that failed."""

    phase: str | None = None
    item: str | None = None
    number: int
    started_at: datetime | None = None
    ended_at: datetime | None = None
    code: str | None = None
    detail: str | None = None
    engine: str | None = None


class Resolution(Read):
    """Who did what about it, and why."""

    who: str
    at: datetime
    action: str
    why: str | None = None


class Made(Read):
    """A stored object that the job had made."""

    key: str
    size: int
    media_type: str


class DeadLetter(Read):
    """What could not be done. `source` says how it came here; what is below `subject` is in the whole letter only.

    `refusal` is why its last replay was not possible.
    """

    id: str
    source: str
    state: State
    job_id: str | None = None
    tenant: str | None = None
    pipeline: str | None = None
    pipeline_version: int | None = None
    phase: str | None = None
    item: str | None = None
    code: str
    detail: str = ""
    trace_id: str | None = None
    created_at: datetime
    subject: str | None = None
    command: Any = None
    attempts: tuple[Attempt, ...] = ()
    artifacts: tuple[Made, ...] = ()
    refusal: str | None = None
    resolution: Resolution | None = None


class Replayed(Read):
    """One letter after its replay."""

    id: str
    state: State
    job_id: str | None = None


class Estimate(Read):
    """What a replay will take. `usd` is None where no price is known."""

    seconds: float | None = None
    gpu_seconds: float | None = None
    usd: float | None = None


class VersionDifference(Read):
    """How the newest version of a pipeline differs from one that letters pin."""

    pipeline: str
    pinned: int
    newest: int
    count: int
    differences: tuple[str, ...] = ()


class DryRun(Read):
    """What a replay of many would do: how many letters, how many phases by name, what it will take."""

    count: int
    phases: dict[str, int] = Field(default_factory=dict)
    estimated: Estimate = Estimate()
    versions: tuple[VersionDifference, ...] = ()


class Replay(Read):
    """A replay of many letters, and how far it is. `refused` could not be replayed."""

    id: str
    state: str
    total: int = 0
    replayed: int = 0
    refused: int = 0
    remaining: int = 0
    rate_per_s: float | None = None
    reason: str | None = None
    by: str | None = None
    created_at: datetime | None = None
    ended_at: datetime | None = None


class ReplayAct(StrEnum):
    """What the API does with a replay when it is asked by this name."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


async def newest(api: Client, filters: Mapping[str, str], limit: int) -> list[DeadLetter]:
    """The newest letters that fit the filters."""
    return [DeadLetter.model_validate(row) for row in await api.listed(PATH, filters, limit)]


async def show(api: Client, letter: str) -> DeadLetter:
    """The whole letter. Raises Refused (NOT_FOUND), Unreachable."""
    return DeadLetter.model_validate(await api.get(f"{PATH}/{quoted(letter)}"))


async def replay(api: Client, letter: str, again: Mapping[str, Any]) -> Replayed:
    """Do the letter's work again. `again` is what `acting.again_from` makes. Raises Refused, Unreachable."""
    return Replayed.model_validate(await api.post(f"{PATH}/{quoted(letter)}/replay", again))


async def discard(api: Client, letter: str, reason: str) -> Replayed:
    """Put the letter away for good. Raises Refused, Unreachable."""
    return Replayed.model_validate(await api.post(f"{PATH}/{quoted(letter)}/discard", {"reason": reason}))


async def dry_run(api: Client, filters: Mapping[str, str], again: Mapping[str, Any]) -> DryRun:
    """What `replay_all` would do."""
    body = {"filter": dict(filters), "dry_run": True, **again}
    return DryRun.model_validate(await api.post(f"{PATH}/replay", body))


async def replay_all(api: Client, filters: Mapping[str, str], again: Mapping[str, Any], rate_per_s: float) -> Replay:
    """Begin to replay every open letter that fits the filters, so many a second."""
    body = {"filter": dict(filters), "dry_run": False, "rate_per_s": rate_per_s, **again}
    return Replay.model_validate(await api.post(f"{PATH}/replay", body))


async def replays(api: Client, limit: int) -> list[Replay]:
    """The newest replays of many letters."""
    return [Replay.model_validate(row) for row in (await api.get(REPLAYS))[:limit]]


async def show_replay(api: Client, replay_id: str) -> Replay:
    """One replay of many letters. Raises Refused (NOT_FOUND), Unreachable."""
    return Replay.model_validate(await api.get(f"{REPLAYS}/{quoted(replay_id)}"))


async def act_on_replay(api: Client, replay_id: str, what: ReplayAct) -> Replay:
    """Pause, resume or cancel it. Raises Refused (NOT_FOUND, STATE_CONFLICT), Unreachable."""
    return Replay.model_validate(await api.post(f"{REPLAYS}/{quoted(replay_id)}/{what}", {}))
