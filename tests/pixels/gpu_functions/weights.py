"""Random weights of the published architectures, on a shelf of their own with their own pins."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gpu_functions import networks
from gpu_functions.weights import WEIGHTS, Shelf, Weight


def architecture(name: str, **sizes: Any) -> torch.nn.Module:
    """A network as its authors published it, with the random weights that it was born with."""
    with networks.torchvision_lent():
        module = import_module(networks.ARCHITECTURES[name][0])
    torch.manual_seed(5)
    network: torch.nn.Module = getattr(module, name)(**sizes)
    return network.eval()


def saved(network: torch.nn.Module) -> Callable[[Path], None]:
    """Writes a network as its authors do: a pickle with the tensors under `params_ema`."""
    return lambda path: torch.save({"params_ema": network.state_dict()}, path)


def shelf(folder: Path, commercially: bool = False, **files: Callable[[Path], None]) -> Shelf:
    """A shelf that holds `files`, pinned; every other row is what WEIGHTS says, and absent.

    Their names have `_` for what a name in Python may not have: `big_lama_pt`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = dict(WEIGHTS)
    for name, row in WEIGHTS.items():
        write = files.pop(re.sub(r"\W", "_", name), None)
        if write:
            write(folder / name)
            content = (folder / name).read_bytes()
            pin = hashlib.sha256(content).hexdigest()
            known[name] = Weight(name, "", len(content), pin, row.licence, row.commercial)
    assert not files, f"no weights have these names: {sorted(files)}"
    return Shelf(folder, not commercially, known)
