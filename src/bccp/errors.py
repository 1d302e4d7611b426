"""The one exception that a user's mistake raises, and the words that help to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from urllib.parse import urlsplit, urlunsplit


class BCCPError(Exception):
    """A mistake in the input, told in one sentence.

    The message names the culprit (a file, a key or a value) and what would be accepted instead. The command line prints it after
    ``error:`` as the last line on stderr and ends with a non-zero status; no traceback is shown for it.
    """


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


def shown_url(url: str) -> str:
    """A URL without user, password and query, which may hold a key.

    Examples
    --------
    >>> shown_url("https://me:secret@example.org/a.zip?token=1")
    'https://example.org/a.zip'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
