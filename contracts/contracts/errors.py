"""Every error code that leaves a room: stable name, transient or permanent, who can fix it.

The code is the contract: clients, dashboards and retry policy switch on it, so a code is
never renamed or reused. The sentence is what a person reads; it never contains user data.

                 SafelightError
                /              \\
        Transient               Permanent
   (same work may succeed    (same work fails again:
     later: retried)           dead letter or refusal)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Fixer(StrEnum):
    """Who can do something about an error."""

    CALLER = "caller"  # the web product or its user: send something else
    OPERATOR = "operator"  # whoever runs Safelight: configure, restore, replay
    NOBODY = "nobody"  # the machine retries by itself


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the taxonomy. `status` is the HTTP status when the code answers a request."""

    code: str
    transient: bool
    fixer: Fixer
    status: int
    title: str


def _table(*rows: ErrorCode) -> dict[str, ErrorCode]:
    table = {row.code: row for row in rows}
    assert len(table) == len(rows), "an error code is listed twice"
    return table


_C, _O, _N = Fixer.CALLER, Fixer.OPERATOR, Fixer.NOBODY

ERRORS: Final[dict[str, ErrorCode]] = _table(
    #         code                       transient  who  HTTP  what a person reads
    # -- asking -------------------------------------------------------------------------------
    ErrorCode("UNAUTHENTICATED",          False, _C, 401, "The API key is missing or unknown."),
    ErrorCode("FORBIDDEN",                False, _C, 403, "This API key may not do that."),
    ErrorCode("NOT_FOUND",                False, _C, 404, "There is no such thing, or it is not yours."),
    ErrorCode("REQUEST_INVALID",          False, _C, 422, "The request does not have the declared shape."),
    ErrorCode("IDEMPOTENCY_KEY_REUSED",   False, _C, 422, "This Idempotency-Key was used for a different request."),
    ErrorCode("IDEMPOTENCY_KEY_IN_USE",   True,  _N, 409, "A request with this Idempotency-Key is being worked on."),
    ErrorCode("PIPELINE_UNKNOWN",         False, _C, 422, "No pipeline has this name."),
    ErrorCode("STATE_CONFLICT",           False, _C, 409, "The state that it is in does not allow this."),
    ErrorCode("LEGAL_HOLD",               False, _O, 409, "It is under a legal hold: nothing of it is erased."),
    ErrorCode("STYLE_UNKNOWN",            False, _C, 422, "No style has this name."),
    ErrorCode("BATCH_UNKNOWN",            False, _C, 422, "No batch of yours has this id."),
    ErrorCode("DRAFT_UNKNOWN",            False, _C, 422, "No draft of yours has this id."),
    ErrorCode("BATCH_CLOSED",             False, _C, 409, "The batch is closed: it takes no more uploads."),
    ErrorCode("DUPLICATE_UPLOAD",         False, _C, 409, "The batch has this content, and takes it once."),
    # -- uploading ----------------------------------------------------------------------------
    ErrorCode("UPLOAD_EMPTY",             False, _C, 422, "The file has no bytes."),
    ErrorCode("UPLOAD_TOO_LARGE",         False, _C, 413, "The file is larger than this service accepts."),
    ErrorCode("GRANT_SPENT",              False, _C, 403, "This upload grant has no uploads left."),
    ErrorCode("RATE_LIMITED",             True,  _C, 429, "Uploads come faster than the tenant or key may bring them."),
    ErrorCode("QUOTA_EXCEEDED",           True,  _C, 429, "The tenant has used up what it may bring."),
    ErrorCode("PIPELINE_FULL",            True,  _N, 503, "More is at work than is taken in at once."),
    ErrorCode("UPLOAD_INCOMPLETE",        False, _C, 400, "The body ended before the file was complete."),
    ErrorCode("MEDIA_TYPE_UNSUPPORTED",   False, _C, 415, "The content is of no type that this pipeline accepts."),
    ErrorCode("UPLOAD_EXPIRED",           False, _C, 410, "The upload rested for too long, and its bytes are gone."),
    ErrorCode("UPLOAD_LOCKED",            True,  _N, 423, "Another request is working on this upload."),
    ErrorCode("OFFSET_CONFLICT",          False, _C, 409, "The upload is at another offset."),
    ErrorCode("CHECKSUM_MISMATCH",        False, _C, 460, "The bytes that came have another checksum."),
    ErrorCode("TUS_VERSION_UNSUPPORTED",  False, _C, 412, "Tus-Resumable must be 1.0.0."),
    ErrorCode("SOURCE_UNAVAILABLE",       True,  _C, 502, "What the address leads to did not give the file."),
    ErrorCode("UPLOAD_INFECTED",          False, _C, 422, "The virus scanner finds something in the file."),
    ErrorCode("SCANNER_UNAVAILABLE",      True,  _O, 503, "The virus scanner does not answer, or takes no such file."),
    # -- reading images -----------------------------------------------------------------------
    ErrorCode("IMAGE_CORRUPT",            False, _C, 422, "The image cannot be decoded."),
    ErrorCode("IMAGE_TOO_LARGE",          False, _C, 422, "The image has more pixels than this service accepts."),
    ErrorCode("STYLE_INVALID",            False, _C, 422, "The style's LUT cannot be read."),
    ErrorCode("TOO_FEW_PAIRS",            False, _C, 422, "Fewer than five before/after pairs can be learnt from."),
    ErrorCode("PAIRS_INVALID",            False, _C, 422, "The archive of pairs cannot be read."),
    ErrorCode("STYLE_NOT_LEARNT",         False, _C, 422, "The style that was learnt is no better than histograms."),
    ErrorCode("SPLAT_IMPOSSIBLE",         False, _C, 422, "No scene can be made of this picture."),
    ErrorCode("DECODE_LIMIT",             False, _O, 422, "Decoding took more time or memory than one file may take."),
    # -- reading documents --------------------------------------------------------------------
    ErrorCode("DOCUMENT_ENCRYPTED",       False, _C, 422, "The document is locked with a password."),
    ErrorCode("DOCUMENT_CORRUPT",         False, _C, 422, "The document cannot be opened."),
    ErrorCode("DOCUMENT_TOO_LONG",        False, _C, 422, "The document has more pages than this service accepts."),
    ErrorCode("DOCUMENT_TOO_LARGE",       False, _C, 422, "What the document holds is more than one result may."),
    ErrorCode("PAGE_UNREADABLE",          False, _C, 422, "The page cannot be drawn."),
    ErrorCode("NO_PAGE_READ",             False, _C, 422, "No page of the document could be read."),
    ErrorCode("TEMPLATE_UNKNOWN",         False, _C, 422, "No template of fields has this name."),
    # -- working ------------------------------------------------------------------------------
    ErrorCode("MESSAGE_INVALID",          False, _O, 500, "A message has no valid body."),
    ErrorCode("INTERNAL",                 True,  _O, 500, "Something unforeseen went wrong."),
    ErrorCode("STORAGE_UNAVAILABLE",      True,  _O, 503, "Object storage does not answer."),
    ErrorCode("BROKER_UNAVAILABLE",       True,  _O, 503, "The message broker does not answer."),
    ErrorCode("DATABASE_UNAVAILABLE",     True,  _O, 503, "The database does not answer."),
    ErrorCode("SERVICE_UNAVAILABLE",      True,  _O, 503, "A service behind this address does not answer."),
    ErrorCode("OBJECT_MISSING",           False, _O, 500, "A stored object that this work needs is gone."),
    ErrorCode("KEY_DESTROYED",            False, _C, 410, "The key was destroyed: nobody can read this any more."),
    ErrorCode("KEY_UNAVAILABLE",          True,  _O, 503, "No master key that is set up here opens this key."),
    ErrorCode("SEAL_BROKEN",              False, _O, 500, "A sealed object is not what was sealed."),
    ErrorCode("PHASE_DEADLINE",           True,  _N, 504, "The phase did not end before its deadline."),
    ErrorCode("PHASE_STALLED",            True,  _N, 504, "The phase made no progress for longer than its lease."),
    ErrorCode("JOB_DEADLINE",             False, _O, 504, "The job did not end before its deadline."),
    ErrorCode("TOO_MANY_ITEMS",           False, _C, 422, "The file has more parts than one job may have."),
    ErrorCode("FACT_INVALID",             False, _O, 500, "A phase's facts do not have the shape that another needs."),
    ErrorCode("PIPELINE_CHANGED",         False, _O, 500, "Nobody knows the definition of the pipeline of this job."),
    ErrorCode("WORKER_LOST",              True,  _O, 500, "Each process that took the message died with it."),
    # -- telling and handing out --------------------------------------------------------------
    ErrorCode("ADDRESS_REFUSED",          False, _C, 422, "This address is not one that may be reached from here."),
    ErrorCode("WEBHOOK_ANSWER",           True,  _C, 502, "The endpoint's answer was no success."),
    ErrorCode("WEBHOOK_TIMEOUT",          True,  _C, 504, "The endpoint did not answer in time."),
    ErrorCode("WEBHOOK_UNREACHABLE",      True,  _C, 502, "No connection to the endpoint could be made, or it broke."),
    ErrorCode("WEBHOOK_TLS",              True,  _C, 502, "The endpoint's certificate is not valid."),
    ErrorCode("WEBHOOK_GONE",             False, _C, 410, "The endpoint answered that it is gone, and was disabled."),
    ErrorCode("WEBHOOK_FAILING",          False, _C, 409, "The endpoint failed for days and was disabled."),
    ErrorCode("LINK_EXPIRED",             False, _C, 410, "This link has expired."),
    ErrorCode("LINK_USED",                False, _C, 410, "This link worked once, and has been used."),
    ErrorCode("LINK_REVOKED",             False, _C, 410, "This link has been revoked."),
    ErrorCode("WEBHOOK_DISABLED",         False, _C, 409, "The endpoint is disabled."),
    # -- GPU calls ----------------------------------------------------------------------------
    ErrorCode("CALL_QUEUE_DEADLINE",      True,  _N, 504, "No provider had room for the call in time."),
    ErrorCode("CALL_START_DEADLINE",      True,  _N, 504, "The provider took the call and did not start it in time."),
    ErrorCode("CALL_STALLED",             True,  _N, 504, "The call started and then told of no progress."),
    ErrorCode("CALL_RUN_DEADLINE",        True,  _N, 504, "The call ran longer than its function may."),
    ErrorCode("CALL_DEADLINE",            True,  _N, 504, "The call did not end before its deadline and was stopped."),
    ErrorCode("CALL_LOST",                True,  _N, 502, "The worker died while it ran the call."),
    ErrorCode("CALL_KILLED",              True,  _N, 502, "The provider ended the call: out of memory, or stopped."),
    ErrorCode("CALL_EXPIRED",             True,  _N, 502, "The provider has forgotten the call; no result is there."),
    ErrorCode("ANSWER_INVALID",           False, _O, 502, "The provider's answer is not what it was asked for."),
    ErrorCode("FUNCTION_UNKNOWN",         False, _O, 500, "No GPU function has this name and version."),
    ErrorCode("ENGINE_UNAVAILABLE",       False, _O, 500, "No engine of this function can run here."),
    ErrorCode("WEIGHTS_INVALID",          False, _O, 500, "A file of weights is not the one that was pinned."),
    ErrorCode("WEIGHTS_UNAVAILABLE",      True,  _O, 503, "A file of weights cannot be fetched."),
    ErrorCode("NO_PROVIDER",              True,  _O, 503, "No allowed provider is available for this function."),
    ErrorCode("POLICY_UNMET",             False, _O, 503, "Nobody who may do this work meets the tenant's policy."),
    ErrorCode("PROVIDER_UNKNOWN",         False, _C, 404, "No provider has this name here."),
    ErrorCode("PROVIDER_UNAVAILABLE",     True,  _N, 503, "The provider takes no work at the moment."),
    ErrorCode("PROVIDER_RATE_LIMITED",    True,  _N, 503, "The provider takes no more work before a certain time."),
    ErrorCode("PROVIDER_TIMEOUT",         True,  _N, 504, "The provider did not answer in time, but may have acted."),
    ErrorCode("PROVIDER_UNAUTHORIZED",    True,  _O, 503, "The provider does not accept our credentials."),
    ErrorCode("PROVIDER_REJECTED",        False, _O, 502, "The provider refuses this call as it is."),
)  # fmt: skip


class SafelightError(Exception):
    """An error with a code from ERRORS. `detail` adds what a person needs; it never holds user data.

    `retry_after_s`: when it is worth trying again, where that is known. `headers`: what an HTTP answer says besides.
    """

    retry_after_s: float | None = None
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, code: str, detail: str = "") -> None:
        self.row = ERRORS[code]
        self.code = code
        self.detail = detail or self.row.title
        super().__init__(f"{code}: {self.detail}")

    def __reduce__(self) -> tuple[type[SafelightError], tuple[str, str]]:
        return type(self), (self.code, self.detail)  # so that it crosses a process boundary whole


class Transient(SafelightError):
    """The same work may succeed later."""


class Permanent(SafelightError):
    """The same work would fail again."""


def error(code: str, detail: str = "", *, retry_after_s: float | None = None) -> SafelightError:
    """The exception of `code`, of the class that the table says. Raises KeyError for a code that is not listed."""
    made = (Transient if ERRORS[code].transient else Permanent)(code, detail)
    made.retry_after_s = retry_after_s
    return made
