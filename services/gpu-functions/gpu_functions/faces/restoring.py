"""The engines that restore faces: `codeformer`, `gfpgan`, `restoreformer`.

Each face is brought into a square, the network redraws the squares in batches, and what it changed is put
back under a mask (see alignment.py). Every pixel outside the masks is the input's, bit for bit.

A network like these invents what it cannot see. So a face must be large enough to be known by, the mesh
must agree with the detector that it is one, and the facts tell how far each was enlarged and changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

import numpy as np
import torch
from pydantic import JsonValue

from contracts.errors import error
from gpu_functions import images, networks
from gpu_functions.engine import ALONE, Facts, Output, Place, Work, input_of
from gpu_functions.faces import alignment, facemesh
from gpu_functions.faces.alignment import Aligned
from gpu_functions.faces.facemesh import Floats
from gpu_functions.faces.reported import Face, RetouchParameters

FACE_PIXELS_MIN: Final = 48  # of the box: the network sees such a face enlarged five times
BATCH: Final = 4  # faces that are redrawn together: 0.7 GB each with the largest network


class Restorer(ABC):
    """`image` -> `image`. A subclass names its network and asks it."""

    architecture: ClassVar[str]

    def __init__(self, place: Place) -> None:
        """Load the one file of weights in `place`. Raises WEIGHTS_INVALID."""
        (path,) = place.weights.values()
        self.network = networks.load(path, self.architecture, place.device)
        self._mesh = facemesh.FaceMesh()

    @abstractmethod
    def redraw(self, faces: torch.Tensor, fidelity: float) -> torch.Tensor:
        """N×3×512×512 in -1..1, the values of sRGB, redrawn."""
        ...

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, DECODE_LIMIT, WEIGHTS_INVALID."""
        wanted = RetouchParameters.model_validate(parameters)
        picture = images.read(input_of(inputs, "image"))
        result, written = picture.pixels.copy(), np.zeros(picture.pixels.shape[:2], np.bool_)
        redrawn: list[JsonValue] = []
        skipped: dict[int, str] = {}
        for some in self._aligned(picture.pixels, wanted.faces, skipped):
            squares = self._redrawn([face.square for _, face in some], wanted.fidelity)
            for (index, face), square in zip(some, squares, strict=True):
                change = alignment.change(face, square)
                alignment.paste(result, written, picture.pixels, face, change)
                much = float((np.abs(change).mean(axis=2) * face.mask).sum() / face.mask.sum())
                redrawn.append({"face": index, "enlarged": round(1 / face.shrunk, 3), "change": round(much, 4)})
            work.tell((len(redrawn) + len(skipped)) / len(wanted.faces), {"faces_treated": len(redrawn)})
        facts: Facts = {
            "fidelity": wanted.fidelity,
            "faces_treated": len(redrawn),
            "faces_skipped": [{"face": face, "reason": reason} for face, reason in sorted(skipped.items())],
            "mask_share": round(float(written.mean()), 6),
            "redrawn": redrawn,
            "computed_on": self.network.device.type,
        }
        return {"image": images.png(picture.with_pixels(result))}, facts

    def _aligned(
        self, pixels: images.Pixels, faces: list[Face], skipped: dict[int, str]
    ) -> Iterator[list[tuple[int, Aligned]]]:
        """The faces that can be restored, in batches; `skipped` is told of the others, and why."""
        height, width = pixels.shape[:2]
        some: list[tuple[int, Aligned]] = []
        for index, face in enumerate(faces):
            around = face.around(width, height, FACE_PIXELS_MIN)
            aligned = around if isinstance(around, str) else alignment.align(pixels, around, self._mesh)
            if isinstance(aligned, str):
                skipped[index] = aligned
                continue
            some.append((index, aligned))
            if len(some) == BATCH:
                yield some
                some = []
        if some:
            yield some

    def _redrawn(self, squares: list[Floats], fidelity: float) -> list[Floats]:
        """Squares of SIDE×SIDE×3 in 0..1, redrawn."""
        faces = torch.from_numpy(np.stack(squares)).to(self.network.device).permute(0, 3, 1, 2).contiguous() * 2 - 1
        with torch.inference_mode():
            answer = self.redraw(faces, fidelity).float().clamp(-1, 1).add(1).div(2)
        if not bool(torch.isfinite(answer).all()):
            raise error("WEIGHTS_INVALID", "the network answers with numbers that are no picture")
        return list(answer.permute(0, 2, 3, 1).cpu().numpy())


class CodeFormer(Restorer):
    """Zhou et al., "Towards Robust Blind Face Restoration with Codebook Lookup Transformer", NeurIPS 2022.

    `fidelity` is the paper's w: how much of the input's own features is mixed into those of the codebook.
    """

    architecture = "CodeFormer"

    def redraw(self, faces: torch.Tensor, fidelity: float) -> torch.Tensor:
        """See Restorer."""
        answer: torch.Tensor = self.network.module(faces, weight=fidelity)[0]
        return answer


class Gfpgan(Restorer):
    """Wang et al., "Towards Real-World Blind Face Restoration with Generative Facial Prior", CVPR 2021.

    The network has no dial: `fidelity` is the share of the input in the result. The noise that its decoder
    adds is the noise that is stored in the weights, so that the same face is redrawn in the same way.
    """

    architecture = "GFPGAN"

    def redraw(self, faces: torch.Tensor, fidelity: float) -> torch.Tensor:
        """See Restorer."""
        return torch.lerp(self.network.module(faces, randomize_noise=False)[0].clamp(-1, 1), faces, fidelity)


class RestoreFormer(Restorer):
    """Wang et al., "RestoreFormer: High-Quality Blind Face Restoration from Undegraded Key-Value Pairs", CVPR 2022.

    The network has no dial: `fidelity` is the share of the input in the result.
    """

    architecture = "RestoreFormer"

    def redraw(self, faces: torch.Tensor, fidelity: float) -> torch.Tensor:
        """See Restorer."""
        return torch.lerp(self.network.module(faces)[0].clamp(-1, 1), faces, fidelity)
