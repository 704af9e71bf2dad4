"""A document that was read, in the forms in which it is delivered. Pure but for `templates`; runs in a child.

    deliver(document, original, pictures, template) -> Delivered

The document is what `contracts.documents` describes; what was read on it is text, and stays text in every form: no
mark on a page becomes one of Markdown, HTML, a spreadsheet or a PDF.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Made:
    """One object to store."""

    name: str
    data: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """The forms, and numbers about them."""

    made: list[Made]
    facts: dict[str, Any]


def deliver(
    document: bytes, original: bytes | None, pictures: Mapping[int, bytes], template: Mapping[str, Any] | None
) -> Delivered:
    """Every form. `original` is the PDF that came in; without one the PDF is made of `pictures` (JPEG, by page).

    Raises DOCUMENT_CORRUPT, DOCUMENT_ENCRYPTED when the original cannot be written to; ValueError for what is no
    document.
    """
    from contracts.documents import read
    from output.paper import fields, searchable, tables, texts

    made = [
        Made("document.md", texts.markdown(read(document)), "text/markdown"),
        Made("document.txt", texts.plain(read(document)), "text/plain"),
    ]
    facts: dict[str, Any] = {}
    sheets = tables.sheets(read(document))
    made += tables.files(sheets)
    facts["tables"] = len(sheets)
    if template is not None:
        found = fields.extract(read(document), template)
        made.append(Made("fields.json", found.model_dump_json(exclude_none=True).encode(), "application/json"))
        facts["fields"] = sum(one is not None for one in found.fields.values())
        facts["fields_missing"] = sum(one is None for one in found.fields.values())
        facts["rows"] = sum(map(len, found.tables.values()))
    pdf, words = searchable.pdf(read(document), original, pictures)
    made.insert(0, Made("document.pdf", pdf, "application/pdf"))
    facts["words_laid"] = words
    return Delivered(made, facts)
