"""What the orchestrator hears: uploads, outcomes of phases, and commands that became dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from contracts.errors import ERRORS, error
from contracts.message import HEADER_ERROR_CODE, HEADER_ERROR_MESSAGE, HEADER_SUBJECT
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, PhaseFailed, PhaseSucceeded
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from orchestrator.machine.inputs import Begin, Failed, Input, Succeeded
from orchestrator.machine.pipeline import Pipeline
from orchestrator.shell import Arrived, Shell
from runtime import clock
from runtime.settle import Delivery


class Handlers:
    """Turns deliveries into inputs. `newest` is the version that new jobs of a pipeline pin."""

    def __init__(self, shell: Shell, newest: Mapping[str, Pipeline]) -> None:
        self._shell = shell
        self._newest = newest

    async def inputs(self, deliveries: Sequence[Delivery]) -> None:
        """Uploads and outcomes. Raises ValidationError for a body that is none."""
        await self._shell.take([self._arrived(delivery, self._input(delivery)) for delivery in deliveries])

    async def dead_commands(self, deliveries: Sequence[Delivery]) -> None:
        """A command that could not even be answered counts as a failed attempt, so that its job goes on."""
        await self._shell.take([self._arrived(delivery, _from_dead_letter(delivery)) for delivery in deliveries])

    def _input(self, delivery: Delivery) -> Input:
        now = clock.now()
        if delivery.subject == UPLOAD_RECEIVED.subject:
            upload = UploadReceived.model_validate_json(delivery.body)
            return Begin(upload, self._newest.get(upload.pipeline), now, delivery.traceparent)
        if delivery.subject == PHASE_SUCCEEDED.subject:
            return Succeeded(PhaseSucceeded.model_validate_json(delivery.body), now)
        if delivery.subject == PHASE_FAILED.subject:
            return Failed(PhaseFailed.model_validate_json(delivery.body), now)
        raise error("MESSAGE_INVALID", f"no input comes on {delivery.subject}")

    @staticmethod
    def _arrived(delivery: Delivery, given: Input) -> Arrived:
        match given:
            case Begin(upload=upload):
                job_id = upload.job_id
            case Succeeded(outcome=outcome) | Failed(outcome=outcome):
                job_id = outcome.job_id
            case _:
                raise TypeError(given)
        return Arrived(job_id, given, delivery.message_id, delivery.traceparent)


def _from_dead_letter(delivery: Delivery) -> Failed:
    try:
        job, phase, attempt = delivery.headers.get(HEADER_SUBJECT, "").split(".")
        job_id, number = UUID(job), int(attempt)
    except ValueError as problem:
        raise error("MESSAGE_INVALID", "a dead letter does not name job.phase.attempt") from problem
    code = delivery.headers.get(HEADER_ERROR_CODE, "INTERNAL")
    outcome = PhaseFailed(
        job_id=job_id,
        phase=phase,
        attempt=number,
        code=code if code in ERRORS else "INTERNAL",
        detail=delivery.headers.get(HEADER_ERROR_MESSAGE, ""),
        ended_at=clock.now(),
    )
    return Failed(outcome, clock.now())
