"""docs/guides/pipelines.md tells the truth: its example loads, and it has every field with its default."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from contracts.jobs import Status
from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.pipelines import COMMANDS, PipelineInvalid, load
from tests.unit.orchestrator.given import World, artifact

GUIDE = Path(__file__).parents[3] / "docs/guides/pipelines.md"
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    [text] = re.findall(r"<!-- a test loads this file -->\n```yaml\n(.+?)```", GUIDE.read_text(), re.DOTALL)
    path = tmp_path / "album.yaml"
    path.write_text(text)
    return path


def test_the_example_loads_and_uses_every_field(example: Path) -> None:
    album = load(example)
    unused = {
        field.name
        for field in dataclasses.fields(Phase)
        if field.default is not dataclasses.MISSING and not any(getattr(one, field.name) for one in album.phases)
    }
    assert unused == set()
    assert {one.on_failure for one in album.phases} == {"fail", "skip", "degrade"}


def test_the_example_does_what_it_says(example: Path) -> None:
    world = World(load(example)).begins(style="warm", style_strength=0.5)
    pages: list[Any] = [{"id": "p1", "detections": []}, {"id": "p2", "detections": [1]}]
    world.succeeds("split", artifacts=[artifact("p1.png"), artifact("p2.png")], pages=pages, quality=0.9)
    assert world.new_keys == ["clean.p1.1", "clean.p2.1", "thumbnail.1"]
    for page in ("p1", "p2"):
        world.succeeds("clean", page, image=True).succeeds("tone", page, image=True)
    world.fails("thumbnail", "IMAGE_CORRUPT").succeeds("bind")
    assert (world.state.status, world.state.lane) == (Status.SUCCEEDED, "bulk")
    assert set(world.commands[-1].inputs) == {"original", "image", "tone.p1.image.png", "tone.p2.image.png"}


@pytest.mark.parametrize("which", [Pipeline, Phase], ids=lambda which: which.__name__)
def test_every_field_is_told_with_its_default(which: type[Any]) -> None:
    about, _, rest = GUIDE.read_text().partition("## Fields of a phase")
    told = {name: default for name, default, _ in ROW.findall(about if which is Pipeline else rest)}
    for field in dataclasses.fields(which):
        if field.name == "name" and which is Phase:
            continue  # its key
        assert field.name in told
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        assert (told[field.name] == "required") == required
        if isinstance(field.default, str | float):
            assert told[field.name].strip("`") == f"{field.default:.0f}" if isinstance(field.default, float) else True
            assert isinstance(field.default, float) or told[field.name].strip("`") == field.default
    assert {"name", *told} <= {"name", *(field.name for field in dataclasses.fields(which))}


def test_every_command_is_told() -> None:
    row = next(line for line in GUIDE.read_text().splitlines() if line.startswith("| `command`"))
    assert set(COMMANDS) <= set(re.findall(r"`(\w+)`", row))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("needs: [clean]", "needs: [clena]", "phase tone needs clena, which is not declared"),
        (
            "providers: [modal, runpod, local]",
            "providers: [modal]",
            "may not fall back: the provider local is not among",
        ),
        ("needs: [split]\n    each", "need: [split]\n    each", "there is no field need; is it needs?"),
    ],
)
def test_its_messages_are_those_that_are_told(example: Path, old: str, new: str, says: str) -> None:
    example.write_text(example.read_text().replace(old, new))
    with pytest.raises(PipelineInvalid) as problem:
        load(example)
    assert says in str(problem.value)
