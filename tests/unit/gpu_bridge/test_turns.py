"""Whose turn it is: which calls go to whom, together with which, and what becomes of those that cannot go."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_bridge.call import Move
from gpu_bridge.catalog import function_named
from gpu_bridge.policy import Policy
from gpu_bridge.providers.port import Available, Unavailable
from gpu_bridge.terms import Limits
from gpu_bridge.turns import Opening, Queued, grouped, turns

STYLE = function_named("style.apply")  # modal before local, four minutes in the queue
T = datetime(2026, 1, 1, tzinfo=UTC)
NOW = T + timedelta(seconds=100)


def s(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def limits(batch: int = 1, batch_wait_s: float = 0.0) -> Limits:
    return Limits(in_flight=9, per_s=9, batch=batch, batch_wait_s=batch_wait_s, bills_cold_start=False)


def call(key: str = "k", at: float = 100, alike: str = "", **changes: Any) -> Queued:
    about: dict[str, Any] = {"deadline": s(1000), "engine": None, "providers": (), "refused_by": (), "code": None}
    return Queued(key, alike, s(at), **about | changes)


def secret(key: str = "k", tenant: str = "school", **changes: Any) -> Queued:
    """A call of sensitive work."""
    return call(key, tenant=tenant, sensitive=True, **changes)


_STRICT = """
[providers.local]
own = true
as_of = 2026-01-01
source = "here"

[providers.modal]
retention_s = 60
regions = ["us-east"]
agreements = ["DPA"]
as_of = 2026-01-01
source = "there"

[default]
agreements = ["FERPA"]
retention_s_max = 60

[tenants.studio]
agreements = ["DPA"]
regions = ["us"]
retention_s_max = 60
"""
STRICT = Policy.model_validate(tomllib.loads(_STRICT))  # of all but the studio, modal may not have sensitive work


def ill(until: float, code: str = "PROVIDER_UNAVAILABLE") -> Unavailable:
    return Unavailable(code, s(until))


def modal(state: Available | Unavailable = Available(), room: int = 9, **about: Any) -> Opening:  # noqa: B008  # frozen
    return Opening("modal", "gpu", state, room, limits(**about))


def local(state: Available | Unavailable = Available(), room: int = 9) -> Opening:  # noqa: B008  # frozen
    return Opening("local", "cpu", state, room, limits())


def told(queued: Sequence[Queued], *openings: Opening) -> str:
    """What becomes of them, in words: "a,b to modal; c fail NO_PROVIDER; rest waits"."""
    found = turns(STYLE, queued, {one.name: one for one in openings}, NOW, STRICT)
    words = [f"{','.join(keys)} to {name}" for name, keys in found.going]
    words += [f"{e.key} {e.move} {e.code}" + (f" {e.provider}" if e.provider else "") for e in found.ending]
    gone = {key for _, keys in found.going for key in keys} | {e.key for e in found.ending}
    return "; ".join([*words, *(f"{one.key} waits" for one in queued if one.key not in gone)])


# -- one call ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "openings", "what"),
    [
        pytest.param(call(), [modal(), local()], "k to modal", id="the first of the order gets it"),
        pytest.param(call(), [local()], "k to local", id="or whoever is here"),
        pytest.param(call(), [modal(room=0), local()], "k waits", id="who is full is waited for"),
        pytest.param(call(), [modal(room=-3), local()], "k waits", id="also when its limit was lowered"),
        pytest.param(call(), [modal(ill(200)), local()], "k to local", id="who takes no work is passed over"),
        pytest.param(
            call(),
            [modal(ill(300)), local(ill(200, "PROVIDER_RATE_LIMITED"))],
            "k defer PROVIDER_RATE_LIMITED local",
            id="when nobody takes work, it is deferred until the first does",
        ),
        pytest.param(call(), [], "k fail NO_PROVIDER", id="nobody is here"),
        pytest.param(call(engine="cpu"), [modal(), local()], "k to local", id="an engine that only one has"),
        pytest.param(call(engine="gpu"), [local()], "k fail NO_PROVIDER", id="an engine that nobody has"),
        pytest.param(call(providers=("local",)), [modal(), local()], "k to local", id="only some may do it"),
        pytest.param(call(providers=("far",)), [modal(), local()], "k fail NO_PROVIDER", id="none that is here may"),
        pytest.param(
            call(providers=("modal",)),
            [modal(ill(200)), local()],
            "k defer PROVIDER_UNAVAILABLE modal",
            id="work that must not go elsewhere waits for its provider",
        ),
        pytest.param(call(refused_by=("modal",)), [modal(), local()], "k to local", id="who refused it is not asked"),
        pytest.param(
            call(refused_by=("modal", "local"), code="PROVIDER_REJECTED"),
            [modal(), local()],
            "k fail PROVIDER_REJECTED",
            id="when all have refused it, the last reason is told",
        ),
        pytest.param(secret(), [modal(), local()], "k to local", id="sensitive work passes over whom its policy bars"),
        pytest.param(secret(tenant="studio"), [modal(), local()], "k to modal", id="and goes where its policy allows"),
        pytest.param(secret(), [modal(), local(room=0)], "k waits", id="it waits for the own CPU beside an idle GPU"),
        pytest.param(
            secret(),
            [modal(), local(ill(400))],
            "k defer PROVIDER_UNAVAILABLE local",
            id="it is deferred until one that may do it is back, not one that may not",
        ),
        pytest.param(secret(engine="cpu"), [modal(), local()], "k to local", id="its fallback is allowed"),
        pytest.param(
            secret(providers=("modal",)),
            [modal(), local()],
            "k fail POLICY_UNMET",
            id="when its phase names nobody else, it fails and says why",
        ),
        pytest.param(
            secret(refused_by=("local",), code="CALL_LOST"),
            [modal(), local()],
            "k fail CALL_LOST",
            id="who refused it is the reason, not who was barred",
        ),
        pytest.param(call(deadline=s(100)), [modal()], "k fail CALL_DEADLINE", id="nobody waits for it any more"),
        pytest.param(call(at=-140), [modal()], "k fail CALL_QUEUE_DEADLINE", id="it has waited too long"),
        pytest.param(call(at=-139), [modal(room=0)], "k waits", id="or not quite"),
        pytest.param(
            call(at=-140, deadline=s(99)), [modal()], "k fail CALL_DEADLINE", id="of two reasons the caller's is told"
        ),
    ],
)
def test_what_becomes_of_a_call(one: Queued, openings: list[Opening], what: str) -> None:
    assert told([one], *openings) == what


def test_who_is_deferred_is_told_whom_to_wait_for_and_until_when() -> None:
    found = turns(STYLE, [call()], {"modal": modal(ill(300)), "local": local(ill(400))}, NOW, STRICT)
    [ending] = found.ending
    assert (ending.move, ending.provider, ending.until) == (Move.DEFER, "modal", s(300))


def test_who_waits_for_room_is_looked_at_when_the_wait_is_over() -> None:
    assert turns(STYLE, [call()], {"modal": modal(room=0)}, NOW, STRICT).next_at == s(100 + STYLE.clocks.queue_s)
    assert turns(STYLE, [call(deadline=s(150))], {"modal": modal(room=0)}, NOW, STRICT).next_at == s(150)


# -- many -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queued", "opening", "what"),
    [
        pytest.param([call("b", 99), call("a", 98)], modal(), "a to modal; b to modal", id="who came first goes first"),
        pytest.param([call("b", 99), call("a", 98)], modal(room=1), "a to modal; b waits", id="as many as fit"),
        pytest.param(
            [call(key, 99.9) for key in "abc"], modal(batch=2, batch_wait_s=1), "a,b to modal; c waits", id="together"
        ),
        pytest.param(
            [call("a", 98), call("b", 99.9)], modal(batch=4, batch_wait_s=1), "a,b to modal", id="or after a while"
        ),
        pytest.param(
            [call("a", 98, "x"), call("b", 98, "y"), call("c", 98, "x")],
            modal(batch=4, batch_wait_s=1),
            "a,c to modal; b to modal",
            id="only with those that are alike",
        ),
        pytest.param(
            [call(key, 98) for key in "abcd"],
            modal(batch=4, room=3),
            "a,b,c to modal; d waits",
            id="a batch that is cut",
        ),
    ],
)
def test_what_becomes_of_many(queued: list[Queued], opening: Opening, what: str) -> None:
    assert told(queued, opening) == what


times = st.integers(0, 120).map(float)
waiting = st.lists(st.tuples(times, st.sampled_from("xyz")), max_size=30).map(
    lambda rows: [call(f"k{n:02}", at, alike) for n, (at, alike) in enumerate(rows)]
)


@given(waiting, st.integers(1, 8), st.sampled_from((0.0, 1.0, 30.0)), st.integers(-2, 40))
def test_batches(queued: list[Queued], size: int, wait_s: float, room: int) -> None:
    known = {one.key: one for one in queued}
    batches, next_at = grouped(queued, limits(size, wait_s), room, NOW)
    going = [key for batch in batches for key in batch]

    assert Counter(going) <= Counter(list(known)), "each goes once at most"
    assert len(going) <= max(0, room)
    assert all(0 < len(batch) <= size for batch in batches)
    assert all(len({known[key].alike for key in batch}) == 1 for batch in batches)

    heads = [(known[batch[0]].queued_at, batch[0]) for batch in batches]
    assert heads == sorted(heads), "the oldest goes first"
    for alike in "xyz":
        line = sorted((one.queued_at, one.key) for one in queued if one.alike == alike)
        gone = sorted((known[key].queued_at, key) for key in going if known[key].alike == alike)
        assert gone == line[: len(gone)], "of those that are alike nobody is overtaken"

    left = [one for one in queued if one.key not in going]
    if len(going) < room:  # there is room for more, so who stays waits for company
        assert all(NOW - one.queued_at < timedelta(seconds=wait_s) for one in left), "and for so long at most"
        assert all(count < size for count in Counter(one.alike for one in left).values())
        assert (next_at is None) == (not left)
    if next_at is not None:
        assert next_at > NOW
        again, _ = grouped(left, limits(size, wait_s), len(left), next_at)
        assert again, "when it is looked at again somebody goes"


states = st.just(Available()) | times.map(lambda more: ill(101 + more))
openings = st.fixed_dictionaries(
    {},
    optional={
        "modal": st.builds(modal, states, st.integers(-1, 5), batch=st.integers(1, 4), batch_wait_s=st.just(5.0)),
        "local": st.builds(local, states, st.integers(-1, 5)),
    },
)
calls = st.lists(
    st.builds(
        call,
        at=st.integers(-200, 100).map(float),
        alike=st.sampled_from("xy"),
        deadline=st.integers(50, 400).map(s),
        engine=st.sampled_from((None, "cpu", "gpu")),
        providers=st.sampled_from(((), ("local",), ("modal", "local"))),
        refused_by=st.sampled_from(((), ("modal",), ("modal", "local"))),
        code=st.sampled_from((None, "CALL_LOST")),
        tenant=st.sampled_from(("school", "studio")),
        sensitive=st.booleans(),
    ),
    max_size=12,
).map(lambda found: [Queued(f"k{n:02}", *_rest(one)) for n, one in enumerate(found)])


def _rest(one: Queued) -> tuple[Any, ...]:
    return (
        one.alike,
        one.queued_at,
        one.deadline,
        one.engine,
        one.providers,
        one.refused_by,
        one.code,
        one.tenant,
        one.sensitive,
    )


@given(calls, openings)
def test_turns(queued: list[Queued], there: dict[str, Opening]) -> None:
    known = {one.key: one for one in queued}
    found = turns(STYLE, queued, there, NOW, STRICT)
    going = [(name, key) for name, keys in found.going for key in keys]
    ended = [ending.key for ending in found.ending]
    seen = Counter([*(key for _, key in going), *ended])
    assert all(count == 1 for count in seen.values()), "each has one fate"
    for name, key in going:
        one, opening = known[key], there[name]
        assert opening.takes_work
        assert one.engine in (None, opening.device)
        assert not one.providers or name in one.providers
        assert name not in one.refused_by
        assert not (one.sensitive and STRICT.bars(one.tenant, name)), "a policy holds whatever else is the case"
        assert one.deadline > NOW
    for name, count in Counter(name for name, _ in going).items():
        assert count <= max(0, there[name].room)
    for ending in found.ending:
        assert ending.move in (Move.FAIL, Move.DEFER)
        assert (ending.move is Move.DEFER) == (ending.until is not None)
        assert ending.until is None or ending.until > NOW
    waits = [one for one in queued if one.key not in seen]
    for one in waits:
        assert found.next_at is not None
        assert found.next_at <= min(one.deadline, one.queued_at + timedelta(seconds=STYLE.clocks.queue_s))
