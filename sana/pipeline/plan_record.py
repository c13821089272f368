"""A plan as a record, for programs: `sana plan --json`. Its keys are stable: one is added, none changes its meaning."""

from collections.abc import Sequence
from dataclasses import dataclass

from sana.facts import BucketFacts
from sana.pipeline.costs import HOUR_S, NO_SPEED, UNCOUNTED, PlanCosts, StageCost
from sana.pipeline.plan import StagePlan
from sana.record import Record


@dataclass(frozen=True)
class PlannedStage(Record):
    """One stage of a plan. None is not known; `unknown` says why. Costs are of what is left to do."""

    name: str
    state: str  # cached, partial, stale, missing or pending
    detail: str  # why, and what would be done
    fingerprint: str | None  # None: what it reads is not made yet
    done: int | None  # of the work, in the stage's own unit; None: not known yet, or cached
    total: int | None
    hours: float | None = None
    written_bytes: int | None = None
    peak_bytes: int | None = None  # of the device's memory
    cost: float | None = None  # in the currency of price_per_hour
    basis: str | None = None  # of hours and peak_bytes: measured, scaled or estimated; None: it takes no device
    unknown: str = ""
    host_bytes: int | None = None  # of the host's memory, while a GPU trains


@dataclass(frozen=True)
class PlanRecord(Record):
    """What a run would do and take. `hours` and `cost` are sums over the stages of which they are known."""

    device: str | None  # None: what it would take was not asked, or is not known
    device_bytes: int | None  # its memory
    is_calibrated: bool
    price_per_hour: float | None
    hours: float | None  # None: of no stage
    cost: float | None
    stages: tuple[PlannedStage, ...]
    stops: str  # why a run would not go through; "" where nothing says so
    warnings: tuple[str, ...]
    remedies: tuple[str, ...] = ()  # commands after which more of hours is known


def remedies_of(costs: PlanCosts) -> dict[str, str]:
    """Return the commands after which more of the costs is known, of CONFIG: each with what it is for."""
    found, unknown = {}, [one.unknown for one in costs.stages]
    if any(UNCOUNTED in why for why in unknown):
        found[f"sana run CONFIG --until {BucketFacts.STAGE}"] = "to count samples"
    if NO_SPEED in unknown and not costs.is_sharded:  # of shards no calibration is made
        found["sana calibrate CONFIG"] = "to measure the speed of this machine"
    return found


def plan_record(
    plans: Sequence[StagePlan],
    costs: PlanCosts | None,
    price_per_hour: float | None = None,
    *,
    stops: str = "",
    warnings: Sequence[str] = (),
    remedies: Sequence[str] = (),
) -> PlanRecord:
    """Return a plan and its costs, where they are known, as one record."""
    known = {} if costs is None else {one.name: one for one in costs.stages}
    is_known = costs is not None and (not costs.stages or any(one.seconds is not None for one in costs.stages))
    hours = costs.seconds / HOUR_S if costs is not None and is_known else None
    return PlanRecord(
        device=None if costs is None else costs.device,
        device_bytes=None if costs is None else costs.memory_bytes or None,
        is_calibrated=costs is not None and costs.is_calibrated,
        price_per_hour=price_per_hour,
        hours=hours,
        cost=_price(hours, price_per_hour),
        stages=tuple(_stage(one, known.get(one.name), price_per_hour) for one in plans),
        stops=stops,
        warnings=tuple(warnings),
        remedies=tuple(remedies),
    )


def _stage(plan: StagePlan, cost: StageCost | None, price_per_hour: float | None) -> PlannedStage:
    done, total = plan.work or (None, None)
    planned = PlannedStage(plan.name, plan.state, plan.detail, plan.fingerprint or None, done, total)
    if cost is None:
        return planned
    hours = None if cost.seconds is None else cost.seconds / HOUR_S
    return PlannedStage(
        *(planned.name, planned.state, planned.detail, planned.fingerprint, done, total),
        hours=hours,
        written_bytes=cost.written_bytes,
        peak_bytes=cost.peak_bytes,
        cost=_price(hours, price_per_hour),
        basis=cost.basis,
        unknown=cost.unknown,
        host_bytes=cost.host_bytes,
    )


def _price(hours: float | None, per_hour: float | None) -> float | None:
    return None if hours is None or per_hour is None else hours * per_hour
