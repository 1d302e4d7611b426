"""Votes: one label for each image and user, and what most of them say."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bccp.data import tables

VOTES = "votes.csv"
"""The table of votes: ``image, user, label``."""


def cast_votes(
    ballots: Mapping[tuple[str, str], Sequence[tuple[str, str]]],
) -> tuple[dict[tuple[str, str], str], dict[str, list[str]]]:
    """Make one vote for each image and user.

    Parameters
    ----------
    ballots : mapping of (str, str) to sequence of (str, str)
        By image and user the places and labels of their rows.

    Returns
    -------
    votes : dict of (str, str) to str
        A label by (image, user), sorted; none where rows contradict each other.
    problems : dict of str to list of str
        ``repeated`` and ``conflicting``: a description of every row that is no vote of its own.
    """
    votes = {}
    double: dict[str, list[str]] = {"repeated": [], "conflicting": []}
    for (image, user), ballot in sorted(ballots.items()):
        labels = dict.fromkeys(label for _, label in ballot)
        if len(labels) == 1:
            votes[image, user] = ballot[0][1]
            double["repeated"] += [f"{place}: {image}" for place, _ in ballot[1:]]
        else:
            said = " and ".join(repr(label) for label in labels)
            double["conflicting"] += [f"{place}: {image} as {said}" for place, _ in ballot]
    return votes, double


def majority(votes: Mapping[tuple[str, str], str], *, seed: int) -> tuple[dict[str, str], int]:
    """Settle the votes on each image.

    Parameters
    ----------
    votes : mapping of (str, str) to str
        A label by (image, user).
    seed : int
        Decides ties: of the labels with most votes the one with the smallest sha256 of ``seed:image:label`` wins.

    Returns
    -------
    labels : dict of str to str
        The winning label of each image, sorted by image.
    n_ties : int
        How many images were decided by the seed.

    Examples
    --------
    >>> majority({("a.png", "ann"): "cat", ("a.png", "bob"): "dog", ("a.png", "cy"): "dog"}, seed=0)
    ({'a.png': 'dog'}, 0)
    """
    tallies: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (image, _), label in votes.items():
        tallies[image][label] += 1
    labels, n_ties = {}, 0
    for image, tally in sorted(tallies.items()):
        most = max(tally.values())
        winners = [label for label, count in tally.items() if count == most]
        n_ties += len(winners) > 1
        labels[image] = min(winners, key=lambda label: hashlib.sha256(f"{seed}:{image}:{label}".encode()).digest())
    return labels, n_ties


def votes_table(votes: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Lay votes out as a table.

    Parameters
    ----------
    votes : mapping of (str, str) to str
        A label by (image, user).

    Returns
    -------
    DataFrame
        ``image, user, label``, sorted by image, then user.
    """
    rows = [(image, user, label) for (image, user), label in sorted(votes.items())]
    return pd.DataFrame(rows, columns=["image", "user", "label"], dtype=str)


def load_votes(path: Path) -> dict[tuple[str, str], str]:
    """Read a table of votes: a label by (image, user)."""
    table = tables.read(path)
    return {(image, user): label for image, user, label in zip(table["image"], table["user"], table["label"], strict=True)}


def problems_sentence(problems: Mapping[str, Sequence[str]]) -> str:
    """Count the rows of each problem in one line, with the first example of each; empty where there is none."""
    return "; ".join(f"{len(cases)} {kind.replace('_', ' ')} (e.g. {cases[0]})" for kind, cases in problems.items() if cases)
