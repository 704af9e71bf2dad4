"""Lines as a reader of lines finds them, in pixels, before anybody knows what they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.ocr import Line, Quad, Word

Floats = npt.NDArray[np.float64]


Part = tuple[str, float, float, float | None]  # a word, the shares of its line where it begins and ends, confidence


@dataclass(frozen=True, slots=True)
class Found:
    """A line of print. `quad` is 4×2 pixels in the direction of reading, from its top left.

    It is not read yet while `text` is empty; a reader that is not sure of anything has no confidence.
    `places` are, for each character of `text` that is no space, where its middle is along the line (0..1), and
    `sure` how sure of it the reader is; both are empty when the reader does not tell.
    """

    quad: Floats
    text: str = ""
    confidence: float | None = None
    places: tuple[float, ...] = ()
    sure: tuple[float, ...] = ()

    def turned(self, turn: Floats) -> Found:
        """The same line on a page that is turned by `turn`, an affine 2×3."""
        return Found(self.quad @ turn[:, :2].T + turn[:, 2], self.text, self.confidence, self.places, self.sure)

    @property
    def size(self) -> tuple[float, float]:
        """Length along the line and height across it, in pixels."""
        return float(np.linalg.norm(self.quad[1] - self.quad[0])), float(np.linalg.norm(self.quad[3] - self.quad[0]))

    @property
    def box(self) -> Floats:
        """Left, top, right, bottom of its hull."""
        return np.concatenate([self.quad.min(axis=0), self.quad.max(axis=0)])

    def words(self) -> list[Part]:
        """Each word with the shares of the line where it begins and ends, and how sure the reader is of it."""
        texts = self.text.split()
        characters = sum(map(len, texts))
        if len(self.places) != characters or len(self.sure) != characters:
            return self._by_length(texts)
        words: list[Part] = []
        at, half = 0, _half_a_character(self.places)
        for text in texts:
            first, last = self.places[at], self.places[at + len(text) - 1]
            sure = float(np.mean(self.sure[at : at + len(text)]))
            words.append((text, max(0.0, first - half), min(1.0, last + half), sure))
            at += len(text)
        return _apart(words)

    def _by_length(self, texts: Sequence[str]) -> list[Part]:
        """As if all characters were equally wide."""
        whole = max(1, sum(map(len, texts)) + len(texts) - 1)
        words, at = [], 0
        for text in texts:
            words.append((text, at / whole, (at + len(text)) / whole, self.confidence))
            at += len(text) + 1
        return words

    def part(self, begin: float, end: float) -> Floats:
        """The quad of the line from share `begin` to share `end` of its length."""
        top, bottom = self.quad[1] - self.quad[0], self.quad[2] - self.quad[3]
        corners = [self.quad[0] + begin * top, self.quad[0] + end * top]
        return np.array([*corners, self.quad[3] + end * bottom, self.quad[3] + begin * bottom])

    def line(self, width: int, height: int) -> Line:
        """The line of a page of this size."""
        words = [
            Word(text=text, quad=shares(self.part(begin, end), width, height), confidence=sure)
            for text, begin, end, sure in self.words()
        ]
        text = " ".join(self.text.split())
        return Line(text=text, quad=shares(self.quad, width, height), confidence=self.confidence, words=words)


def shares(quad: Floats, width: int, height: int) -> Quad:
    """Pixels -> shares of the page, none outside of it; six digits are a hundredth of a pixel."""
    a, b, c, d = (
        (round(float(x), 6), round(float(y), 6)) for x, y in np.clip(quad / np.array([width, height], float), 0.0, 1.0)
    )
    return a, b, c, d


def _half_a_character(places: Sequence[float]) -> float:
    """Half of how far characters typically stand apart, in shares of the line."""
    return float(np.median(np.diff(places))) / 2 if len(places) > 1 else 0.5


def _apart(words: list[Part]) -> list[Part]:
    """Neighbours that overlap meet in the middle."""
    for at in range(len(words) - 1):
        (text, begin, end, sure), (text_, begin_, end_, sure_) = words[at : at + 2]
        if end > begin_:
            middle = max(begin, min((end + begin_) / 2, end_))
            words[at], words[at + 1] = (text, begin, middle, sure), (text_, middle, end_, sure_)
    return words
