"""Creates and checks what `contracts.topology` declares. `apply` has one caller, the topology's
owner; services only `check` and refuse to start, saying what differs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from contracts.topology import CONSUMERS, DUPLICATE_WINDOW_S, EVENTS, STREAMS, Consumer, Stream

if TYPE_CHECKING:
    from nats.js import JetStreamContext

_RETENTION = {"workqueue": RetentionPolicy.WORK_QUEUE, "limits": RetentionPolicy.LIMITS}


class TopologyMismatch(Exception):
    """The broker differs from the declared topology."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = differences
        super().__init__(
            "the broker differs from the topology (run `safelight topology apply`): " + "; ".join(differences)
        )


def _stream_config(row: Stream, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=row.name,
        subjects=list(row.subjects),
        retention=_RETENTION[row.retention],
        max_age=row.max_age_s,
        max_bytes=row.max_bytes,
        storage=StorageType.FILE,
        duplicate_window=DUPLICATE_WINDOW_S,
        num_replicas=replicas,
    )


def _consumer_config(row: Consumer) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=row.name,
        name=row.name,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        filter_subjects=list(row.subjects),
        ack_wait=row.ack_wait_s,
        max_deliver=row.max_deliver,
        max_ack_pending=row.max_ack_pending,
    )


async def apply(js: JetStreamContext, *, replicas: int = 1) -> list[str]:
    """Create what is missing, update what differs; returns what was done, in words. Idempotent."""
    done: list[str] = []
    for stream in STREAMS:
        config = _stream_config(stream, replicas)
        try:
            found = (await js.stream_info(stream.name)).config
        except NotFoundError:
            await js.add_stream(config)
            done.append(f"created stream {stream.name}")
        else:
            if _differences(f"stream {stream.name}", config, found, _STREAM_FIELDS):
                await js.update_stream(config)
                done.append(f"updated stream {stream.name}")
    for row in CONSUMERS:
        wanted = _consumer_config(row)
        try:
            existing = (await js.consumer_info(row.stream, row.name)).config
        except NotFoundError:
            await js.add_consumer(row.stream, wanted)
            done.append(f"created consumer {row.name}")
        else:
            if _differences(f"consumer {row.name}", wanted, existing, _CONSUMER_FIELDS):
                await js.add_consumer(row.stream, wanted)  # JetStream updates a durable by adding it again
                done.append(f"updated consumer {row.name}")
    return done


async def rewind(js: JetStreamContext, since: datetime) -> None:
    """Deliver the events since then once more to everybody who reads them; what was taken in before, inboxes refuse."""
    for row in CONSUMERS:
        if row.stream != EVENTS.name:
            continue
        with contextlib.suppress(NotFoundError):
            await js.delete_consumer(row.stream, row.name)
        config = _consumer_config(row)
        config.deliver_policy = DeliverPolicy.BY_START_TIME
        config.opt_start_time = since.isoformat()  # type: ignore[assignment]  # it travels as RFC 3339
        await js.add_consumer(row.stream, config)


async def check(js: JetStreamContext, *, owner: str | None = None) -> None:
    """Compare the broker with the tables: every stream, and the consumers of `owner` (all when None).

    Raises:
        TopologyMismatch: with one sentence per difference.
    """
    wrong: list[str] = []
    for stream in STREAMS:
        try:
            found = (await js.stream_info(stream.name)).config
        except NotFoundError:
            wrong.append(f"stream {stream.name} is missing")
        else:
            wrong += _differences(f"stream {stream.name}", _stream_config(stream, 1), found, _STREAM_FIELDS)
    for row in CONSUMERS:
        if owner not in (None, row.owner):
            continue
        try:
            existing = (await js.consumer_info(row.stream, row.name)).config
        except NotFoundError:
            wrong.append(f"consumer {row.name} is missing")
        else:
            wrong += _differences(f"consumer {row.name}", _consumer_config(row), existing, _CONSUMER_FIELDS)
    if wrong:
        raise TopologyMismatch(wrong)


_STREAM_FIELDS = ("subjects", "retention", "max_age", "max_bytes", "storage", "duplicate_window")  # replicas may differ
# Where a consumer began is history: it cannot be changed, and `rewind` begins anew.
_CONSUMER_FIELDS = ("ack_policy", "filter_subjects", "ack_wait", "max_deliver", "max_ack_pending")


def _differences(what: str, wanted: object, found: object, fields: Iterable[str]) -> list[str]:
    def value(config: object, field: str) -> Any:
        got = getattr(config, field)
        if field == "filter_subjects" and not got and getattr(config, "filter_subject", None):
            got = [config.filter_subject]  # type: ignore[attr-defined]  # the server folds a single filter
        return sorted(got) if isinstance(got, list) else getattr(got, "value", got)

    return [
        f"{what}: {field} is {value(found, field)!r}, declared {value(wanted, field)!r}"
        for field in fields
        if value(found, field) != value(wanted, field)
    ]
