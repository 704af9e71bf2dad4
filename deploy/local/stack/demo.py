"""`safelight demo`: the sample photos through the whole pipeline, as a client would send them.

Everything goes through the front door over HTTP. What it shows at the end is read back from there
too: where the outputs lie, how long each phase took, and the trace id of each job.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from console import rendering
from console.client import Client, Connection
from console.submitting import Submission, submit_all
from stack import control
from stack.home import Home
from stack.samples import Sample, write_samples

STYLE: Final = "warm-film"
FRAMES_PER_S: Final = 8
_out = Console()


@dataclass(frozen=True, slots=True)
class Shown:
    """What the demo did. `outputs` is the folder with one folder per photo."""

    rows: Sequence[Submission]
    outputs: Path

    @property
    def failed(self) -> bool:
        return any(row.failed or row.job is None for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "outputs": str(self.outputs),
            "seconds_by_phase": seconds_by_phase(self.rows),
            "photos": [row.as_json() for row in self.rows],
        }


def demo(
    down: Annotated[bool, typer.Option("--down", help="Take the stack down afterwards.")] = False,
    style: Annotated[str, typer.Option(help="The style to grade with: warm-film, cool-matte or mono.")] = STYLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send the sample photos through all phases and show what comes out."""
    home = Home.here()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of being told to stop end alike
    ours = False
    try:
        ours = not home.is_up()
        if not as_json:
            _out.print("Starting servers and services ..." if ours else "The stack is up already.", style="dim")
        state = control.up(home).state
        where = control.client_environment(home)
        connection = Connection(where["SAFELIGHT_URL"], where["SAFELIGHT_API_KEY"])
        shown = asyncio.run(show(connection, home.path / "demo", style, live=not as_json))
    except KeyboardInterrupt:
        if ours:
            control.down(home)
        raise typer.Exit(130) from None
    if as_json:
        _out.print_json(data=shown.as_json())
    else:
        _tell(shown, state["url"], state.get("ready_s") if ours else None)
    if down:
        control.down(home)
        _say_end(as_json, "The stack is down again; outputs and data stay.")
    else:
        _say_end(as_json, f"The stack stays up at {state['url']} (`just down` takes it down).")
    raise typer.Exit(int(shown.failed))


async def show(connection: Connection, folder: Path, style: str, *, live: bool) -> Shown:
    """Write the samples, submit them all, follow them to their ends, fetch the variants into `folder`/outputs."""
    samples = await asyncio.to_thread(write_samples, folder / "samples")
    outputs = folder / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    rows: Sequence[Submission] = []

    def board() -> Any:
        return rendering.submissions(rows, datetime.now(UTC))

    def changed(now: Sequence[Submission]) -> None:
        nonlocal rows
        rows = now

    async with Client(connection) as client:
        with Live(get_renderable=board, console=_out, refresh_per_second=FRAMES_PER_S, transient=True) as screen:
            if not live:
                screen.stop()
            paths = [sample.path for sample in samples]
            rows = await submit_all(client, paths, {"style": style}, watch=True, changed=changed)
        for row in rows:
            if row.job:
                for artifact in row.job.artifacts:
                    if artifact.phase == "variants":
                        await client.download(artifact, outputs / row.path.stem)
    _credit(samples, outputs)
    return Shown(rows, outputs)


def _credit(samples: Sequence[Sample], outputs: Path) -> None:
    lines = [f"{sample.path.name}: {sample.source}; {sample.licence}; {sample.done}" for sample in samples]
    outputs.mkdir(parents=True, exist_ok=True)
    (outputs / "CREDITS.txt").write_text("\n".join(lines) + "\n")


def seconds_by_phase(rows: Sequence[Submission]) -> dict[str, dict[str, float]]:
    """For each phase: how many photos it worked on, and its median and longest seconds."""
    took: dict[str, list[float]] = {}
    for row in rows:
        for phase in row.job.phases if row.job else ():
            took.setdefault(phase.name, [])
            if phase.seconds is not None:
                took[phase.name].append(phase.seconds)
    return {
        name: {"photos": len(all_), "median_s": statistics.median(all_), "longest_s": max(all_)}
        for name, all_ in took.items()
        if all_
    }


def _tell(shown: Shown, url: str, ready_s: float | None) -> None:
    _out.print(rendering.submissions(shown.rows, datetime.now(UTC)))
    times = Table("phase", "photos", "median s", "longest s", box=box.SIMPLE_HEAD, header_style="dim")
    for name, row in seconds_by_phase(shown.rows).items():
        times.add_row(name, f"{row['photos']:.0f}", f"{row['median_s']:.2f}", f"{row['longest_s']:.2f}")
    _out.print(times)
    width = max(len(row.path.name) for row in shown.rows)
    _out.print(f"  {'photo':<{width}}  {'job':<36}  trace id", style="dim", soft_wrap=True)
    for one in shown.rows:  # plain lines: ids are there to be copied, so they are never cut to fit
        if one.job:
            line = f"  {one.path.name:<{width}}  {one.job.id}  {one.job.trace_id or ''}"
            _out.print(line, highlight=False, markup=False, soft_wrap=True)
    _out.print()
    if ready_s is not None:
        _out.print(f"Stack ready in {ready_s} s.", highlight=False)
    _out.print(f"Outputs: {shown.outputs}", highlight=False, soft_wrap=True)
    secrets = shown.outputs.parents[1] / "secrets.json"
    _out.print(f"Console: {url} (its key: SAFELIGHT_API_KEY in {secrets})", highlight=False, soft_wrap=True)


def _say_end(as_json: bool, sentence: str) -> None:
    if not as_json:
        _out.print(sentence, highlight=False, soft_wrap=True)
