"""Whether the text layer of a page is sound: whether it says what is printed there. Pure.

A text layer is believed when all of this holds, and the first that fails is the reason why OCR reads the page:

    coverage     no picture fills most of the page, and no form field holds words of its own
    visible      the text is painted: an invisible layer is somebody's OCR
    printable    nearly all characters are ones that people write, and the file says which they are
    a language   there are letters among them, and vowels among the letters

The last two catch fonts without a map to Unicode, whose characters come out as others: print looks right,
and what is copied is garbage.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final

from contracts.documents import Reason

CHARACTERS_MAX: Final = 50_000  # a page of the smallest legible print has 15,000
COVERED: Final = 0.6  # of the page, by pictures: a scan with a stamp, not a figure in a text
PRINTABLE_MIN: Final = 0.98
MAPPED_MIN: Final = 0.98
LETTERS_MIN: Final = 0.35  # of what is no space: tables of numbers have words beside them
JUDGED: Final = 100  # latin letters from which on vowels tell something
VOWELS: Final = (0.22, 0.62)  # of letters: English and Spanish have 0.38 to 0.48, abbreviations less
_VOWELS: Final = frozenset("aeiouyæœø")
_STRANGE: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs"})
_ALLOWED: Final = frozenset("\t\n\r\u00ad\u200b\u200c\u200d\u2060\ufeff")


@dataclass(frozen=True, slots=True)
class Layer:
    """What is known of a page's text: `text` as it is, and of its characters how many have no map to Unicode."""

    text: str
    unmapped: int = 0
    hidden: float = 0.0  # share of text objects that are not painted
    covered: float = 0.0  # share of the page under pictures
    drawn: bool = False  # whether anything but text is drawn
    fields: int = 0  # of a form


def judge(layer: Layer) -> Reason:
    """How the page is read, and so why."""
    if layer.fields:
        return Reason.FORM
    if len(layer.text) > CHARACTERS_MAX:
        return Reason.CROWDED
    solid = [one for one in layer.text if not one.isspace() and one not in _ALLOWED]
    if not solid:
        return Reason.NO_TEXT if layer.drawn else Reason.BLANK
    if layer.hidden >= 0.5:
        return Reason.HIDDEN
    if layer.covered >= COVERED:
        return Reason.COVERED
    if layer.unmapped > (1 - MAPPED_MIN) * len(solid) or not _is_written(solid):
        return Reason.GARBLED
    return Reason.TEXT


def _is_written(solid: list[str]) -> bool:
    strange = sum(one == "\ufffd" or unicodedata.category(one) in _STRANGE for one in solid)
    if strange > (1 - PRINTABLE_MIN) * len(solid):
        return False
    letters = [one for one in solid if one.isalpha()]
    if len(solid) >= JUDGED and len(letters) < LETTERS_MIN * len(solid):
        return False
    latin = [base for one in letters if (base := unicodedata.normalize("NFD", one)[0].lower()) < "\u0250"]
    if len(latin) < JUDGED:
        return True
    share = sum(one in _VOWELS for one in latin) / len(latin)
    return VOWELS[0] <= share <= VOWELS[1]
