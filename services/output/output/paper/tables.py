"""Each table of a document as CSV (RFC 4180, UTF-8), named by its page and its number there.

A cell that a spreadsheet would take for a formula gets an apostrophe before it: who opens the file runs nothing
that somebody printed on a page. Numbers with a sign stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Final

from contracts import ocr_text
from contracts.documents import ReadPage
from contracts.ocr import Kind
from output.paper import Made

SINGLE_MAX: Final = 20  # tables that are artifacts of their own; more are in the archive only
_FORMULA: Final = re.compile(r"^\s*([=@]|[+-](?![\s\d.,%]*$))")
_MOMENT: Final = (1980, 1, 1, 0, 0, 0)  # the same document makes the same archive


def sheets(pages: Iterator[ReadPage]) -> dict[str, list[list[str]]]:
    """Rows of cells of each table, by the name of its file."""
    found = {}
    for page in pages:
        blocks = page.page.blocks if page.page else []
        for n, block in enumerate((one for one in blocks if one.kind is Kind.TABLE), 1):
            if rows := ocr_text.grid(block.cells):
                found[f"table-{page.id}-{n}.csv"] = rows
    return found


def files(found: Mapping[str, list[list[str]]]) -> list[Made]:
    """The tables, and where there are several an archive of them all."""
    each = {name: _csv(rows) for name, rows in found.items()}
    made = [Made(name, data, "text/csv") for name, data in list(each.items())[:SINGLE_MAX]]
    if len(each) > 1:
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in each.items():
                archive.writestr(zipfile.ZipInfo(name, _MOMENT), data, zipfile.ZIP_DEFLATED)
        made.append(Made("tables.zip", whole.getvalue(), "application/zip"))
    return made


def _csv(rows: list[list[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([[_harmless(" ".join(cell.split())) for cell in row] for row in rows])
    return out.getvalue().encode("utf-8", "replace")


def _harmless(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell
