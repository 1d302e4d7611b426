"""What an artifact was made with, as the ledger tells it."""

from __future__ import annotations

from collections.abc import Mapping

from bccp.tracking.store import Ledger
from bccp.tracking.tags import INPUT_PREFIX, OUTPUT_PREFIX
from bccp.tracking.versions import qualified, split_version

_NEWEST = 20
"""Of the runs that made the same bytes, so many are asked."""


def ancestor(ledger: Ledger, inputs: Mapping[str, str], name: str) -> str | None:
    """An artifact that went into others, directly or not.

    Parameters
    ----------
    ledger : Ledger
    inputs : mapping of str to str
        The others' versions, by name.
    name : str
        Of the artifact, which may be one that steps share, such as ``monday_model``.

    Returns
    -------
    str or None
        Its version. Of several the one with the fewest steps in between, and of these the newest; None where the ledger knows of none, as
        for inputs that came from elsewhere.
    """
    todo = [qualified(artifact, version) for artifact, version in sorted(inputs.items())]
    for number, version in enumerate(todo):  # which grows
        if version in todo[:number]:
            continue
        artifact, digest = split_version(version)
        made = f"tags.`{OUTPUT_PREFIX}{artifact}` = '{digest}' and attributes.status = 'FINISHED'"
        for run in ledger.search(made, limit=_NEWEST):
            read = {tag.removeprefix(INPUT_PREFIX): value for tag, value in run.data.tags.items() if tag.startswith(INPUT_PREFIX)}
            if name in read:
                return str(read[name])
            todo += [qualified(known, of) for known, of in sorted(read.items())]
    return None
