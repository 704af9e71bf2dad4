"""The composition crop: which part of the photo is delivered, as data and as a picture.

    aspect      keeps                                          may cut
    none        everything                                     nothing
    original    the aspect, at least 85 % of each side         only when the score clearly gains
    w:h         all of one side                                of the other what the aspect needs, no more

Before that a photo whose horizon was measured with confidence is turned level (`straighten.py`), unless nothing may be
cut or a face would be; the aspect is then cut from what is left. Box and angle are data: who turns the upright
original counterclockwise by the angle about its middle, on a canvas of its size, and cuts the box, has the picture.

No window that cuts through a face is ever taken. If every window would cut one, the photo stays whole and the
facts say so. Windows that keep more faces win over windows that are better composed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pyvips
from pydantic import BaseModel, Field, JsonValue, ValidationError

from contracts.errors import error
from contracts.variants import ColorProfile
from output.render import composition, straighten
from output.render.images import Rendered, blob_of, decode, is_srgb, read_header, upright_size

THUMBNAIL: Final = 256  # px of the long side on which edges are looked for
SCALES: Final = (0.95, 0.9, 0.85)  # of each side, what "original" may go down to
GAIN_MIN: Final = 0.045  # of the score: less (a lone centred subject gains 0.041) leaves the photo as it was taken
STEPS: Final = 64  # positions tried along a side, besides those beside faces
MARGINS: Final = (0.25, 0.0)  # of a face's box, kept around it: hair and chin if possible, else the box itself

Aspect: TypeAlias = Literal["original", "none", "1:1", "4:5", "5:4", "3:2", "2:3", "16:9", "9:16"]
Unit: TypeAlias = Annotated[float, Field(ge=-1, le=2)]  # detectors reach a little over the border


class Face(BaseModel):
    """A face on the upright image: x, y, width, height in parts of its sides."""

    box: tuple[Unit, Unit, Unit, Unit]


class Horizon(BaseModel):
    """Degrees by which the horizon falls towards the right, and how sure that is, as the analysis measured it."""

    angle: float = Field(ge=-90, le=90, allow_inf_nan=False)
    confidence: float = Field(ge=0, le=1)


class CropParameters(BaseModel):
    """What the command says; facts of the analysis that matter to other phases are ignored."""

    aspect: Aspect = "original"
    straighten: bool = True
    color_profile: ColorProfile = "srgb"
    horizon: Horizon | None = None
    faces: list[Face] = Field(default_factory=list, max_length=1000)


class Reason(StrEnum):
    """Why the box is what it is."""

    ASKED = "kept whole as asked"
    LEVEL = "made level, and kept whole but for that"
    SAME_ASPECT = "kept whole: it has this aspect"
    NO_GAIN = "kept whole: no crop is clearly better"
    FACES = "kept whole: every crop would cut a face"
    ASPECT = "cropped to the aspect"
    BETTER = "cropped to a better composition"


class Window(NamedTuple):
    """Pixels of the upright image."""

    x: int
    y: int
    width: int
    height: int


class Composed(NamedTuple):
    """The window, of the turned canvas, and the degrees that the picture was turned counterclockwise."""

    window: Window
    reason: Reason
    angle: float = 0.0


def crop(data: bytes, parameters: Mapping[str, JsonValue]) -> Rendered:
    """The cropped photo as PNG, or no data when the input already is that PNG (`facts.unchanged`).

    PNG: compression 1, the input's bit depth, upright sRGB with profile and no metadata.
    Facts: aspect, angle (degrees that it was turned counterclockwise), box (shares of the upright, turned picture),
    reason, unchanged. Raises REQUEST_INVALID, IMAGE_CORRUPT and IMAGE_TOO_LARGE.
    """
    try:
        asked = CropParameters.model_validate(parameters)
    except ValidationError as invalid:
        raise error("REQUEST_INVALID", "The crop's parameters are not of the declared shape.") from invalid
    header = read_header(data)
    width, height = upright_size(header)
    finished = _is_intermediate(header)
    image, made = None, Composed(Window(0, 0, width, height), Reason.ASKED)
    if asked.aspect != "none" or not finished:
        image = decode(data, keep_profile=asked.color_profile == "keep")
        image, made = compose(image, asked)
    unchanged = finished and made.angle == 0 and made.window == (0, 0, width, height)
    scale = (width, height, width, height)
    facts: dict[str, JsonValue] = {
        "aspect": asked.aspect,
        "angle": made.angle,
        "box": [round(value / side, 6) for value, side in zip(made.window, scale, strict=True)],
        "reason": made.reason.value,
        "unchanged": unchanged,
    }
    png = None if unchanged or image is None else _png(image)
    return Rendered("image.png", png, "image/png", made.window.width, made.window.height, facts)


def compose(image: pyvips.Image, asked: CropParameters) -> tuple[pyvips.Image, Composed]:
    """What is delivered of the upright sRGB image: made level first where that is worth it, then cropped."""
    level = _level(image, asked)
    if level is None:
        window, reason = choose(image, asked)
        return image.crop(*window), Composed(window, reason)
    frame, faces = level
    angle = asked.horizon.angle if asked.horizon else 0.0
    turned = straighten.turned(image, angle, frame).copy_memory()
    window, reason = choose(turned, asked.model_copy(update={"faces": faces}))
    if reason in (Reason.SAME_ASPECT, Reason.NO_GAIN):
        reason = Reason.LEVEL
    inside = window._replace(x=frame.x + window.x, y=frame.y + window.y)
    return turned.crop(*window), Composed(inside, reason, angle)


def _level(image: pyvips.Image, asked: CropParameters) -> tuple[Window, list[Face]] | None:
    """The frame that turning leaves, and the faces in it; None where the photo is not to be turned."""
    horizon = asked.horizon if asked.straighten and asked.aspect != "none" else None
    if horizon is None or not straighten.worthwhile(horizon.angle, horizon.confidence):
        return None
    size = image.width, image.height
    frame = straighten.frame(*size, horizon.angle)
    if frame is None:
        return None
    boxes = np.array([face.box for face in asked.faces], np.float64).reshape(-1, 4)
    faces = straighten.fit(straighten.turned_boxes(boxes, *size, horizon.angle), frame, *size)
    return None if faces is None else (Window(*frame), [Face(box=tuple(box)) for box in faces.tolist()])


def choose(image: pyvips.Image, asked: CropParameters) -> tuple[Window, Reason]:
    """The window of the upright sRGB image, and why."""
    whole = Window(0, 0, image.width, image.height)
    if asked.aspect == "none":
        return whole, Reason.ASKED
    if asked.aspect == "original":
        windows = [whole, *_smaller(whole)]
    else:
        size = _largest(whole, asked.aspect)
        if size == whole:
            return whole, Reason.SAME_ASPECT
        windows = list(_along(whole, size, asked.faces))
    windows = _sparing_faces(windows, whole, asked.faces)
    if not windows:
        return whole, Reason.FACES
    scores = composition.scores(_importance(image, asked.faces), _normalised(windows, whole))
    best = int(scores.argmax())
    if asked.aspect != "original":
        return windows[best], Reason.ASPECT
    return (windows[best], Reason.BETTER) if scores[best] - scores[0] >= GAIN_MIN else (whole, Reason.NO_GAIN)


def _smaller(whole: Window) -> Iterable[Window]:
    """Windows of the same aspect, 9 x 9 positions of each scale."""
    for scale in SCALES:
        width, height = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
        for x in np.linspace(0, whole.width - width, 9).round().astype(int):
            for y in np.linspace(0, whole.height - height, 9).round().astype(int):
                yield Window(int(x), int(y), width, height)


def _largest(whole: Window, aspect: str) -> Window:
    """The largest window of the aspect, at the origin."""
    across, down = map(int, aspect.split(":"))
    if whole.width * down > whole.height * across:
        return Window(0, 0, max(1, round(whole.height * across / down)), whole.height)
    return Window(0, 0, whole.width, max(1, round(whole.width * down / across)))


def _along(whole: Window, size: Window, faces: list[Face]) -> Iterable[Window]:
    """Windows of `size` along the side that is too long: evenly spaced ones, and those that end beside a face."""
    axis = 0 if size.width < whole.width else 1
    slack, length = whole[axis + 2] - size[axis + 2], size[axis + 2]
    places = set(np.linspace(0, slack, STEPS + 1).round().astype(int).tolist())
    for margin in MARGINS:
        for box in _face_pixels(whole, faces, margin):
            start, end = box[axis], box[axis + 2]
            places.update(int(np.clip(place, 0, slack)) for place in (start, end, start - length, end - length))
    for place in sorted(places):
        yield size._replace(x=place) if axis == 0 else size._replace(y=place)


def _sparing_faces(windows: list[Window], whole: Window, faces: list[Face]) -> list[Window]:
    """Those windows that cut no face and, among these, keep most faces; with a margin around faces if there are any."""
    if not faces:
        return windows
    x, y, w, h = np.array(windows)[:, np.newaxis].transpose(2, 0, 1)
    for margin in MARGINS:
        left, top, right, bottom = _face_pixels(whole, faces, margin).T
        inside = (left >= x) & (top >= y) & (right <= x + w) & (bottom <= y + h)
        outside = (left >= x + w) | (top >= y + h) | (right <= x) | (bottom <= y)
        uncut, kept = (inside | outside).all(axis=1), inside.sum(axis=1)
        if uncut.any():
            chosen = uncut & (kept == kept[uncut].max())
            return [window for window, take in zip(windows, chosen, strict=True) if take]
    return []


def _face_pixels(whole: Window, faces: list[Face], margin: float) -> composition.Boxes:
    """left, top, right, bottom of each face grown by `margin` of its size, in whole pixels and within the photo."""
    x, y, w, h = np.array([face.box for face in faces], np.float64).reshape(-1, 4).T
    edges = np.stack([x - margin * w, y - margin * h, x + w + margin * w, y + h + margin * h], axis=1)
    edges *= (whole.width, whole.height, whole.width, whole.height)
    edges[:, :2], edges[:, 2:] = np.floor(edges[:, :2]), np.ceil(edges[:, 2:])
    return np.clip(edges, 0, (whole.width, whole.height, whole.width, whole.height))


def _importance(image: pyvips.Image, faces: list[Face]) -> composition.Floats:
    small = image.thumbnail_image(THUMBNAIL, height=THUMBNAIL, size="down")
    lab = (small.flatten(background=[255, 255, 255]) if small.hasalpha() else small).colourspace("lab")
    return composition.importance(lab.numpy().astype(np.float64), np.array([face.box for face in faces]))


def _normalised(windows: list[Window], whole: Window) -> composition.Boxes:
    return np.array(windows, np.float64) / (whole.width, whole.height, whole.width, whole.height)


def _is_intermediate(header: pyvips.Image) -> bool:
    """Whether the input already is a PNG of upright sRGB pixels that says so."""
    return (
        header.get("vips-loader") == "pngload_buffer"
        and header.interpretation in ("srgb", "rgb16")
        and not (header.get_typeof("orientation") and header.get("orientation") > 1)
        and is_srgb(blob_of(header, "icc-profile-data"))
    )


def _png(image: pyvips.Image) -> bytes:
    # The filter "sub" made a noisy 24 MP photo a quarter smaller than no filter does, and wrote it a third faster.
    data: bytes = image.pngsave_buffer(compression=1, filter="sub", keep="icc")
    return data
