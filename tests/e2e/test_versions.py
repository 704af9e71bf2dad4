"""Another version of a finished photo: nothing that it does not need is bought again, and both stay readable."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Stack, phase

BOUGHT = "SELECT (SELECT count(*) FROM gpu_bridge.calls) AS calls, (SELECT count(*) FROM gpu_bridge.epochs) AS epochs"


async def edited(stack: Stack, job: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    version = await stack.ended(await stack.client.post(f"/v1/jobs/{job['id']}/re-edit", json=wanted))
    assert version["status"] == "succeeded", version
    return version


async def test_another_crop_buys_nothing_and_another_style_what_depends_on_it(
    stack: Stack, samples: dict[str, Path]
) -> None:
    first = await stack.ended(await stack.upload(samples["grace-hopper.jpg"], style="mono", crop="1:1"))
    assert first["status"] == "succeeded", first
    before = await asyncio.to_thread(stack.rows, BOUGHT)
    cropped = await edited(stack, first, crop="16:9")
    assert await asyncio.to_thread(stack.rows, BOUGHT) == before, "the ledger has no new call"
    assert {one["name"]: one["made_by"] for one in cropped["phases"]} == {
        **dict.fromkeys(("analyze", "style", "retouch", "cleanup"), first["id"]),
        **dict.fromkeys(("crop", "variants"), None),
    }
    styled = await edited(stack, cropped, style="cool-matte")
    [bought], [had] = await asyncio.to_thread(stack.rows, BOUGHT), before
    assert bought["calls"] - had["calls"] == 2, "style and retouch; there are no wires to remove"
    assert (phase(styled, "analyze")["made_by"], phase(styled, "style")["made_by"]) == (first["id"], None)

    pictures = [await stack.artifact(job, "variants.web.jpg") for job in (first, cropped, styled)]
    assert len(set(pictures)) == 3
    assert await stack.artifact(cropped, "style.image.png") == await stack.artifact(first, "style.image.png")
    shown = (await stack.client.get(f"/v1/jobs/{first['id']}/versions")).json()
    assert [(v["version"], v["job_id"], v["options"]["crop"]) for v in shown["versions"]] == [
        (1, first["id"], "1:1"),
        (2, cropped["id"], "16:9"),
        (3, styled["id"], "16:9"),
    ]
