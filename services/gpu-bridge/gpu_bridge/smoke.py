"""A smoke call: the smallest real work, by the whole way, on one provider. It leaves no object behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from contracts.artifacts import ObjectRef
from contracts.errors import SafelightError
from contracts.phases import RunPhase
from gpu_bridge.call import CLAIM, PROGRESS, RESULT, Call, State, output_keys
from gpu_bridge.catalog import function_named
from gpu_bridge.marks import MarkStore
from gpu_bridge.providers.port import Broken, Ended, Pending, Provider
from gpu_bridge.store import Follower
from gpu_bridge.submission import submitted
from runtime import clock

PATIENCE_S: Final = 300.0  # a first cold start builds nothing, but may load for minutes
POLL_S: Final = 1.0
FUNCTION: Final = "style.apply"
# A grey picture of 16 x 16 pixels, and a LUT that changes nothing.
PICTURE: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFElEQVR42mNoIBEwjGoY1TB8NQAAJYSAELxv8c8AAAAASUVORK5CYII="
)
LUT: Final = ("LUT_3D_SIZE 2\n" + "".join(f"{r} {g} {b}\n" for b in (0, 1) for g in (0, 1) for r in (0, 1))).encode()


# Of which nothing is known yet.
NOTHING: Final[Mapping[str, Any]] = {
    "ok": False,
    "code": None,
    "detail": "",
    "engine": "",
    "device": "",
    "cold": None,
    "submit_s": 0.0,
    "start_s": None,
    "run_s": None,
}


async def test(provider: Provider, marks: MarkStore) -> dict[str, Any]:
    """Do it, and tell how it went. Raises STORAGE_UNAVAILABLE; whatever the provider does is told."""
    name = uuid4()
    found = dict(NOTHING)
    inputs = {}
    for role, (data, media_type) in {"image": (PICTURE, "image/png"), "lut": (LUT, "application/x-cube-lut")}.items():
        key = f"calls/smoke/{name}/{role}"
        await marks.objects.put(key, data, media_type)
        digest = hashlib.sha256(data).hexdigest()
        inputs[role] = ObjectRef(key=key, sha256=digest, size=len(data), media_type=media_type)
    now = clock.now()
    deadline = now + timedelta(seconds=PATIENCE_S)
    command = RunPhase(job_id=name, phase="smoke", attempt=1, tenant="smoke", inputs=inputs, deadline=deadline)
    call = Call(str(name), 1, name, FUNCTION, "smoke", State.SUBMITTING, provider.name, None, deadline, now)
    try:
        await _run(provider, marks, call, command, found)
    except SafelightError as problem:
        found |= {"code": problem.code, "detail": problem.detail}
    except TimeoutError:
        found |= {"code": "PROVIDER_TIMEOUT", "detail": "the provider did not answer when it was asked how it goes"}
    finally:
        made = [f"{call.prefix}/{part}" for part in (CLAIM, PROGRESS, RESULT)]
        made += output_keys(call.prefix, function_named(FUNCTION)).values()
        for key in [*made, *(ref.key for ref in inputs.values())]:
            await marks.objects.remove(key)
    return found


async def _run(provider: Provider, marks: MarkStore, call: Call, command: RunPhase, found: dict[str, Any]) -> None:
    began = time.perf_counter()
    handle = await submitted(provider, function_named(FUNCTION), [call], {call.key: Follower(command, None)}, marks)
    found["submit_s"] = time.perf_counter() - began
    while True:
        async with asyncio.timeout(30):
            news = await provider.poll(handle, POLL_S)
        if not isinstance(news, Pending):
            break
        if clock.now() >= call.deadline:
            await provider.cancel(handle)
            found |= {"code": "CALL_START_DEADLINE", "detail": "it neither ended nor failed in time"}
            return
        await asyncio.sleep(POLL_S)
    claim = await marks.claim(call)
    if claim is not None:
        found["start_s"] = max(0.0, (claim.at - call.spawned_at).total_seconds())
    if isinstance(news, Broken):
        found |= {"code": news.code}
        return
    assert isinstance(news, Ended)
    answer = news.response
    problem = answer.error or (answer.items[0].error if answer.items else None)
    found |= {"engine": answer.engine, "device": answer.device}
    if answer.usage is not None:
        found |= {"cold": answer.usage.cold}
        found["run_s"] = (answer.usage.ended_at - answer.usage.started_at).total_seconds()
    if problem is not None:
        found |= {"code": problem.code, "detail": problem.detail}
    else:
        found["ok"] = True
