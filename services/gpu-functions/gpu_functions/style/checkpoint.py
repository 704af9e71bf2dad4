"""What a training keeps so that a preempted one goes on: how pairs lie, scores, figures. Read as hostile bytes.

Nothing of a picture is in it. Numbers are written so that they come back as they were: as JSON; where networks are
being taught, as one file of that and of their numbers (`packed.py`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from gpu_functions.style import packed
from gpu_functions.style.align import Found, Geometry
from gpu_functions.style.grid import Floats

BYTES_MAX: Final = 4 << 20  # 200 pairs are 150 kB
NETWORKS_BYTES_MAX: Final = 32 << 20  # six of 1.2 MB
Number = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Index = Annotated[str, Field(pattern=r"^\d{1,3}$")]
Name = Annotated[str, Field(max_length=40)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Lying(_Part):
    """`align.Found` as numbers."""

    alike: Number
    matrix: list[Number] = Field(min_length=9, max_length=9)
    bend: list[Number] | None = Field(default=None, min_length=20, max_length=20)

    @classmethod
    def of(cls, found: Found) -> Lying:
        """A `Found` in numbers."""
        geometry = found.geometry
        bend = None if geometry.bend is None else geometry.bend.ravel().tolist()
        return cls(alike=found.alike, matrix=geometry.matrix.ravel().tolist(), bend=bend)

    def found(self) -> Found:
        """The `Found` again, the same to the bit."""
        bend = None if self.bend is None else np.array(self.bend).reshape(2, 10)
        return Found(Geometry(np.array(self.matrix).reshape(3, 3), bend), self.alike)


class Kept(_Part):
    """The state of one training: `of` names its input, seed and trainer; the rest is by the index of a pair or fold."""

    version: Literal[1] = 1
    of: Name
    lying: dict[Index, Lying | Name] = Field(default_factory=dict, max_length=200)
    scores: dict[Index, dict[Name, Number]] = Field(default_factory=dict, max_length=200)
    figures: dict[Index, dict[Name, Number]] = Field(default_factory=dict, max_length=200)
    _networks: dict[str, Floats] = PrivateAttr(default_factory=dict)

    @property
    def networks(self) -> dict[str, Floats]:
        """The state of each network that is being taught, by the fold that it is taught without (`network.py`)."""
        return self._networks

    @classmethod
    def read(cls, data: bytes | None, of: str) -> Kept:
        """What was kept of this very work; an empty state if that is something else, or nothing."""
        try:
            if data is None:
                return cls(of=of)
            states: packed.Tensors = {}
            if data[:1] != b"{":
                states, told = packed.unpack(data, NETWORKS_BYTES_MAX)
                data = str(told.get("kept")).encode()
            kept = cls.model_validate_json(data if len(data) <= BYTES_MAX else b"")
        except ValueError:  # pydantic's is one
            return cls(of=of)
        kept.networks.update(states)
        return kept if kept.of == of else cls(of=of)

    def write(self) -> bytes:
        """For `Work.save`."""
        if not self._networks:
            return self.model_dump_json().encode()
        return packed.pack(self._networks, {"kept": self.model_dump_json()})
