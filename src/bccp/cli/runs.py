"""Subcommands that run the pipeline, or say what a run would do: ``run``, ``sweep``, ``step``, ``why``, ``config``, ``mlproject``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import click

from bccp.cli.parameters import (
    HYDRA_WORDS,
    STEP,
    WrongCall,
    complete_section,
    emit,
    handle_errors,
    json_option,
    section_of,
    split,
    talk,
    words_argument,
)
from bccp.pipeline import config_text

ALL_HYDRA = {**HYDRA_WORDS, "allow_interspersed_args": False}
"""Context settings of a command that has no options of its own behind the first of Hydra's words."""


class HydraCommand(click.Command):
    """A command whose help lists the keys of the configuration, and whose other words are Hydra's."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write click's part, then the keys."""
        super().format_help(ctx, formatter)
        formatter.write("\n" + config_text.options_text() + "\n")


def _hydra(words: Sequence[str]) -> int:
    """Run the pipeline in this process."""
    from bccp.core.processes import importing

    with importing(ours=True):
        from bccp.pipeline import hydra_app
    return hydra_app.hydra_main(list(words))


@click.command(cls=HydraCommand, context_settings=ALL_HYDRA)
@click.option("--require-promotion", is_flag=True, help="End with the exit code 3 where the model was not promoted.")
@words_argument
def run_command(require_promotion: bool, words: tuple[str, ...]) -> int:
    """Run the pipeline; finished steps with the same key are reused.

    OVERRIDES are Hydra's: section.key=value, +experiments=NAME, +data_sets=NAME, and its flags, -m among them.

    \b
    Example:
      bccp run noisy_labels.user_accuracy=0.6 train.epochs=20
    """
    flag = "--require-promotion"  # behind Hydra's words it is one of them
    asked = require_promotion or flag in words
    return _hydra([*(word for word in words if word != flag), *(["main.require_promotion=true"] if asked else [])])


@click.command(cls=HydraCommand, context_settings=ALL_HYDRA)
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be run, and what is needed from outside; nothing is run.")
@click.option("--json", "as_json", is_flag=True, help="With --plan: print one JSON document on stdout, and nothing else there.")
@words_argument
@click.pass_context
def sweep(ctx: click.Context, plan_only: bool, as_json: bool, words: tuple[str, ...]) -> int:
    """Run one job for each combination of values; what jobs share is computed once.

    \b
    Example:
      bccp sweep noisy_labels.user_accuracy=0.6,0.9 cp_sampling.type=none,diverse
    """
    if plan_only:
        return _plan(words, as_json)
    if as_json:
        raise WrongCall("bccp sweep --json is of a plan: add --plan", ctx)
    return _hydra(["-m", *words])


@handle_errors
def _plan(words: tuple[str, ...], as_json: bool) -> None:
    from bccp.pipeline.sweeps.plan import plan_sweep

    with talk(as_json):
        made = plan_sweep(list(words))
    emit(dataclasses.asdict(made)) if as_json else print(made.text(), flush=True)


@click.command(cls=HydraCommand, context_settings=ALL_HYDRA)
@click.argument("name", type=STEP)
@words_argument
def step(name: str, words: tuple[str, ...]) -> int:
    """Run the step NAME alone, on the outputs of finished runs with the same configuration.

    \b
    Example:
      bccp step train train.epochs=20
    """
    return _hydra([f"main.execute_steps=[{name}]", *words])


@click.command(context_settings=HYDRA_WORDS)
@click.argument("name", type=STEP, metavar="STEP")
@words_argument
@json_option
@handle_errors
def why_command(name: str, words: tuple[str, ...], as_json: bool) -> None:
    """Say why STEP would run, or be reused, under OVERRIDES; nothing is run.

    \b
    Example:
      bccp why train train.epochs=20
    """
    from bccp.pipeline.explain import explain_options

    with talk(as_json):
        found = explain_options(name, split(words))
    if as_json:
        emit({"step": name, "overrides": split(words), "explanation": [dataclasses.asdict(one) for one in found]})
    else:
        print("\n".join(line for one in found for line in one.lines()), flush=True)


@click.command(context_settings=HYDRA_WORDS)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[SECTION] [OVERRIDES]...", shell_complete=complete_section)
@json_option
@click.pass_context
@handle_errors
def config(ctx: click.Context, words: tuple[str, ...], as_json: bool) -> None:
    """Print the composed configuration, or one SECTION of it, and where each value comes from.

    A value comes from config.yaml, from the key that it follows, from an added file, or from the command line.

    \b
    Example:
      bccp config train -- +experiments=paper_recipe train.epochs=20
    """
    from bccp.pipeline.config_origins import listing, traced

    section, overrides = section_of(split(words), ctx)
    entries = traced(overrides, section)
    emit([vars(entry) for entry in entries]) if as_json else print(listing(entries), flush=True)


@click.command()
@handle_errors
def mlproject_command() -> None:
    """Rewrite the steps' MLproject files after a change of config.yaml.

    \b
    Example:
      bccp mlproject
    """
    from bccp.pipeline.mlproject_files import write_all

    for path in write_all():
        print(path, flush=True)
