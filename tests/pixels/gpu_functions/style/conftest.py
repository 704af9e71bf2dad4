"""What the tests of style training share: small photos, and one training that several of them look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from gpu_functions.engine import Facts, Output
from gpu_functions.style.train import PairsLut
from tests.pixels.gpu_functions.style import looks
from tests.pixels.gpu_functions.style.archives import archive, paired

# Photos with a wide range of colours; halves of 360 pixels train in a second each.
CHOSEN = (0, 1, 2, 7, 8, 9)  # astronaut, chelsea, coffee, motorcycle, china, flower


@dataclass
class Heard:
    """A Work that remembers; `stop_after` saves it is preempted: the exception is nobody's `Exception`."""

    kept: bytes | None = None
    stop_after: int | None = None
    told: list[tuple[float, Facts]] = field(default_factory=list)
    shown: list[tuple[str, Output]] = field(default_factory=list)
    saved: list[bytes] = field(default_factory=list)

    def tell(self, fraction: float, facts: Facts | None = None) -> None:
        self.told.append((fraction, dict(facts or {})))

    def show(self, role: str, output: Output) -> None:
        self.shown.append((role, output))

    def checkpoint(self) -> bytes | None:
        return self.kept

    def save(self, checkpoint: bytes) -> None:
        self.saved.append(checkpoint)
        if self.stop_after is not None and len(self.saved) >= self.stop_after:
            raise Preempted


class Preempted(BaseException):
    """The machine is taken away."""


@dataclass(frozen=True)
class Training:
    """One training: its archive, what came out, what was heard meanwhile."""

    original: bytes
    outputs: Mapping[str, Output]
    facts: Facts
    heard: Heard


@pytest.fixture(scope="session")
def pictures() -> list[looks.Picture]:
    """Six pictures of six photos."""
    halves = looks.photos(360)
    return [halves[index][index % 2] for index in CHOSEN]


@pytest.fixture(scope="session")
def training(pictures: list[looks.Picture]) -> Training:
    """The same grade over six pictures, learnt."""
    original, heard = archive(paired(pictures, looks.fixed)), Heard()
    outputs, facts = PairsLut().run({"original": original}, {"seed": 7}, heard)
    return Training(original, outputs, facts, heard)
