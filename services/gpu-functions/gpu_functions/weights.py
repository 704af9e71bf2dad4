"""Weights: which files engines need, where they come from, whether they may be used, and how they get here.

The law: a file is used only when it is the one that its pin names; it is fetched by an operator, never in
the middle of a job; and what its licence forbids is not done unless the configuration says that it may.

    python -m gpu_functions.weights list | pull NAME... | verify        the same as `safelight weights`

A pull goes on where it was interrupted, takes a mirror when it is given one (a folder, or an address such
as a bucket's that holds the files by name), and renames a file to its name only when its sha256 is right.
"""

from __future__ import annotations

import argparse
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
    """A file of a model. `size` is in bytes; `commercial`: whether its licence lets a business use it."""

    name: str
    url: str
    size: int
    sha256: str
    licence: str
    commercial: bool


def _table(*rows: Weight) -> dict[str, Weight]:
    table = {row.name: row for row in rows}
    assert len(table) == len(rows), "a weight is listed twice"
    return table


# A model that is a repository of files: each is a row, named by the model and the file. Nobody here has ever held
# these files: length and sha256 are those that several public programs pin for this revision, and agree on.
_PADDLEOCR_VL_URL: Final = (
    "https://huggingface.co/PaddlePaddle/PaddleOCR-VL-1.6/resolve/c5630abae1d940eafe0697512a0325494b02ab42/"
)
# fmt: off
_PADDLEOCR_VL: Final = {
    "model.safetensors":              (1917255968, "85a479d506a11e724e7285d395c551be69f41dbc16b6342d3cacfb189aed71db"),
    "tokenizer.json":                   (11189060, "c8a215a59183d0d0781adc33bacd3ce6162716f7fd568fb30234a74d69803a7d"),
    "tokenizer.model":                  ( 1614363, "34ef7db83df785924fb83d7b887b6e822a031c56e15cff40aaf9b982988180df"),
    "config.json":                      (    2059, "ce7f4565f8b1db78532ad5d1b9ebe55c2139d49bd4cb04778b580a08a598f171"),
    "generation_config.json":           (     133, "a6701d78ab3b4d972307cdec3b69d4c13f46e0d5140514f50ab7d84259324b94"),
    "preprocessor_config.json":         (     641, "111872ab1e8bb7fd040ac5087bfced7ab8f011f02139b088cba294964c3b1d0e"),
    "processor_config.json":            (     137, "1568858960a9760c54431dae693a6152e601ff55cdf6d2eab97a4a99958faea0"),
    "tokenizer_config.json":            (  186947, "1f979337347cc0cb72a6282d8a23ed183539aa81a87a906f022aee2bab83c7c5"),
    "added_tokens.json":                (   25381, "f59f889088e0fe21c523e7cf121bb6dca3b0bb148cb7159fbb4572c74dfc5644"),
    "special_tokens_map.json":          (    1151, "d3a125c03103deb2acaf7730791bdbbf196f620e5a2213b664511ff9b4b25bab"),
    "chat_template.jinja":              (    1474, "2f27812dab7f333e471884e0c803d807f11953d5453140dfb1aaba234f872bc8"),
    "configuration_paddleocr_vl.py":    (    8104, "753dd93654c3a9c8c85a3eaee1e3092dd12591b0f2dce0305e1abfb7a41ff160"),
    "image_processing_paddleocr_vl.py": (   25032, "a4fa521b9cb16e207f94b7f2d16427771776dfc634420d319fc4916ee58049ec"),
    "modeling_paddleocr_vl.py":         (  103889, "c5013dff57ca8b87dc1de64d0fd839a44313de09d230a4fb2d08289d2cad5111"),
    "processing_paddleocr_vl.py":       (   12253, "e29cb1e5f275f2bd3ce051bd5c9983a33894e693b2823a0e13d4c07c8c4f9e13"),
}
# fmt: on
PADDLEOCR_VL_LAYOUT: Final = "PP-DocLayoutV3.onnx"  # which says where its blocks are
PADDLEOCR_VL: Final = (PADDLEOCR_VL_LAYOUT, *(f"PaddleOCR-VL-1.6.{file}" for file in _PADDLEOCR_VL))
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
    Weight("PP-OCRv6_det_medium.onnx", f"{_PP_OCR_URL}det/PP-OCRv6_det_medium.onnx",
           62_119_454, "92078b7355007ccfffcd4c8cd441a3afd4538904d06881b29a155e1e679907c2",
           "Apache-2.0", commercial=True),
    Weight("PP-OCRv6_rec_medium.onnx", f"{_PP_OCR_URL}rec/PP-OCRv6_rec_medium.onnx",
           76_629_984, "eef444829dbbe18d7fea59a3f6eb75647518d2b3a9568d27c92e42940204894b",
           "Apache-2.0", commercial=True),
    Weight(PADDLEOCR_VL_LAYOUT,
           "https://huggingface.co/PaddlePaddle/PP-DocLayoutV3_onnx/resolve/46bbdf188bb0a772c08aed74882ce7e51a8f1ea6/"
           "inference.onnx", 130_502_049, "45bf71750b00739a41fc209f132eb104a4d6b5bb29483c9078164d8b87cf28ba",
           "Apache-2.0", commercial=True),
    *(
        Weight(f"PaddleOCR-VL-1.6.{file}", _PADDLEOCR_VL_URL + file, size, pin, "Apache-2.0", commercial=True)
        for file, (size, pin) in _PADDLEOCR_VL.items()
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
        if path.stat().st_size != weight.size:
            return f"the weights {name} have {path.stat().st_size} bytes and must have {weight.size}"
        return None

    def verified(self, name: str) -> Path:
        """The file, whose hash is as pinned. Raises WEIGHTS_INVALID."""
        path = self._path(name)
        if path is None or not path.is_file():
            raise error("WEIGHTS_INVALID", f"the weights {name} are not here")
        if _sha256(path) != self.weight(name).sha256:
            raise error("WEIGHTS_INVALID", f"the weights {name} are not the file that was pinned")
        return path

    def state(self, name: str) -> str:
        """`here`, `absent` or `wrong`; reads the whole file."""
        path = self._path(name)
        if path is None or not path.is_file():
            return "absent"
        return "here" if _sha256(path) == self.weight(name).sha256 else "wrong"

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
                _download(source, part, weight.size, told)
            else:
                shutil.copyfile(source, part)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as problem:
            raise error("WEIGHTS_UNAVAILABLE", f"{name}: {_why(problem)}") from problem
        found = _sha256(part)
        if found != weight.sha256:
            part.unlink()
            raise error("WEIGHTS_INVALID", f"what came for {name} has the sha256 {found} and must have {weight.sha256}")
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
    return int(given.command == "verify" and "wrong" in states.values())


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
