"""A look becomes a style by a job of its own, and a photo that names it comes out in it."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from console import cli
from console.client import Connection
from stack.styles import cube
from tests.e2e.conftest import Stack, phase
from tests.e2e.test_following import events
from tests.e2e.test_photo import graded, lut_of, pixels

WARM = cube("warm-film")
PAIRS = 20  # so many that it is learnt for longer than a few looks at how far it is


async def command(stack: Stack, *arguments: str) -> Any:
    """What a command prints as JSON; it must end well."""
    here = Connection(stack.base_url, stack.api_key)
    told = await asyncio.to_thread(CliRunner().invoke, cli.client, [*arguments, "--json"], obj=lambda: here)
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


async def test_a_look_from_another_tool_grades_a_photo(stack: Stack, samples: dict[str, Path], tmp_path: Path) -> None:
    look = tmp_path / "somebodys look.cube"
    look.write_text(f"# somebody's words\n{WARM}")
    told = await command(stack, "styles", "import", "imported", str(look))
    style = told["style"]
    assert (style["name"], style["version"], style["kind"]) == ("imported", 1, "imported")
    assert (style["degraded"], style["facts"]["lut_size"]) == (False, 33)

    job = await stack.ended(await stack.upload(samples["astronaut.jpg"], style="imported"))
    assert job["status"] == "succeeded", job
    assert job["options"]["style"] == "imported@1"
    styled = pixels(await stack.artifact(job, "style.image.png"))
    difference = np.abs(styled - graded(pixels(samples["astronaut.jpg"].read_bytes()), lut_of(WARM)))
    assert difference.max() <= 6, "two decoders, two interpolations"

    target = tmp_path / "exported.cube"
    assert await command(stack, "styles", "export", "imported@1", "-o", str(target)) == {"path": str(target)}
    assert np.abs(lut_of(target.read_text()) - lut_of(WARM)).max() < 0.001
    assert "somebody" not in target.read_text()
    preview = tmp_path / "preview.jpg"
    await command(stack, "styles", "export", "imported", "--part", "preview", "-o", str(preview))
    assert Image.open(preview).format == "JPEG"
    assert {"imported", "mono"} <= {row["name"] for row in await command(stack, "styles", "list")}


async def test_a_file_that_is_no_look_makes_no_style(stack: Stack, tmp_path: Path) -> None:
    answer = await stack.client.post(
        "/v1/styles/import", data={"name": "no-look"}, files={"file": b"LUT_3D_SIZE 2\n0 0 0\n"}
    )
    job = await stack.ended(answer)
    assert (job["status"], job["error"]["code"]) == ("failed", "STYLE_INVALID")
    assert (await stack.client.get("/v1/styles/no-look")).status_code == 404


@pytest.mark.parametrize(
    ("path", "fields", "content"),
    [
        pytest.param("/v1/uploads", {}, WARM.encode(), id="a look among the photos"),
        pytest.param("/v1/uploads", {}, b"PK\3\4" + b"\0" * 600, id="an archive among the photos"),
        pytest.param("/v1/styles", {"name": "x"}, WARM.encode(), id="a look as pairs"),
        pytest.param("/v1/styles/import", {"name": "x"}, b"PK\3\4" + b"\0" * 600, id="an archive as a look"),
    ],
)
async def test_each_pipeline_takes_its_own_kind_of_file(
    stack: Stack, path: str, fields: dict[str, str], content: bytes
) -> None:
    answer = await stack.client.post(path, data=fields, files={"file": content})
    assert (answer.status_code, answer.json()["code"]) == (415, "MEDIA_TYPE_UNSUPPORTED")


# -- learnt ----------------------------------------------------------------------------------


def pairs(folder: Path, photos: list[Path], count: int) -> Path:
    """So many photos before and after the warm look, as an editor exports them: at their size, as JPEG."""
    for side in ("before", "after"):
        (folder / side).mkdir(parents=True)
    look = lut_of(WARM)
    for n in range(count):
        before = Image.open(photos[n % len(photos)]).convert("RGB").rotate(90 * (n // len(photos)), expand=True)
        before.thumbnail((400, 400))
        before.save(folder / "before" / f"{n}.jpg", quality=95)
        after = graded(np.asarray(before).astype(np.int16), look)
        shown = Image.fromarray(np.clip(np.rint(after), 0, 255).astype(np.uint8))
        shown.save(folder / "after" / f"{n}.jpg", quality=95)
    return folder


async def test_a_style_that_was_learnt_grades_a_photo_as_its_pairs_show(
    stack: Stack, samples: dict[str, Path], tmp_path: Path
) -> None:
    names = ("china.jpg", "flower.jpg", "coffee.png", "rocket.jpg", "chelsea.webp", "grace-hopper.jpg")
    photos = [samples[name] for name in names]
    folder = str(pairs(tmp_path / "pairs", photos, PAIRS))
    training = asyncio.create_task(command(stack, "styles", "train", "learnt", folder, "--watch"))
    await _seen_at_work(stack)
    style = (await training)["style"]
    assert (style["version"], style["kind"]) == (1, "learnt")
    assert style["facts"]["psnr"] > style["facts"]["psnr_identity"] + 6
    assert set(style["parts"]) == {"style", "cube", "preview", "report"}
    trained = await stack.job(style["job_id"])
    assert phase(trained, "train")["facts"] == style["facts"]

    job = await stack.ended(await stack.upload(samples["astronaut.jpg"], style="learnt@1"))
    assert job["status"] == "succeeded", job
    original = pixels(samples["astronaut.jpg"].read_bytes())
    wanted = graded(original, lut_of(WARM))
    styled = pixels(await stack.artifact(job, "style.image.png"))

    def psnr(image: Any) -> float:
        return float(10 * np.log10(255**2 / np.mean((image - wanted) ** 2)))

    assert psnr(styled) > psnr(original) + 3, "a photo that was not among the pairs comes nearer to the look"
    report = json.loads(await _part(stack, "learnt@1", "report"))
    assert len(report["pairs"]) == PAIRS
    sheet = Image.open(io.BytesIO(await _part(stack, "learnt@1", "preview")))
    assert sheet.format == "JPEG"


async def _seen_at_work(stack: Stack) -> None:
    """The training tells how it goes and shows a preview before its end: its events say so, however late we look."""
    begun: list[dict[str, Any]] = []
    while not begun:
        begun = (await stack.client.get("/v1/jobs", params={"pipeline": "style-training"})).json()["items"]
    told = await events(stack, begun[0]["id"])
    shown = [one["data"] for one in told if one["event"] == "phase.v1.progressed" and one["data"]["artifacts"]]
    assert {"psnr_held_out", "eta_s", "step"} <= set(shown[0]["facts"])
    assert [artifact["name"] for artifact in shown[0]["artifacts"]] == ["preview.jpg"]


async def _part(stack: Stack, reference: str, part: str) -> bytes:
    import httpx

    link = await stack.client.get(f"/v1/styles/{reference}/{part}", params={"redirect": "false"})
    async with httpx.AsyncClient() as stranger:
        return (await stranger.get(link.json()["url"])).content
