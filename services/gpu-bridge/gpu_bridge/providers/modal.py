"""Modal as a provider, through its SDK. The only module that imports `modal`.

The laws: a call is spawned, never awaited there (`.remote` loses the id of a paid run); the SDK
repeats no spawn by itself; whatever it is asked is bounded in time and abandoned when the time is
up; and its exceptions end here, as codes. Source: the design notes on providers, "Modal".

    asked   Modal says                                      here
    submit  AuthError, PermissionDeniedError                PROVIDER_UNAUTHORIZED    nothing was started
            NotFoundError, InvalidError, too large          PROVIDER_REJECTED        nothing was started
            ResourceExhaustedError                          PROVIDER_RATE_LIMITED    nothing was started
            silence, for longer than the bound              PROVIDER_TIMEOUT         it may have been started
            anything else                                   PROVIDER_UNAVAILABLE     it may have been started
    poll    builtin TimeoutError: no answer yet             Pending
            a dict                                          Ended, or raises ANSWER_INVALID
            FunctionTimeoutError                            Broken CALL_RUN_DEADLINE
            InternalFailure                                 Broken CALL_LOST
            RemoteError: stopped, out of memory             Broken CALL_KILLED
            OutputExpiredError, NotFoundError               Broken CALL_EXPIRED

Credentials and address are the SDK's own: MODAL_TOKEN_ID, MODAL_TOKEN_SECRET, MODAL_SERVER_URL. Two more of its
variables are set here for the whole process, see SETTINGS.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar

import modal
from grpclib.exceptions import StreamTerminatedError
from modal import exception as told
from modal._grpc_client import UnaryUnaryWrapper
from modal._utils.async_utils import synchronizer
from modal.config import config
from pydantic import ValidationError

from contracts.envelope import CallRequest, CallResponse
from contracts.errors import SafelightError, error
from gpu_bridge.providers.port import Available, Broken, Capabilities, Ended, News, Pending, Unavailable
from runtime import clock, logs

T = TypeVar("T")

# Seconds that one question may take before it is abandoned. A spawn takes 0.1 to 0.5 of them on a good day; one
# that is abandoned too soon costs a look for its claim, one that is waited for holds up its slot.
SUBMIT_S: Final = 10.0
POLL_S: Final = 4.0  # not 5: there the SDK's own attempt ends, swallows our cancellation and lives on for 16 s
CANCEL_S: Final = 5.0
HEALTH_S: Final = 3.0
CLOSE_S: Final = 2.0

HEALTH_KEPT_S: Final = 5.0  # how long an answer about health is good for
AGAIN_S: Final = {  # when to ask again, by why it takes no work
    "PROVIDER_UNAVAILABLE": 15.0,
    "PROVIDER_TIMEOUT": 15.0,
    "PROVIDER_RATE_LIMITED": 5.0,
    "PROVIDER_REJECTED": 60.0,  # the app is not there: somebody has to deploy it
    "PROVIDER_UNAUTHORIZED": 60.0,
}
POLL_EVERY_S: Final = (0.1, 2.0)  # between two polls of one call: at first, and at most
RETENTION_S: Final = 7 * 24 * 3600.0  # Modal keeps arguments and answers up to 7 days

WORKER: Final = "Worker"
CLASSES: Final = {"ocr.read": "Reader"}  # it needs an image of its own

SETTINGS: Final = {
    "payload_format": "cbor",  # pickle would run what it finds in an answer, and hide a TimeoutError of the function
    "max_throttle_wait": "2",  # seconds; unset, the SDK waits for ever when it is throttled
}
log = logs.get()


class ModalProvider:
    """Calls go to a class of the app `app`, deployed from deploy/modal: that of their function in `CLASSES`, or WORKER.

    Two connections, for many polls in flight on one delay a spawn by seconds: one asks about calls,
    the other starts and stops them.
    """

    name: Final = "modal"

    def __init__(
        self,
        *,
        app: str = "safelight-gpu",
        environment: str | None = None,
        device: Literal["cpu", "gpu"] = "gpu",
        gpus: tuple[str, ...] = ("L4", "A10"),
        regions: tuple[str, ...] = (),
        retention_s: float = RETENTION_S,
    ) -> None:
        self._app, self._environment = app, environment
        self._capabilities = Capabilities(
            device=device,
            cancels=True,
            webhooks=False,
            prewarms=True,
            shared=True,
            retention_s=retention_s,
            regions=regions,
            gpus=gpus,
        )
        self._commands, self._questions = _Line(), _Line()
        self._workers: dict[str, Any] = {}  # the deployed classes; looked up once, and again when they are gone
        self._looking_up = asyncio.Lock()
        self._health: tuple[float, Available | Unavailable] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def health(self) -> Available | Unavailable:
        """Asks for the deployed app, which needs the network, the credentials and the app. Costs no container."""
        loop = asyncio.get_running_loop()
        if self._health and loop.time() - self._health[0] < HEALTH_KEPT_S:
            return self._health[1]
        found: Available | Unavailable = Available()
        try:
            await self._questions.ask(lambda client: self._look_up(client, WORKER), HEALTH_S)
        except SafelightError as problem:
            log.warning("modal.unhealthy", code=problem.code, app=self._app)
            known = problem.code in ("PROVIDER_UNAUTHORIZED", "PROVIDER_RATE_LIMITED")
            until = clock.now() + timedelta(seconds=AGAIN_S.get(problem.code, AGAIN_S["PROVIDER_UNAVAILABLE"]))
            found = Unavailable(problem.code if known else "PROVIDER_UNAVAILABLE", until)
        self._health = (loop.time(), found)
        return found

    async def submit(self, request: CallRequest) -> str:
        return await self._spawned(request.function, "run", request.model_dump(mode="json"))

    async def poll(self, handle: str, wait_s: float) -> News:
        loop = asyncio.get_running_loop()
        over = loop.time() + wait_s
        pause, slowest = POLL_EVERY_S
        while isinstance(news := await self._asked(handle), Pending):
            left = over - loop.time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311  # jitter, no secret
            pause = min(pause * 1.5, slowest)
        return news

    async def cancel(self, handle: str) -> None:
        try:
            await self._commands.ask(
                lambda client: _call(handle, client).cancel.aio(terminate_containers=True), CANCEL_S
            )
        except SafelightError as problem:
            if problem.code != "PROVIDER_REJECTED":  # it knows no such call: there is nothing to stop
                raise

    async def prewarm(self, function: str) -> None:
        """Functions of a class run in the same containers, so one call that does nothing boots one for any of them."""
        try:
            await self._spawned(function, "warm")
        except SafelightError as problem:  # no capacity asked for beforehand costs time, and no call
            log.warning("modal.prewarm_failed", function=function, code=problem.code)

    async def close(self) -> None:
        await asyncio.gather(self._commands.close(), self._questions.close())

    async def _asked(self, handle: str) -> News:
        try:
            answer = await self._questions.ask(lambda client: _polled(handle, client), POLL_S)
        except SafelightError as problem:
            if problem.code == "PROVIDER_REJECTED":
                return Broken("CALL_EXPIRED")
            raise
        if isinstance(answer, Pending | Broken):
            return answer
        try:
            return Ended(CallResponse.model_validate(answer))
        except ValidationError:
            raise error("ANSWER_INVALID") from None

    async def _spawned(self, function: str, method: str, *arguments: Any) -> str:
        """The id of the call. An app that was deployed anew is looked up again: a call that was refused is no call."""
        name = CLASSES.get(function, WORKER)
        known = name in self._workers
        try:
            return await self._commands.ask(lambda client: self._spawn(client, name, method, arguments), SUBMIT_S)
        except SafelightError as problem:
            if problem.code != "PROVIDER_REJECTED" or not known:
                raise
        self._workers.pop(name, None)
        return await self._commands.ask(lambda client: self._spawn(client, name, method, arguments), SUBMIT_S)

    async def _spawn(self, client: modal.Client, name: str, method: str, arguments: tuple[Any, ...]) -> str:
        async with self._looking_up:
            if name not in self._workers:
                self._workers[name] = await self._look_up(client, name)
        call = await getattr(self._workers[name], method).spawn.aio(*arguments)
        handle: str = call.object_id
        return handle

    async def _look_up(self, client: modal.Client, name: str) -> Any:
        found = modal.Cls.from_name(self._app, name, environment_name=self._environment, client=client)
        await found.hydrate.aio()
        return found()


def _call(handle: str, client: modal.Client) -> modal.FunctionCall[Any]:
    if not handle.startswith("fc-"):
        raise told.NotFoundError("not an id of Modal's")
    return modal.FunctionCall.from_id(handle, client=client)


async def _polled(handle: str, client: modal.Client) -> Any:
    """The answer as it came, Pending, or Broken. Raises what says nothing about the call."""
    try:
        return await _call(handle, client).get.aio(timeout=0)
    except told.FunctionTimeoutError:
        return Broken("CALL_RUN_DEADLINE")
    except told.InternalFailure:
        return Broken("CALL_LOST")
    except told.OutputExpiredError:
        return Broken("CALL_EXPIRED")
    except (told.RemoteError, told.ExecutionError, told.DeserializationError):
        return Broken("CALL_KILLED")
    except TimeoutError:
        return Pending()


class _Line:
    """One connection to Modal, opened when it is first needed; every question on it is bounded."""

    def __init__(self) -> None:
        self._client: modal.Client | None = None
        self._opening = asyncio.Lock()
        self._asked: set[asyncio.Future[Any]] = set()

    async def ask(self, question: Callable[[modal.Client], Awaitable[T]], within_s: float) -> T:
        """The answer, within `within_s` seconds whatever the SDK does.

        Raises:
            SafelightError: PROVIDER_*, as the table atop says.
        """
        asked = asyncio.ensure_future(self._put(question))
        self._asked.add(asked)
        asked.add_done_callback(self._over)
        try:
            await asyncio.wait({asked}, timeout=within_s)
        finally:
            abandoned = not asked.done()
            if abandoned:  # cancelled and not waited for: the SDK's own end of it may take its time
                asked.cancel()
        if abandoned:
            raise error("PROVIDER_TIMEOUT", f"Modal did not answer within {within_s:g} s")
        try:
            return asked.result()
        except SafelightError:
            raise
        except asyncio.CancelledError:  # the question's own: this connection was closed meanwhile
            raise error("PROVIDER_UNAVAILABLE", "closed") from None
        except Exception as problem:
            raise _as_ours(problem) from None

    async def close(self) -> None:
        """Within CLOSE_S, whatever the SDK does."""
        for one in list(self._asked):
            one.cancel()
        client, self._client = self._client, None
        if client is not None:
            closing = asyncio.ensure_future(client.close.aio())
            await asyncio.wait({closing}, timeout=CLOSE_S)
            if not closing.done():
                closing.cancel()
                log.warning("modal.close_abandoned")

    async def _put(self, question: Callable[[modal.Client], Awaitable[T]]) -> T:
        async with self._opening:
            if self._client is None:
                self._client = await _opened()
        return await question(self._client)

    def _over(self, asked: asyncio.Future[Any]) -> None:
        self._asked.discard(asked)
        if not asked.cancelled():
            asked.exception()  # of one that was abandoned: nobody else looks at it


async def _opened() -> modal.Client:
    """A client of its own: `Client.from_env` would share one. Raises AuthError without credentials."""
    for name, value in SETTINGS.items():
        config.override_locally(name, value)
    token_id, token_secret = config.get("token_id"), config.get("token_secret")
    if not (token_id and token_secret):
        raise told.AuthError("no token")
    client = await modal.Client.from_credentials.aio(token_id, token_secret)
    inside: Any = synchronizer._translate_in(client)  # type: ignore[no-untyped-call]
    inside._stub.FunctionMap = _Once(inside._stub.FunctionMap)
    return client


class _Once(UnaryUnaryWrapper[Any, Any]):
    """The RPC behind `spawn`, sent once. The SDK would repeat it up to three times when the answer is lost, and each
    may be a paid run; nothing says that Modal knows a repetition by its idempotency key."""

    def __init__(self, usual: UnaryUnaryWrapper[Any, Any]) -> None:
        super().__init__(usual.wrapped_method, usual.client, usual.server_url)

    async def __call__(self, req: Any, **_: Any) -> Any:
        key = [("x-idempotency-key", str(uuid.uuid4())), ("x-retry-attempt", "0"), ("x-throttle-retry-attempt", "0")]
        return await super().__call__(req, retry=None, metadata=key)


def _as_ours(problem: Exception) -> SafelightError:
    """What went wrong, by its class alone: the text of a foreign exception may quote a link."""
    kind = type(problem).__name__
    match problem:
        case told.AuthError() | told.PermissionDeniedError():
            return error("PROVIDER_UNAUTHORIZED", kind)
        case told.ResourceExhaustedError():
            return error("PROVIDER_RATE_LIMITED", kind)
        case told.NotFoundError() | told.InvalidError() | told.RequestSizeError() | told.SerializationError():
            return error("PROVIDER_REJECTED", kind)
        case told.Error() | OSError() | StreamTerminatedError():
            return error("PROVIDER_UNAVAILABLE", kind)
    log.warning("modal.unforeseen", error=kind)
    return error("PROVIDER_UNAVAILABLE", kind)
