"""What operators and the bridge itself do here, and what a provider was given, as lines of the audit."""

from __future__ import annotations

from functools import partial
from typing import Final

from runtime import audit

SOURCE: Final = "gpu-bridge"

noted: Final = partial(audit.noted, SOURCE)
