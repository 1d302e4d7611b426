"""The subcommand ``forget``: one image or one user, wherever they are."""

from __future__ import annotations

import functools

import click

from bccp.cli.parameters import WrongCall, emit, handle_errors, json_option, split, talk, words_argument


@click.command()
@click.option("--user", metavar="NAME", help="Name of a user, or the hash that stands for it.")
@click.option("--image", metavar="SHA256", help="SHA-256 of an image file's bytes, or the file.")
@click.option("--purge", is_flag=True, help="Delete what holds it, and cut it out of what else it is a part of.")
@words_argument
@json_option
@functools.partial(handle_errors, interrupted="interrupted; the same command again does the rest")
def forget(user: str | None, image: str | None, purge: bool, words: tuple[str, ...], as_json: bool) -> None:
    """Name every place that holds an image or names a user; with --purge, delete it there.

    Places are rows and files of the service, incoming batches, artifacts and all that derives from them, run folders, and what W&B has.
    What cannot be cut out goes as a whole, and the next run makes it anew. Weights of registered models stay, and are named. OVERRIDES are
    those that the service is started with, such as store.url.

    \b
    Example:
      bccp forget --user ann
      bccp forget --image photo.jpg --purge
    """
    from bccp.serving.forgetting.forget import forget_image, forget_user

    if (user is None) == (image is None):
        raise WrongCall("give either --user or --image", click.get_current_context())
    with talk(as_json):
        if image is not None:
            done = forget_image(image, purge=purge, words=split(words))
        else:
            done = forget_user(str(user), purge=purge, words=split(words))
    emit(done.document()) if as_json else print("\n".join(done.lines()), flush=True)
