"""Photos to try Safelight with, made from what installed packages ship: no network, no committed image."""

from __future__ import annotations

from stack.samples.photos import SAMPLES, Recipe, Sample, shipped, write_samples

__all__ = ["SAMPLES", "Recipe", "Sample", "shipped", "write_samples"]
