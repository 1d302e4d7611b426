"""Subcommands of ``bccp wandb``: ``sync``, ``dashboard``."""

from __future__ import annotations

import re

import click

from bccp.cli.parameters import HYDRA_WORDS, WrongCall, handle_errors, split, words_argument


@click.command(context_settings=HYDRA_WORDS)
@words_argument
@handle_errors
def sync_command(words: tuple[str, ...]) -> None:
    """Upload to W&B what was recorded offline, with its lineage; a second call changes nothing.

    Of OVERRIDES only tracking.mlflow_uri counts: where the runs are recorded.

    \b
    Example:
      bccp wandb sync
    """
    from bccp.pipeline.compose import compose
    from bccp.tracking.wandb_sync import sync as upload

    given = split(words)
    print(upload(compose(given).tracking.mlflow_uri if given else None), flush=True)


@click.command()
@click.argument("project", metavar="ENTITY/PROJECT")
@click.pass_context
@handle_errors
def dashboard(ctx: click.Context, project: str) -> None:
    """Make a dashboard in W&B, or replace it.

    \b
    Example:
      bccp wandb dashboard me/bccp
    """
    place = re.fullmatch(r"([^/\s]+)/([^/\s]+)", project)
    if place is None:
        raise WrongCall("which project? give the W&B entity and project: bccp wandb dashboard entity/project", ctx)
    from bccp.tracking.wandb_dashboard import save_dashboard

    print(f"W&B: the dashboard is {save_dashboard(place[1], place[2])}", flush=True)
