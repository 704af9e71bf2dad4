"""The three small objects of an item: who works on it, how far that is, how it ended.

The law: the claim comes before anything else and the result after everything else, and both are
written only where nothing lies yet (`If-None-Match: *`). So of any number of calls for one item one
does the work, and what it wrote last is the truth whatever becomes of its answer. A write whose
answer was lost is written again: finding one's own claim or result there is no error.

    object    written   when storage does not take it
    claim     first     STORAGE_UNAVAILABLE, and nothing is done
    progress  between   nothing: the next one may get through
    result    last      the answer is the only one to tell

Nothing of a URL or of an exception goes into an error: a presigned URL is a credential.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import httpx
from pydantic import BaseModel, ValidationError

from contracts.envelope import Claim, Marks, Progress, Result, StoredOutput
from contracts.errors import error
from gpu_functions.engine import Facts

TIMEOUT: Final = httpx.Timeout(3.0)  # seconds of silence: a mark is small, and a GPU waits for it
PROGRESS_TIMEOUT: Final = httpx.Timeout(1.0)
CLAIM_TRIES: Final = 3  # against storage that is silent: 3 · 3 s + 0.6 s of pauses, then nothing is done
RESULT_TRIES: Final = 5  # after paid work: 5 · 3 s + 3 s of pauses
PAUSE_S: Final = 0.2  # before the second try; twice as long before each further one
CLAIM_BYTES_MAX: Final = 4096

_HERE: Final = 412  # Precondition Failed: something lies there already
_AGAIN: Final = frozenset({408, 409, 425, 429})  # and 5xx; 409 is S3's answer to conditional writes that cross


def claim(http: httpx.Client, marks: Marks, owner: str) -> str | None:
    """Take an item for `owner`. None: it is ours, now or since before a restart; else whose it is instead, or VOID.

    Raises STORAGE_UNAVAILABLE when that cannot be told: then nothing may be done.
    """
    if _write_new(http, marks.claim, Claim(owner=owner, at=datetime.now(UTC)), CLAIM_TRIES):
        return None
    response = _asked(http, "GET", marks.claimed, CLAIM_TRIES)
    if response.status_code != 200 or len(response.content) > CLAIM_BYTES_MAX:
        raise error("STORAGE_UNAVAILABLE", f"storage answered {response.status_code} when asked whose the claim is")
    try:
        found = Claim.model_validate_json(response.content)
    except ValidationError:
        raise error("STORAGE_UNAVAILABLE", "the claim that is there cannot be read") from None
    return None if found.owner == owner else found.owner


def conclude(http: httpx.Client, marks: Marks, result: Result) -> None:
    """Write how an item ended; one that is there is our own, from before a restart. Raises STORAGE_UNAVAILABLE."""
    _write_new(http, marks.result, result, RESULT_TRIES)


class Teller:
    """Writes how far one item is, from the loop that works on it: at most once in `every_s`, and best effort.

    Its clock starts at the claim: what happens sooner than `every_s` after it, the claim has told.
    """

    def __init__(self, http: httpx.Client, marks: Marks, every_s: float) -> None:
        self._http, self._marks, self._every_s = http, marks, every_s
        self._told_s = time.monotonic()

    def tell(
        self, fraction: float, facts: Facts | None = None, shown: Mapping[str, StoredOutput] | None = None
    ) -> None:
        """The item is so far (0..1). Raises nothing."""
        if time.monotonic() - self._told_s < self._every_s:
            return
        told = Progress(fraction=fraction, at=datetime.now(UTC), facts=facts or {}, outputs=dict(shown or {}))
        body = _json(told)
        with contextlib.suppress(Exception):  # whatever it is, the work is worth more
            self._http.put(self._marks.progress, content=body, headers=_JSON, timeout=PROGRESS_TIMEOUT)
        self._told_s = time.monotonic()


_JSON: Final = {"Content-Type": "application/json"}
_NEW: Final = _JSON | {"If-None-Match": "*"}


def _json(part: BaseModel) -> bytes:
    return part.model_dump_json().encode()


def _write_new(http: httpx.Client, url: str, part: BaseModel, tries: int) -> bool:
    """Write an object where none lies; False when one does. Raises STORAGE_UNAVAILABLE."""
    status = _asked(http, "PUT", url, tries, _json(part), _NEW).status_code
    if status == _HERE:
        return False
    if not 200 <= status < 300:
        raise error("STORAGE_UNAVAILABLE", f"storage answered {status}")
    return True


def _asked(
    http: httpx.Client,
    method: str,
    url: str,
    tries: int,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """What storage answers, asked again while it is silent or busy. Raises STORAGE_UNAVAILABLE when it stays silent."""
    for number in range(1, tries + 1):
        try:
            response = http.request(method, url, content=body, headers=headers, timeout=TIMEOUT)
            if number == tries or not (response.status_code in _AGAIN or response.status_code >= 500):
                return response
        except httpx.InvalidURL as problem:
            raise error("STORAGE_UNAVAILABLE", type(problem).__name__) from None
        except httpx.HTTPError as problem:
            if number == tries:
                raise error("STORAGE_UNAVAILABLE", type(problem).__name__) from None
        time.sleep(PAUSE_S * 2 ** (number - 1))
    raise AssertionError("the last try returns or raises")
