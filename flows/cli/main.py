"""`sana` and its commands, which import what they need when they run: `sana --help` is instant."""

import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from flows.cli import encode_worker, lora, maintenance, run
from flows.cli import model as trained
from flows.cli.begin import calibrate, check, completion, convert, demo, deploy, doctor, init, plan, schema
from flows.cli.look import compare, inspect, promote, report, runs, ui, watch
from flows.cli.options import forget_options
from flows.cli.output.endings import (
    TerminatedError,
    end_with,
    end_with_exit,
    end_with_interrupt,
    end_with_signal,
    end_with_usage,
    on_signal,
)
from flows.cli.output.exit_codes import WRONG
from flows.display.wrapping import say
from sana.errors import FullDiskExplained, SanaError
from tasks.proxies import spare_loopback

SECTIONS = (
    (
        "Begin",
        (
            demo.demo,
            doctor.doctor,
            init.init,
            check.check,
            plan.validate,
            convert.convert_simpletuner,
            trained.make_tiny_model,
            schema.schema,
            completion.completion,
        ),
    ),
    ("Run", (calibrate.calibrate, plan.plan, run.run, *encode_worker.COMMANDS, deploy.deploy)),
    ("Look", (watch.watch, runs.runs, report.report, inspect.inspect, ui.ui, ui.notify)),
    ("Decide", (compare.compare, promote.promote)),
    ("Use the model", (*trained.COMMANDS, lora.lora)),
    ("Keep the store", maintenance.COMMANDS),
)
_SENTENCE = 200  # characters of a command's help at most


class _Sections(click.Group):
    """A group whose help lists its commands by section, in the order in which they are used."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        longest = max(len(command.name or "") for _, commands in SECTIONS for command in commands)
        for title, commands in SECTIONS:
            with formatter.section(title):  # whole sentences, which wrap
                formatter.write_dl([(f"{c.name or '':{longest}}", c.get_short_help_str(_SENTENCE)) for c in commands])


@click.group(cls=_Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sana-video-pipeline")
def cli() -> None:
    """Train Sana Video on your own clips, stage by stage; finished work is never done again."""


for command in (*(one for _, commands in SECTIONS for one in commands), check.buckets, trained.tiny):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line: a SanaError is one message and exit code 1 or 75, never a traceback.

    With --json the message is one line of JSON, the last of stderr.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal has no letters for is written by its codes
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for warning in spare_loopback():  # before any client is made
        if "_SANA_COMPLETE" not in os.environ:  # a shell that completes is typed into
            say(f"warning: {warning}", err=True)
    forget_options()
    before = signal.signal(signal.SIGTERM, on_signal)  # so that what is open is closed, as after Ctrl-C
    try:
        with FullDiskExplained():
            cli.main(args=arguments, prog_name="sana", standalone_mode=False)
    except SanaError as error:
        end_with(error, arguments)
    except click.ClickException as error:
        end_with_usage(error, arguments)
    except click.Abort:
        end_with_interrupt(arguments)
    except TerminatedError as error:
        end_with_signal(error, arguments)
    except SystemExit as ended:
        end_with_exit(ended.code, arguments)
        raise
    except BrokenPipeError:  # who read stdout is gone, as `head` is
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(WRONG)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
