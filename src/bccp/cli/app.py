"""The command group ``bccp``: its subcommands, loaded when they are named, and how it ends.

Exit codes: 0; 1 after an error, told in the last line on stderr as ``error: <culprit and remedy>``; 2 for a wrong call, or where a package
of an optional extra is missing; 3 where a promotion was required and nothing was promoted; 130 after Ctrl-C, 143 after SIGTERM.

No module of this package imports MLflow, pandas, PyTorch or Hydra before a subcommand has begun: ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from bccp.cli.parameters import WrongCall
from bccp.core.errors import BCCPError, nearest
from bccp.core.runtime.extras import needed_by

COMMANDS = {
    "run": "bccp.cli.runs:run_command",
    "clean": "bccp.cli.cleaning:clean_command",
    "sweep": "bccp.cli.runs:sweep",
    "step": "bccp.cli.runs:step",
    "why": "bccp.cli.runs:why_command",
    "config": "bccp.cli.runs:config",
    "ui": "bccp.cli.results:ui",
    "report": "bccp.cli.results:report_command",
    "sweep-report": "bccp.cli.results:sweep_report",
    "compare": "bccp.cli.results:compare_command",
    "export-data": "bccp.cli.data:export_data",
    "check-new": "bccp.cli.data:check_new",
    "accept": "bccp.cli.data:accept_command",
    "predict": "bccp.cli.models:predict_command",
    "serve": "bccp.cli.serving:serve_command",
    "export-model": "bccp.cli.models:export_model_command",
    "promote": "bccp.cli.models:promote_command",
    "rollback": "bccp.cli.models:rollback",
    "wandb": "bccp.cli.app:wandb",
    "forget": "bccp.cli.forgetting:forget",
    "gc": "bccp.cli.home:gc",
    "mlproject": "bccp.cli.runs:mlproject_command",
}
"""Where each subcommand is defined, in the order in which they are listed."""

WANDB_COMMANDS = {"sync": "bccp.cli.wandb:sync_command", "dashboard": "bccp.cli.wandb:dashboard"}
"""The same of ``bccp wandb``."""


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are asked for.

    Parameters
    ----------
    places : dict of str to str
        ``module:attribute`` of each subcommand, by name.
    """

    def __init__(self, *, places: dict[str, str], **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None where there is no such name."""
        if cmd_name not in self.places:
            return None
        module, _, attribute = self.places[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands, each with the whole of its first sentence."""
        rows = [(name, command.get_short_help_str(limit=200)) for name in self.places if (command := self.get_command(ctx, name))]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that the first argument names.

        Raises
        ------
        WrongCall
            If there is none.
        """
        name = args[0]
        if name not in self.places and not name.startswith("-") and not ctx.resilient_parsing:
            raise WrongCall(
                f"{ctx.command_path} has no command {name!r}{nearest(name, self.places)}: use one of {', '.join(self.places)}", ctx
            )
        return super().resolve_command(ctx, args)


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    context_settings=SETTINGS,
    epilog='Shell completion: eval "$(_BCCP_COMPLETE=bash_source bccp)" (zsh_source, fish_source). Everything is written under '
    "BCCP_HOME (~/.bccp).",
)
def bccp() -> None:
    """Keep an image classifier healthy while the labels it is retrained on are often wrong.

    Each command has a --help of its own, with an example.
    """


@click.group(cls=LazyGroup, places=WANDB_COMMANDS, context_settings=SETTINGS)
def wandb() -> None:
    """Upload what was recorded offline, or make a dashboard."""


def call(arguments: Sequence[str]) -> int:
    """Run the command line in this process.

    Parameters
    ----------
    arguments : sequence of str
        As a shell gives them, without the program's name.

    Returns
    -------
    int
        The exit status.
    """
    try:
        with needed_by(" ".join(["bccp", *arguments[:1]])):
            status = bccp.main(list(arguments), prog_name="bccp", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message())
        return 0
    except click.UsageError as error:
        return _failed(_sentence(error), 2)
    except BCCPError as error:
        return _failed(str(error), error.exit_status)
    except click.Abort:
        return _failed("interrupted", 130)


def main() -> NoReturn:
    """Run the command line and end the process."""
    if "_BCCP_COMPLETE" in os.environ:
        bccp.main(prog_name="bccp")  # click prints the completions and leaves
    status = call(sys.argv[1:])
    if "bccp.core.home" in sys.modules:
        from bccp.core.home import clear_scratch

        clear_scratch()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # every record is flushed by now; tearing down torch and friends would take another second


def _failed(sentence: str, status: int) -> int:
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return status


def _sentence(error: click.UsageError) -> str:
    """Put an error of click's own into one sentence with its remedy."""
    command = error.ctx.command_path if error.ctx else "bccp"
    if isinstance(error, WrongCall):
        return error.message
    if isinstance(error, click.NoSuchOption):
        options = [name for parameter in error.ctx.command.params for name in parameter.opts] if error.ctx else []
        return f"{command} has no option {error.option_name}{nearest(error.option_name, options)}: see {command} --help"
    said = " ".join(error.format_message().split()).rstrip(".")
    return f"{said[:1].lower()}{said[1:]}: see {command} --help"
