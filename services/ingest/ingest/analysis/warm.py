"""What every child would otherwise do anew, done once in their parent: importing this is doing it.

A child serves one photo. Its first use of each network, and of much of OpenCV and numpy, costs more than the work
itself; forked from a process that has looked at a picture before, it finds all of that in place. Libvips is
left alone: it starts threads with its first pixels, and threads do not survive a fork.
"""

from __future__ import annotations

import numpy as np

from ingest.analysis.photo import looked_at

_SCENE = np.random.default_rng(0).integers(0, 255, (320, 480, 3), np.uint8)
_SCENE[:160] = (150, 180, 220)  # a sky with a wire in it, so that the search for wires goes on to its end
_SCENE[80:83] = 40
looked_at(_SCENE)
