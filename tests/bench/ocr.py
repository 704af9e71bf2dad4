"""`just bench ocr`: each OCR engine that runs here, on the same school papers with known truth.

CER and WER are edit distances over the text in the order of reading, spaces counted, to the length of the truth.
Fields are values read beside their labels, and marks read in the row of their subject, exactly or not at all.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from contracts import ocr_text
from contracts.ocr import Kind, Page
from gpu_functions.engine import ALONE, Engine, Place
from gpu_functions.ocr import shipped
from tests.documents import school

PAGES, DPI = 12, 200


@dataclass(slots=True)
class Score:
    """What an engine got right of the pages of one wear."""

    cer: list[float] = field(default_factory=list)
    wer: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    right: int = 0
    fields: int = 0

    def row(self, engine: str, wear: str) -> str:
        """The row of the table."""
        return (
            f"| {engine} | {wear} | {statistics.fmean(self.cer):.2%} | {statistics.fmean(self.wer):.2%} | "
            f"{self.right}/{self.fields} | {statistics.median(self.cpu_s):.1f} |"
        )


def ppocr() -> Engine:
    """The CPU's engine, as it is delivered."""
    from gpu_functions.ocr.ppocr import PpOcr

    return PpOcr()


def paddleocr() -> Engine:
    """The GPU's PaddleOCR on this CPU, with the small models of the wheel in place of the medium ones."""
    from gpu_functions.ocr.paddle import DETECTOR, READER, PaddleOcr

    small = {DETECTOR: shipped.folder() / shipped.MODELS["Det"], READER: shipped.folder() / shipped.MODELS["Rec"]}
    return PaddleOcr(Place("cpu", small))


ENGINES: dict[str, Callable[[], Engine]] = {
    "ppocr-onnx@1, PP-OCRv6 small": ppocr,
    "paddleocr@1, PP-OCRv6 small on a CPU": paddleocr,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench ocr", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pages", type=int, default=PAGES, help="of each wear: both kinds, both languages in turn")
    given = parser.parse_args(arguments)
    papers = school.corpus(given.pages, DPI)
    print(f"ocr             {given.pages} pages of each wear, A4 at {DPI} dots per inch, one thread")
    print("| engine | pages | CER | WER | fields right | CPU s per page |\n|---|---|---|---|---|---|")
    for name, load in ENGINES.items():
        engine = load()
        for called, wear in school.WEAR.items():
            print(measured(engine, papers, wear).row(name, called), flush=True)
        print(f"after {name}: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most so far")


def measured(engine: Engine, papers: list[school.Paper], wear: school.Wear) -> Score:
    """Let the engine read each paper, worn as told."""
    score = Score()
    for seed, paper in enumerate(papers):
        data = school.worn(paper.pixels, seed, wear)
        before = time.process_time()
        outputs, _ = engine.run({"image": data}, {"languages": [paper.language]}, ALONE)
        score.cpu_s.append(time.process_time() - before)
        page = Page.model_validate_json(outputs["ocr"].data)
        cer, wer = error_rates(paper, page)
        right, of = right_fields(paper, page)
        score.cer.append(cer)
        score.wer.append(wer)
        score.right += right
        score.fields += of
    return score


def error_rates(paper: school.Paper, page: Page) -> tuple[float, float]:
    """CER and WER of what was read, as shares of the truth."""
    import jiwer

    truth, said = (" ".join(text.split()) for text in (paper.text, ocr_text.text(page)))
    return float(jiwer.cer(truth, said)), float(jiwer.wer(truth, said))


def right_fields(paper: school.Paper, page: Page) -> tuple[int, int]:
    """How many fields and marks are right, and of how many: what follows a label, what stands in a subject's row."""
    said = dict(_labelled(page))
    fields = sum(said.get(label) == value for label, value in paper.fields.values())
    rows = [row for block in page.blocks if block.kind is Kind.TABLE for row in ocr_text.grid(block.cells)]
    marks = {row[0]: row[1] for row in rows if len(row) > 1}
    wanted = [row for table in paper.tables for row in table[1:]]
    return fields + sum(marks.get(row[0]) == row[1] for row in wanted), len(paper.fields) + len(wanted)


def _labelled(page: Page) -> Iterator[tuple[str, str]]:
    for block in page.blocks:
        for line in block.lines:
            label, colon, value = line.text.partition(":")
            if colon:
                yield label.strip(), value.strip()


if __name__ == "__main__":
    main()
