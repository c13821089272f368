"""What the terminal shows of a plan's costs."""

from rich.table import Table

from flows.display.tables import render
from sana.pipeline.costs import HOUR_S, PlanCosts, StageCost
from sana.wording import duration, in_units

MEANING = {True: "as measured on", False: "estimated for"}


def costs_lines(costs: PlanCosts, price_per_hour: float | None) -> list[str]:
    """Render hours, bytes and peak memory of each stage, and the sum; the price where one is given."""
    table = Table(box=None, pad_edge=False)
    titles = ["stage", "time", *(["cost"] if price_per_hour is not None else []), "written", "peak memory", "basis"]
    for title in titles:
        right = title in ("time", "cost", "written", "peak memory")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for one in costs.stages:
        table.add_row(*_row(one, price_per_hour))
    unknown = [one.name for one in costs.stages if one.seconds is None]
    total = f"in all {duration(costs.seconds)}" if costs.seconds else "time unknown"
    if price_per_hour is not None and costs.seconds:
        total += f", {price(costs.seconds, price_per_hour)} at {price_per_hour:g} an hour"
    if unknown and costs.seconds:
        total += f", without {', '.join(unknown)}"
    where = f"{MEANING[costs.is_calibrated]} {costs.device}" + (
        f" ({in_units(costs.memory_bytes)})" if costs.memory_bytes else ""
    )
    why: dict[str, list[str]] = {}
    for one in costs.stages:
        why.setdefault(one.unknown, []).append(one.name)
    notes = [f"{', '.join(names)}: {unknown}" for unknown, names in why.items() if unknown]
    return [render(table), *notes, total, where]


def warnings_of(costs: PlanCosts) -> list[str]:
    """Return what estimates say of memory: they refuse nothing."""
    return [
        f"{one.name} is {one.basis} to need {in_units(one.peak_bytes)}, and {costs.device} has "
        f"{in_units(costs.memory_bytes)}; sana calibrate CONFIG tells what fits"
        for one in costs.stages
        if one.peak_bytes is not None and one.peak_bytes > costs.memory_bytes > 0
    ] + [
        f"{one.name} is counted to hold {in_units(one.host_bytes)} in the host's memory, which is "
        f"{in_units(costs.host_memory_bytes)}; train.resources.checkpoint_in_background=false saves the copy for "
        "checkpoints"
        for one in costs.stages
        if one.host_bytes is not None and one.host_bytes > costs.host_memory_bytes > 0
    ]


def price(seconds: float, per_hour: float) -> str:
    return f"{seconds / HOUR_S * per_hour:,.2f}"


def _row(one: StageCost, price_per_hour: float | None) -> list[str]:
    spent = [] if price_per_hour is None else ["-" if one.seconds is None else price(one.seconds, price_per_hour)]
    return [
        one.name,
        "-" if one.seconds is None else duration(one.seconds),
        *spent,
        "-" if one.written_bytes is None else in_units(one.written_bytes),
        "-" if one.peak_bytes is None else in_units(one.peak_bytes),
        one.basis,
    ]
