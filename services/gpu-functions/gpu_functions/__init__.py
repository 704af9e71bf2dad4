"""What runs on a GPU, or on the CPU in its stead: bytes and parameters in, bytes and facts out.

The law of this room: user bytes live in memory only. No module here writes a file, logs, or
puts content into an error; nothing here knows a broker, a database or a storage credential.
"""

from __future__ import annotations

import time
from typing import Final

BORN_S: Final = time.monotonic()  # this module is a process's first of ours: how its boot is measured
