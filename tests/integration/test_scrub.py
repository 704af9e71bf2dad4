"""The broker forgets what was erased, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from nats.aio.client import Client

from contracts.audit import AUDIT_NOTED, AuditNoted
from contracts.phases import PHASE_PROGRESSED, PhaseProgressed
from orchestrator.scrub import scrub
from runtime import clock
from runtime.outbox import Outgoing, outgoing, publish


def progress(job: str, attempt: int) -> Outgoing:
    message = PhaseProgressed(job_id=job, phase="style", attempt=attempt, fraction=0.5, at=clock.now())
    return outgoing(PHASE_PROGRESSED, message, message_id=str(uuid4()), key=f"{job}.style.{attempt}", source="test")


def line(job: str) -> Outgoing:
    fields = {"room": "output", "who": "tenant:a", "action": "artifact.read", "subject": job}
    message = AuditNoted(id=uuid4(), at=clock.now(), **fields)
    return outgoing(AUDIT_NOTED, message, message_id=str(message.id), key=job, source="test")


async def test_messages_about_a_job_are_gone_and_others_stay(nc: Client) -> None:
    js, job, other = nc.jetstream(), str(uuid4()), str(uuid4())
    before = await scrub(js, {job}, clock.now() - timedelta(days=1))
    assert set(before.values()) == {0}
    said = [progress(job, 1), progress(other, 1), line(job), progress(job, 2)]
    since = clock.now() - timedelta(seconds=1)
    await publish(js, said)
    last = (await js.stream_info("EVENTS")).state.last_seq
    assert (await scrub(js, {job}, since))["EVENTS"] == 2
    assert (await scrub(js, {job}, since))["EVENTS"] == 0
    left = [await js.get_msg("EVENTS", last - 2), await js.get_msg("EVENTS", last - 1)]
    assert [message.subject for message in left] == [PHASE_PROGRESSED.subject, AUDIT_NOTED.subject]
    assert (await scrub(js, {other}, clock.now() + timedelta(hours=2)))["EVENTS"] == 0, "from that time on only"
