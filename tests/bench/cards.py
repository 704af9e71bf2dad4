"""What cards can do at most: the roofline that `just bench gpu` measures against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Card:
    """Peaks without sparsity: TFLOP/s by precision, and GB/s of its memory. None: it has no such arithmetic.

    `name` is how torch's name of a device begins, after NVIDIA; `half` is fp16, and bf16 where `bf16` says so.
    """

    name: str
    half: float
    tf32: float | None
    fp32: float
    gb_per_s: float
    bf16: bool
    source: str


# fmt: off
CARDS: Final = (
    #    name                half  tf32  fp32   GB/s  bf16   source: NVIDIA's data sheet of
    Card("H200",              989,  494, 67.0,  4800, True,  "H200 (SXM), halved where it counts sparsity"),
    Card("H100 PCIe",         756,  378, 51.0,  2000, True,  "H100 (PCIe), halved where it counts sparsity"),
    Card("H100",              989,  494, 67.0,  3350, True,  "H100 (SXM), halved where it counts sparsity"),
    Card("A100-SXM4-80GB",    312,  156, 19.5,  2039, True,  "A100 80GB (SXM)"),
    Card("A100-SXM4-40GB",    312,  156, 19.5,  1555, True,  "A100 40GB (SXM)"),
    Card("A100-PCIE-40GB",    312,  156, 19.5,  1555, True,  "A100 40GB (PCIe)"),
    Card("A100",              312,  156, 19.5,  1935, True,  "A100 80GB (PCIe)"),
    Card("L40S",              362,  183, 91.6,   864, True,  "L40S"),
    Card("L4",                121,   60, 30.3,   300, True,  "L4, halved where it counts sparsity"),
    Card("A10G",               70,   35, 35.0,   600, True,  "A10G"),
    Card("A10",               125, 62.5, 31.2,   600, True,  "A10"),
    Card("T4",                 65, None,  8.1,   320, False, "T4"),
)
# fmt: on


def card_of(device: str) -> Card | None:
    """The card that torch calls `device`; None when its peaks are not in the table, or when it is a slice of one."""
    if " MIG " in device:
        return None
    name = device.removeprefix("NVIDIA ").removeprefix("Tesla ")
    return next((card for card in CARDS if name.startswith(card.name)), None)
