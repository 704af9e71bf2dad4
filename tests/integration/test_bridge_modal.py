"""The whole bridge with Modal in it: the real SDK, the app as deployed, a platform of our own; asked as people do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from nats.aio.client import Client
from pydantic import SecretStr
from typer.testing import CliRunner

from console import cli
from console.client import Connection
from contracts.ocr import Page
from contracts.phases import RUN_OCR, RUN_STYLE
from gpu_bridge.app import build
from gpu_bridge.providers import modal as ours
from gpu_bridge.settings import Settings
from ingest import pages
from ingest.intake import PDF
from runtime.objects import Objects
from tests.documents import papers, school
from tests.integration.conftest import SettingsOf
from tests.integration.provider_conformance import INVERSE
from tests.integration.wire import Site, command, everything, outcome, picture, send, served, stored
from tests.servers.modal import ModalPlatform

OPS = "ops-key-0123456789"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalPlatform]:
    """Our app is on it, for the CPU: there is no GPU here."""
    with pytest.MonkeyPatch.context() as patch, ModalPlatform(tmp_path_factory.mktemp("modal")) as made:
        for name, value in ours.SETTINGS.items():
            patch.setenv(f"MODAL_{name.upper()}", value)
        for name, value in made.environment().items():
            patch.setenv(name, value)
        made.deploy("deploy.modal.app", SAFELIGHT_MODAL_GPUS="")
        yield made


@pytest.fixture(scope="module")
def settings(prepared: object, settings_of: SettingsOf) -> Settings:
    found: Settings = settings_of(
        Settings, "gpu-bridge", modal_app="safelight-gpu", operator_keys=SecretStr(f"ada:{OPS}"), local_workers=1
    )
    return found


@pytest.fixture(scope="module")
async def site(platform: ModalPlatform, settings: Settings) -> AsyncIterator[Site]:
    async with served(build(settings)) as made:
        yield made


async def safelight(site: Site, *arguments: str) -> tuple[int, str, str]:
    """The command line, in a thread: it has an event loop of its own."""
    known = Connection(site.url, "nobodys", OPS)
    result = await asyncio.to_thread(
        CliRunner().invoke, cli.client, arguments, obj=lambda: known, env={"COLUMNS": "160"}
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


async def test_a_test_call_goes_to_modal_and_back(site: Site) -> None:
    code, out, err = await safelight(site, "gpu", "test", "--provider", "modal")
    assert code == 0, out + err
    told = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith(("device", "engine", "result")))
    assert (told["engine"].strip(), told["device"].strip()) == ("cube-lut@3", "cpu")
    assert told["result"].strip() == "● it works"


async def test_pages_of_a_document_are_read_on_modal_once_each_however_often_they_are_asked_for(
    site: Site, settings: Settings, nc: Client
) -> None:
    objects = Objects(settings)
    cards = [school.report_card(60 + n, subjects=2, dpi=110) for n in range(2)]
    data = papers.pdf([papers.Scan(card) for card in cards])
    first, original = command("ocr"), await stored(objects, data, PDF)
    asked = []
    for number, sheet in enumerate(pages.inspect(data, PDF).sheets, 1):
        made = pages.rasterize(data, PDF, number, sheet.why).made[0].data
        image = await stored(objects, made, "image/jpeg")
        given = first.model_copy(update={"item": sheet.id, "inputs": {"image": image, "original": original}})
        asked.append(await send(nc, RUN_OCR, given))
        await send(nc, RUN_OCR, given, message_id=f"{given.key}.again")
    for given, card in zip(asked, cards, strict=True):
        told = await outcome(nc, given, 90)
        assert (told.subject, told.body["engine"]) == ("evt.phase.v1.succeeded", "ppocr-onnx@1")
        keys = {artifact["name"]: artifact["key"] for artifact in told.body["artifacts"]}
        page = Page.model_validate_json(await objects.get(keys["ocr.json"]))
        said = [line.text for block in page.blocks for line in block.lines]
        assert f"{card.fields['name'][0]}: {card.fields['name'][1]}" in said
        assert card.fields["name"][1] not in str(told.body), "what was read is in the object alone"
    objects.close()
    headers = {"Authorization": f"Bearer {OPS}"}
    async with httpx.AsyncClient(base_url=site.url, headers=headers) as http:
        costs: dict[str, Any] = (await http.get("/v1/providers/costs", params={"days": 1})).json()
    [read] = [line for line in costs["lines"] if line["function"] == "ocr.read"]
    assert (read["provider"], read["epochs"]) == ("modal", len(cards))
    moved = [one.body for one in await everything(nc) if one.subject == "evt.audit.v1.noted"]
    lines = [line for line in moved if line["details"].get("function") == "ocr.read"]
    assert {(line["who"], line["action"], line["tenant"]) for line in lines} == {
        ("provider:modal", "data.moved", "demo")
    }
    readable = {one.inputs["image"].key for one in asked}
    assert {key for line in lines for key in line["details"]["objects"]} == readable, "what it could read, and no more"
    assert len(lines) == len(cards)


async def test_it_is_listed_paused_and_passed_over_and_what_it_did_is_in_the_books(
    site: Site, settings: Settings, nc: Client
) -> None:
    objects = Objects(settings)
    inputs = {
        "image": await stored(objects, picture(width=64), "image/jpeg"),
        "lut": await stored(objects, INVERSE.encode(), "application/x-cube-lut"),
    }
    objects.close()
    given = command("style", inputs=inputs, strength=0.75)
    told = await outcome(nc, await send(nc, RUN_STYLE, given), 60)
    assert (told.subject, told.body["engine"]) == ("evt.phase.v1.succeeded", "cube-lut@3")

    await safelight(site, "providers", "pause", "modal", "--reason", "too dear")
    _, out, _ = await safelight(site, "providers", "list")
    assert "too dear (operator:ada)" in next(line for line in out.splitlines() if line.startswith("modal"))
    other = command("style", inputs=inputs, strength=0.5)
    assert (await outcome(nc, await send(nc, RUN_STYLE, other), 60)).subject == "evt.phase.v1.succeeded"
    code, out, _ = await safelight(site, "providers", "resume", "modal")
    assert code == 0

    headers = {"Authorization": f"Bearer {OPS}"}
    async with httpx.AsyncClient(base_url=site.url, headers=headers) as http:
        costs: dict[str, Any] = (await http.get("/v1/providers/costs", params={"days": 1})).json()
    mine = {line["provider"]: line for line in costs["lines"] if line["function"] == "style.apply"}
    assert mine["modal"]["epochs"] >= 1
    assert mine["modal"]["unpriced"] == 0, "a container's CPU has a price"
    assert mine["modal"]["cost"] > 0
    assert mine["local"]["epochs"] >= 1, "while it was paused the own CPU stood in"
