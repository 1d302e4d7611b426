"""Subcommands on trained models: ``predict``, ``export-model``, ``promote``, ``rollback``."""

from __future__ import annotations

import sys

import click

from bccp.cli.parameters import WrongCall, emit, handle_errors, json_option, talk
from bccp.core.errors import BCCPError

MODEL_HELP = (
    "models:/name@alias, name@alias, a run (id, first digits, folder, summary.json), model:<digest>, a model's folder or file, or "
    "entity/project/model:d-<digits> of W&B."
)


@click.command()
@click.option("--model", help=MODEL_HELP)
@click.option("--url", metavar="URL", help="Instead of a model: a running bccp serve; its token is taken from BCCP_SERVE_TOKEN.")
@click.option("--images", required=True, metavar="PLACE", help="Folder of images, or an image file.")
@click.option("--out", default="predictions.csv", show_default=True, metavar="FILE", help="Table to write.")
@json_option
@handle_errors
def predict_command(model: str | None, url: str | None, images: str, out: str, as_json: bool) -> None:
    """Classify image files by a trained model, or by a service that runs.

    A file without an answer has the reason in the column error, and makes the exit code 1.

    \b
    Example:
      bccp predict --model models:/bccp@champion --images /photos
      bccp predict --url http://127.0.0.1:8000 --images /photos
    """
    from bccp.serving.batch_predict import predict_files

    if (model is None) == (url is None):
        raise WrongCall("give either --model or --url", click.get_current_context())
    with talk(as_json):
        done = predict_files(model or "", images, out, url=url)
    if as_json:
        emit({"table": str(done.table), "files": done.n_files, "unanswered": done.n_unreadable, "examples": done.examples})
    else:
        print(f"{done.n_files - done.n_unreadable} of {done.n_files} files have an answer: {done.table}", flush=True)
    if done.n_unreadable:
        print("\n".join(f"  {example}" for example in done.examples), file=sys.stderr)
        raise BCCPError(f"{done.n_unreadable} of {done.n_files} files have no answer: the column error of {out} says why")


@click.command("export-model")
@click.option("--model", required=True, help=MODEL_HELP)
@click.option("--format", "format_name", required=True, metavar="FORMAT", help="onnx, torchscript or torch_export.")
@click.option("--out", required=True, metavar="FILE", help="File to write; FILE.json beside it says what goes in and out.")
@json_option
@handle_errors
def export_model_command(model: str, format_name: str, out: str, as_json: bool) -> None:
    """Write a model for other runtimes, checked against its own answers.

    \b
    Example:
      bccp export-model --model models:/bccp@champion --format onnx --out model.onnx
    """
    from bccp.serving.export_model import export_named

    with talk(as_json):
        said, place = export_named(model, format_name, out)
    if as_json:
        emit({"file": str(place), **said})
        return
    print(
        f"{place}: {said['format']}, {said['image_size']} px, {len(said['class_names'])} classes; answers as the model itself does "
        f"(within {said['largest_difference']:.1g})",
        flush=True,
    )


@click.command("promote")
@click.argument("model")
@click.option("--force", is_flag=True, help="Although it was rejected, held or rolled back; it is tagged as forced.")
@handle_errors
def promote_command(model: str, force: bool) -> None:
    """Make a registered version the champion: MODEL is name/version, name@alias, or a name for its newest version.

    \b
    Example:
      bccp promote bccp/3 --force
    """
    from bccp.pipeline.champions import promote_named

    print(promote_named(model, force=force), flush=True)


@click.command()
@click.option("--model", default="bccp", show_default=True, metavar="NAME", help="Name of the registered model.")
@handle_errors
def rollback(model: str) -> None:
    """Make the champion before this one the champion again.

    \b
    Example:
      bccp rollback --model bccp
    """
    from bccp.pipeline.champions import roll_back_named

    print(roll_back_named(model), flush=True)
