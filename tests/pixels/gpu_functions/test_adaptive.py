"""A learnt style is one LUT per picture: what its predictor says, and how sure it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from contracts.errors import SafelightError
from gpu_functions import images
from gpu_functions.style import bundle, exposure, grid
from gpu_functions.style.adaptive import Predictor, look_of
from gpu_functions.style.apply import CubeLut
from gpu_functions.style.bundle import Style, thumbnail
from tests.pixels.gpu_functions.pictures import encode

Array = npt.NDArray[Any]
TARGET = 0.5  # what the predictor below brings every picture's mean to


def bases() -> grid.Floats:
    """An identity, and its negative."""
    plain = grid.identity()
    return np.stack([plain, 1 - plain])


def model(*more: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """Gains that bring the mean of a thumbnail to TARGET; of two bases the first."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["thumbnail"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("Div", ["target", "mean"], ["gains"]),
        helper.make_node("MatMul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "first"], ["weights"]),
        *more,
    ]
    known = {"target": np.full((1, 3), TARGET), "nothing": np.zeros((3, 2)), "first": np.array([[1.0, 0.0]])}
    graph = helper.make_graph(
        nodes,
        "predictor",
        [helper.make_tensor_value_info("thumbnail", TensorProto.FLOAT, ["B", 3, 256, 256])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", n])
            for name, n in (("gains", 3), ("weights", 2))
        ],
        [*(numpy_helper.from_array(v.astype(np.float32), k) for k, v in known.items()), *constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def adaptive(confidence: Array | None = None, predictor: bytes | None = None) -> bytes:
    sure = np.ones((grid.SIZE,) * 3, np.float32) if confidence is None else confidence
    return bundle.write(Style(bases(), sure, predictor or model().SerializeToString()))


def fixed(look: grid.Floats, confidence: float = 1.0) -> bytes:
    return bundle.write(Style(look[None], np.full((grid.SIZE,) * 3, confidence, np.float32)))


def grey(value: int) -> images.Pixels:
    return np.full((64, 48, 3), value, np.uint8)


def test_the_predictor_looks_at_each_picture() -> None:
    for value in (100, 150):
        look = look_of(adaptive(), grey(value))
        gain = TARGET * 255 / value
        assert look.facts["kind"] == "adaptive"
        assert look.facts["gains"] == pytest.approx([gain] * 3, abs=1e-3)
        wanted = grid.from_light(grid.to_light(grid.identity()) * np.float32(gain))
        assert np.abs(look.lut.table - wanted).max() < 1e-3


def test_an_adaptive_style_runs_without_torch_and_tells_what_it_did(astronaut: images.Pixels) -> None:
    outputs, facts = CubeLut().run({"image": encode(astronaut), "lut": adaptive()}, {"strength": 1})
    found = images.read(outputs["image"].data).pixels
    gains = TARGET / (thumbnail(astronaut).mean(axis=(1, 2)))
    wanted = grid.from_light(grid.to_light(astronaut / 255.0) * gains.astype(np.float32)) * 255
    assert set(facts) == {"strength", "kind", "lut_size", "gains", "confidence"}
    assert facts["confidence"] == 1.0
    # A gain is a curve, and the LUT a chain of 32 straight pieces: at the dark end it is 2 codes off.
    assert np.abs(found - wanted).max() <= 2.5
    assert np.abs(found - wanted).mean() <= 0.5


def test_a_fixed_style_is_its_base_and_confidence_the_share_of_known_colours() -> None:
    half = np.zeros((grid.SIZE,) * 3, np.float32)
    half[16:] = 1.0  # the pairs showed colours whose red is above the middle
    style = bundle.write(Style((1 - grid.identity())[None], half))
    pixels = np.concatenate([grey(60), grey(200), grey(220), grey(250)])
    look = look_of(style, pixels)
    assert look.facts == {"kind": "fixed", "lut_size": grid.SIZE, "confidence": 0.75}
    assert np.allclose(look.lut.table[:16], grid.identity()[:16])
    assert np.allclose(look.lut.table[16:], 1 - grid.identity()[16:])


@pytest.mark.parametrize("depth", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def test_a_style_that_learnt_nothing_gives_back_every_pixel(depth: type) -> None:
    pixels: images.Pixels = np.random.default_rng(2).integers(0, np.iinfo(depth).max + 1, (90, 70, 3)).astype(depth)
    outputs, _ = CubeLut().run({"image": encode(pixels), "lut": fixed(grid.identity())}, {"strength": 0.6})
    assert (images.read(outputs["image"].data).pixels == pixels).all()


def test_the_same_style_as_a_cube_gives_the_same_picture(astronaut: images.Pixels) -> None:
    look = (grid.identity() ** np.float32(0.8)).astype(np.float32)
    rows = look.transpose(2, 1, 0, 3).reshape(-1, 3)
    text = f"LUT_3D_SIZE {grid.SIZE}\n" + "\n".join(" ".join(f"{v:.8f}" for v in row) for row in rows)
    image = encode(astronaut[:100])
    one, _ = CubeLut().run({"image": image, "lut": fixed(look)}, {})
    other, _ = CubeLut().run({"image": image, "lut": text.encode()}, {})
    assert one["image"].data == other["image"].data


def test_the_predictor_that_training_makes_is_taken(astronaut: images.Pixels) -> None:
    made = exposure.model(exposure.Exposure(np.zeros((3, 5)), np.array([0.5, 0.0, -0.5])))
    lut = bundle.write(Style(bases()[:1], np.ones((grid.SIZE,) * 3, np.float32), made))
    assert look_of(lut, astronaut).facts["gains"] == pytest.approx([2**0.5, 1.0, 2**-0.5], abs=1e-4)


def loop() -> bytes:
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "b", [], [])
    return model(helper.make_node("Loop", ["", "go"], ["end"], body=body)).SerializeToString()


def hidden() -> bytes:
    """A subgraph in an operator that has none."""
    body = helper.make_graph([], "b", [], [])
    return model(helper.make_node("Relu", ["mean"], ["end"], body=body)).SerializeToString()


def outside() -> bytes:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "far")
    onnx.external_data_helper.set_external_data(tensor, "secret.bin")
    tensor.data_location = TensorProto.EXTERNAL
    return model(constants=(tensor,)).SerializeToString()


def wide() -> bytes:
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 20]), "shape")
    return model(helper.make_node("Expand", ["mean", "shape"], ["end"]), constants=(shape,)).SerializeToString()


def renamed() -> bytes:
    return model().SerializeToString().replace(b"thumbnail", b"thumbnali")


def shouting() -> bytes:
    """Gains of a thousand."""
    graph = model()
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((1, 3), 1e6, np.float32), "target"))
    return graph.SerializeToString()


@pytest.mark.parametrize(
    ("predictor", "reason"),
    [
        pytest.param(b"\x00\xff" * 40, "no ONNX model", id="noise"),
        pytest.param(loop(), "no predictor needs", id="a loop"),
        pytest.param(hidden(), "no predictor needs", id="a hidden subgraph"),
        pytest.param(outside(), "no predictor needs", id="weights in a file of ours"),
        pytest.param(wide(), "no predictor needs", id="a terabyte out of three numbers"),
        pytest.param(model(*[helper.make_node("Relu", ["mean"], [f"r{n}"]) for n in range(600)]).SerializeToString(),
                     "no predictor needs", id="a thousand steps"),
        pytest.param(renamed(), "does not run", id="another input"),
        pytest.param(shouting(), "gains far out of range", id="absurd gains"),
    ],
)  # fmt: skip
def test_a_hostile_predictor_is_refused_with_the_reason(predictor: bytes, reason: str) -> None:
    with pytest.raises(SafelightError, match=reason) as refusal:
        look_of(adaptive(predictor=predictor), grey(90))
    assert refusal.value.code == "STYLE_INVALID"


def test_a_black_picture_has_no_gains_and_is_refused_in_words() -> None:
    with pytest.raises(SafelightError, match="out of range"):
        look_of(adaptive(), grey(0))


def test_a_predictor_sees_what_the_bundle_calls_a_thumbnail() -> None:
    gains, weights = Predictor(model().SerializeToString()).of(thumbnail(grey(51)))
    assert gains == pytest.approx([TARGET / 0.2] * 3, rel=1e-3)  # float32 means of 65,536 numbers
    assert weights.tolist() == [1.0, 0.0]
