from __future__ import annotations

import socket
from typing import Any, NoReturn

import pytest

from gpu_functions.ocr.ppocr import PpOcr


@pytest.fixture(scope="session")
def reader() -> PpOcr:
    """The CPU's engine, loaded while nothing can be fetched."""
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch)
        return PpOcr()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(monkeypatch)


def cut_off(patch: pytest.MonkeyPatch) -> None:
    """No connection leads anywhere, and no name is known."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("something asks the network")

    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
