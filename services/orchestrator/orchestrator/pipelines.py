"""The built-in pipelines. Reading this table is reading what Safelight does to a file."""

from __future__ import annotations

from typing import Final

from contracts import phases
from contracts.channel import Channel
from contracts.phases import RunPhase
from orchestrator.machine.pipeline import Phase, Pipeline

MINUTE: Final = 60.0

CHANNELS: Final[dict[str, Channel[RunPhase]]] = {
    channel.subject: channel
    for channel in (
        phases.RUN_ANALYZE,
        phases.RUN_STYLE,
        phases.RUN_RETOUCH,
        phases.RUN_CLEANUP,
        phases.RUN_CROP,
        phases.RUN_VARIANTS,
        phases.RUN_NOOP,
    )
}

IMAGES: Final = ("image/jpeg", "image/png", "image/webp", "image/tiff", "image/avif")

_ANALYZE, _STYLE, _RETOUCH, _CLEANUP, _CROP, _VARIANTS, _NOOP = CHANNELS
_CPU: Final = (1.0, 5.0, 20.0)  # our own machines: a failure is a crash or an outage, soon over
_GPU: Final = (2.0, 15.0, 60.0)  # a provider needs longer to come back
_FACES: Final = {"faces": "analyze.faces"}
_STRENGTH: Final = {"strength": "options.style_strength"}
_WIRES: Final = {"detections": "analyze.detections"}
_FRAME: Final = {"faces": "analyze.faces", "aspect": "options.crop"}

# fmt: off
PHOTO: Final = Pipeline("photo", 1, accepts=IMAGES, deadline_s=60 * MINUTE, phases=(
    #     name        command     deadline_s  waits  needs         only when               parameters
    Phase("analyze",  _ANALYZE,   2 * MINUTE, _CPU),
    Phase("style",    _STYLE,     5 * MINUTE, _GPU, ("analyze",), "options.style",        _STRENGTH, ("lut",)),
    Phase("retouch",  _RETOUCH,   5 * MINUTE, _GPU, ("style",),   "analyze.faces",        _FACES),
    Phase("cleanup",  _CLEANUP,   5 * MINUTE, _GPU, ("retouch",), "analyze.detections",   _WIRES),
    Phase("crop",     _CROP,      2 * MINUTE, _CPU, ("cleanup",), None,                   _FRAME),
    Phase("variants", _VARIANTS,  2 * MINUTE, _CPU, ("crop",)),
))

# Six phases that do nothing, for `just bench`: what is left is the cost of orchestration.
NOOP: Final = Pipeline("noop", 1, accepts=IMAGES, deadline_s=10 * MINUTE, phases=tuple(
    Phase(f"step{n}", _NOOP, MINUTE, _CPU, (f"step{n - 1}",) if n > 1 else ()) for n in range(1, 7)
))
# fmt: on

PIPELINES: Final[tuple[Pipeline, ...]] = (PHOTO, NOOP)
