"""Files of pipelines: what they may hold, and with which words and line everything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.pipelines import BUILT_IN, COMMANDS, PipelineInvalid, built_in, in_folder, load
from orchestrator.pipelines.source import FILE_BYTES_MAX

GOOD = """\
name: small
version: 1
accepts: [image/jpeg]
deadline_s: 100
phases:
  a: {command: noop, deadline_s: 10}
  b:
    command: noop
    deadline_s: 10
    needs: [a]
"""
TOML = """\
name = "small"
version = 1
accepts = ["image/jpeg"]
deadline_s = 100

[phases.a]
command = "noop"
deadline_s = 10

[phases.b]
command = "noop"
deadline_s = 10
needs = ["a"]
"""


def refused(folder: Path, text: str | bytes, suffix: str = ".yaml") -> list[str]:
    """What is said about a file, each line without the folder."""
    path = folder / f"p{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineInvalid) as problem:
        load(path)
    return str(problem.value).replace(f"{folder}/", "").splitlines()


def with_(old: str, new: str, text: str = GOOD) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def test_the_built_in_pipelines_load() -> None:
    assert [(p.name, p.version, len(p.phases)) for p in built_in(bench=True)] == [
        ("document", 2, 5),
        ("noop", 2, 6),
        ("photo", 4, 6),
        ("splat", 2, 2),
        ("style-import", 1, 1),
        ("style-training", 1, 1),
    ]
    assert "noop" not in {p.name for p in built_in()}


def test_the_photo_pipeline_reads_as_what_it_does() -> None:
    lines = (BUILT_IN / "photo.yaml").read_text().splitlines()
    photo = load(BUILT_IN / "photo.yaml")
    assert [phase.name for phase in photo.phases] == ["analyze", "style", "retouch", "cleanup", "crop", "variants"]
    assert all(len(line) <= 140 for line in lines)
    assert len(lines) < 40, "it fits on a screen"


@pytest.mark.parametrize(("text", "suffix"), [(GOOD, ".yaml"), (GOOD, ".yml"), (TOML, ".toml"), (GOOD, ".YAML")])
def test_the_same_pipeline_in_each_format(tmp_path: Path, text: str, suffix: str) -> None:
    (tmp_path / f"p{suffix}").write_text(text)
    phases = (Phase("a", "noop", 10), Phase("b", "noop", 10, needs=("a",)))
    assert in_folder(tmp_path) == [Pipeline("small", 1, ("image/jpeg",), 100, phases)]


def test_a_mark_at_the_beginning_that_some_editors_write_is_no_letter(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(GOOD, encoding="utf-8-sig")
    assert load(tmp_path / "p.yaml").name == "small"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        # -- the whole
        pytest.param("name: small\n", "", "p.yaml:1: the pipeline has no name", id="a missing field"),
        pytest.param(
            "name: small",
            "name: Über",
            "p.yaml:1: 'Über' is no name: up to 32 small letters, digits, - and _, the first a letter or a digit",
            id="a name that no key could hold",
        ),
        pytest.param("version: 1", "version: 0", "p.yaml:2: versions begin with 1", id="version 0"),
        pytest.param(
            "version: 1",
            'version: "1"',
            "p.yaml:2: the pipeline: version must be a whole number",
            id="a text for a number",
        ),
        pytest.param(
            "version: 1",
            "version: true",
            "p.yaml:2: the pipeline: version must be a whole number",
            id="a yes for a number",
        ),
        pytest.param(
            "[image/jpeg]", "image/jpeg", "p.yaml:3: the pipeline: accepts must be a list", id="a text for a list"
        ),
        pytest.param(
            "[image/jpeg]",
            "[5]",
            "p.yaml:3: the pipeline: each of accepts must be a text",
            id="a number in a list of texts",
        ),
        pytest.param("[image/jpeg]", "[]", "p.yaml:3: the pipeline accepts nothing", id="nothing accepted"),
        pytest.param("[image/jpeg]", "[jpeg]", "p.yaml:3: 'jpeg' is no media type", id="no media type"),
        pytest.param("deadline_s: 100\n", "", "p.yaml:1: the pipeline has no deadline_s", id="no deadline"),
        pytest.param(
            "deadline_s: 100\n",
            "deadline_s: 0\n",
            "p.yaml:4: deadline_s must be more than 0 and at most 2592000 seconds",
            id="a deadline of nothing",
        ),
        pytest.param(
            "deadline_s: 100\n",
            "deadline_s: .nan\n",
            "p.yaml:4: deadline_s must be more than 0 and at most 2592000 seconds",
            id="no number",
        ),
        pytest.param(
            "deadline_s: 100\n",
            "deadline_s: 100\nexpires_s: .inf\n",
            "p.yaml:5: expires_s must be more than 0 and at most 2592000 seconds",
            id="for ever",
        ),
        pytest.param(
            "deadline_s: 100\n",
            "deadline_s: 100\nexpires_s: 99\n",
            "p.yaml:5: the pipeline expires before its deadline",
            id="expired before the deadline",
        ),
        pytest.param(
            "deadline_s: 100\n",
            "deadline_s: 100\nlane: fast\n",
            "p.yaml:5: the pipeline: lane must be 'interactive' or 'bulk'",
            id="a lane that there is not",
        ),
        pytest.param(
            "version: 1",
            "version: 1\nretries: 3",
            "p.yaml:3: the pipeline: there is no field retries",
            id="an unknown field",
        ),
        pytest.param("version: 1", "version: 1\nversion: 2", "p.yaml:3: version is declared twice", id="a key twice"),
        pytest.param("needs: [a]", "2001-01-01: x", "p.yaml:1: a key is no text", id="a date for a key"),
        # -- phases
        pytest.param(
            "    needs: [a]",
            "    need: [a]",
            "p.yaml:10: phase b: there is no field need; is it needs?",
            id="a slip of the pen",
        ),
        pytest.param("    deadline_s: 10\n", "", "p.yaml:7: phase b has no deadline_s", id="a phase without deadline"),
        pytest.param(
            "    deadline_s: 10\n",
            "    deadline_s: 101\n",
            "p.yaml:9: phase b needs a deadline_s of more than 0 and at most its pipeline's",
            id="a phase that outlives its pipeline",
        ),
        pytest.param(
            "    deadline_s: 10\n",
            '    deadline_s: "10"\n',
            "p.yaml:9: phase b: deadline_s must be a number",
            id="a text for seconds",
        ),
        pytest.param(
            "    command: noop",
            "    command: nope",
            "p.yaml:8: phase b gives the command 'nope', which "
            "nobody takes; there are analyze, assemble, cleanup, crop, deliver, import, inspect, noop, ocr, rasterize, "
            "retouch, splat, style, train, variants",
            id="an unknown command",
        ),
        pytest.param(
            "needs: [a]", "needs: [c]", "p.yaml:10: phase b needs c, which is not declared", id="an unknown phase"
        ),
        pytest.param(
            "needs: [a]", "needs: [b]", "p.yaml:10: phases need each other in a circle: b -> b", id="a circle of one"
        ),
        pytest.param(
            "{command: noop,",
            "{needs: [b], command: noop,",
            "p.yaml:6: phases need each other in a circle: a -> b -> a",
            id="a circle of two",
        ),
        pytest.param(
            "  b:",
            "  B:",
            "p.yaml:7: 'B' is no name: up to 32 small letters, digits, - and _, the first a letter or a digit",
            id="a phase's name that no key could hold",
        ),
        pytest.param(
            "  b:", "  start:", "p.yaml:7: 'start' has a meaning of its own and names no phase", id="a word of replays"
        ),
        pytest.param(
            "  b:",
            "  options:",
            "p.yaml:7: 'options' has a meaning of its own and names no phase",
            id="a word of paths",
        ),
        pytest.param(
            "  b:", "  5:", "p.yaml:5: the name of a phase is a text: put 5 in quotes", id="a number for a name"
        ),
        pytest.param("  b:", "  a:", "p.yaml:7: a is declared twice", id="a phase twice"),
        pytest.param(
            "    needs: [a]",
            "    name: c",
            "p.yaml:10: phase b: its key is its name, it has no field name",
            id="two names",
        ),
        pytest.param(
            "{command: noop, deadline_s: 10}", "noop", "p.yaml:6: phase a is no mapping", id="a text for a phase"
        ),
        # -- policies
        pytest.param(
            "needs: [a]",
            "retry: {NOPE: [1]}",
            "p.yaml:10: phase b retries 'NOPE', which is no error code",
            id="an unknown code",
        ),
        pytest.param(
            "needs: [a]",
            "retry: {CALL_LOST: [1, soon]}",
            "p.yaml:10: phase b: each of retry.CALL_LOST must be a number",
            id="a word for seconds",
        ),
        pytest.param(
            "needs: [a]", 'retry: {"*": 5}', "p.yaml:10: phase b: retry.* must be a list", id="a number for waits"
        ),
        pytest.param(
            "needs: [a]",
            'retry: {"*": [-1]}',
            "p.yaml:10: phase b waits up to 20 times, each no longer than its pipeline may work",
            id="a wait before now",
        ),
        pytest.param(
            "needs: [a]",
            "on_failure: ignore",
            "p.yaml:10: phase b: on_failure must be 'fail', 'skip' or 'degrade'",
            id="a word that there is not",
        ),
        pytest.param(
            "needs: [a]",
            "unavailable: fallback",
            "p.yaml:10: phase b takes a fallback that it has not",
            id="a fallback that there is not",
        ),
        pytest.param(
            "needs: [a]",
            "fallback: cpu\n    providers: [modal]",
            "p.yaml:10: phase b may not fall back: the provider local is not among its providers",
            id="a fallback that its providers exclude",
        ),
        pytest.param(
            "needs: [a]",
            "stall_s: 11",
            "p.yaml:10: phase b needs a stall_s of more than 0 and at most its deadline_s",
            id="a lease longer than the deadline",
        ),
        pytest.param(
            "needs: [a]",
            "running_max: 0",
            "p.yaml:10: phase b could never run: running_max must be at least 1",
            id="a limit of nothing",
        ),
        pytest.param(
            "needs: [a]",
            "attachments: [image]",
            "p.yaml:10: phase b reads 'image' anyway; it is no attachment",
            id="an attachment that there always is",
        ),
        pytest.param(
            "needs: [a]",
            "parameters: {a1: item, a2: item, a3: item, a4: item, a5: item, a6: item, a7: item}\n"
            "    needs: [a]\n    each: a.pages",
            "p.yaml:10: phase b has 7 parameters, 6 are allowed",
            id="more parameters than a command could hold",
        ),
        # -- paths and conditions
        pytest.param(
            "needs: [a]",
            "parameters: {p: faces}",
            "p.yaml:10: phase b has a path 'faces' that reads neither options.NAME nor PHASE.FACT",
            id="a path without a root",
        ),
        pytest.param(
            "needs: [a]",
            "parameters: {p: item.x}",
            "p.yaml:10: phase b has a path 'item.x' that reads neither options.NAME nor PHASE.FACT",
            id="an item of a phase that has none",
        ),
        pytest.param(
            "needs: [a]",
            "when: item.x",
            "p.yaml:10: phase b has a path 'item.x' that reads neither options.NAME nor PHASE.FACT",
            id="a condition on an item of a phase that has none",
        ),
        pytest.param(
            "needs: [a]",
            "attachments: [a.pages.json]",
            "p.yaml:10: phase b reads 'a.pages.json', but does not come after a: name it among its needs",
            id="an artifact of a phase that may come later",
        ),
        pytest.param(
            "needs: [a]",
            "parameters: {p: options.colour}",
            "p.yaml:10: phase b reads the option 'colour', "
            "which no caller can give; there are color_profile, crop, languages, straighten, "
            "style, style_name, style_strength, subject, template, variants",
            id="an unknown option",
        ),
        pytest.param(
            "needs: [a]",
            "parameters: {p: a.x}",
            "p.yaml:10: phase b reads 'a.x', but does not come after a: name it among its needs",
            id="a fact of a phase that may come later",
        ),
        pytest.param(
            "command: noop, deadline_s: 10}\n  b:",
            "command: analyze, deadline_s: 10}\n  b:\n    when: a.hats",
            "p.yaml:8: phase b reads 'a.hats', but a finds out no 'hats'; there are bit_depth, blur, camera, "
            "captured_at, color_profile, cull, detections, exposure, faces, height, horizon, media_type, noise, "
            "orientation, phash, width",
            id="a fact that its phase never finds out",
        ),
        pytest.param(
            "needs: [a]",
            "when: a.x or a.y",
            "p.yaml:10: phase b has no condition: 'or a.y': terms are joined by `and`",
            id="no condition",
        ),
        pytest.param(
            "needs: [a]",
            "needs: [a]\n    when: a.n > 3 and a.n < 2",
            "p.yaml:11: phase b can never run: nothing that a.n can be satisfies it",
            id="a condition that never holds",
        ),
        pytest.param(
            "needs: [a]",
            "needs: [a]\n    when: 5",
            "p.yaml:11: phase b: when must be a text",
            id="a number for a condition",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert refused(tmp_path, with_(old, new)) == [says]


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = with_(
        "    needs: [a]", "    needs: [a]\n    stall_s: 0\n    running_max: 0", with_("[image/jpeg]", "[jpeg]")
    )
    assert refused(tmp_path, text) == ["p.yaml:3: 'jpeg' is no media type"], "those of the whole first"
    assert [line.split(":")[1] for line in refused(tmp_path, with_("[jpeg]", "[image/jpeg]", text))] == ["11", "12"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("name: [", "p.yaml:1: expected the node content, but found '<stream end>'", id="an open bracket"),
        pytest.param("a: 1\nb: 2\n\tc: 3", "p.yaml:3: found character '\\t' that cannot start any token", id="a tab"),
        pytest.param("a: *b", "p.yaml:1: found undefined alias 'b'", id="an alias of nothing"),
        pytest.param(
            "a: !!python/object:os.system {}",
            "p.yaml:1: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'",
            id="an object of Python",
        ),
        pytest.param("a: 1\n---\nb: 2", "p.yaml:2: but found another document", id="two documents"),
        pytest.param("", "p.yaml:1: the file holds no mapping", id="nothing"),
        pytest.param("- a\n- b", "p.yaml:1: the file holds no mapping", id="a list"),
        pytest.param("just words", "p.yaml:1: the file holds no mapping", id="words"),
        pytest.param(
            "name: x\nphases: [a]", "p.yaml:2: phases are a mapping from names to phases", id="a list of phases"
        ),
        pytest.param("a: &a [*a]", "p.yaml:1: an anchor holds itself", id="an anchor that holds itself"),
        pytest.param("name: a\n\0", "p.yaml:2: a character that YAML does not allow: 0", id="a NUL"),
        pytest.param(b"name: a\nx: \xff", "p.yaml:2: the file is not UTF-8", id="no UTF-8"),
        pytest.param("[" * 600, "p.yaml:1: the file nests too deeply", id="brackets without end"),
        pytest.param("a: 2024-13-45", "p.yaml:1: month must be in 1..12", id="a date that there is not"),
        pytest.param("? [a]\n: b", "p.yaml:1: found unhashable key", id="a list for a key"),
        pytest.param(
            "#" * (FILE_BYTES_MAX + 1), f"p.yaml:1: the file has more than {FILE_BYTES_MAX} bytes", id="too large"
        ),
    ],
)
def test_a_file_that_is_no_yaml_is_told_with_its_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert refused(tmp_path, text) == [says]


LAUGHS = {
    "lists of lists: a billion laughs": lambda above: f"[{', '.join([above] * 9)}]",
    "mappings that merge mappings": lambda above: f"{{<<: [{', '.join([above] * 9)}]}}",
    "mappings of mappings": lambda above: f"{{{', '.join(f'k{n}: {above}' for n in range(9))}}}",
}


@pytest.mark.parametrize("laugh", LAUGHS.values(), ids=LAUGHS)
def test_a_file_that_would_unfold_to_gigabytes_is_refused(tmp_path: Path, laugh: Callable[[str], str]) -> None:
    lines = ["x-0: &a0 {k: v}", *(f"x-{n}: &a{n} {laugh(f'*a{n - 1}')}" for n in range(1, 12))]
    assert refused(tmp_path, "\n".join(lines)) == ["p.yaml:1: the file unfolds to more than 20000 keys and values"]


def test_a_mistake_that_is_merged_in_is_told_where_its_anchor_has_it(tmp_path: Path) -> None:
    text = with_("phases:", "x-step: &step\n  running_max: 0\nphases:", with_("{command", "{<<: *step, command"))
    assert refused(tmp_path, text) == ["p.yaml:6: phase a could never run: running_max must be at least 1"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param("version = 1", "version = ", "p.toml:2: Invalid value", id="no value"),
        pytest.param("version = 1", "version = 1\nversion = 2", "p.toml:3: Cannot overwrite a value", id="a key twice"),
        pytest.param("[phases.b]", "[phases.a]", "p.toml:10: Cannot declare ('phases', 'a') twice", id="a phase twice"),
        pytest.param('needs = ["a"]', 'needs = ["a"', "p.toml:13: Unclosed array", id="an open bracket"),
        pytest.param(
            'needs = ["a"]', 'needs = ["c"]', "p.toml:13: phase b needs c, which is not declared", id="an unknown phase"
        ),
        pytest.param(
            'needs = ["a"]',
            "retry = {NOPE = [1]}",
            "p.toml:13: phase b retries 'NOPE', which is no error code",
            id="inside of a line",
        ),
        pytest.param(
            'needs = ["a"]',
            '[phases.b.retry]\n"*" = [-1]',
            "p.toml:14: phase b waits up to 20 times, each no longer than its pipeline may work",
            id="a quoted key",
        ),
        pytest.param(
            '[phases.b]\ncommand = "noop"',
            '[ phases . "b" ]\ncommand = "x"',
            "p.toml:11: phase b gives the "
            "command 'x', which nobody takes; there are analyze, assemble, cleanup, crop, deliver, import, inspect, "
            "noop, ocr, rasterize, retouch, splat, style, train, variants",
            id="under a header with blanks and quotes",
        ),
        pytest.param(
            "version = 1",
            "version = 1\nlane = 'fast'",
            "p.toml:3: the pipeline: lane must be 'interactive' or 'bulk'",
            id="a word that there is not",
        ),
        pytest.param("deadline_s = 100\n", "", "p.toml:1: the pipeline has no deadline_s", id="no deadline"),
        pytest.param(
            "version = 1", "version = 1979-05-27", "p.toml:2: the pipeline: version must be a whole number", id="a date"
        ),
        pytest.param('"image/jpeg"', "[" * 600, "p.toml:1: the file nests too deeply", id="brackets without end"),
    ],
)
def test_a_mistake_in_toml_is_told_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert refused(tmp_path, with_(old, new, TOML), ".toml") == [says]


# -- folders -----------------------------------------------------------------------------------------


def test_a_folder_holds_versions_side_by_side_and_whatever_else(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(GOOD)
    (tmp_path / "two.yaml").write_text(with_("version: 1", "version: 2"))
    (tmp_path / "README.md").write_text("not a pipeline")
    (tmp_path / "._one.yaml").write_bytes(b"\0what a Mac leaves behind")
    assert [(p.name, p.version) for p in in_folder(tmp_path)] == [("small", 1), ("small", 2)]


def test_every_bad_file_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("[")
    (tmp_path / "b.yaml").write_text(GOOD)
    (tmp_path / "c.yaml").write_text(GOOD)
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(PipelineInvalid) as problem:
        in_folder(tmp_path)
    assert [line.rpartition("/")[2] for line in str(problem.value).splitlines()] == [
        "a.yaml:1: expected the node content, but found '<stream end>'",
        "c.yaml:1: small@1 is declared in b.yaml too",
        "d.yaml:1: the file cannot be read: Is a directory",
    ]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PipelineInvalid, match="there is no such folder"):
        in_folder(tmp_path / "nowhere")


def test_each_command_of_the_table_can_be_given(tmp_path: Path) -> None:
    for command in COMMANDS:
        (tmp_path / "p.yaml").write_text(with_("    command: noop", f"    command: {command}"))
        assert load(tmp_path / "p.yaml").phase("b").command == command
