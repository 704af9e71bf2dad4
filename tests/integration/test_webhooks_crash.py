"""Webhooks when the process that tells them dies, and when the network is not opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import standardwebhooks
from sqlalchemy.ext.asyncio import AsyncEngine

from output.settings import Settings
from tests.integration.conftest import SettingsOf, until
from tests.integration.output_desk import KEYS, desk, process, project
from tests.servers.endpoints import endpoints
from tests.servers.fixtures import EnvironmentOf
from tests.unit.output.stories import Story

OPENED = {
    "SAFELIGHT_OUTSIDE_NETWORKS": "127.0.0.0/8",
    "SAFELIGHT_WEBHOOK_TIMEOUT_S": "1",
    "SAFELIGHT_WEBHOOK_LEASE_S": "2",
}


def failed() -> Story:
    return Story().begins().fails("analyze", "IMAGE_CORRUPT")


async def test_a_process_that_is_killed_loses_nothing_and_ids_stay(
    prepared: object, environment_of: EnvironmentOf, engine_of: Callable[[str], AsyncEngine]
) -> None:
    engine, given = engine_of("output"), environment_of("output")
    async with endpoints() as there:
        there.scripts["/hook"].append("hang")
        async with process(given | OPENED) as (child, client):
            webhook: dict[str, Any] = (await client.post("/v1/webhooks", json={"url": there.url("/hook")})).json()
            await project(engine, failed().events)
            await until(lambda: there.heard["/hook"])
            child.kill()  # asked, and not answered
            await child.wait()
        await project(engine, failed().events)  # committed, and nobody is there to tell it
        async with process(given | OPENED) as (_, client):
            await until(lambda: len(there.heard["/hook"]) == 3)
            await client.delete(f"/v1/webhooks/{webhook['id']}")
    first, *rest = there.heard["/hook"]
    again = next(told for told in rest if told.id == first.id)
    assert again.body == first.body
    assert len({told.id for told in rest}) == 2
    for told in rest:
        standardwebhooks.Webhook(webhook["secret"]).verify(told.body, told.headers)
    await engine.dispose()


async def test_a_name_that_leads_home_is_refused_when_it_is_connected_to(
    prepared: object, settings_of: SettingsOf
) -> None:
    async with endpoints() as there, desk(settings_of(Settings, "output", **KEYS)) as closed:
        given = {"url": there.url("/hook", host="localhost")}
        webhook = (await closed.client.post("/v1/webhooks", json=given)).raise_for_status().json()
        where = f"/v1/webhooks/{webhook['id']}"
        ping = (await closed.client.post(f"{where}/ping")).json()

        async def tried() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await closed.client.get(f"{where}/deliveries/{ping['id']}")).json()[
                "attempts"
            ]
            return found

        [attempt] = await until(tried)
        await closed.client.delete(where)
    assert (attempt["code"], attempt["status_code"]) == ("ADDRESS_REFUSED", None)
    assert not there.heard["/hook"]
