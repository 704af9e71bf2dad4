"""Dead letters as a terminal shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from console.letters import Attempt, DeadLetter, DryRun, Replay, Replayed
from console.rendering import duration, grid, pairs, plain, when


def letter_list(letters: Sequence[DeadLetter], now: datetime) -> RenderableType:
    """One line per letter."""
    table = grid("letter", "created", "state", "code", "phase", "pipeline", "tenant", "why")
    for letter in letters:
        table.add_row(
            plain(letter.id),
            when(letter.created_at, now),
            letter.state,
            Text(plain(letter.code), "red"),
            plain(_unit(letter) or "–"),
            plain(letter.pipeline or "–"),
            plain(letter.tenant or "–"),
            Text(plain(letter.detail), no_wrap=True, overflow="ellipsis"),
        )
    return table if letters else Text("No dead letters.", "dim")


def letter_detail(letter: DeadLetter, now: datetime) -> RenderableType:
    """One letter: why, every attempt, the command, what the job had made."""
    told: list[tuple[str, str | Text]] = [
        ("letter", plain(letter.id)),
        ("state", letter.state),
        ("error", Text.assemble((plain(letter.code), "bold red"), " ", plain(letter.detail))),
        ("source", plain(letter.source)),
        ("created", f"{letter.created_at.astimezone():%Y-%m-%d %H:%M:%S}"),
        ("tenant", plain(letter.tenant or "–")),
        ("job", plain(letter.job_id or "–")),
        ("phase", plain(_unit(letter) or "–")),
        ("pipeline", plain(f"{letter.pipeline}, version {letter.pipeline_version}" if letter.pipeline else "–")),
        ("trace", plain(letter.trace_id or "–")),
        ("subject", plain(letter.subject or "–")),
    ]
    if letter.refusal:
        told.append(("refused", plain(letter.refusal)))
    if done := letter.resolution:
        at = f"{done.at.astimezone():%Y-%m-%d %H:%M:%S}"
        told.append((plain(done.action), plain(f"by {done.who} at {at}: {done.why or '–'}")))
    parts: list[RenderableType] = [pairs(told)]
    if letter.attempts:
        attempts = grid("phase", "attempt", "began", "ended", "engine", "error")
        for one in letter.attempts:
            attempts.add_row(
                plain(_unit(one) or "–"),
                str(one.number),
                when(one.started_at, now) if one.started_at else "–",
                when(one.ended_at, now) if one.ended_at else "–",
                plain(one.engine or ""),
                Text.assemble((plain(one.code or ""), "red"), " ", plain(one.detail or "")),
            )
        parts += [Text(""), attempts]
    if letter.artifacts:
        made = grid("made so far", "type", "bytes")
        for artifact in letter.artifacts:
            made.add_row(plain(artifact.key), plain(artifact.media_type), f"{artifact.size:,}")
        parts += [Text(""), made]
    if letter.command:
        lines = json.dumps(letter.command, indent=2, ensure_ascii=False).splitlines()
        parts += [Text(""), Text("command", "dim"), Text("\n".join(map(plain, lines)))]
    return Group(*parts)


def replayed(letter: Replayed) -> RenderableType:
    """A letter after its replay, or after it was put away."""
    told: list[tuple[str, str | Text]] = [("letter", plain(letter.id)), ("state", letter.state)]
    return pairs([*told, ("job", plain(letter.job_id))] if letter.job_id else told)


def dry_run(would: DryRun) -> RenderableType:
    """What a replay of many would do."""
    known = would.estimated
    costs = [
        ("in all", None if known.seconds is None else duration(known.seconds)),
        ("on GPUs", None if known.gpu_seconds is None else duration(known.gpu_seconds)),
        ("price", None if known.usd is None else f"${known.usd:,.2f}"),
    ]
    head = pairs([("letters", str(would.count)), *((name, Text(cost or "not known")) for name, cost in costs)])
    parts: list[RenderableType] = [head]
    if would.phases:
        phases = grid("phase", "phases to run")
        for name, count in would.phases.items():
            phases.add_row(plain(name), str(count))
        parts += [Text(""), phases]
    for version in would.versions:
        if version.pinned == version.newest:
            continue
        told = f"{version.pipeline}: {version.count} pin version {version.pinned}, the newest is {version.newest}"
        parts += [Text(""), Text(plain(told))]
        parts += [Text(f"  {plain(one)}", "dim") for one in version.differences]
    return Group(*parts)


def replay_list(replays: Sequence[Replay], now: datetime) -> RenderableType:
    """One line per replay of many letters."""
    table = grid("replay", "created", "state", "letters", "replayed", "refused", "left", "a second", "why")
    for one in replays:
        table.add_row(
            plain(one.id),
            when(one.created_at, now) if one.created_at else "",
            plain(one.state),
            str(one.total),
            str(one.replayed),
            Text(str(one.refused or ""), "red"),
            str(one.remaining),
            "" if one.rate_per_s is None else f"{one.rate_per_s:g}",
            plain(one.reason or ""),
        )
    return table if replays else Text("No replays.", "dim")


def _unit(of: DeadLetter | Attempt) -> str:
    return ".".join(filter(None, (of.phase, of.item)))
