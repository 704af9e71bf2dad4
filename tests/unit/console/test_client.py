"""Where the client goes, with which key, and under which names it writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from console.cli import connection
from console.client import Connection, safe_name

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


def test_without_a_stack_and_an_address_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped:
        connection(lambda: None, None, None)
    assert stopped.value.exit_code == 1
    assert "--url" in capsys.readouterr().err


def test_a_key_does_not_show_in_a_traceback() -> None:
    assert HERE.api_key not in repr(HERE)
