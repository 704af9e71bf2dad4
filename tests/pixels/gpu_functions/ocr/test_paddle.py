"""PaddleOCR's own pipeline, for once: the library itself, on the CPU, with the small models of rapidocr's wheel."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import SafelightError
from gpu_functions.engine import ALONE, Place
from gpu_functions.ocr import paddle
from gpu_functions.ocr.paddle import PaddleOcr
from gpu_functions.ocr.regions import LABELS, WHOLE, regions
from tests.bench.ocr import error_rates, paddleocr
from tests.pixels.gpu_functions.ocr import papers


def test_an_onnxruntime_without_cuda_is_refused_on_a_gpu() -> None:
    """The one that is installed here computes on no GPU."""
    with pytest.raises(SafelightError, match="onnxruntime-gpu") as refused:
        PaddleOcr(Place("gpu"))
    assert refused.value.code == "ENGINE_UNAVAILABLE"


def test_paddleocr_reads_the_page_that_the_cpu_reads(offline: None) -> None:
    paper = papers.small("es")
    engine = paddleocr()
    outputs, facts = engine.run({"image": papers.png(paper.pixels)}, {}, ALONE)
    page = papers.page_of(outputs)
    assert page.engine == "paddleocr@1"
    assert error_rates(paper, page)[0] <= 0.01
    assert facts["tables"] == 1


@pytest.mark.parametrize("size", [(827, 1169), (1400, 900)], ids=["a tall page", "a wide page"])
def test_of_what_the_layout_model_finds_that_is_kept_which_paddlex_keeps(size: tuple[int, int]) -> None:
    paddle._library()
    from paddlex.inference.models.layout_analysis.processors import LayoutAnalysisProcess, filter_boxes

    theirs = LayoutAnalysisProcess(labels=list(LABELS), scale_size=[800, 800])
    large = {at: "large" if label in WHOLE else "union" for at, label in enumerate(LABELS)}
    for seed in range(200):
        chance = np.random.default_rng(seed)
        count = int(chance.integers(0, 40))
        begins = chance.uniform(-0.05, 1, (count, 2)) * size
        sides = chance.uniform(0, 0.6, (count, 2)) ** 2 * size
        if seed % 3 == 0:  # many that lie in others
            begins, sides = begins.round(-2), sides.round(-2)
        classes, scores = chance.integers(0, len(LABELS), count), chance.uniform(0, 1, count)
        if count and seed % 5 == 0:  # a picture as large as the page
            begins[0], sides[0], classes[0], scores[0] = (-3, -3), np.array(size) * 0.98, LABELS.index("image"), 0.9
        rows = np.column_stack([classes, scores, begins, begins + sides, chance.permutation(count)]).reshape(-1, 7)
        wanted = theirs.apply(rows.copy(), size, 0.3, True, (1.0, 1.0), large, None, "rect")
        found = [(region.label, region.box.tolist()) for region in regions(rows, *size)]
        assert found == [(one["label"], one["coordinate"]) for one in filter_boxes(list(wanted), "rect")]
