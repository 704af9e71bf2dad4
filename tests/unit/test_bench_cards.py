"""A card is measured against its own peaks, or against none."""

from __future__ import annotations

import pytest

from tests.bench.cards import CARDS, card_of


@pytest.mark.parametrize(
    ("device", "gb_per_s"),
    [
        pytest.param("NVIDIA H200", 4800, id="H200"),
        pytest.param("NVIDIA H100 80GB HBM3", 3350, id="H100 of a server"),
        pytest.param("NVIDIA H100 PCIe", 2000, id="H100 of a slot"),
        pytest.param("NVIDIA A100-SXM4-40GB", 1555, id="A100 with the smaller memory"),
        pytest.param("NVIDIA A100 80GB PCIe", 1935, id="A100 of a slot"),
        pytest.param("NVIDIA L4", 300, id="L4"),
        pytest.param("NVIDIA L40S", 864, id="L40S, which is no L4"),
        pytest.param("Tesla T4", 320, id="T4 by its old name"),
    ],
)
def test_a_card_is_known_by_the_name_that_torch_gives_it(device: str, gb_per_s: float) -> None:
    card = card_of(device)
    assert card is not None
    assert card.gb_per_s == gb_per_s


@pytest.mark.parametrize("device", ["NVIDIA H200 MIG 1g.18gb", "NVIDIA GeForce RTX 4090"])
def test_a_slice_or_an_unknown_card_has_no_peaks(device: str) -> None:
    assert card_of(device) is None


def test_an_a10g_is_not_taken_for_an_a10() -> None:
    one, other = card_of("NVIDIA A10G"), card_of("NVIDIA A10")
    assert one is not None
    assert other is not None
    assert one.half < other.half


def test_no_row_hides_behind_one_above_it() -> None:
    assert [card_of(f"NVIDIA {card.name}") for card in CARDS] == list(CARDS)
