"""What jobs have cost: epochs of calls become rows, whatever the order in which they and their jobs' events come.

An epoch is one row, told once or twice. It says whose job it was bought for; of which batch that is, its job says. So
a cost may come before its job's first event and long after its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.costs import CostNoted
from output.tables import COSTS, ERASED, JOBS
from runtime import erased

CPU: Final = "cpu"  # of devices the one that is no GPU


class CostView(BaseModel):
    """What was bought of GPU providers. The own CPU costs nothing, so nothing bought is 0 in no currency.

    `amount` is in `currency`, and null where no price is known of anything; `unpriced` counts the paid tries that are
    not in it, for want of a price or because their currency is another. `gpu_seconds` are those that were billed.
    """

    amount: float | None = 0.0
    currency: str | None = None
    gpu_seconds: float = 0.0
    unpriced: int = 0


class BatchCostView(CostView):
    """What the jobs of a batch have cost so far, `jobs` of them."""

    batch_id: UUID
    jobs: int


@dataclass(frozen=True, slots=True)
class Line:
    """Epochs of one kind, added up: `epochs` of them, `unpriced` of which are not in `amount`."""

    currency: str | None
    amount: float
    gpu_seconds: float
    epochs: int
    unpriced: int
    newest: datetime


def total(lines: Sequence[Line]) -> CostView:
    """All of them together, in the currency of the newest: money of two currencies is not added up."""
    priced = [line for line in lines if line.epochs > line.unpriced]
    if not lines:
        return CostView()
    currency = max(priced, key=lambda line: line.newest).currency if priced else None
    counted = [line for line in priced if line.currency == currency]
    return CostView(
        amount=round(sum(line.amount for line in counted), 9) if counted else None,
        currency=currency,
        gpu_seconds=round(sum(line.gpu_seconds for line in lines), 3),
        unpriced=sum(line.epochs for line in lines) - sum(line.epochs - line.unpriced for line in counted),
    )


@dataclass(frozen=True, slots=True)
class Costs:
    """Answers `evt.cost.v1.noted`."""

    engine: AsyncEngine

    async def noted(self, cost: CostNoted) -> None:
        """Write an epoch down, once, unless its job was erased."""
        async with self.engine.begin() as conn:
            if await erased.among(conn, ERASED, [cost.job_id]):
                return
            await conn.execute(insert(COSTS).values(**cost.model_dump()).on_conflict_do_nothing())


async def of_jobs(conn: AsyncConnection, ids: Iterable[UUID]) -> dict[UUID, dict[str, list[Line]]]:
    """What each job has bought, by phase."""
    query = select(COSTS.c.job_id, COSTS.c.phase, *_ADDED).where(COSTS.c.job_id.in_(list(ids)))
    grouped = query.group_by(COSTS.c.job_id, COSTS.c.phase, COSTS.c.currency)
    found: defaultdict[UUID, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for job_id, phase, *line in await conn.execute(grouped):
        found[job_id][phase].append(Line(*line))
    return found


async def of_batch(conn: AsyncConnection, tenant: str, batch_id: UUID) -> BatchCostView:
    """What the jobs of a tenant's batch have cost so far."""
    its = (JOBS.c.tenant == tenant, JOBS.c.batch_id == batch_id)
    jobs = (await conn.execute(select(func.count()).select_from(JOBS).where(*its))).scalar_one()
    query = select(*_ADDED).join(JOBS, JOBS.c.id == COSTS.c.job_id).where(*its).group_by(COSTS.c.currency)
    bought = total([Line(*line) for line in await conn.execute(query)])
    return BatchCostView(batch_id=batch_id, jobs=jobs, **bought.model_dump())


_ADDED: Final[tuple[Any, ...]] = (
    COSTS.c.currency,
    func.coalesce(func.sum(COSTS.c.cost), 0.0),
    func.coalesce(func.sum(COSTS.c.billed_s).filter(COSTS.c.device != CPU), 0.0),
    func.count(),
    func.count().filter(COSTS.c.cost.is_(None)),
    func.max(COSTS.c.at),
)
