"""The one exception that a user's mistake raises, and the words that help to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from bccp.core.redaction import redact_text


class BCCPError(Exception):
    """A mistake in the input, told in one sentence.

    The message names the culprit (a file, a key or a value) and what would be accepted instead. The command line prints it after
    ``error:`` as the last line on stderr and ends with a non-zero status; no traceback is shown for it. URLs in it show no secret.
    """

    exit_status = 1
    """Of a command that ends with it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(redact_text(sentence).splitlines()))  # a name that was given may hold a line break


class MissingExtraError(BCCPError):
    """A package is missing that an optional extra installs; the message holds the pip command."""

    exit_status = 2


def nearest(word: str, choices: Iterable[str]) -> str:
    """Suggest the valid word that looks most like a wrong one.

    Parameters
    ----------
    word : str
        What was given.
    choices : iterable of str
        What would be accepted.

    Returns
    -------
    str
        ``" (did you mean 'x'?)"``, or an empty string where nothing is near.

    Examples
    --------
    >>> nearest("trian", ["train", "test"])
    " (did you mean 'train'?)"
    """
    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, quoted.

    Examples
    --------
    >>> few(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
