"""A look is learnt from pairs, told of, judged on pairs it has not seen, and the same after a preemption."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from contracts.errors import SafelightError
from gpu_functions.catalog import choose
from gpu_functions.style import adaptive, bundle, cube, kernel
from gpu_functions.style.checkpoint import Kept
from gpu_functions.style.train import PairsLut
from tests.pixels.gpu_functions.pictures import decode, psnr
from tests.pixels.gpu_functions.style import looks
from tests.pixels.gpu_functions.style.archives import archive, paired
from tests.pixels.gpu_functions.style.conftest import Heard, Preempted, Training


def everywhere(picture: looks.Picture) -> np.ndarray:
    return np.ones(picture.shape[:2], bool)


def test_the_engine_is_in_the_catalog() -> None:
    assert choose("style.train").row.label == "pairs-lut@2"
    assert choose("style.train", device="gpu").row.label == "pairs-lut-torch@2"  # networks are taught there


def test_a_learnt_look_grades_a_photo_that_no_pair_showed(training: Training) -> None:
    unseen = looks.photos(360)[10][0]  # a portrait; none of the pairs is of this photo
    style = bundle.read(training.outputs["style"].data)
    styled = kernel.apply(unseen, bundle.baked(style, np.ones(3), np.ones(1)))
    truth = looks.fixed(unseen)
    assert training.facts["kind"] == "fixed"
    assert psnr(styled, truth, everywhere(truth)) > psnr(unseen, truth, everywhere(truth)) + 8.0


def test_its_figures_on_pairs_left_out_stand_beside_those_of_doing_without_it(training: Training) -> None:
    facts = training.facts
    report = json.loads(training.outputs["report"].data)
    assert facts["psnr"] > facts["psnr_identity"] + 6.0 > facts["psnr_histogram"]  # type: ignore[operator]
    assert facts["pairs_used"] == 6
    assert [row["name"] for row in report["pairs"]] == [f"IMG_{index:02}" for index in range(6)]
    assert np.mean([row["psnr"] for row in report["pairs"]]) == pytest.approx(facts["psnr"], abs=1e-3)
    assert report["metrics"]["de2000_mean"] < report["metrics"]["de2000_mean_identity"]
    assert len(report["provenance"]["pairs"]) == 6
    assert report["provenance"]["seed"] == 7


def test_no_file_name_leaves_but_in_the_report(training: Training) -> None:
    told = json.dumps([training.facts, training.heard.told])
    assert "IMG_" not in told
    for role in ("style", "cube", "preview"):
        assert b"IMG_" not in training.outputs[role].data


def test_the_cube_is_the_look_of_the_bundle(training: Training) -> None:
    written = cube.parse(training.outputs["cube"].data)
    style = bundle.read(training.outputs["style"].data)
    baked = bundle.baked(style, np.ones(3), np.ones(1))
    assert np.abs(written.table - baked.table).max() < 1e-6


def test_numbers_and_a_preview_are_told_on_the_way(training: Training) -> None:
    heard = training.heard
    fractions = [fraction for fraction, _ in heard.told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert [role for role, _ in heard.shown] == ["preview"]
    numbers = heard.told[-1][1]
    assert set(numbers) == {"step", "eta_s", "pairs_used", "loss", "psnr_held_out"}
    assert [facts["step"] for _, facts in heard.told] == list(range(1, len(heard.told) + 1))
    first, last = heard.shown[0][1], training.outputs["preview"]
    assert decode(last.data).shape == (last.height, last.width, 3)
    assert first.data != last.data  # the first shows the closed form, the last pairs left out


@pytest.mark.parametrize("stop_after", [10, 15], ids=["while trying ways", "while judging"])
def test_a_preempted_training_goes_on_to_the_same_bytes(training: Training, stop_after: int) -> None:
    first = Heard(kept=training.heard.saved[stop_after - 3], stop_after=stop_after)  # hurried on to there
    with pytest.raises(Preempted):
        PairsLut().run({"original": training.original}, {"seed": 7}, first)
    again = Heard(kept=first.saved[-1])
    outputs, _ = PairsLut().run({"original": training.original}, {"seed": 7}, again)
    assert {role: output.data for role, output in outputs.items()} == {
        role: output.data for role, output in training.outputs.items()
    }


def test_a_checkpoint_of_other_work_or_of_no_shape_is_not_believed(training: Training) -> None:
    kept = training.heard.saved[-1]
    own = Kept.read(kept, json.loads(kept)["of"])
    assert own.write() == kept
    nothing = Kept(of="another archive, or seed")
    assert Kept.read(kept, nothing.of) == nothing
    for wrong in (b"", b"[" * 100_000, kept[:-1], kept.replace(b'"alike":0.', b'"alike":1e9,"b":0.'), b"0" * (5 << 20)):
        assert Kept.read(wrong, own.of) == Kept(of=own.of)


def test_an_exposure_that_follows_from_the_picture_is_predicted(pictures: list[looks.Picture]) -> None:
    """A camera that was off by stops, and an editor who brings each picture to the same light."""
    shots = [
        np.asarray(np.rint(looks.from_light(looks.to_light(picture / 255) * 2.0**stops) * 255), np.uint8)
        for picture, stops in zip(pictures, (-2.2, 0.2, -1.5, -0.6, -2.5, -1.0), strict=True)
    ]
    outputs, facts = PairsLut().run({"original": archive(paired(shots, looks.levelled))}, {})
    ways = json.loads(outputs["report"].data)["metrics"]["ways"]
    assert facts["kind"] == "adaptive"
    assert facts["psnr"] > max(ways["closed"], ways["stiff"], ways["free"]) + 3.0
    style = bundle.read(outputs["style"].data)
    assert style.predictor is not None
    assert set(style.network) == {"exposure.weights", "exposure.bias"}
    looked = [adaptive.look_of(outputs["style"].data, shot) for shot in shots]
    assert looked[4].facts["gains"][1] > looked[1].facts["gains"][1] * 2  # type: ignore[index,operator]
    averaged = np.mean([look.lut.table for look in looked], axis=0)
    assert np.abs(cube.parse(outputs["cube"].data).table - averaged).max() < 2e-3  # ONNX computes in float32


def test_fewer_than_five_good_pairs_are_refused_pair_by_pair(pictures: list[looks.Picture]) -> None:
    entries = paired(pictures, looks.fixed)
    entries["after/IMG_00.png"] = entries["after/IMG_01.png"]
    entries["before/IMG_02.png"] = entries["after/IMG_02.png"]
    entries["after/IMG_03.png"] = entries["after/IMG_03.png"][:2000]
    del entries["after/IMG_04.png"]
    with pytest.raises(SafelightError) as refusal:
        PairsLut().run({"original": archive(entries)}, {})
    assert refusal.value.code == "TOO_FEW_PAIRS"
    assert refusal.value.detail == (
        "2 of 6 pairs can be learnt from;"
        " pair 1: different_content, pair 3: identical, pair 4: unreadable, pair 5: incomplete"
    )


def test_a_look_that_histogram_matching_beats_is_refused_with_the_numbers(pictures: list[looks.Picture]) -> None:
    """An editor who makes each channel of each picture equally full: histograms are all that there is to it."""

    def full(picture: looks.Picture) -> looks.Picture:
        return np.stack([cv2.equalizeHist(channel) for channel in np.moveaxis(picture, 2, 0)], axis=2)

    with pytest.raises(SafelightError, match=r"reaches \d+\.\d dB, histogram matching \d+\.\d dB") as refusal:
        PairsLut().run({"original": archive(paired(pictures[:5], full))}, {})
    assert refusal.value.code == "STYLE_NOT_LEARNT"
