"""When a delivery is tried again, and what an endpoint's answer means. Pure.

answer                       the delivery                        the endpoint
2xx                          delivered                           is well
410                          failed                              is disabled: WEBHOOK_GONE
anything else, or none       tried again by the schedule, not    rests; disabled after days without one success:
                             before Retry-After says             WEBHOOK_FAILING
address refused              tried again as well: a name can     as above
                             be mended
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE

# Seconds from a failed try to the next: the specification's own schedule, over three days.
RETRIES_S: Final = (5.0, 5 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (2.0, 5.0, 10.0, 14.0, 20.0, 24.0)))
JITTER: Final = 0.2  # up to so much later, so that what failed together does not come back together
RETRY_AFTER_MOST_S: Final = 24 * HOUR
DISABLED_AFTER: Final = timedelta(days=5)

# An endpoint that fails is not asked for its other deliveries at once: it rests, longer each time.
RESTS_S: Final = (5.0, 15.0, MINUTE, 5 * MINUTE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try. `status` is None when no answer came; `code` is None when it was a success."""

    status: int | None
    code: str | None
    seconds: float
    retry_after_s: float | None = None


def code_of(status: int) -> str | None:
    """The error code of an endpoint's answer, None for a success."""
    if 200 <= status < 300:
        return None
    return "WEBHOOK_GONE" if status == 410 else "WEBHOOK_ANSWER"


def next_try_s(tries: int, answer: Answer, chance: float) -> float | None:
    """Seconds until the next try, after so many. None: there is none. `chance` is 0..1."""
    if tries > len(RETRIES_S) or answer.code == "WEBHOOK_GONE":
        return None
    planned = RETRIES_S[tries - 1] * (1 + JITTER * chance)
    return max(planned, min(answer.retry_after_s or 0.0, RETRY_AFTER_MOST_S))


def rest_s(failures: int, answers: Iterable[Answer]) -> float:
    """How long an endpoint rests after so many failures in a row, from 1, and after these answers."""
    asked_for = max((answer.retry_after_s or 0.0 for answer in answers), default=0.0)
    return max(RESTS_S[min(failures, len(RESTS_S)) - 1], min(asked_for, RETRY_AFTER_MOST_S))
