"""What the log of a flow run shows of errors: each once, those that are meant for the user as their message alone."""

import logging
import re

import httpx
from prefect.exceptions import PrefectException

from sana.errors import SanaError
from sana.store_errors import StoreError

_LOGGED = "_sana_logged"  # set on an error that the log has
_RETRY = "Task run failed with %s: %r - Retry"  # Prefect's line; `tasks.stages.worth_a_retry` has said it better


class _EachErrorOnce(logging.Filter):
    """The task logs an error, then its state, then the flow the error, and its state: four times the same text."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            if _LOGGED in error.__dict__:
                return False
            error.__dict__[_LOGGED] = True
        if isinstance(error, SanaError | StoreError | httpx.HTTPError | PrefectException):
            record.msg, record.args, record.exc_info = str(error), (), None
        elif isinstance(record.msg, str):
            if record.msg.startswith(_RETRY):
                return False
            record.msg = re.sub(r"^(Finished in state Failed)\(.*", r"\1", record.msg, flags=re.DOTALL)
        return True


_filter = _EachErrorOnce()


def tell_errors_once() -> None:
    """From now on Prefect's logs of runs have each error once."""
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_filter)
