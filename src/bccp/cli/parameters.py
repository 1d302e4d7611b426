"""Shared parts of the subcommands: parameter types that complete their values, Hydra's words, and ``--json``."""

from __future__ import annotations

import functools
import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from bccp.core.errors import BCCPError, nearest
from bccp.core.registries import EXPORT_FORMATS
from bccp.pipeline import config_text

HYDRA_WORDS: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": ["--help"]}
"""Context settings of a command that hands Hydra's flags and overrides on as they are."""


class WrongCall(click.UsageError):
    """A wrong call, in a sentence that names culprit and remedy."""


class RunType(click.ParamType[str]):
    """A finished pipeline: a run's id or its first 6 digits, a run folder or its name, or a ``summary.json``; empty is the newest.

    What it names is looked up by :mod:`bccp.tracking.finished_runs` once the command knows which store to ask.
    """

    name = "RUN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text as it is."""
        return str(value).strip()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of run folders, the newest first, and paths."""
        outputs = Path(os.path.expanduser(os.environ.get("BCCP_HOME") or "~/.bccp")) / "outputs"  # noqa: PTH111  raises nothing
        names = sorted((path.name for path in outputs.glob(f"{glob.escape(incomplete)}*/")), reverse=True)
        return [*map(CompletionItem, names), CompletionItem(incomplete, type="file")]


class StepType(click.ParamType[str]):
    """The name of a step."""

    name = "STEP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no step."""
        from bccp.core.step_graph import STEPS

        if value.startswith("-"):
            raise click.NoSuchOption(value, ctx=ctx)
        if value not in STEPS:
            wrong = f"unknown step {value!r}{nearest(value, STEPS)}: the steps are" if value else "which step? give one of"
            raise WrongCall(f"{wrong} {', '.join(STEPS)}", ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of steps."""
        from bccp.core.step_graph import STEPS

        return [CompletionItem(step) for step in STEPS if step.startswith(incomplete)]


class ExportFormatType(click.ParamType[str]):
    """The name of a format of ``export-data``, or the dotted name of a user's own function."""

    name = "FORMAT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is neither."""
        try:
            EXPORT_FORMATS.check(value)
        except BCCPError as error:
            raise WrongCall(str(error), ctx) from error
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of formats."""
        return [CompletionItem(name) for name in EXPORT_FORMATS if name.startswith(incomplete)]


def section_of(words: Sequence[str], ctx: click.Context) -> tuple[str | None, Sequence[str]]:
    """Take the name of a section, where the first word is one, from Hydra's words.

    Raises
    ------
    WrongCall
        If the first word is neither.
    """
    if not words or "=" in words[0] or words[0].startswith(("+", "~", "-")):
        return None, words
    known = config_text.sections()
    if words[0] not in known:
        raise WrongCall(f"unknown section {words[0]!r}{nearest(words[0], known)}: the sections are {', '.join(known)}", ctx)
    return words[0], words[1:]


def complete_section(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a section, or one of Hydra's words."""
    sections = [CompletionItem(section) for section in config_text.sections() if section.startswith(incomplete)]
    return [*sections, *complete_word(ctx, param, incomplete)]


def complete_word(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete one of Hydra's words: a key of the configuration, or a file that ``+`` adds."""
    keys = [f"{entry.key}=" for entry in config_text.entries() if entry.default]
    names = [*keys, *(name for name, _ in config_text.groups())]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


RUN, STEP, EXPORT_FORMAT = RunType(), StepType(), ExportFormatType()

words_argument = click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[OVERRIDES]...", shell_complete=complete_word)
"""Hydra's words, unparsed."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, and nothing else there.")


def change_options(labels: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options ``--action`` and ``--min-confidence`` of a command that writes labels, which its help names as ``labels``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        least = click.option(
            "--min-confidence",
            type=click.FloatRange(0, 1),
            default=0.8,
            show_default=True,
            help="Least P(wrong) and, for relabel, least P(suggested label); 0 gives every image its likeliest class.",
        )
        action = click.option(
            "--action",
            type=click.Choice(["relabel", "drop", "keep"]),
            default="relabel",
            show_default=True,
            help=f"For {labels} that are surely wrong: relabel (to the suggested class), drop (the image) or keep.",
        )
        return action(least(command))

    return decorate


def split(words: Sequence[str]) -> list[str]:
    """Split words at blanks outside quotes and brackets: a Makefile hands several on as one."""
    from bccp.core.overrides import split_options

    return [word for text in words for word in split_options(text)]


def handle_errors(work: Callable[..., Any], *, interrupted: str = "interrupted") -> Callable[..., int]:
    """Give a command's function the exit status of its end; signals end it as an exception, so that scratch folders are cleared.

    Errors of the disk and of the store become :class:`bccp.core.errors.BCCPError`; any other is a fault in BCCP and is raised.
    ``interrupted`` is what is said after Ctrl-C.
    """

    @functools.wraps(work)
    def wrapped(*arguments: Any, **options: Any) -> int:
        from bccp.core.exit_codes import failed, to_bccp_error
        from bccp.core.processes import Interrupted, terminable

        try:
            with terminable():
                status = work(*arguments, **options)
        except KeyboardInterrupt:
            return failed(interrupted, 130)
        except Interrupted as stopped:
            return failed("terminated", 128 + stopped.number)
        except (BCCPError, click.ClickException):
            raise
        except Exception as error:
            if not isinstance(known := to_bccp_error(error), BCCPError):
                raise
            raise known from error
        return status if isinstance(status, int) else 0

    return wrapped


@contextmanager
def talk(as_json: bool) -> Iterator[None]:
    """Send what is printed within the block to stderr where stdout is to hold one JSON document."""
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield


def emit(document: Any) -> None:
    """Print a JSON document; figures that are not a number are null in it."""
    print(json.dumps(_plain(document), indent=2, ensure_ascii=False, default=str, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:  # NaN and infinity, which JSON has not
        return None
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
