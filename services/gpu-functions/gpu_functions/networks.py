"""Networks of published architectures, built by spandrel from a file of weights.

A file of weights is data and stays that: pickles are read by torch's unpickler for tensors only, and of a
TorchScript the tensors are taken, none of its code is run. Who asks names the architecture, so that a file
of another one is refused and not guessed at.

spandrel asks torchvision for three names, and torchvision's wheels fit one build of torch each. Where it is
not installed, the three are given to spandrel for the time of its import.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from safetensors.torch import load_file

from contracts.errors import error

# fmt: off
ARCHITECTURES: Final = {
    # name            module                                             class in it
    "CodeFormer":    ("spandrel_extra_arches.architectures.CodeFormer", "CodeFormerArch"),
    "GFPGAN":        ("spandrel.architectures.GFPGAN",                  "GFPGANArch"),
    "RestoreFormer": ("spandrel.architectures.RestoreFormer",           "RestoreFormerArch"),
    "LaMa":          ("spandrel.architectures.LaMa",                    "LaMaArch"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is ready to be asked, and where its tensors lie."""

    module: torch.nn.Module
    device: torch.device


def load(path: Path, architecture: str, device: str) -> Network:
    """The network of `architecture` with the weights in `path` (.pth, .safetensors, .pt of TorchScript).

    `device` is a Place's: on "gpu" it is CUDA where there is one, else the CPU. Raises WEIGHTS_INVALID when the
    file does not hold exactly the tensors of this architecture.
    """
    with torchvision_lent():
        module, name = ARCHITECTURES[architecture]
        known = getattr(import_module(module), name)()
        from spandrel import canonicalize_state_dict
    try:
        state = canonicalize_state_dict(_tensors(path))
        if not known.detect(state):
            raise KeyError
        network: torch.nn.Module = known.load(state).model
    except MemoryError:
        raise
    except Exception:  # of five libraries, by what is wrong with the file; their texts may quote it
        raise error("WEIGHTS_INVALID", f"the file holds no network of the architecture {architecture}") from None
    where = torch.device("cuda" if device == "gpu" and torch.cuda.is_available() else "cpu")
    return Network(network.eval().requires_grad_(False).to(where), where)


def _tensors(path: Path) -> dict[str, Any]:
    match path.suffix:
        case ".safetensors":
            return dict(load_file(path))
        case ".pt":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # torch asks authors for another format
                return dict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
        case _:
            return dict(torch.load(path, map_location="cpu", weights_only=True))


@contextlib.contextmanager
def torchvision_lent() -> Iterator[None]:
    """What spandrel imports of torchvision, where that is not installed, until spandrel has it."""
    if "spandrel" in sys.modules or find_spec("torchvision") is not None:
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    lent = {name: ModuleType(name) for name in names}
    vars(lent[names[-1]]).update(normalize=_normalize, rotate=_rotate, InterpolationMode=_InterpolationMode)
    sys.modules.update(lent)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def _normalize(tensor: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """(x - mean) / std per channel of C×H×W or N×C×H×W."""
    middle, spread = (torch.tensor(of, dtype=tensor.dtype, device=tensor.device)[:, None, None] for of in (mean, std))
    return (tensor - middle) / spread


def _rotate(*_: object, **__: object) -> torch.Tensor:
    """Only LaMa's learnt rotation asks for it, which no published weights have."""
    raise NotImplementedError("turning a tensor needs torchvision")


class _InterpolationMode(Enum):
    BILINEAR = "bilinear"
