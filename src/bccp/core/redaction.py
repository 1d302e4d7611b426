"""Passwords and keys in URLs: what is shown or recorded has none, and what others record gets a reference to the environment instead."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from typing import Any

_URL = re.compile(r"^\w+://.*|(?<=')\w+://[^']+|(?<=\")\w+://[^\"]+|\w+://[^\s,'\"\])}]+")

_LONGEST_LINE = 300


def redact_url(url: str) -> str:
    """A URL without user, password, query and fragment, which may hold a key; the fragment that names a page of MLflow stays.

    Examples
    --------
    >>> shown_url("https://me:secret@example.org/a.zip?token=1")
    'https://example.org/a.zip'
    """
    if page := re.search(r"(?<=/)#/experiments/[\w/.-]+$", url):
        return redact_url(url[: page.start()]) + page[0]
    scheme, mark, rest = url.partition("://")
    if re.match(r"[^/?#@]*:(?!\d+([/?#]|$))[^@]*[/?#].*@", rest):  # a password with / ? #, which databases take without escapes
        return scheme + mark + re.split(r"[/?#&]", rest.rpartition("@")[2])[0]
    return scheme + mark + re.split(r"[?#]", re.sub(r"^[^/?#]*@", "", rest))[0]


def redact_text(text: str) -> str:
    """A text in which each URL is as :func:`redact_url` has it.

    Examples
    --------
    >>> shown_text("no answer (http://me:secret@example.org/x?token=1): start it")
    'no answer (http://example.org/x): start it'
    """
    return re.sub(r"\w+://[^\s'\"]+?(?=[)\],.:;]*(?:[\s'\"]|$))", lambda url: redact_url(url[0]), text)


def first_line(error: BaseException) -> str:
    """The beginning of an error's text as records may show it; the name of its kind where it has none.

    Examples
    --------
    >>> first_line(OSError("no answer from http://me:secret@example.org/x\\nTraceback …")), first_line(KeyError())
    ('no answer from http://example.org/x', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return redact_text(lines[0])[:_LONGEST_LINE] if lines else type(error).__name__  # a cut before could hide where a password ends


def redact(value: Any) -> Any:
    """A value, or all of a mapping or list, as records may show it: URLs without their secrets."""
    if isinstance(value, Mapping):
        return {name: redact(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [redact(one) for one in value]
    if not isinstance(value, str):
        return value
    return redact_url(value) if re.match(r"[\w+.-]+://", value) else redact_text(value)


def to_env_ref(text: str) -> str:
    """Put URLs with secrets into the environment, and references to it in their place, for what Hydra or MLflow records on its own.

    Examples
    --------
    >>> hide("data.path='https://me:secret@example.org/a.zip'")  # doctest: +SKIP
    "data.path='${oc.env:BCCP_SECRET_1F0C5AE2}'"
    """

    def refer(url: re.Match[str]) -> str:
        if redact_url(url[0]) == url[0] or "${" in url[0]:
            return url[0]
        name = f"BCCP_SECRET_{secrets.token_hex(4).upper()}"
        os.environ[name] = url[0]
        return f"${{oc.env:{name}}}"

    return _URL.sub(refer, text)


def from_env_ref(text: str) -> str:
    """Put back what :func:`to_env_ref` has hidden, here or in a process that started this one."""
    return re.sub(r"\$\{oc\.env:(BCCP_SECRET_\w+)\}", lambda reference: os.environ.get(reference[1], reference[0]), text)
