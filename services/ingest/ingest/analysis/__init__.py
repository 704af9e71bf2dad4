"""What a photo shows: imported only in the child process that decodes it."""

from __future__ import annotations

from ingest.analysis.photo import analyze, analyzed, taken_at

__all__ = ["analyze", "analyzed", "taken_at"]
