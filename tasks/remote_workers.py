"""Fan-out over machines: the task of encode_latents starts, watches and ends runs of a deployment that do its work."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelling

from sana.artifact import Artifact
from sana.context import Context
from sana.progress import Progress, Report
from sana.stages import encode_latents

START_S = 900.0  # by then one of the runs must have started: a cluster may first have to boot machines
POLL_S = 3.0
SETTLE_S = 60.0  # once all is done: runs that are at work find that out by themselves
MAX_SILENCE_S = 300.0  # of Prefect's API

log = logging.getLogger(__name__)
Remaining = Callable[[], tuple[int, int, str]]  # (done, total, unit) of the work at hand, read from storage


@dataclass(frozen=True)
class SharedRun:
    """What a worker run must be given to find the work of this one: parameters of the flow `encode-worker`."""

    config: str
    overrides: Sequence[str] | None
    root: str | None
    salt: str


def run_remote_workers(context: Context, inputs: Mapping[str, Artifact]) -> None:
    """Let runs on other machines do what they can of the encoding, if the config asks for any."""
    resources = context.config.encode_latents.resources
    if not resources.remote_workers:
        return
    given = runtime.flow_run.parameters
    fan_out(
        resources.worker_deployment,
        resources.remote_workers,
        SharedRun(given["config"], given.get("overrides"), given.get("root"), context.salt),
        lambda: encode_latents.remaining(context, inputs),
        context.report,
    )


def fan_out(deployment: str, num_runs: int, shared: SharedRun, remaining: Remaining, report: Report) -> None:
    """Start `num_runs` runs of `deployment`, each with its `index` of `count`, and wait until the work is done.

    Returns also when all of them have ended or none can start: what is left is the caller's. Runs that are still at
    work are cancelled, whatever ends the waiting.
    """
    done, total, _ = remaining()
    if done == total:
        return
    runs: list[UUID] = []
    try:
        for index in range(num_runs):
            given = {name: value for name, value in asdict(shared).items() if value}  # the form's schema has no null
            parameters = {**given, "index": index, "count": num_runs}
            run: Any = run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False)
            runs.append(run.id)
        log.info("started %d runs of %s", num_runs, deployment)
        _wait(runs, remaining, report, before=done)
    except ObjectNotFound:
        log.warning(
            "there is no deployment %s here, so this machine does all the work; `prefect deploy --name encode-worker`, "
            "or set encode_latents.resources.remote_workers to 0",
            deployment,
        )
    except httpx.HTTPError as error:
        log.warning("Prefect's server starts no runs of %s (%s): this machine does all the work", deployment, error)
    finally:
        _cancel(runs)


def _wait(runs: list[UUID], remaining: Remaining, report: Report, *, before: int) -> None:
    started = heard = time.monotonic()
    any_ran, settled_at = False, float("inf")
    with get_client(sync_client=True) as client:
        while True:
            asked = time.monotonic()
            try:
                states = [state for run in runs if (state := client.read_flow_run(run).state) is not None]
                heard = time.monotonic()
            except (httpx.HTTPError, PrefectException) as error:
                log.debug("Prefect does not say how the worker runs are: %s", error)
                if asked - heard > MAX_SILENCE_S:
                    log.warning("Prefect does not answer for %g s; this machine continues alone", MAX_SILENCE_S)
                    return
                states = []
            any_ran = any_ran or any(state.is_running() or state.is_final() for state in states)
            done, total, unit = remaining()
            num_running = sum(state.is_running() for state in states)
            at_work = f"{num_running} of {len(runs)} worker runs at work"
            report(Progress(done, total, unit, at_work, before=before))
            if done == total:
                settled_at = min(settled_at, asked + SETTLE_S)
            ended = bool(states) and all(state.is_final() for state in states)
            if ended or (done == total and (not num_running or asked > settled_at)):
                failed = [state.message for state in states if state.is_failed() or state.is_crashed()]
                if failed:
                    log.warning("%d of %d worker runs failed, the first: %s", len(failed), len(runs), failed[0])
                return
            if not any_ran and time.monotonic() - started > START_S:
                log.warning("no worker run started within %g s: is a worker polling its work pool?", START_S)
                return
            # looking into storage may take long: it is done in a twentieth of the time at most
            time.sleep(max(POLL_S, 19 * (time.monotonic() - asked)))


def _cancel(runs: list[UUID]) -> None:
    """Cancel those runs that have not ended."""
    with get_client(sync_client=True) as client:
        for run in runs:
            try:
                _cancel_one(client, run)
            except (httpx.HTTPError, PrefectException) as error:
                log.warning("cannot cancel worker run %s: %s", run, error)


def _cancel_one(client: SyncPrefectClient, run: UUID) -> None:
    state = client.read_flow_run(run).state
    if state is not None and not state.is_final():
        client.set_flow_run_state(run, Cancelling())
