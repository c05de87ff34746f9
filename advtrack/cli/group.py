"""What all commands have in common: how they begin, how they end on bad input, and what they print meanwhile."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from advtrack import __version__
from advtrack.errors import InputError

# Whether the command at hand was given --force, in click's context.
_FORCED = f"{__name__}.forced"


class _Command(click.Command):
    """An option that is given more than once is an error: click takes the last and says nothing of the others."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(given)
        for option, count in Counter(order).items():
            if isinstance(option, click.Option) and count > 1:
                about = f": {option.help}" if option.help else ""
                raise click.UsageError(f"{option.opts[0]} is given {count} times; give it once{about}", ctx)
        return rest


class _Plain(click.Group):
    """Bad input and bad usage end in one line and exit status 2; tracebacks only with --debug."""

    command_class = _Command

    def invoke(self, ctx: click.Context) -> Any:
        from advtrack.processes import Terminated

        prepare_logging()
        try:
            return super().invoke(ctx)
        except Terminated:
            again = "With --force the same command begins anew."
            on = "The same command goes on from here."
            click.echo(f"Terminated. {again if ctx.meta.get(_FORCED) else on}", err=True)
            ctx.exit(128 + signal.SIGTERM)
        except (InputError, OSError, click.ClickException) as error:
            if ctx.params["debug"]:
                raise
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            click.echo(f"Error: {message}", err=True)
            if "MLFLOW_RUN_ID" in os.environ:
                from advtrack.tracking import runs

                runs.explain(ctx.invoked_subcommand or "", message)
            ctx.exit(2)


@click.group(cls=_Plain, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """How robust is an audio classifier, and what does robustness cost?"""


def as_stage(function: Callable[..., None]) -> Callable[..., None]:
    """Run a stage once the data folder, the device and the tracking store are known to be there."""

    @wraps(function)
    def tracked(**options: Any) -> None:
        from pathlib import Path

        from advtrack.processes import terminable
        from advtrack.tracking.connection import answering, connect

        click.get_current_context().meta[_FORCED] = options.get("force", False)
        if options.get("data_dir") and not Path(options["data_dir"]).is_dir():
            raise InputError(f"--data-dir {options['data_dir']}: no such folder")
        if options.get("device") == "cuda":
            from advtrack.stages.device import choose_device

            choose_device("cuda")
        connect()
        with terminable(), answering():
            function(**options)

    return tracked


def prepare_logging() -> None:
    """Our own lines plainly to standard error; of the libraries, warnings only."""
    import warnings

    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

    warnings.filterwarnings("ignore")
    ours = logging.getLogger("advtrack")
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler())
        ours.propagate = False
    ours.setLevel(logging.INFO)
    for name in ("mlflow", "alembic", "optuna", "art"):
        logging.getLogger(name).setLevel(logging.WARNING)
