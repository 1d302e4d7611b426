"""Subcommands of the service: ``serve``."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bccp.cli.parameters import HYDRA_WORDS, handle_errors, split, words_argument

if TYPE_CHECKING:
    from bccp.serving.http.parts import Parts


@click.command(context_settings=HYDRA_WORDS)
@words_argument
@handle_errors
def serve_command(words: tuple[str, ...]) -> None:
    """Answer on images over HTTP, record predictions, and take feedback; SIGTERM or Ctrl-C ends it.

    OVERRIDES are those of the sections serve and store: serve.model=, serve.port=, serve.host=, store.url=, …; bccp config serve lists
    them. Tokens come from the environment: BCCP_SERVE_TOKEN for those who predict and vote, BCCP_REVIEW_TOKEN for those who audit.

    \b
    Example:
      bccp serve serve.model=models:/bccp@champion serve.port=8000
    """
    from bccp.core.config import load_section
    from bccp.core.home import keep_within_home
    from bccp.core.processes import callers, end_with, importing
    from bccp.pipeline.compose import compose
    from bccp.tracking.backends import ledger_uri
    from bccp.tracking.store import Ledger

    if "MLFLOW_RUN_ID" in os.environ:
        end_with(callers())  # `mlflow run` would leave it alone when it is killed
    composed = compose(split(words))
    settings, store = (load_section(composed, name, base=Path.cwd()) for name in ("serve", "store"))
    uri, note = ledger_uri(load_section(composed, "tracking", base=Path.cwd()).mlflow_uri)
    if note:
        print(note, flush=True)
    keep_within_home()
    with importing(ours=True):
        from bccp.serving.service import Service
    service = Service(settings, store, Ledger(uri))

    def ready(parts: Parts) -> None:
        gc.collect()
        gc.freeze()  # what was imported and loaded stays: the collector need not look through it again while requests are answered
        print(service.ready_line(parts), flush=True)

    service.run(ready)
