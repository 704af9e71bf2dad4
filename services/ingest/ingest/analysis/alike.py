"""A perceptual hash: photos that look alike have hashes that differ in few of 64 bits.

OpenCV's PHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010): the signs of
the 8 x 8 lowest frequencies against their mean. It reduces a picture to 32 x 32 by taking single pixels, hence
the average beforehand. Copies that were scaled or encoded again differ in up to 4 bits, pictures that have
nothing in common in 32 on average.
"""

from __future__ import annotations

import cv2
import numpy as np

from ingest.analysis.decode import Pixels


def phash(grey: Pixels) -> str:
    """16 hexadecimal digits."""
    small = np.asarray(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA), np.uint8)
    return cv2.img_hash.PHash.create().compute(small).tobytes().hex()
