"""`sana ui`: the MLflow UI of a config's runs, on loopback."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from flows.cli.options import config_options, resolve


@click.command()
@config_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, help="Port to listen on.")
def ui(config: str, overrides: Sequence[str], root: str | None, host: str, port: int) -> None:
    """Open the MLflow UI. Choose "Model training" at its top left to see the runs."""
    from flows.environment import prepare_environment
    from tasks.tracking_values import tracking_uri

    settings = resolve(config, overrides, root)
    prepare_environment(Path(settings.work_dir))
    uri = tracking_uri(settings)
    if not uri.startswith("sqlite:"):
        click.echo(f"the runs of this config are on {uri}")
        return
    click.echo(f"MLflow on http://{host}:{port} (experiment {settings.tracking.experiment}); Ctrl-C ends it")
    arguments = ["mlflow", "server", "--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", *arguments])  # noqa: S606 - this process becomes the server
