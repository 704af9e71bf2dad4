"""The house rules that a linter can see: who imports whom, who settles, what is pure."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
ROOMS = {
    "contracts": ROOT / "contracts/contracts",
    "runtime": ROOT / "runtime/runtime",
    "ingest": ROOT / "services/ingest/ingest",
    "orchestrator": ROOT / "services/orchestrator/orchestrator",
    "gpu_bridge": ROOT / "services/gpu-bridge/gpu_bridge",
    "gpu_functions": ROOT / "services/gpu-functions/gpu_functions",
    "output": ROOT / "services/output/output",
    "console": ROOT / "services/console/console",
    "stack": ROOT / "deploy/local/stack",
}
SOURCES = sorted(path for folder in ROOMS.values() for path in folder.rglob("*.py"))
PURE = [
    *sorted((ROOMS["orchestrator"] / "machine").rglob("*.py")),
    ROOMS["gpu_bridge"] / "call.py",
    ROOMS["ingest"] / "intake.py",
    ROOMS["ingest"] / "limits.py",
    *sorted((ROOMS["output"] / "render").rglob("*.py")),
]
ANATOMY = ("app.py", "settings.py", "__main__.py")


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Every call in a file as (dotted name, line)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def test_rooms_import_only_whom_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(ROOT / ".importlinter")) == 0


def test_contracts_import_pydantic_and_the_standard_library_only() -> None:
    allowed = {*sys.stdlib_module_names, "pydantic", "contracts"}
    found = set()
    for path in ROOMS["contracts"].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    assert found <= allowed


def test_settle_is_the_only_place_that_settles() -> None:
    settling = re.compile(r"\.(ack|ack_sync|nak|nack|term|reject|in_progress)$")
    who = {path.name for path in SOURCES for name, _ in calls(path) if settling.search(name)}
    assert who == {"settle.py"}


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_code_asks_no_clock_no_chance_and_no_disk(path: Path) -> None:
    impure = re.compile(r"(^|\.)(now|utcnow|today|time|monotonic|uuid1|uuid4|urandom|random|open|print|getenv|sleep)$")
    assert [(name, line) for name, line in calls(path) if impure.search(name)] == []


READS_THE_ENVIRONMENT = {
    "telemetry.py": "OpenTelemetry's own variables",
    "local.py": "hands the few on that a child process needs",
    "images.py": "sets libvips's own variables before it is imported",
    "decode.py": "sets libvips's own variables before it is imported",
    "__main__.py": "the worker sets libvips's own variables",
    "paddle.py": "sets PaddleX's own variables before it is imported: no download, no log",
    "vllm.py": "hands its own on to the server beside it, with that one's",
}


def test_nobody_but_settings_reads_the_environment() -> None:
    readers = {
        path.name
        for path in SOURCES
        if ROOMS["stack"] not in path.parents and re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers <= set(READS_THE_ENVIRONMENT)


@pytest.mark.parametrize("room", ["ingest", "orchestrator", "gpu_bridge", "output", "console"])
def test_every_service_has_the_same_anatomy(room: str) -> None:
    here = {path.name for path in ROOMS[room].iterdir()}
    assert set(ANATOMY) <= here
    readme = ROOMS[room].parent / "README.md"
    assert re.search(r"consumes", readme.read_text(), re.IGNORECASE)
    assert len(readme.read_text().splitlines()) <= 80, "consumes, emits, owns, files: at a glance"


def test_no_file_is_called_utils_helpers_or_common() -> None:
    assert [path for path in SOURCES if path.stem in ("utils", "helpers", "common", "misc")] == []


def test_no_tracked_text_names_this_machine() -> None:
    mine = re.compile(r"/(root|home|Users)/[a-z]")
    named = [path for path in SOURCES if mine.search(path.read_text())]
    assert named == []
