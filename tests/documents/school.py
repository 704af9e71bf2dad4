"""School papers with known truth: report cards and pages of individual education plans, in English and Spanish.

Each page is drawn, not scanned: what is printed where is known to the letter. A seed decides names, marks,
wording and typeface, so that the same seed is the same page everywhere. `worn` makes of a clean page what a
phone or a worn-out copier makes of it. Nobody on these pages exists. The typefaces ship in matplotlib's wheel; those
that look like handwriting in wheels of their own (SIL Open Font License): with one of them, what a teacher fills in
is written by hand, and the form around it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Bytes = npt.NDArray[np.uint8]
Row = tuple[str, ...]

A4_INCHES: Final = (8.27, 11.69)
INK, RULE, SHADE = (24, 24, 32), (90, 90, 90), (228, 232, 238)
FACES: Final = (("DejaVuSans", "DejaVuSans-Bold"), ("DejaVuSerif", "DejaVuSerif-Bold"))
TIMES: Final = ("STIXGeneral", "STIXGeneralBol")
HANDS: Final = {
    # name        package, file, size beside print, whether its small letters are small capitals
    "Intuitive": ("font_intuitive", "files/Intuitive.ttf", 1.0, False),
    "Amatic": ("font_amatic_sc", "files/AmaticSC-Bold.ttf", 1.35, True),
}
MARKS: Final = ("A+", "A", "A-", "B+", "B", "B-", "C+", "C", "D")

# fmt: off
WORDS: Final = {
    "en": {
        "card": "Student Progress Report", "plan": "Individual Education Plan", "school": "School", "name": "Student",
        "term": "Term", "teacher": "Teacher", "columns": ("Subject", "Grade", "Effort", "Comment"),
        "comments": "Teacher Comments", "goals": "Annual Goals", "needs": "Strengths and Needs",
        "accommodations": "Accommodations",
        "goal_columns": ("Goal", "Baseline", "Target"), "effort": ("High", "Steady", "Fair"),
    },
    "es": {
        "card": "Informe de Progreso Escolar", "plan": "Plan Educativo Individual", "school": "Escuela",
        "name": "Alumno", "term": "Periodo", "teacher": "Maestra",
        "columns": ("Materia", "Nota", "Esfuerzo", "Comentario"),
        "comments": "Comentarios de la maestra", "goals": "Metas anuales", "needs": "Fortalezas y necesidades",
        "accommodations": "Adaptaciones",
        "goal_columns": ("Meta", "Inicio", "Objetivo"), "effort": ("Alto", "Bueno", "Medio"),
    },
}
SUBJECTS: Final = {
    "en": ("Mathematics", "Reading", "Writing", "Science", "Social Studies", "Art", "Music", "Physical Education"),
    "es": ("Matemáticas", "Lectura", "Escritura", "Ciencias", "Estudios Sociales", "Arte", "Música",
           "Educación Física"),
}
REMARKS: Final = {
    "en": ("Works with care", "Needs more practice", "Asks good questions", "Reads every day", "Helps others",
           "Finishes on time", "Shows real progress", "Listens well"),
    "es": ("Trabaja con cuidado", "Necesita más práctica", "Hace buenas preguntas", "Lee todos los días",
           "Ayuda a otros", "Termina a tiempo", "Muestra progreso", "Escucha con atención"),
}
SENTENCES: Final = {
    "en": ("The student follows directions and works well in a small group.",
           "Reading fluency has grown from 62 to 88 words per minute.",
           "A quiet place and extra time help during written tests.",
           "Multiplication facts up to 12 are still being practised at home.",
           "Parents and teachers will meet again before the end of term.",
           "Instructions are repeated once and written on the board.",
           "She explains her thinking and checks her own answers.",
           "Attendance was 94% with three late arrivals this term."),
    "es": ("El alumno sigue las instrucciones y trabaja bien en grupo.",
           "La fluidez de lectura subió de 62 a 88 palabras por minuto.",
           "Un lugar tranquilo y más tiempo ayudan en los exámenes.",
           "Las tablas de multiplicar se practican también en casa.",
           "La familia y la escuela se reunirán antes de fin de año.",
           "Las instrucciones se repiten y se escriben en la pizarra.",
           "Explica sus ideas y revisa sus propias respuestas.",
           "La asistencia fue del 94% con tres llegadas tarde."),
}
GIVEN: Final = {
    "en": ("Olivia", "Noah", "Amelia", "Jack", "Grace", "Henry"),
    "es": ("Lucía", "Mateo", "Sofía", "Andrés", "Inés", "Tomás"),
}
FAMILY: Final = {
    "en": ("Barker", "Whitfield", "Okafor", "Nguyen", "Larsen", "Doyle"),
    "es": ("García", "Núñez", "Peña", "Ibáñez", "Rojas", "Muñoz"),
}
TERMS: Final = {
    "en": ("Spring 2025", "Autumn 2025", "Winter 2026"),
    "es": ("Primavera 2025", "Otoño 2025", "Invierno 2026"),
}
SCHOOLS: Final = {
    "en": ("Hillcrest Primary", "Riverside Elementary"),
    "es": ("Colegio San Martín", "Escuela Río Claro"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Printed:
    """A line of print and its axis box: left, top, width, height in pixels of the clean page."""

    text: str
    box: tuple[float, float, float, float]


@dataclass(slots=True)
class Paper:
    """One page and its truth, in reading order. `fields` are read beside their labels; `tables` row by row."""

    kind: str
    language: str
    pixels: Bytes
    lines: list[Printed] = field(default_factory=list)
    fields: dict[str, tuple[str, str]] = field(default_factory=dict)  # what it is -> label, value
    tables: list[list[Row]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that is printed, in reading order, a line each."""
        return "\n".join(line.text for line in self.lines)


def report_card(
    seed: int,
    language: str = "en",
    dpi: int = 200,
    subjects: int = 8,
    face: tuple[str, str] | None = None,
    hand: str | None = None,
) -> Paper:
    """A title, four labelled fields, a ruled table of subjects with marks, and a paragraph of comments."""
    rng, words = np.random.default_rng(seed), WORDS[language]
    pen = _Pen("report card", language, dpi, rng, face, hand)
    pen.title(str(words["card"]))
    pen.fields(
        {
            "school": (str(words["school"]), _pick(rng, SCHOOLS[language])),
            "name": (str(words["name"]), f"{_pick(rng, GIVEN[language])} {_pick(rng, FAMILY[language])}"),
            "term": (str(words["term"]), _pick(rng, TERMS[language])),
            "teacher": (str(words["teacher"]), f"{_pick(rng, GIVEN[language])} {_pick(rng, FAMILY[language])}"),
        }
    )
    rows = [
        (subject, _pick(rng, MARKS), _pick(rng, tuple(words["effort"])), _pick(rng, REMARKS[language]))
        for subject in SUBJECTS[language][:subjects]
    ]
    pen.table([tuple(words["columns"]), *rows], (0.3, 0.12, 0.16, 0.42))
    pen.heading(str(words["comments"]))
    pen.paragraph(" ".join(rng.permutation(np.array(SENTENCES[language]))[:4]))
    return pen.paper()


def education_plan(
    seed: int, language: str = "en", dpi: int = 200, face: tuple[str, str] | None = None, hand: str | None = None
) -> Paper:
    """A title, fields, a paragraph, two columns of text beside each other, and a ruled table of goals."""
    rng, words = np.random.default_rng(seed), WORDS[language]
    pen = _Pen("education plan", language, dpi, rng, face, hand)
    pen.title(str(words["plan"]))
    pen.fields(
        {
            "name": (str(words["name"]), f"{_pick(rng, GIVEN[language])} {_pick(rng, FAMILY[language])}"),
            "term": (str(words["term"]), _pick(rng, TERMS[language])),
        }
    )
    said = [str(one) for one in rng.permutation(np.array(SENTENCES[language]))]
    pen.columns(((str(words["needs"]), " ".join(said[:4])), (str(words["accommodations"]), " ".join(said[4:]))))
    pen.heading(str(words["goals"]))
    goals = [
        (subject, f"{rng.integers(20, 60)}%", f"{rng.integers(70, 100)}%")
        for subject in rng.permutation(np.array(SUBJECTS[language]))[:4]
    ]
    pen.table([tuple(words["goal_columns"]), *[tuple(map(str, goal)) for goal in goals]], (0.5, 0.25, 0.25))
    pen.paragraph(" ".join(said[2:5]))
    return pen.paper()


@dataclass(frozen=True, slots=True)
class Wear:
    """What is done to a page: turned by `skew` degrees, `blur` a Gaussian's sigma in pixels, shrunk to `scale`.

    `noise` is the standard deviation in levels of 255, with light that falls from one side; `jpeg` the quality.
    """

    skew: float = 0.0
    blur: float = 0.0
    scale: float = 1.0
    noise: float = 0.0
    jpeg: int = 95


def worn(pixels: Bytes, seed: int, wear: Wear = Wear()) -> bytes:  # frozen
    """A JPEG of the page as a lesser camera sees it."""
    rng = np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), wear.skew, 1.0)
    page = np.asarray(
        cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_CUBIC, borderValue=(236, 236, 232)), np.float32
    )
    if wear.blur:
        page = np.asarray(cv2.GaussianBlur(page, (0, 0), wear.blur), np.float32)
    if wear.scale < 1.0:
        page = np.asarray(cv2.resize(page, None, fx=wear.scale, fy=wear.scale, interpolation=cv2.INTER_AREA))
    if wear.noise:
        light = np.linspace(1.0, 0.8, page.shape[1], dtype=np.float32)[None, :, None]
        page = page * light + rng.normal(0.0, wear.noise, page.shape).astype(np.float32)
    colours = np.asarray(np.clip(page, 0, 255), np.uint8)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(colours, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, wear.jpeg])
    assert done
    return data.tobytes()


# fmt: off
WEAR: Final = {
    "clean":        Wear(),
    "scanned":      Wear(skew=0.6,  blur=0.6, noise=4.0,  jpeg=80),
    "photographed": Wear(skew=-2.5, blur=1.2, noise=9.0,  jpeg=60),
    "poor":         Wear(skew=4.0,  blur=2.4, noise=10.0, jpeg=35, scale=0.4),  # 80 dots per inch
}
# fmt: on


def corpus(pages: int, dpi: int = 200, seed: int = 1) -> list[Paper]:
    """`pages` papers, both kinds and both languages in turn."""
    makers = (report_card, education_plan)
    return [makers[at % 2](seed + at, ("en", "es")[at // 2 % 2], dpi) for at in range(pages)]


def _pick(rng: np.random.Generator, among: tuple[str, ...]) -> str:
    return str(among[int(rng.integers(len(among)))])


class _Pen:
    """Writes down the page and, at the same time, what it wrote."""

    def __init__(
        self,
        kind: str,
        language: str,
        dpi: int,
        rng: np.random.Generator,
        face: tuple[str, str] | None,
        hand: str | None,
    ) -> None:
        self._width, height = (round(inches * dpi) for inches in A4_INCHES)
        self._image = Image.new("RGB", (self._width, height), (252, 252, 250))
        self._draw = ImageDraw.Draw(self._image)
        self._em = dpi * 11 / 72  # 11 points
        self._left, self._y = 0.1 * self._width, 0.06 * height
        drawn = FACES[int(rng.integers(len(FACES)))]  # drawn in any case: the same seed has the same wording
        self._faces, self._hand = face or drawn, hand
        self._paper = Paper(kind, language, np.zeros((0, 0, 3), np.uint8))

    def paper(self) -> Paper:
        self._paper.pixels = np.asarray(self._image, np.uint8).copy()
        return self._paper

    def title(self, text: str) -> None:
        self._write(text, self._left, self._y, bold=True, scale=1.8)
        self._y += 3.4 * self._em

    def heading(self, text: str) -> None:
        self._y += 0.9 * self._em
        self._write(text, self._left, self._y, bold=True, scale=1.25)
        self._y += 2.1 * self._em

    def fields(self, fields: dict[str, tuple[str, str]]) -> None:
        for what, (label, value) in fields.items():
            self._filled(f"{label}: ", value, self._left, self._y)
            self._paper.fields[what] = (label, value)
            self._y += 1.7 * self._em
        self._y += 0.8 * self._em

    def paragraph(self, text: str) -> None:
        self._y = self._flow(text, self._left, self._y, 0.8 * self._width)

    def columns(self, columns: tuple[tuple[str, str], ...]) -> None:
        wide = 0.8 * self._width / len(columns)
        ends = []
        for at, (heading, text) in enumerate(columns):
            x = self._left + at * wide
            self._write(heading, x, self._y, bold=True, scale=1.25)
            ends.append(self._flow(text, x, self._y + 2.1 * self._em, wide - 2.5 * self._em))
        self._y = max(ends)

    def table(self, rows: list[Row], shares: tuple[float, ...]) -> None:
        high, wide = 2.0 * self._em, 0.8 * self._width
        edges = self._left + wide * np.concatenate([[0.0], np.cumsum(shares)])
        top = self._y
        self._draw.rectangle((self._left, top, self._left + wide, top + high), fill=SHADE)
        for row, texts in enumerate(rows):
            for column, text in enumerate(texts):
                x, y = edges[column] + 0.5 * self._em, top + row * high + 0.45 * self._em
                self._write(text, x, y, bold=row == 0, hand=row > 0 and column > 0)
        thick = max(1, round(self._em / 14))
        for line in range(len(rows) + 1):
            self._draw.line((edges[0], top + line * high, edges[-1], top + line * high), RULE, thick)
        for edge in edges:
            self._draw.line((edge, top, edge, top + len(rows) * high), RULE, thick)
        self._paper.tables.append(rows)
        self._y = top + len(rows) * high + 0.9 * self._em

    def _flow(self, text: str, x: float, y: float, wide: float) -> float:
        """Set a paragraph in lines no longer than `wide`. Returns where the next thing may begin."""
        font, line = self._font(bold=False, scale=1.0, hand=True), ""
        for word in [*text.split(), ""]:
            longer = f"{line} {word}".strip()
            if word and font.getlength(longer) <= wide:
                line = longer
                continue
            self._write(line, x, y, hand=True)
            y, line = y + 1.5 * self._em, word
        return y + 0.8 * self._em

    def _filled(self, label: str, value: str, x: float, y: float) -> None:
        """A label and what was filled in beside it, as one line."""
        if self._hand is None:
            self._write(label + value, x, y)
            return
        self._write(label.strip(), x, y)
        start = self._paper.lines.pop()
        self._write(value, x + self._font(bold=False, scale=1.0).getlength(label), y, hand=True)
        end = self._paper.lines.pop()
        left, top = start.box[0], min(start.box[1], end.box[1])
        right = end.box[0] + end.box[2]
        bottom = max(start.box[1] + start.box[3], end.box[1] + end.box[3])
        self._paper.lines.append(Printed(label + value, (left, top, right - left, bottom - top)))

    def _write(
        self, text: str, x: float, y: float, *, bold: bool = False, scale: float = 1.0, hand: bool = False
    ) -> None:
        font = self._font(bold=bold, scale=scale, hand=hand)
        self._draw.text((x, y), text, INK, font)
        left, top, right, bottom = self._draw.textbbox((x, y), text, font)
        self._paper.lines.append(Printed(text, (left, top, right - left, bottom - top)))

    def _font(self, *, bold: bool, scale: float, hand: bool = False) -> ImageFont.FreeTypeFont:
        if hand and self._hand is not None:
            package, file, size, _ = HANDS[self._hand]
            return ImageFont.truetype(_folder(package) / file, round(self._em * scale * size))
        file = f"mpl-data/fonts/ttf/{self._faces[bold]}.ttf"
        return ImageFont.truetype(_folder("matplotlib") / file, round(self._em * scale))


def _folder(package: str) -> Path:
    found = find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
