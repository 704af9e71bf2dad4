"""A document through the whole stack with Modal as its provider: the deployed app reads its pages, on a local platform.

A policy of the test's own lets it: as shipped, nothing sensitive leaves the house.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.documents import Document
from gpu_bridge import policy
from stack import control
from stack.home import Home
from stack.ports import anywhere
from tests.documents import papers, school
from tests.e2e.conftest import Stack, phase, phases
from tests.servers.modal import ModalPlatform
from tests.servers.otlp import OtlpReceiver

SIGNED = {'agreements = ["SOC2"]': 'agreements = ["DPA", "FERPA"]', "regions = []": 'regions = ["us"]'}


def signed() -> str:
    """The policy as shipped, once somebody has signed with Modal and pinned its region."""
    text = policy.DEFAULT.read_text()
    for unsigned, agreed in SIGNED.items():
        assert text.count(unsigned) == 1
        text = text.replace(unsigned, agreed)
    return text


@pytest.fixture(scope="module")
def on_modal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, ModalPlatform]]:
    """A stack whose bridge has an account on a Modal of ours; the SDK reads where that is from its own file."""
    home = Home(tmp_path_factory.mktemp("on-modal") / ".safelight")
    home.path.mkdir(parents=True)
    home.write_state({"ports": anywhere()})
    with (
        ModalPlatform(tmp_path_factory.mktemp("modal")) as platform,
        OtlpReceiver() as spans,
        pytest.MonkeyPatch.context() as patch,
    ):
        platform.deploy("deploy.modal.app", SAFELIGHT_MODAL_GPUS="")
        given = platform.environment()
        profile = f'[default]\nactive = true\nserver_url = "{given["MODAL_SERVER_URL"]}"\n'
        (home.path / ".modal.toml").write_text(profile)
        ours = home.path / "policy.toml"
        ours.write_text(signed())
        patch.setenv("SAFELIGHT_HOME", str(home.path))
        patch.setenv("HOME", str(home.path))
        patch.setenv("SAFELIGHT_MODAL_APP", "safelight-gpu")
        patch.setenv("SAFELIGHT_GPU_POLICY", str(ours))
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.endpoint)
        for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
            patch.setenv(name, given[name])
        try:
            control.up(home)
            known = control.client_environment(home)
            yield Stack(home, known["SAFELIGHT_URL"], known["SAFELIGHT_API_KEY"], spans, 0), platform
        finally:
            control.down(home)


async def test_its_pages_are_read_there_and_come_home_as_files(on_modal: tuple[Stack, ModalPlatform]) -> None:
    stack, platform = on_modal
    card = school.report_card(21, subjects=3, dpi=110)
    job = await stack.ended(await stack.upload(papers.pdf([papers.Scan(card), papers.Born(card)]), pipeline="document"))
    assert job["status"] == "succeeded", job
    assert set(phases(job).values()) == {"succeeded"}
    items = (await stack.client.get(f"/v1/jobs/{job['id']}/phases/ocr/items")).json()["items"]
    assert [item["status"] for item in items] == ["succeeded", "skipped"], "the second page is text already"
    document = Document.model_validate_json(await stack.artifact(job, "assemble.document.json"))
    for page in document.pages:
        assert page.page is not None
        said = [line.text for block in page.page.blocks for line in block.lines]
        assert f"{card.fields['name'][0]}: {card.fields['name'][1]}" in said
    assert len([call for call in platform.calls.values() if call.ended]) == 1, "one page, bought once"
    operator = {"Authorization": f"Bearer {stack.home.secrets()['SAFELIGHT_OPERATOR_KEY']}"}
    lines = (await stack.client.get("/v1/audit", params={"action": "data.moved"}, headers=operator)).json()["items"]
    assert [(line["who"], line["details"]["sensitive"]) for line in lines] == [("provider:modal", True)]
    assert phase(job, "ocr")["items"]["total"] == 2
