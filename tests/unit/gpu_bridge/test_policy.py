"""Who may be given sensitive work: each requirement bars by itself, own machines are never barred."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.phases import RunPhase
from gpu_bridge import policy
from gpu_bridge.call import BARRED, alike, idempotency_key, kept, output_keys
from gpu_bridge.catalog import FUNCTIONS, function_named
from gpu_bridge.policy import Declared, PolicyInvalid, Required, why_barred
from gpu_bridge.providers.local import OWN_CPU, OWN_GPU
from gpu_bridge.providers.modal import ModalProvider
from gpu_bridge.settings import Settings
from tests.unit.gpu_bridge.test_call import a_call, answers, command

TEXT = policy.DEFAULT.read_text("utf-8")
STYLE = function_named("style.apply")


def declared(**changes: Any) -> Declared:
    about = {"retention_s": 60, "regions": ("us-east",), "agreements": ("DPA", "FERPA")}
    return Declared(**about | changes, as_of=date(2026, 1, 1), source="a page")


def required(**changes: Any) -> Required:
    return Required(**{"agreements": ("DPA", "FERPA"), "regions": ("us",), "retention_s_max": 60} | changes)


@pytest.mark.parametrize(
    ("one", "asked", "why"),
    [
        pytest.param(declared(), required(), "", id="who meets everything may"),
        pytest.param(declared(agreements=("DPA",)), required(), "no FERPA is in force", id="an agreement is missing"),
        pytest.param(
            declared(agreements=(), offered=("DPA", "FERPA")),
            required(agreements=("DPA",)),
            "no DPA is in force",
            id="what could be signed is not signed",
        ),
        pytest.param(declared(regions=()), required(), "may run anywhere", id="who does not say where it runs"),
        pytest.param(declared(regions=("us", "eu-west")), required(), "it runs in eu-west,", id="one region of two"),
        pytest.param(declared(regions=("usw",)), required(), "it runs in usw,", id="a name that only begins alike"),
        pytest.param(declared(regions=("us",)), required(regions=("us-east",)), "it runs in us,", id="a wider region"),
        pytest.param(declared(regions=()), required(regions=()), "", id="any region will do"),
        pytest.param(declared(retention_s=61), required(), "keeps data for 61 s, and 60 s", id="kept for too long"),
        pytest.param(declared(retention_s=None), required(), "does not say for how long", id="kept for nobody knows"),
        pytest.param(declared(retention_s=0), required(retention_s_max=0), "", id="nothing is kept"),
        pytest.param(
            Declared(own=True, as_of=date(2026, 1, 1), source="here"),
            required(agreements=("BAA",), retention_s_max=0),
            "",
            id="nothing leaves an own machine",
        ),
    ],
)
def test_who_is_barred_and_why(one: Declared, asked: Required, why: str) -> None:
    found = "; ".join(why_barred(one, asked))
    assert why in found
    assert bool(found) is bool(why)


_AGREEMENTS = st.lists(st.sampled_from(("BAA", "DPA", "FERPA", "SOC2")), unique=True).map(tuple)
_REGIONS = st.lists(st.sampled_from(("us", "us-east", "eu", "eu-west")), unique=True).map(tuple)
_DECLARED = st.builds(
    declared, retention_s=st.none() | st.integers(0, 9), regions=_REGIONS, agreements=_AGREEMENTS, own=st.booleans()
)
_REQUIRED = st.builds(required, agreements=_AGREEMENTS, regions=_REGIONS, retention_s_max=st.integers(0, 9))


@given(_DECLARED, _REQUIRED, _AGREEMENTS)
def test_who_asks_for_more_is_never_given_to_more(one: Declared, asked: Required, more: tuple[Any, ...]) -> None:
    stricter = asked.model_copy(update={"agreements": asked.agreements + more, "retention_s_max": 0})
    if not why_barred(one, stricter):
        assert not why_barred(one, asked)


def test_a_tenant_without_a_row_has_everybodys_and_a_stranger_declares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TEXT + "\n[tenants.studio]\nretention_s_max = 604800\n")
    found = policy.read(path)
    assert not found.bars("studio", "modal")
    assert found.bars("school", "modal")
    assert found.bars("studio", "somebody") == ("it declares nothing",)
    assert list(found.barred("school", ("box", "modal", "local"))) == ["modal"]


# -- the file ---------------------------------------------------------------------------------------


def test_what_ships_says_of_every_provider_no_less_than_its_adapter_knows() -> None:
    found = policy.read()
    assert set(found.providers) == {name for function in FUNCTIONS for name in function.providers}
    assert {name for name, one in found.providers.items() if one.own} == {"local", "box"}
    assert OWN_CPU.retention_s == OWN_GPU.retention_s == 0
    modal = found.providers["modal"]
    assert modal.retention_s == ModalProvider(app="x", environment=None).capabilities.retention_s


def test_what_ships_lets_no_sensitive_work_out_before_somebody_has_signed() -> None:
    found = policy.read()
    for function in FUNCTIONS:
        left = [name for name in function.providers if not found.bars("anybody", name)]
        assert set(left) <= {"local", "box"}
        assert "local" in left


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        pytest.param('["SOC2"]', '["SOC3"]', "providers.modal.agreements.0: ", id="an agreement that there is not"),
        pytest.param(
            "retention_s = 604800", "retention_s = -1", "providers.modal.retention_s: ", id="less than nothing"
        ),
        pytest.param("retention_s_max = 604800", "", "default.retention_s_max: Field required", id="no limit"),
        pytest.param("regions = []", "region = []", "providers.modal.region: Extra inputs", id="a strange name"),
        pytest.param("as_of = 2026-09-18", "", "providers.modal.as_of: Field required", id="nobody says when"),
        pytest.param(
            "[providers.local]", "[providers.loco]", "providers.local: Field required", id="a provider left out"
        ),
        pytest.param("[default]", "[default", "policy.toml: ", id="no TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_at_start_with_the_place(
    tmp_path: Path, before: str, after: str, place: str
) -> None:
    assert before in TEXT
    path = tmp_path / "policy.toml"
    path.write_text(TEXT.replace(before, after, 1))
    with pytest.raises(PolicyInvalid) as problem:
        policy.read(path)
    assert place in str(problem.value)
    with pytest.raises(ValidationError, match="gpu_policy"):
        Settings(postgres_url="x", s3_access_key="x", s3_secret_key="x", gpu_policy=path)


# -- what follows from it ---------------------------------------------------------------------------


def secret(**changes: Any) -> RunPhase:
    return command(sensitive=True, **changes)


def test_sensitive_work_never_follows_other_work_nor_travels_with_it() -> None:
    assert idempotency_key(secret(), STYLE) != idempotency_key(command(), STYLE)
    together = {alike(secret(), STYLE), alike(command(), STYLE), alike(secret(tenant="another"), STYLE)}
    assert len(together) == 3
    assert alike(command(tenant="another"), STYLE) == alike(command(), STYLE), "a gallery's style is loaded once"


@pytest.mark.parametrize(("device", "told"), [("cpu", True), ("L4", False)])
def test_an_outcome_says_who_was_not_asked_when_it_was_worse_for_it(device: str, told: bool) -> None:
    call, barred = a_call(), {"modal": "no FERPA is in force"}
    found = kept(call, STYLE, answers(**output_keys(call.prefix, STYLE)), "lut@1", device, barred)
    assert (found.facts.get(BARRED) == barred) is told
