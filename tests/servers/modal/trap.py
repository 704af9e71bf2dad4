"""An app that does to its caller what one of ours must never do; deployed in place of ours by a test."""

from __future__ import annotations

from typing import Any

import modal

app = modal.App("trap", include_source=False)


@app.cls(timeout=60, retries=0)
class Worker:
    """Like ours by its names only."""

    @modal.method()
    def run(self, request: dict[str, Any]) -> Any:
        """Does what the request's function names."""
        match request["function"]:
            case "trap.timeout":
                raise TimeoutError("to a client this looks like an answer that is not there yet")
            case "trap.other":
                return {"an answer": "of another shape"}
            case "trap.text":
                return "no dict at all"
        raise ValueError("an exception with the text of a user in it")

    @modal.method()
    def warm(self) -> None:
        """Nothing."""
