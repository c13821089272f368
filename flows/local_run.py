"""The flow in this process, as `sana run` has it: on the server of Prefect's settings, or on a temporary one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from flows.environment import importing_prefect, prepare_environment
from sana.context import Context
from sana.errors import SanaError

if TYPE_CHECKING:  # the command line is imported before anything is said: all that is heavy waits
    from flows.server import TemporaryServer
    from sana.pipeline.observers import Observer
    from sana.pipeline.plan import StagePlan
    from sana.pipeline.run import Done


class FlowParameters(TypedDict):
    """The parameters of the flow `sana_pipeline`, as Prefect records them."""

    config: str
    overrides: list[str]
    root: str | None
    until: str | None
    force: list[str]


class LocalPrefect:
    """Prefect for one run: its server is found or started once, by the first `start`; `say` gets a line on it."""

    def __init__(self, work_dir: Path, say: Callable[[str], object]) -> None:
        self._work_dir = work_dir
        self._say = say
        self._started = False
        self._temporary: TemporaryServer | None = None  # None also where the user's own is used

    def start(self) -> None:
        """Check the server of Prefect's settings, or start a temporary one, which may not answer yet.

        Raises:
            SanaError: Prefect's settings are wrong, or their server cannot be used.
        """
        if self._started:
            return
        from flows.server import find_or_start_server

        prepare_environment(self._work_dir, quiet=True)  # the bars and the table say what Prefect's log would
        self._temporary = find_or_start_server(self._work_dir / "logs" / "prefect-server.log")
        self._started = True
        self._say(
            f"starting Prefect {'with a temporary server, 10 s to a minute' if self._temporary else 'on its server'}"
        )

    def stop(self) -> None:
        """End a temporary server: the flow will not begin."""
        if self._temporary is not None:
            self._temporary.stop()

    def run(
        self,
        context: Context,
        plans: "Sequence[StagePlan]",
        observers: "Sequence[Observer]",
        parameters: FlowParameters,
    ) -> "list[Done]":
        """Run the flow on what was planned. It outlives Prefect's server.

        Raises:
            SanaError: Prefect's settings are wrong, or its server was gone before the first stage.
        """
        with importing_prefect():
            from flows.pipeline import sana_pipeline
            from tasks.flow_run import PREFECT_TROUBLE, handed_over, open_embedded_tracker
            from tasks.lost_server import use_own_events_client
        if self._temporary is not None:
            open_embedded_tracker(context)
            self._temporary.wait_until_up()
        # only for runs in this process: in that of a deployment Prefect sends events before our code is loaded
        use_own_events_client()
        with handed_over(context, plans, observers, on_temporary_server=self._temporary is not None) as outcome:
            try:
                sana_pipeline(**parameters)
            except PREFECT_TROUBLE as error:
                if outcome.error is not None:  # a stage's: Prefect only failed to note it
                    raise outcome.error from None
                if outcome.done is None:
                    raise SanaError(
                        f"Prefect's server does not take the run ({error}); nothing was done: run again"
                    ) from error
        return outcome.done or []
