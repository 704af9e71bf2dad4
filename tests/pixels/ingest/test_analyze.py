"""From bytes to facts: hostile files end in an error of the taxonomy, private metadata ends nowhere."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pyvips
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import SafelightError
from ingest.analysis import analyze, exif
from stack.samples import Sample, write_samples
from tests.pixels.ingest.pictures import image, jpeg, photo, png

CHINA = image(photo("china.jpg"))
SMALL = CHINA.resize(0.25)
FIXED = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    return {sample.name: sample for sample in write_samples(tmp_path_factory.mktemp("samples"))}


@pytest.fixture(scope="module")
def facts(samples: dict[str, Sample]) -> dict[str, dict[str, Any]]:
    return {name: analyze(sample.path.read_bytes()) for name, sample in samples.items()}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def saved(save: Callable[[pyvips.Image], bytes], source: pyvips.Image = CHINA) -> bytes:
    return bytes(save(source))


JPEG = saved(lambda i: i.jpegsave_buffer(Q=90))
PROGRESSIVE = saved(lambda i: i.jpegsave_buffer(Q=90, interlace=True))
PNG = saved(lambda i: i.pngsave_buffer())
WEBP = saved(lambda i: i.webpsave_buffer())
TIFF = saved(lambda i: i.tiffsave_buffer(compression="lzw"))
AVIF = saved(lambda i: i.heifsave_buffer(compression="av1", effort=0))
LARGE_JPEG = saved(lambda i: i.resize(6).jpegsave_buffer(Q=80))
_CLAIM = PNG[12:16] + (60_000).to_bytes(4, "big") * 2 + PNG[24:29]
LYING_PNG = PNG[:12] + _CLAIM + zlib.crc32(_CLAIM).to_bytes(4, "big") + PNG[33:]
FLOAT_TIFF = saved(lambda i: i.cast("float").tiffsave_buffer(), SMALL)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "MEDIA_TYPE_UNSUPPORTED", id="nothing"),
        pytest.param(b"text " * 200, "MEDIA_TYPE_UNSUPPORTED", id="a text"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "MEDIA_TYPE_UNSUPPORTED", id="an SVG"),
        pytest.param(saved(lambda i: i.gifsave_buffer(), SMALL), "MEDIA_TYPE_UNSUPPORTED", id="a GIF"),
        pytest.param(JPEG[: len(JPEG) // 50], "IMAGE_CORRUPT", id="a JPEG cut at 2 %"),
        pytest.param(JPEG[: len(JPEG) // 2], "IMAGE_CORRUPT", id="a JPEG cut at 50 %"),
        pytest.param(JPEG[: len(JPEG) * 98 // 100], "IMAGE_CORRUPT", id="a JPEG cut at 98 %"),
        pytest.param(LARGE_JPEG[: len(LARGE_JPEG) // 50], "IMAGE_CORRUPT", id="a large JPEG cut at 2 %"),
        pytest.param(LARGE_JPEG[: len(LARGE_JPEG) // 2], "IMAGE_CORRUPT", id="a large JPEG cut at 50 %"),
        pytest.param(PROGRESSIVE[: len(PROGRESSIVE) // 2], "IMAGE_CORRUPT", id="a progressive JPEG cut at 50 %"),
        pytest.param(JPEG[:40], "IMAGE_CORRUPT", id="a JPEG of 40 bytes"),
        pytest.param(PNG[: len(PNG) // 2], "IMAGE_CORRUPT", id="a PNG cut at 50 %"),
        pytest.param(flipped(PNG, PNG.rindex(b"IEND") - 5), "IMAGE_CORRUPT", id="a PNG with a bad last checksum"),
        pytest.param(flipped(PNG, 30), "IMAGE_CORRUPT", id="a PNG with a bad first checksum"),
        pytest.param(flipped(PNG, len(PNG) // 2), "IMAGE_CORRUPT", id="a PNG with a wrong byte"),
        pytest.param(WEBP[: len(WEBP) // 2], "IMAGE_CORRUPT", id="a WebP cut at 50 %"),
        pytest.param(TIFF[: len(TIFF) // 2], "IMAGE_CORRUPT", id="a TIFF cut at 50 %"),
        pytest.param(AVIF[: len(AVIF) // 2], "IMAGE_CORRUPT", id="an AVIF cut at 50 %"),
        pytest.param(flipped(AVIF, len(AVIF) // 2), "IMAGE_CORRUPT", id="an AVIF with a wrong byte"),
        pytest.param(FLOAT_TIFF, "IMAGE_CORRUPT", id="a TIFF of floating point"),
        # Were anything decoded before the header is judged, this would be IMAGE_CORRUPT.
        pytest.param(LYING_PNG, "IMAGE_TOO_LARGE", id="a PNG that claims 3600 megapixels"),
    ],
)
def test_a_bad_file_ends_in_a_stable_code(data: bytes, code: str) -> None:
    with pytest.raises(SafelightError) as caught:
        analyze(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png(photo("coffee.png")[:1, :1]), (1, 1, 8), id="one pixel"),
        pytest.param(png(photo("coffee.png")[:2, :]), (600, 2, 8), id="a strip"),
        pytest.param(saved(lambda i: i.pngsave_buffer(), SMALL.bandjoin(128)), (160, 107, 8), id="with transparency"),
        pytest.param(saved(lambda i: i.pngsave_buffer(), SMALL.colourspace("b-w")), (160, 107, 8), id="grey"),
        pytest.param(saved(lambda i: i.pngsave_buffer(), SMALL.colourspace("grey16")), (160, 107, 16), id="deep grey"),
        pytest.param(saved(lambda i: i.pngsave_buffer(palette=True), SMALL), (160, 107, 8), id="with a palette"),
        pytest.param(saved(lambda i: i.jpegsave_buffer(), SMALL.icc_transform("cmyk")), (160, 107, 8), id="CMYK"),
        pytest.param(
            saved(lambda i: i.heifsave_buffer(compression="av1", bitdepth=10, effort=0), SMALL.colourspace("rgb16")),
            (160, 107, 16),
            id="10-bit AVIF",
        ),
        pytest.param(JPEG + b"\0" * 100, (640, 427, 8), id="with bytes behind its end"),
    ],
)  # fmt: skip
def test_unusual_pictures_are_still_photos(data: bytes, expected: tuple[int, int, int]) -> None:
    facts = analyze(data)
    assert (facts["width"], facts["height"], facts["bit_depth"]) == expected


def test_the_samples_facts_are_as_their_table_says(facts: dict[str, dict[str, Any]]) -> None:
    seen = {name: (len(f["faces"]), sorted({d["kind"] for d in f["detections"]})) for name, f in facts.items()}
    with_faces = {"grace-hopper.jpg", "astronaut.jpg", "camera.png", "astronaut-sideways.jpg", "grace-hopper-12mp.jpg"}
    assert {name for name, (faces, _) in seen.items() if faces} == with_faces
    assert all(faces <= 1 for faces, _ in seen.values())
    assert {name: kinds for name, (_, kinds) in seen.items() if kinds} == {
        "china-wires.jpg": ["power_line"],
        "flower-exit.jpg": ["exit_sign"],
    }
    profiles = {name: f["color_profile"] for name, f in facts.items() if f["color_profile"] not in (None, "sRGB")}
    assert profiles == {"coffee-p3.jpg": "Display P3", "rocket.jpg": "Adobe RGB"}
    assert {name for name, f in facts.items() if f["bit_depth"] == 16} == {"flower-16bit.tiff"}
    assert facts["grace-hopper-12mp.jpg"]["width"] == 3200
    assert facts["clock.avif"]["blur"]["score"] < 0.3


def test_facts_are_plain_json_within_the_picture(facts: dict[str, dict[str, Any]]) -> None:
    for fact in facts.values():
        assert json.loads(json.dumps(fact, allow_nan=False)) == fact
        boxes = [face["box"] for face in fact["faces"]] + [d["box"] for d in fact["detections"] if "box" in d]
        for x, y, width, height in boxes:
            assert min(x, y, width, height) >= 0
            assert max(x + width, y + height) <= 1.00001
        points = [point for d in fact["detections"] for point in d.get("points", [])]
        assert all(0 <= u <= 1 and 0 <= v <= 1 for u, v in points)


def test_wide_gamut_does_not_change_what_is_seen(facts: dict[str, dict[str, Any]]) -> None:
    plain, wide = facts["coffee.png"], facts["coffee-p3.jpg"]
    assert wide["exposure"]["mean"] == pytest.approx(plain["exposure"]["mean"], abs=0.01)


def test_a_camera_s_private_facts_are_never_told(facts: dict[str, dict[str, Any]], samples: dict[str, Sample]) -> None:
    data = samples["astronaut-sideways.jpg"].path.read_bytes()
    assert all(text in data for text in (b"SN-0042-4711", b"Sample Owner", b"Public domain, NASA")), (
        "they are in the file"
    )
    told = json.dumps(facts["astronaut-sideways.jpg"])
    assert all(text not in told for text in ("SN-0042", "Owner", "NASA", "GPS", "29.0", "95.0", "33.5"))
    assert facts["astronaut-sideways.jpg"]["camera"] == "Safelight Sample One"
    assert facts["astronaut-sideways.jpg"]["captured_at"] == "1992-05-28T10:30:00-06:00"


@pytest.mark.parametrize(
    ("make", "model", "taken", "zone", "camera", "captured_at"),
    [
        pytest.param("Canon", "Canon EOS R5", "2024:05:06 07:08:09", "", "Canon EOS R5", "2024-05-06T07:08:09",
                     id="the make is not said twice, and no zone is made up"),
        pytest.param("", "X100V", "0000:00:00 00:00:00", "+02:00", "X100V", None, id="a clock that was never set"),
        pytest.param("", "", "yesterday", "", None, None, id="no camera, no date"),
        pytest.param("A" * 300, "\x1b[31m", "2024:02:30 00:00:00", "", "A" * 60, None, id="a novel, a terminal code"),
        pytest.param("A" * 30_000, "m", "", "", "m", None, id="more than any camera writes"),
        pytest.param("a (b, c)", "d", "2024:05:06 07:08:09", "nowhere", "a (b c) d", None, id="brackets, a bad zone"),
    ],
)  # fmt: skip
def test_exif_is_read_by_allow_list(
    make: str, model: str, taken: str, zone: str, camera: str | None, captured_at: str | None
) -> None:
    tags = Image.Exif()
    tags[0x010F], tags[0x0110] = make, model
    tags.get_ifd(0x8769).update({0x9003: taken, 0x9011: zone})
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", exif=tags)
    header = pyvips.Image.new_from_buffer(file.getvalue(), "")
    assert (exif.camera(header), exif.captured_at(header)) == (camera, captured_at)


@FIXED
@given(st.binary(max_size=600))
def test_any_bytes_behind_a_good_signature_end_in_facts_or_a_code(tail: bytes) -> None:
    for head in (JPEG[:20], PNG[:33], WEBP[:30], TIFF[:8], AVIF[:40]):
        answers(head + tail)


@FIXED
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["jpeg", "exif", "png", "tiff", "webp"]))
def test_a_file_with_wrong_bytes_ends_in_facts_or_a_code(seed: int, kind: str, sideways: bytes) -> None:
    small = {"jpeg": SMALL_JPEG, "exif": sideways, "png": SMALL_PNG, "tiff": SMALL_TIFF, "webp": SMALL_WEBP}
    mutable, chance = bytearray(small[kind]), random.Random(seed)
    within = 400 if kind == "exif" else len(mutable)  # the tags lie at the beginning
    for _ in range(chance.randint(1, 12)):
        mutable[chance.randrange(within)] = chance.randrange(256)
    answers(bytes(mutable))


SMALL_JPEG, SMALL_PNG = jpeg(photo("camera.png")[:64, :64]), png(photo("camera.png")[:64, :64])
SMALL_TIFF = bytes(SMALL.tiffsave_buffer(compression="deflate"))
SMALL_WEBP = bytes(SMALL.webpsave_buffer())


@pytest.fixture(scope="module")
def sideways(samples: dict[str, Sample]) -> bytes:
    return Path(samples["astronaut-sideways.jpg"].path).read_bytes()


def answers(data: bytes) -> None:
    try:
        facts = analyze(data)
    except SafelightError as refusal:
        code = refusal.code
    else:
        code = ""
        json.dumps(facts, allow_nan=False)
    assert code in ("", "MEDIA_TYPE_UNSUPPORTED", "IMAGE_CORRUPT", "IMAGE_TOO_LARGE")
