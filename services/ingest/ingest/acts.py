"""What people and ingest itself do here, as lines of the audit, each in the transaction of its act."""

from __future__ import annotations

from functools import partial
from typing import Final

from runtime import audit

SOURCE: Final = "ingest"

noted: Final = partial(audit.noted, SOURCE)
