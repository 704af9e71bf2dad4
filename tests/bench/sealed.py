"""How fast content is sealed and opened, by the seconds of a core that it takes: `python -m tests.bench.sealed`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contracts import sealed

SIZE: Final = 32 * 1024 * 1024
ROUNDS: Final = 5


def best(work: Callable[[], object]) -> float:
    """Seconds of a core for the fastest of some rounds: what others do meanwhile does not count."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def main() -> None:
    key, id_, content = os.urandom(32), str(uuid4()), os.urandom(SIZE)
    stored = sealed.seal(AESGCM, key, id_, "bench", content)
    for word, work in (
        ("seal", lambda: sealed.seal(AESGCM, key, id_, "bench", content)),
        ("open", lambda: sealed.unseal(AESGCM, key, "bench", stored)),
    ):
        print(f"{word}: {SIZE / best(work) / 1e6:,.0f} MB/s; overhead {len(stored) - SIZE} bytes of {SIZE}")


if __name__ == "__main__":
    main()
