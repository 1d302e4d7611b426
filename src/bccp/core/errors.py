"""The one exception that a user's mistake raises, and the words that help to mend it."""

from __future__ import annotations

import difflib
import unicodedata
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


class NotPromotedError(BCCPError):
    """A run has finished and promoted nothing, where ``main.require_promotion`` asks for it."""

    exit_status = 3


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
    if not match:
        return ""
    differ = describe_difference(word, match[0])
    return f" (did you mean {match[0]!r}?{differ and f' they {differ}'})"


def describe_difference(one: str, other: str) -> str:
    """Say how two names differ that look alike; empty where they differ in plain sight.

    Examples
    --------
    >>> describe_difference("ant", "ant "), describe_difference("Bee", "bee"), describe_difference("ant", "bee")
    ('differ in blanks', 'differ in upper and lower case', '')
    >>> describe_difference("cafe\u0301", "caf\u00e9")
    'differ in Unicode form: an accent is part of the letter in one and follows it in the other'
    """
    if one == other:
        return ""
    composed = [unicodedata.normalize("NFC", name) for name in (one, other)]
    if composed[0] == composed[1]:
        return "differ in Unicode form: an accent is part of the letter in one and follows it in the other"
    shown = ["".join(letter for letter in name if unicodedata.category(letter) not in ("Cf", "Cc")) for name in composed]
    if shown[0] == shown[1]:
        return "differ in a character that is not shown"
    unspaced = ["".join(name.split()) for name in shown]
    if unspaced[0] == unspaced[1]:
        return "differ in blanks"
    folded = [name.casefold() for name in unspaced]
    if folded[0] == folded[1]:
        return "differ in upper and lower case" + ("" if unspaced == shown else " and in blanks")
    if len(folded[0]) == len(folded[1]):
        pairs = [(a, b) for a, b in zip(*folded, strict=True) if a != b]
        if all(_alphabet(a) != _alphabet(b) and a.isalpha() and b.isalpha() for a, b in pairs):
            a, b = pairs[0]
            return f"differ in letters that look alike: {unicodedata.name(a, a)} and {unicodedata.name(b, b)}"
    wide = [unicodedata.normalize("NFKC", name) for name in folded]
    return "differ in the width or style of letters" if wide[0] == wide[1] else ""


def _alphabet(letter: str) -> str:
    """The first word of a letter's name in Unicode, which for letters is their alphabet's."""
    return unicodedata.name(letter, letter).partition(" ")[0]


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, quoted.

    Examples
    --------
    >>> few(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
