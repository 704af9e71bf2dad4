"""GPU providers as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from console.providers import CostLine, Costs, FunctionState, Provider, Tested, Upgraded
from console.rendering import duration, grid, pairs, plain, when

WORKS, NOT = ("●", "green"), ("⊘", "red")


def provider_list(providers: Sequence[Provider], now: datetime) -> RenderableType:
    """One line per provider and function: whether it takes work, and why not."""
    table = grid("provider", "on", "mode", "out", "function", "", "why")
    for one in providers:
        out = f"{one.in_flight}/{one.in_flight_max}" if one.in_flight_max is not None else "–"
        head: list[str | Text] = [
            plain(one.name),
            plain(one.device or "–"),
            Text(plain(one.mode), _style(one.mode)),
            out,
        ]
        for function in one.functions:
            mark, style = WORKS if function.takes_work else NOT
            table.add_row(*head, plain(function.function), Text(mark, style), _why(one, function, now))
            head = [""] * len(head)
    if not providers:
        return Text("No providers.", "dim")
    return Group(table, Text(""), _sensitive(providers)) if any(one.sensitive for one in providers) else table


def _sensitive(providers: Sequence[Provider]) -> RenderableType:
    """Who is given sensitive work of whom, and why not."""
    table = grid("sensitive work of", "may go to", "", "why not")
    tenants = dict.fromkeys(row.tenant for one in providers for row in one.sensitive)
    for tenant in tenants:
        head = plain(tenant) if tenant else "every other tenant" if len(tenants) > 1 else "every tenant"
        for one in providers:
            for row in one.sensitive:
                if row.tenant == tenant:
                    mark, style = WORKS if row.allowed else NOT
                    table.add_row(head, plain(one.name), Text(mark, style), plain(row.why))
                    head = ""
    return table


def _style(mode: str) -> str:
    return {"working": "green", "draining": "yellow"}.get(mode, "red")


def _why(provider: Provider, function: FunctionState, now: datetime) -> Text:
    if function.takes_work:
        return Text("")
    if not provider.here:
        return Text("not set up here", "dim")
    if provider.mode != "working":
        by = f" ({provider.by})" if provider.by else ""
        return Text(plain(f"{provider.why or provider.mode}{by}"), "yellow")
    until = f" until {when(function.until, now)}" if function.until else ""
    return Text(plain(f"{function.code}{until}"), "red")


def tested(found: Tested) -> RenderableType:
    """How a test call went."""
    told: list[tuple[str, str | Text]] = [
        ("provider", plain(found.provider)),
        ("accepted after", f"{found.submit_s:.2f} s"),
        ("started after", _span(found.start_s) + {True: " (cold)", False: " (warm)", None: ""}[found.cold]),
        ("at work", _span(found.run_s)),
        ("device", plain(found.device or "–")),
        ("engine", plain(found.engine or "–")),
        ("storage at", plain(found.links_to or "–")),
    ]
    if found.ok:
        told.append(("result", Text("● it works", "green")))
    else:
        told.append(("result", Text.assemble((plain(found.code), "bold red"), " ", plain(found.detail))))
    return pairs(told)


def _span(span_s: float | None) -> str:
    return "–" if span_s is None else f"{span_s:.2f} s"


def cost_list(costs: Costs) -> RenderableType:
    """One line per provider, function and device; waits are means, the others sums."""
    if not costs.lines:
        return Text(f"Nothing was bought since {costs.since.astimezone():%Y-%m-%d}.", "dim")
    columns = ("provider", "function", "device", "runs", "bad", "cold", "queue", "start", "work", "billed")
    table = grid(*columns, costs.currency, gap=0)
    for line in costs.lines:
        table.add_row(
            plain(line.provider),
            plain(line.function),
            plain(line.device or "–"),
            str(line.epochs),
            Text(str(line.failed or ""), "red"),
            str(line.cold or ""),
            _mean(line, line.queue_s),
            _mean(line, line.start_s),
            _sum(line.run_s),
            _sum(line.billed_s),
            _money(line.cost),
        )
    total = f"{_money(sum(line.cost for line in costs.lines))} {costs.currency}"
    parts: list[RenderableType] = [table, Text(f"since {costs.since.astimezone():%Y-%m-%d}: {total}", "bold")]
    if unpriced := sum(line.unpriced for line in costs.lines):
        parts.append(Text(f"{unpriced} runs have no known price and count as nothing.", "yellow"))
    return Group(*parts)


def _mean(line: CostLine, sum_s: float) -> str:
    return f"{sum_s / line.epochs:.1f} s" if line.epochs else "–"


def _money(sum_: float) -> str:
    return f"{sum_:.4f}" if sum_ < 1 else f"{sum_:,.2f}"


def _sum(sum_s: float) -> str:
    return f"{sum_s:.1f} s" if sum_s < 10 else duration(sum_s)


def upgraded(found: Upgraded, *, dry_run: bool) -> RenderableType:
    """What an upgrade did, or would do."""
    told: list[tuple[str, str | Text]] = [
        ("degraded jobs", str(found.found)),
        ("would work again" if dry_run else "work again", str(found.jobs)),
    ]
    if found.passed_over:
        told.append(("passed over", f"{found.passed_over} (no result of a lesser engine, or at work again already)"))
    parts: list[RenderableType] = [pairs(told)]
    if found.phases:
        phases = grid("by a lesser engine", "jobs")
        for name, count in found.phases.items():
            phases.add_row(plain(name), str(count))
        parts += [Text(""), phases]
    return Group(*parts)
