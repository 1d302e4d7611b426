"""The subcommand on the home: ``gc``."""

from __future__ import annotations

import functools

import click

from bccp.cli.parameters import RUN, emit, handle_errors, json_option, talk


@click.command()
@click.option("--delete", "delete_it", is_flag=True, help="Delete what can go.")
@click.option("--keep-days", type=click.IntRange(1, 99_999), default=30, show_default=True, help="Days for which everything is kept.")
@click.option("--keep", type=RUN, default="", help="Name a run, or a sweep's folder, that is kept for good.")
@json_option
@functools.partial(handle_errors, interrupted="interrupted; the next gc ends what this one has begun")
def gc(delete_it: bool, keep_days: int, keep: str, as_json: bool) -> None:
    """Show what BCCP_HOME holds; with --delete, delete what no named or recent run needs.

    \b
    Example:
      bccp gc --keep-days 60
    """
    from bccp.pipeline.garbage_collection import clean_home

    with talk(as_json):
        cleaned = clean_home(delete_it=delete_it, keep_days=keep_days, named=keep)
    emit(cleaned.document()) if as_json else print("\n".join(cleaned.said()), flush=True)
