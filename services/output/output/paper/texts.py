"""Markdown and plain text of a whole document; a page that could not be read says so where it would stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from contracts import ocr_text
from contracts.documents import ReadPage

NOT_READ: Final = "This page could not be read."


def markdown(pages: Iterator[ReadPage]) -> bytes:
    """GitHub's Markdown; a rule stands between two pages, and before each a comment with its number."""
    parts = []
    for page in pages:
        body = ocr_text.markdown(page.page).strip() if page.page else f"*{NOT_READ}*"
        parts.append(f"<!-- page {page.number} -->\n\n{body}".strip())
    return ("\n\n---\n\n".join(parts) + "\n").encode("utf-8", "replace")


def plain(pages: Iterator[ReadPage]) -> bytes:
    """Text; a form feed stands between two pages."""
    parts = [ocr_text.text(page.page).strip() if page.page else f"[{NOT_READ}]" for page in pages]
    return ("\n\f".join(parts) + "\n").encode("utf-8", "replace")
