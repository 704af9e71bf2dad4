"""The guide to engines is followed to the letter."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gpu_functions.catalog import EngineRow
from gpu_functions.runner import Runner
from tests.pixels.gpu_functions import pictures
from tests.pixels.gpu_functions.conftest import Storage

GUIDE = Path(__file__).parents[3] / "docs/guides/engines.md"


def test_the_engine_of_the_guide_is_one_file_and_one_row(
    storage: Storage, astronaut: npt.NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, row = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(file.split("class Mono")[1].splitlines()) < 20
    (tmp_path / "mono.py").write_text(file)
    monkeypatch.syspath_prepend(str(tmp_path))
    found: EngineRow = eval(row.replace("gpu_functions.mono", "mono"), {"EngineRow": EngineRow})
    try:
        answer = Runner(catalog=(found,)).run(
            storage.request("style.apply", storage.item("a", image=pictures.encode(astronaut)))
        )
    finally:
        sys.modules.pop("mono", None)
    [item] = answer.items
    assert (answer.engine, item.error, item.facts) == ("mono@1", None, {"mono": True})
    pixels = pictures.decode(storage.objects["a.out"])
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert pixels.std() > 20
