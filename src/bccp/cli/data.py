"""Subcommands on data: ``export-data``, ``check-new``, ``accept``."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import click

from bccp.cli.parameters import (
    EXPORT_FORMAT,
    HYDRA_WORDS,
    RUN,
    WrongCall,
    change_options,
    emit,
    handle_errors,
    json_option,
    split,
    talk,
    words_argument,
)

if TYPE_CHECKING:
    from bccp.labels.confident_changes import Action

SIMULATED = click.option("--simulated", is_flag=True, help="Take a run on your own images although its labels were simulated.")


def _refuse_apply(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Tell what has taken the place of an option that is gone."""
    if value:
        raise WrongCall(
            "--apply is gone: surely wrong labels are changed without it; --min-confidence 0 gives every image its likeliest class", ctx
        )


@click.command("export-data")
@click.option("--out", required=True, metavar="PLACE", help="Folder to make, or a URL of one; it must not exist, or be empty.")
@click.option("--run", type=RUN, default="", help="A finished run.  [default: the newest with cleansed labels]")
@change_options("labels")
@click.option("--format", "format_name", type=EXPORT_FORMAT, default="folder", show_default=True, help="folder, jsonl or webdataset.")
@click.option(
    "--shard-bytes", type=click.IntRange(min=1), default=500_000_000, show_default=True, help="Largest size of a shard (webdataset), bytes."
)
@click.option("--apply", is_flag=True, hidden=True, expose_value=False, callback=_refuse_apply)
@SIMULATED
@json_option
@handle_errors
def export_data(
    out: str, run: str, action: Action, min_confidence: float, format_name: str, shard_bytes: int, simulated: bool, as_json: bool
) -> None:
    """Write the cleaned data set: the original files with their final labels.

    A label is changed, or its image dropped, only where it is surely wrong; all else stays as it was given. What somebody has checked is
    applied, and images of no class are dropped. It tells how many labels were changed, dropped and left, and how many of the changes are
    expected to be wrong.

    folder has class folders by final label, and labels.csv, every image with the worst first; jsonl is for Hugging Face's datasets,
    webdataset has tar shards. URLs are those that fsspec opens, such as s3://bucket/cleaned. RUN is a run's id or its first 6 digits, a run
    folder or its name, or a summary.json.

    \b
    Example:
      bccp export-data --out cleaned
    """
    from bccp.pipeline.export_dataset import emptied_sentence, export_run, export_sentence
    from bccp.pipeline.exports.label_changes import Rule

    with talk(as_json):
        exported, shown = export_run(out, run, format_name, shard_bytes, rule=Rule(action, min_confidence), simulated=simulated)
    table, changes = exported.table, exported.changes
    notes = [line for line in (changes.note, emptied_sentence(table)) if line]
    if as_json:
        counts = {str(action): int(n) for action, n in table["action"].value_counts().items()}
        files = int((table["file"] != "").sum())
        emit(
            {"folder": exported.place, "list": exported.list_file, "from": shown, "files": files, "actions": counts}
            | changes.figures()
            | ({"notes": notes} if notes else {})
        )
    else:
        name, listed = exported.list_file.rpartition("/")[2], "every image" if format_name == "folder" else "what was written"
        print(f"{export_sentence(table, format_name)}: {exported.place}, from {shown}; {name} lists {listed}", flush=True)
        print("\n".join([changes.sentence(), *notes]), flush=True)


@click.command("check-new", context_settings=HYDRA_WORDS)
@click.option("--data", required=True, metavar="PLACE", help="Folder, archive, or an archive's URL.")
@click.option(
    "--reference", type=RUN, default="", help="A run, clean_data:<digest>, an accepted batch, or none.  [default: what came last]"
)
@click.option("--accept", "accept_it", is_flag=True, help="Accept the batch where it is within all limits.")
@SIMULATED
@words_argument
@json_option
@functools.partial(handle_errors, interrupted="interrupted; nothing was kept")
def check_new(data: str, reference: str, accept_it: bool, simulated: bool, words: tuple[str, ...], as_json: bool) -> None:
    """Check incoming images against known ones, and keep them apart until they are accepted.

    OVERRIDES are as for run; a batch over a limit (preprocessing.checks) is refused, with exit code 1.

    \b
    Example:
      bccp check-new --data /new/photos preprocessing.checks.drift=0.1
    """
    from bccp.data.checks import gate
    from bccp.pipeline.incoming import accept_incoming, check_incoming, rejected_lines

    with talk(as_json):
        batch, findings, page = check_incoming(data, reference, split(words), simulated=simulated)
        if as_json:
            over = [found.check for found in findings if found.verdict == "over"]
            kept = {
                "batch": batch,
                "page": str(page),
                "over": over,
                "rejected": rejected_lines(batch),
                "findings": [dataclasses.asdict(found) for found in findings],
            }
        else:
            width = max(len(found.check) for found in findings)
            for found in findings:
                print(f"  {found.check:<{width}}  {found.verdict:<8}  {found.said}")
            for line in rejected_lines(batch):
                print(line)
            print(f"batch {batch}: {page}", flush=True)
    if as_json:
        accepted = accept_incoming(batch) if accept_it and not over else []
        emit({**kept, "accepted": bool(accepted), "said": accepted})
        gate(findings, str(page))
    else:
        gate(findings, str(page))
        print("\n".join(accept_incoming(batch)) if accept_it else f"it is kept apart until: bccp accept {batch}", flush=True)


@click.command()
@click.argument("batch", metavar="ID")
@handle_errors
def accept_command(batch: str) -> None:
    """Accept a batch that was checked, and join it with the images that it was checked against.

    Images whose labels the reference's run trusted are Monday's; the batch's are Tuesday's, or, where nothing was trusted, there are no
    days. ID is what check-new has called it, or its beginning.

    \b
    Example:
      bccp accept 0123456789ab
    """
    from bccp.pipeline.incoming import accept_incoming

    print("\n".join(accept_incoming(batch)), flush=True)
