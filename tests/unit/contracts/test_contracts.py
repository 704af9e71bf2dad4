"""What crosses rooms keeps its promises: samples, schemas, subjects, codes."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from contracts import generate
from contracts.catalog import CHANNELS
from contracts.channel import Channel
from contracts.errors import ERRORS, Permanent, Transient, error
from contracts.topology import CONSUMERS, STREAMS
from contracts.uploads import UploadReceived

SAMPLES = Path(generate.FOLDER).parent / "samples"
MODELS = {channel.message.TYPE: channel.message for channel in CHANNELS}


def test_every_type_has_a_golden_sample() -> None:
    assert {path.stem for path in SAMPLES.glob("*.json")} == set(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_golden_sample_reads_and_writes_back_unchanged(name: str) -> None:
    sample = json.loads((SAMPLES / f"{name}.json").read_text())
    assert MODELS[name].model_validate(sample).model_dump(mode="json", exclude_unset=True) == sample


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_reader_tolerates_a_field_that_a_newer_writer_added(name: str) -> None:
    sample = json.loads((SAMPLES / f"{name}.json").read_text())
    assert MODELS[name].model_validate({**sample, "added_later": 1}) == MODELS[name].model_validate(sample)


def test_generated_files_equal_the_models() -> None:
    assert generate.drift() == []


def test_drift_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "FOLDER", tmp_path)
    (tmp_path / "stranger.json").write_text("{}")
    assert {"stranger.json", "safelight.asyncapi.json"} <= set(generate.drift())


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: channel.subject)
def test_a_channel_lies_on_one_stream_that_takes_its_subject(channel: Channel[UploadReceived]) -> None:
    takers = [s.name for s in STREAMS if any(generate._matches(pattern, channel.subject) for pattern in s.subjects)]
    assert takers == [channel.stream]


@pytest.mark.parametrize("channel", [c for c in CHANNELS if c.kind == "cmd"], ids=lambda channel: channel.subject)
def test_a_command_has_exactly_one_reader(channel: Channel[UploadReceived]) -> None:
    readers = [c.name for c in CONSUMERS if any(generate._matches(pattern, channel.subject) for pattern in c.subjects)]
    assert len(readers) == 1, "a work-queue stream gives each message to one consumer"


@pytest.mark.parametrize("subject", ["cmd.gpu.run", "evt.Job.v1.done", "cmd.gpu.v0.run", "evt.job.v1.a.b.c", "job"])
def test_a_subject_of_another_shape_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="does not read kind"):
        Channel(subject, UploadReceived, "EVENTS")


@pytest.mark.parametrize("row", ERRORS.values(), ids=lambda row: row.code)
def test_an_error_code_is_fit_to_show(row: object) -> None:
    code, title, status = row.code, row.title, row.status  # type: ignore[attr-defined]
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+", code)
    assert title.endswith(".")
    assert 400 <= status < 600


def test_an_error_crosses_a_process_boundary_whole() -> None:
    there_and_back = pickle.loads(pickle.dumps(error("IMAGE_CORRUPT", "cut short")))
    assert (type(there_and_back), there_and_back.code, there_and_back.detail) == (
        Permanent,
        "IMAGE_CORRUPT",
        "cut short",
    )


def test_the_table_decides_whether_an_error_is_transient() -> None:
    assert isinstance(error("STORAGE_UNAVAILABLE"), Transient)
    with pytest.raises(KeyError):
        error("NO_SUCH_CODE")
