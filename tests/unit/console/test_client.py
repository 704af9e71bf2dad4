"""Where the client goes, with which key, and under which names it writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from console.client import Connection, safe_name
from console.terminal import connection, parameters

HERE = Connection("http://127.0.0.1:8080", "key-of-the-local-stack")


@given(st.text())
def test_no_name_leaves_its_folder(name: str) -> None:
    folder = Path("/somewhere/out")
    written = Path(os.path.normpath(f"{folder}/{safe_name(name)}"))
    assert written.parent == folder
    assert not written.name.startswith(".")


@pytest.mark.parametrize(
    ("url", "key", "expected"),
    [
        (None, None, HERE),
        (HERE.url, None, HERE),
        (None, "mine", Connection(HERE.url, "mine")),
        ("https://far.example", "mine", Connection("https://far.example", "mine")),
    ],
    ids=[
        "nothing said: the stack that runs here",
        "its own address: with its own key",
        "only a key: the stack that runs here with that key",
        "both said: just that",
    ],
)
def test_where_the_client_goes(url: str | None, key: str | None, expected: Connection) -> None:
    assert connection(lambda: HERE, url, key) == expected


def test_the_local_key_is_sent_to_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        connection(lambda: HERE, "https://far.example", None)
    assert "No API key" in capsys.readouterr().err


def test_an_operators_command_goes_with_the_operators_key() -> None:
    here = Connection(HERE.url, HERE.api_key, "operators-key-of-the-local-stack")
    assert connection(lambda: here, None, None, operator=True) == Connection(here.url, here.operator_key or "")
    assert connection(lambda: here, None, "mine", operator=True) == Connection(here.url, "mine")
    assert "operators-key" not in repr(here)


def test_without_an_operators_key_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        connection(lambda: HERE, None, None, operator=True)
    assert "SAFELIGHT_OPERATOR_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("assigned", "expected"),
    [
        (["strength=0.5"], {"strength": 0.5}),
        (["aspect=1:1"], {"aspect": "1:1"}),
        (["style=warm-film", "on=true"], {"style": "warm-film", "on": True}),
        (["text=a=b"], {"text": "a=b"}),
        (['quoted="5"'], {"quoted": "5"}),
        (None, {}),
    ],
)
def test_a_parameter_is_json_where_it_reads_as_json(assigned: list[str] | None, expected: dict[str, object]) -> None:
    assert parameters(assigned) == expected


def test_without_a_stack_and_an_address_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped:
        connection(lambda: None, None, None)
    assert stopped.value.exit_code == 1
    assert "--url" in capsys.readouterr().err


def test_a_key_does_not_show_in_a_traceback() -> None:
    assert HERE.api_key not in repr(HERE)
