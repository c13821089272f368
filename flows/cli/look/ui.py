"""`sana ui`: the MLflow UI of a config's runs, on loopback. `sana notify`: try its notifications."""

import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from flows.cli.options import config_options, resolve
from flows.cli.output.json_output import emit, json_option
from sana.errors import ConfigError


@click.command()
@config_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
def ui(config: str, overrides: Sequence[str], root: str | None, host: str, port: int) -> None:
    """Open the MLflow UI. Choose "Model training" at its top left to see the runs."""
    from flows.environment import prepare_environment
    from flows.mlflow_server import MlflowServer
    from sana.pipeline.plan import check_work_dir
    from sana.wording import without_password
    from tasks.tracking.values import tracking_uri

    settings = resolve(config, overrides, root)
    work_dir = Path(settings.work_dir).absolute()
    prepare_environment(work_dir)
    uri = tracking_uri(settings)
    if not uri.startswith("sqlite:"):
        click.echo(f"the runs of this config are on {without_password(uri)}")
        return
    log_path = work_dir / "logs" / "mlflow-ui.log"
    check_work_dir(work_dir)
    try:
        with MlflowServer(uri, host, port, log_path) as server:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
            click.echo(f"starting MLflow, which takes up to a minute; its log is {log_path}")
            server.wait_until_up()
            click.echo(
                f"MLflow is at {server.url} (Model training at the top left, experiment "
                f"{settings.tracking.experiment}); Ctrl-C ends it"
            )
            server.wait()
    except KeyboardInterrupt:
        click.echo("MLflow has ended")


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
        click.echo(f"{target}: {f'failed: {why}' if why else 'sent'}")
    emit(NotifyDocument({target: why or "" for target, why in failures.items()}))
    if any(failures.values()):
        sys.exit(1)
