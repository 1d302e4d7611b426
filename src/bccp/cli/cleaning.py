"""The subcommand ``clean``: one folder, archive or URL of images whose labels may be wrong."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import click

from bccp.cli.parameters import change_options, emit, handle_errors, json_option, split, talk, words_argument

if TYPE_CHECKING:
    from bccp.labels.confident_changes import Action


@click.command("clean")
@click.argument("place", metavar="PATH")
@click.option("--feedback", metavar="CSV", help="Labels to be judged, image,label[,user]; names of folders are then none.")
@click.option("--trusted", metavar="DIR", help="Folder of images whose labels are right, a folder a class.")
@click.option("--audit", metavar="CSV", help="Labels that somebody has checked: the checked.csv of the page.")
@click.option("--out", metavar="DIR", help="Folder for the cleaned images, the list and the page; replaced if clean wrote it.")
@change_options("labels in --out")
@words_argument
@json_option
@functools.partial(handle_errors, interrupted="interrupted; nothing was written to --out")
def clean_command(
    place: str,
    feedback: str | None,
    trusted: str | None,
    audit: str | None,
    out: str | None,
    action: Action,
    min_confidence: float,
    words: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find wrong labels in one folder of images, and write the list, the page to check them on, and the cleaned folder.

    PATH is a folder, a zip or tar file, or a URL: class folders, also below train/ and test/; monday/ (trusted) and tuesday/; or images
    with a table of labels. A feedback.csv in it is used. Nothing else is trusted, and nothing in PATH is changed. OVERRIDES are as for run.

    \b
    Example:
      bccp clean photos --out cleaned
      bccp clean photos --audit checked.csv --out cleaned
    """
    from bccp.core.processes import importing

    with importing(ours=True):
        from bccp.pipeline.clean_folder import CleanRequest, clean_place
        from bccp.pipeline.exports.label_changes import Rule

    request = CleanRequest(place, feedback, trusted, audit, out, Rule(action, min_confidence), tuple(split(words)))
    with talk(as_json):
        cleaned = clean_place(request)
        print(cleaned.changes.sentence(), flush=True)
    if as_json:
        emit(cleaned.document())
    else:
        print("\n".join(cleaned.lines()), flush=True)
