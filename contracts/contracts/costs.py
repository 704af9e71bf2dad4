"""What the gpu-bridge tells of its books: what each epoch of a call took and cost, and whose job it was bought for."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, ClassVar, Final
from uuid import UUID

from pydantic import Field

from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import EVENTS

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class CostNoted(Message):
    """An epoch that was billed is over, well or badly. One that took the own CPU alone costs nothing, and is not told.

    It is the cost of one job, that of the command which asked first: whoever followed the call got it for nothing.
    `billed_s` are seconds of `device`; `cost` is in `currency` by the price of `priced_on`, all three null where no
    price is known.
    """

    TYPE: ClassVar[str] = "cost.v1.noted"

    call: str = Field(max_length=200)
    epoch: int = Field(ge=1)
    tenant: str
    job_id: UUID
    phase: str
    provider: str
    device: str
    billed_s: float = Field(ge=0)
    cost: float | None = Field(default=None, ge=0)
    currency: Currency | None = None
    priced_on: date | None = None
    at: datetime

    @property
    def id(self) -> str:
        """An epoch is billed once: told again, it is the same message."""
        return f"{self.call}.{self.epoch}.cost"


COST_NOTED: Final = Channel("evt.cost.v1.noted", CostNoted, EVENTS.name)
