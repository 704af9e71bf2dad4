"""Writes docs/lifecycle.md, which is drawn from the machine.

    python -m orchestrator.lifecycle           write it
    python -m orchestrator.lifecycle --check   exit 1 when it differs

The committed file is compared in the test run, so that it never drifts from the machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from orchestrator.machine import lifecycle

FILE: Final = Path(__file__).parents[3] / "docs/lifecycle.md"


def main() -> None:
    """See the module's docstring."""
    if "--check" not in sys.argv[1:]:
        FILE.write_text(lifecycle.text())
    elif FILE.read_text() != lifecycle.text():
        sys.exit(f"{FILE.name} differs from the machine: run `python -m orchestrator.lifecycle`")


if __name__ == "__main__":
    main()
