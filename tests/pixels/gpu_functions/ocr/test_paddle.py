"""PaddleOCR's own pipeline, for once: the library itself, on the CPU, with the small models of rapidocr's wheel."""

from __future__ import annotations

import pytest

from contracts.errors import SafelightError
from gpu_functions.engine import ALONE, Place
from gpu_functions.ocr.paddle import PaddleOcr
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
