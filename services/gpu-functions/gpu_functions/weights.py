"""Weights: which files engines need, where they come from, whether they may be used, and how they get here.

The law: a file is used only when it is the one that its pin names; it is fetched by an operator, never in
the middle of a job; and what its licence forbids is not done unless the configuration says that it may.

    python -m gpu_functions.weights list | pull NAME... | verify        the same as `safelight weights`

A pull goes on where it was interrupted, takes a mirror when it is given one (a folder, or an address such
as a bucket's that holds the files by name), and renames a file to its name only when its sha256 is right.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts.errors import SafelightError, error

if TYPE_CHECKING:
    import httpx

CHUNK_BYTES: Final = 1 << 20
SILENCE_S: Final = 60.0  # of a server; a model of 3 GB takes as long as it takes


@dataclass(frozen=True, slots=True)
class Weight:
    """A file of a model. `size` is in bytes; `commercial`: whether its licence lets a business use it.

    Without `sha256` (nobody here has ever held the file) the first pull pins what it got, in a file beside it.
    """

    name: str
    url: str
    size: int
    sha256: str | None
    licence: str
    commercial: bool


def _table(*rows: Weight) -> dict[str, Weight]:
    table = {row.name: row for row in rows}
    assert len(table) == len(rows), "a weight is listed twice"
    return table


# A model that is a repository of files: each is a row, named by the model and the file. The list is that of the
# model's first release; its sizes are bounds, since nobody here has ever held the files.
PADDLEOCR_VL: Final = tuple(
    f"PaddleOCR-VL-1.6.{file}"
    for file in (
        "model.safetensors", "tokenizer.json", "tokenizer.model", "config.json", "generation_config.json",
        "preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "added_tokens.json",
        "special_tokens_map.json", "chat_template.jinja", "configuration_paddleocr_vl.py",
        "image_processing_paddleocr_vl.py", "modeling_paddleocr_vl.py", "processing_paddleocr_vl.py",
    )
)  # fmt: skip
_PADDLEOCR_VL_BYTES: Final = {"model.safetensors": 2_000_000_000, "tokenizer.json": 12_000_000}
_PADDLEOCR_VL_URL: Final = "https://huggingface.co/PaddlePaddle/PaddleOCR-VL-1.6/resolve/main/"
_PP_OCR_URL: Final = "https://www.modelscope.cn/models/RapidAI/RapidOCR/resolve/v3.10.0/onnx/PP-OCRv6/"

# fmt: off
WEIGHTS: Final[dict[str, Weight]] = _table(
    Weight("sharp_2572gikvuh.pt",
           "https://ml-site.cdn-apple.com/models/sharp/sharp_2572gikvuh.pt",
           2_809_738_232, "94211a75198c47f61fca7d739ba08a215418d8d398d48fddf023baccc24f073d",
           "Apple Machine Learning Research Model License: research only", commercial=False),
    Weight("codeformer.pth",
           "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
           376_637_898, "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
           "S-Lab License 1.0: non-commercial", commercial=False),
    Weight("GFPGANv1.4.pth",
           "https://github.com/TencentARC/GFPGAN/releases/download/v1.3.4/GFPGANv1.4.pth",
           348_632_874, "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
           "Apache-2.0, with parts of StyleGAN2 (NVIDIA: research) and DFDNet (CC BY-NC-SA), trained on FFHQ "
           "(CC BY-NC-SA)", commercial=False),
    Weight("RestoreFormer.pth",
           "https://github.com/TencentARC/GFPGAN/releases/download/v1.3.4/RestoreFormer.pth",
           290_785_322, "07404d446d62ca3d5ed38b1de09a947a1e77d46dbccec961a74d713a8f24ace0",
           "published by GFPGAN under Apache-2.0, by its authors without a licence, trained on FFHQ (CC BY-NC-SA)",
           commercial=False),
    Weight("big-lama.pt",
           "https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt",
           205_669_692, "344c77bbcb158f17dd143070d1e789f38a66c04202311ae3a258ef66667a9ea9",
           "Apache-2.0, as its authors say in advimman/lama#230; trained on Places", commercial=True),
    # Their sha256 are published (92078b73..., eef44482...), their lengths are not: to be pinned when first pulled.
    Weight("PP-OCRv6_det_medium.onnx", f"{_PP_OCR_URL}det/PP-OCRv6_det_medium.onnx", 100_000_000, None,
           "Apache-2.0", commercial=True),
    Weight("PP-OCRv6_rec_medium.onnx", f"{_PP_OCR_URL}rec/PP-OCRv6_rec_medium.onnx", 150_000_000, None,
           "Apache-2.0", commercial=True),
    *(
        Weight(name, _PADDLEOCR_VL_URL + (file := name.removeprefix("PaddleOCR-VL-1.6.")),
               _PADDLEOCR_VL_BYTES.get(file, 2_000_000), None, "Apache-2.0", commercial=True)
        for name in PADDLEOCR_VL
    ),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of weights, and whether those may run whose licence forbids commercial use. No folder: an empty one."""

    folder: Path | None = None
    allow_noncommercial: bool = False
    known: Mapping[str, Weight] | None = None  # another table than WEIGHTS, in tests

    def weight(self, name: str) -> Weight:
        """The row of a name. Raises KeyError."""
        return (WEIGHTS if self.known is None else self.known)[name]

    def lacks(self, name: str) -> str | None:
        """Why a file cannot be used, in words; None when it can. Cheap: its hash is looked at when it is loaded."""
        weight = self.weight(name)
        if not weight.commercial and not self.allow_noncommercial:
            return f"the licence of {name} ({weight.licence}) forbids commercial use, and allow_noncommercial is off"
        path = self._path(name)
        if path is None or not path.is_file():
            return f"the weights {name} are not here: safelight weights pull {name}"
        if path.stat().st_size != weight.size and weight.sha256:
            return f"the weights {name} have {path.stat().st_size} bytes and must have {weight.size}"
        return None

    def verified(self, name: str) -> Path:
        """The file, whose hash is as pinned. Raises WEIGHTS_INVALID."""
        path, pin = self._path(name), self.pin(name)
        if path is None or not path.is_file():
            raise error("WEIGHTS_INVALID", f"the weights {name} are not here")
        if pin is None or _sha256(path) != pin:
            raise error("WEIGHTS_INVALID", f"the weights {name} are not the file that was pinned")
        return path

    def pin(self, name: str) -> str | None:
        """The sha256 that a file must have: the table's, or what the first pull found."""
        weight = self.weight(name)
        if weight.sha256 or self.folder is None:
            return weight.sha256
        with contextlib.suppress(OSError):
            return (self.folder / f"{name}.sha256").read_text().strip() or None
        return None

    def state(self, name: str) -> str:
        """`here`, `absent`, `unpinned` or `wrong`; reads the whole file."""
        path = self._path(name)
        if path is None or not path.is_file():
            return "absent"
        pin = self.pin(name)
        if pin is None:
            return "unpinned"
        return "here" if _sha256(path) == pin else "wrong"

    def pull(self, name: str, mirror: str = "", told: Callable[[int, int], None] = lambda _have, _of: None) -> Path:
        """Fetch a file that is not here yet; `told` hears bytes so far and in all. Returns where it lies.

        Raises WEIGHTS_INVALID (not the file that was pinned: nothing is kept), WEIGHTS_UNAVAILABLE (no answer;
        what came is kept, and the next pull goes on from there).
        """
        if self.folder is None:
            raise error("WEIGHTS_UNAVAILABLE", "no folder for weights is configured")
        import httpx  # here and not above: an idle worker pulls nothing

        weight = self.weight(name)
        target, part = self.folder / name, self.folder / f"{name}.part"
        if self.state(name) == "here":
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        source = f"{mirror.rstrip('/')}/{name}" if mirror else weight.url
        try:
            if source.startswith(("https://", "http://")):
                _download(source, part, weight.size if weight.sha256 else 2 * weight.size, told)
            else:
                shutil.copyfile(source, part)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as problem:
            raise error("WEIGHTS_UNAVAILABLE", f"{name}: {_why(problem)}") from problem
        found, pin = _sha256(part), self.pin(name)
        if pin is not None and found != pin:
            part.unlink()
            raise error("WEIGHTS_INVALID", f"what came for {name} has the sha256 {found} and must have {pin}")
        if pin is None:
            (self.folder / f"{name}.sha256").write_text(f"{found}\n")
        part.replace(target)
        return target

    def _path(self, name: str) -> Path | None:
        return self.folder / name if self.folder else None


EMPTY: Final = Shelf()


def _download(url: str, part: Path, bytes_max: int, told: Callable[[int, int], None]) -> None:
    """Bring `part` to its full length, from where it ends. Raises httpx.HTTPError, OSError, WEIGHTS_INVALID."""
    import httpx

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream("GET", url, headers=headers, timeout=SILENCE_S, follow_redirects=True) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # it was complete, and only its name was missing
        answer.raise_for_status()
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
        have = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if have > bytes_max:
                    break
                told(have, bytes_max)
    if have > bytes_max:
        part.unlink()
        raise error("WEIGHTS_INVALID", f"what comes for {part.stem} is longer than it can be")


def _why(problem: Exception) -> str:
    answer: httpx.Response | None = getattr(problem, "response", None)
    if answer is not None:
        return f"the server answered {answer.status_code}"
    return type(problem).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of an image that has no `safelight`. Returns the exit status: 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="gpu_functions.weights", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("list", "pull", "verify"))
    parser.add_argument("names", nargs="*", help="weights to pull; none: all that may be used here")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mirror", default="", help="a folder, or an address that holds the files by name")
    parser.add_argument("--allow-noncommercial", action="store_true")
    given = parser.parse_args(arguments)
    shelf = Shelf(given.folder, given.allow_noncommercial)
    if unknown := sorted(set(given.names) - set(WEIGHTS)):
        print(f"there are no weights of the name {unknown[0]}", file=sys.stderr)
        return 1
    if given.command == "pull":
        return _pull_all(shelf, given.names or usable(shelf), given.mirror)
    states = {name: shelf.state(name) for name in given.names or WEIGHTS}
    print(json.dumps({name: {"state": state, **_row(WEIGHTS[name])} for name, state in states.items()}, indent=1))
    return int(given.command == "verify" and any(state in ("wrong", "unpinned") for state in states.values()))


def usable(shelf: Shelf) -> list[str]:
    """Weights whose licence lets them be used here."""
    return [weight.name for weight in WEIGHTS.values() if weight.commercial or shelf.allow_noncommercial]


def _row(weight: Weight) -> dict[str, object]:
    return {"bytes": weight.size, "licence": weight.licence, "commercial": weight.commercial}


def _pull_all(shelf: Shelf, names: Iterable[str], mirror: str) -> int:
    wrong = 0
    for name in names:
        try:
            print(f"{name}: {shelf.pull(name, mirror)}")
        except SafelightError as problem:
            wrong = 1
            print(f"{name}: {problem.detail}", file=sys.stderr)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
