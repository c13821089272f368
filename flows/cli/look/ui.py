"""`sana ui`: the live page of a root, and MLflow beside it, on loopback. `sana notify`: try its notifications."""

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.options import config_options, context_of, load_options, open_root, resolve, warn
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.config.pipeline import Config
from sana.context import Context
from sana.errors import ConfigError
from sana.store import Store
from sana.wording import without_password

if TYPE_CHECKING:
    from flows.mlflow_server import MlflowServer


@click.command()
@click.argument("config", metavar="[CONFIG | ROOT]", required=False)
@load_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port of the page.")
@click.option("--mlflow-port", default=5001, show_default=True, type=click.IntRange(1, 65535), help="Port of MLflow.")
@click.option("--no-mlflow", is_flag=True, help="The page alone.")
def ui(
    config: str | None,
    overrides: Sequence[str],
    root: str | None,
    host: str,
    port: int,
    mlflow_port: int,
    no_mlflow: bool,
) -> None:
    """Serve the page of a root, live while it trains, and MLflow of its config beside it.

    A root alone, a folder or s3://bucket/prefix, has the page without MLflow.
    """
    from flows.web.guard import is_loopback
    from flows.web.live_server import live_page
    from flows.web.mlflow_link import runs_address

    store, context = _opened(config, overrides, root)
    if not is_loopback(host):
        warn(f"--host {host}: whoever reaches this machine can read all of {store.root}; there is no password")
    beside = None if context is None or no_mlflow else context.config
    with (
        _mlflow_of(beside, host, mlflow_port) as (mlflow, link),
        live_page(store, host=host, port=port, context=context, title=Path(config or "").stem) as page,
    ):
        say(f"{store.root} is at {page.url} (Ctrl-C ends it)")
        if mlflow is not None and beside is not None:
            mlflow.wait_until_up()
            _end_dead_runs(context)
            link = runs_address(link, beside.tracking.experiment)
            say(f"MLflow is at {link}")
        elif link:
            say(f"the runs of this config are on {link}")
        page.link_mlflow(link)
        (mlflow or page.server).wait()


def _opened(config: str | None, overrides: Sequence[str], root: str | None) -> tuple[Store, Context | None]:
    """Return what is to be shown, and the context of the config if one was named."""
    if config is not None and ("://" in config or Path(config).is_dir()):
        if root is not None or overrides:
            raise click.UsageError(f"{config} is a root: it takes no --root and no -s; name a config for these")
        config, root = None, config
    if config is None:
        if root is None:
            raise click.UsageError("name a config or a root: sana ui CONFIG, or sana ui --root FOLDER")
        return open_root(root), None
    context = context_of(resolve(config, overrides, root), read_only=True)
    return context.store, context


@contextmanager
def _mlflow_of(settings: Config | None, host: str, port: int) -> "Iterator[tuple[MlflowServer | None, str]]":
    """Start MLflow beside the page where its records are a database of this machine; yields its address as well."""
    if settings is None:
        yield None, ""
        return
    from flows.environment import prepare_environment
    from flows.mlflow_server import MlflowServer
    from sana.pipeline.plan import check_work_dir
    from tasks.tracking.values import tracking_uri

    uri = tracking_uri(settings)
    if not uri.startswith("sqlite:"):
        yield None, without_password(uri) if uri.startswith(("http://", "https://")) else ""
        return
    work_dir = Path(settings.work_dir).absolute()
    prepare_environment(work_dir)
    check_work_dir(work_dir)
    log_path = work_dir / "logs" / "mlflow-ui.log"
    with MlflowServer(uri, host, port, log_path) as server:
        say(f"starting MLflow, which takes up to a minute; its log is {log_path}")
        yield server, server.url


def _end_dead_runs(context: Context | None) -> None:
    """Let MLflow show runs as killed whose process is gone."""
    from tasks.tracking.dead_runs import end_dead_runs
    from tasks.tracking.tracker import Tracker

    if context is not None:
        tracker = Tracker(context.config, context.store, "", {})
        tracker.try_to(lambda client: end_dead_runs(client, context.store))


@click.command()
@config_options
@json_option("flows.cli.output.documents:NotifyDocument")
def notify(config: str, overrides: Sequence[str], root: str | None) -> None:
    """Send a test notification to every target of a config. Exit code 1 if one did not get it."""
    from flows.cli.output.documents import NotifyDocument
    from sana.delivery.dispatch import send_once
    from sana.delivery.notification import Notification
    from tasks.tracking.values import pipeline_key

    settings = resolve(config, overrides, root)
    if not settings.notifications.targets:
        raise ConfigError(f"{config} has no notifications.targets; docs/notifications.md shows how to write one")
    name = Path(config).stem
    run = {"name": name, "config_digest": pipeline_key(settings), "host": socket.gethostname()}
    failures = send_once(settings.notifications, Notification("test", "sent", "info", f"{name}: a test", run))
    for target, why in failures.items():
        say(f"{target}: {f'failed: {why}' if why else 'sent'}")
    emit(NotifyDocument({target: why or "" for target, why in failures.items()}))
    if any(failures.values()):
        sys.exit(1)
