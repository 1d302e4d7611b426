"""The one exception that a user's mistake raises, the words that help to mend it, and what no words may show: passwords in URLs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any


class BCCPError(Exception):
    """A mistake in the input, told in one sentence.

    The message names the culprit (a file, a key or a value) and what would be accepted instead. The command line prints it after
    ``error:`` as the last line on stderr and ends with a non-zero status; no traceback is shown for it. URLs in it show no secret.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(shown_text(sentence))


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
    """A URL without user, password, query and fragment, which may hold a key.

    Examples
    --------
    >>> shown_url("https://me:secret@example.org/a.zip?token=1")
    'https://example.org/a.zip'
    """
    scheme, mark, rest = url.partition("://")
    if re.match(r"[^/?#@]*:(?!\d+([/?#]|$))[^@]*[/?#].*@", rest):  # a password with / ? #, which databases take without escapes
        return scheme + mark + re.split(r"[/?#&]", rest.rpartition("@")[2])[0]
    return scheme + mark + re.split(r"[?#]", re.sub(r"^[^/?#]*@", "", rest))[0]


def shown_text(text: str) -> str:
    """A text in which each URL is as :func:`shown_url` has it.

    Examples
    --------
    >>> shown_text("no answer (http://me:secret@example.org/x?token=1): start it")
    'no answer (http://example.org/x): start it'
    """
    return re.sub(r"\w+://[^\s'\"]+?(?=[)\],.:;]*(?:[\s'\"]|$))", lambda url: shown_url(url[0]), text)


def shown(value: Any) -> Any:
    """A value, or all of a mapping or list, as records may show it: URLs without their secrets."""
    if isinstance(value, Mapping):
        return {name: shown(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shown(one) for one in value]
    if not isinstance(value, str):
        return value
    return shown_url(value) if re.match(r"[\w+.-]+://", value) else shown_text(value)
