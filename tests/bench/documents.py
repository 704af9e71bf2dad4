"""`just bench documents`: what is read right of a corpus of school papers with known truth, and what it costs.

Every page goes the whole way but for the wires: inspected, rasterized, read by an engine, put together, delivered.
CER and WER are edit distances over the text in the order of reading, spaces counted, to the length of the truth;
fields are what the template `report-card` finds, compared letter by letter. What looks like handwriting is compared
without case: one of the two typefaces has small capitals.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contracts import documents, ocr_text
from contracts.documents import ReadPage, Reason
from contracts.ocr import Page
from gpu_bridge import terms
from gpu_functions.engine import ALONE, Engine
from ingest import pages
from ingest.intake import PDF
from output import paper
from output.paper import fields, templates
from tests.bench import cost
from tests.bench.ocr import ENGINES
from tests.documents import papers, school
from tests.documents.school import Paper

SEEDS: Final = 2  # papers of each kind and language in each condition
DOCUMENT_PAGES: Final = 4  # of a usual document: assumed, for the monthly bill
DOCUMENTS: Final = (100, 500)  # a month
SEED_USD: Final = (10.0, 50.0)  # a month: what this is to be compared with
STEPS: Final = ("inspect", "rasterize", "ocr", "deliver")
TEXT_LAYER: Final = "text-layer@1, born digital"


@dataclass(frozen=True, slots=True)
class Condition:
    """How pages look. `born`: they are text, and no engine reads them."""

    name: str
    wear: str = "scanned"
    face: tuple[str, str] | None = None
    hand: str | None = None
    born: bool = False
    table: bool = False  # laid on a table and seen from a side


CONDITIONS: Final = (
    Condition("sans and serif, scanned"),
    Condition("a face like Times, scanned", face=school.TIMES),
    Condition("photographed: 2.5° askew, blurred, lit from a side", wear="photographed"),
    Condition("on a table, seen from a side", table=True),
    Condition("poor: 80 dots per inch, 4° askew, JPEG 35", wear="poor"),
    Condition("filled in by hand (Intuitive), scanned", hand="Intuitive"),
    Condition("filled in by hand (Amatic), scanned", hand="Amatic"),
)
BORN: Final = Condition("PDF with a text layer", born=True)


@dataclass(slots=True)
class Score:
    """What was read right of the pages of one condition, and the CPU seconds of each step of a page."""

    cer: list[float] = field(default_factory=list)
    wer: list[float] = field(default_factory=list)
    right: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    of: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def row(self, name: str) -> str:
        counted = " | ".join(f"{self.right[what]}/{self.of[what]}" for what in ("values", "marks"))
        return f"| {name} | {statistics.fmean(self.cer):.2%} | {statistics.fmean(self.wer):.2%} | {counted} |"


def corpus(condition: Condition, seeds: int) -> Iterator[Paper]:
    """Report cards and education plans, English and Spanish."""
    for seed in range(seeds):
        for language in ("en", "es"):
            for make in (school.report_card, school.education_plan):
                yield make(31 + seed, language, face=condition.face, hand=condition.hand)


def sent(condition: Condition, one: Paper, seed: int) -> tuple[bytes, str, Reason]:
    """The page as somebody would send it."""
    if condition.born:
        return papers.pdf([papers.Born(one)]), PDF, Reason.TEXT
    if condition.table:
        return papers.photograph(one), "image/jpeg", Reason.PICTURE
    return school.worn(one.pixels, seed, school.WEAR[condition.wear]), "image/jpeg", Reason.PICTURE


def measured(condition: Condition, engine: Engine | None, seeds: int) -> Score:
    """Let each paper go its way."""
    score, template = Score(), templates.load()["report-card"]
    for seed, one in enumerate(corpus(condition, seeds)):
        data, media_type, why = sent(condition, one, seed)
        timed(score, "inspect", pages.inspect, data, media_type)
        rasterized = timed(score, "rasterize", pages.rasterize, data, media_type, 1, why)
        made = {artifact.name: artifact.data for artifact in rasterized.made}
        picture = made.get("image.jpg", b"")
        told = made.get("ocr.json", b"")
        if engine is not None and picture:
            given = {"languages": [one.language]}
            outputs, _ = timed(score, "ocr", engine.run, {"image": picture}, given, ALONE)
            told = outputs["ocr"].data
        page = Page.model_validate_json(told)
        read = ReadPage(id="p001", number=1, why=why, page=page)
        whole = (documents.FIRST_LINE + documents.written(read, last=True) + documents.LAST_LINE).encode()
        timed(score, "deliver", paper.deliver, whole, data if media_type == PDF else None, {1: picture}, template)
        judge(score, one, page, fold=condition.hand is not None)
        count(score, one, fields.extract([read], template), fold=condition.hand is not None)
    return score


def timed(score: Score, step: str, work: Callable[..., Any], *args: object) -> Any:
    """Do it, and keep its CPU seconds."""
    before = time.process_time()
    done = work(*args)
    score.seconds[step].append(time.process_time() - before)
    return done


def judge(score: Score, one: Paper, page: Page, *, fold: bool) -> None:
    """CER and WER against the truth."""
    import jiwer

    truth, said = (" ".join(text.split()) for text in (one.text, ocr_text.text(page)))
    if fold:
        truth, said = truth.casefold(), said.casefold()
    score.cer.append(float(jiwer.cer(truth, said)))
    score.wer.append(float(jiwer.wer(truth, said)))


def count(score: Score, one: Paper, found: fields.Found, *, fold: bool) -> None:
    """Values beside labels, and of report cards the marks of subjects."""

    def same(value: str | None, truth: str) -> bool:
        return value is not None and (value.casefold() == truth.casefold() if fold else value == truth)

    for name, (_, value) in one.fields.items():
        told = found.fields.get(name)
        score.of["values"] += 1
        score.right["values"] += same(told.value if told else None, value)
    if one.kind == "report card":
        rows = {row["subject"].value.casefold(): row.get("grade") for row in found.tables["grades"] if "subject" in row}
        for subject, mark, *_ in one.tables[0][1:]:
            grade = rows.get(subject.casefold())
            score.of["marks"] += 1
            score.right["marks"] += same(grade.value if grade else None, mark)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="bench documents", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="papers of each kind, language and condition")
    parser.add_argument("--engines", type=int, default=1, help="how many of the engines of `bench ocr`")
    parser.add_argument("--aud", type=float, default=cost.AUD_PER_USD, help="Australian dollars for one US dollar")
    given = parser.parse_args(arguments)
    paces: dict[str, Mapping[str, list[float]]] = {}
    for name, load in list(ENGINES.items())[: given.engines]:
        engine, pace = load(), defaultdict[str, list[float]](list)
        print(f"\n{name}: {4 * given.seeds} pages of each condition\n| pages | CER | WER | values | marks |")
        print("|---|---|---|---|---|")
        for condition in CONDITIONS:
            score = measured(condition, engine, given.seeds)
            for step, seconds in score.seconds.items():
                pace[step] += seconds
            print(score.row(condition.name), flush=True)
        paces[name] = pace
    born = measured(BORN, None, given.seeds)
    print(born.row(BORN.name))
    paces[TEXT_LAYER] = born.seconds
    told(paces, given.aud)
    print(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")


def told(paces: Mapping[str, Mapping[str, list[float]]], aud: float) -> None:
    """Pages a second and what they cost, by engine; then a month's bill."""
    known = terms.read()
    print(f"\n| engine | {' | '.join(STEPS)} | pages/s, one core | 1,000 pages |\n|---|---|---|---|---|---|---|")
    each: list[float] = []
    for name, pace in paces.items():
        steps = [statistics.median(pace.get(step) or [0.0]) for step in STEPS]
        each.append(steps[STEPS.index("ocr")])
        bill = cost._bill(known, "cpu", 1000, each[-1], 1) if each[-1] else 0.0
        cells = " | ".join(f"{step:.3f} s" for step in steps)
        print(f"| {name} | {cells} | {1 / sum(steps):.2f} | {money(bill, aud)} |")
    print(f"\n| a month on Modal's CPU, {DOCUMENT_PAGES} pages each | {' | '.join(map(str, DOCUMENTS))} |")
    print("|---|---|---|")
    for name, containers in (("all at once: one cold start, one wait", 1), ("one by one: each pays its own", None)):
        bills = [cost._bill(known, "cpu", n * DOCUMENT_PAGES, each[0], containers or n) for n in DOCUMENTS]
        print(f"| {name} | {' | '.join(money(bill, aud) for bill in bills)} |")
    for name, containers in (("all at once", 1), ("one by one", None)):
        bills = [cost._bill(known, cost.GPU_ASSUMED, 0, 0.0, containers or n) for n in DOCUMENTS]
        cells = " | ".join(money(bill, aud) for bill in bills)
        print(f"| {cost.GPU_ASSUMED}, {name}: cold starts and idle waits alone | {cells} |")
    print(f"| the seed's own figure | US${SEED_USD[0]:.0f}-{SEED_USD[1]:.0f} | |")
    print(f"| the own machine: CPU seconds | {' | '.join(f'{n * DOCUMENT_PAGES * each[0]:.0f}' for n in DOCUMENTS)} |")


def money(usd: float, aud: float) -> str:
    return f"US${usd:.3f} (A${usd * aud:.3f})"


if __name__ == "__main__":
    main()
