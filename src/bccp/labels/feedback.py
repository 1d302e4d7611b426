"""What users say about images: reads a feedback file, sorts its rows into votes and problems, settles votes by majority.

A feedback file is a CSV with the columns ``image,label[,user]``, or a table as annotation tools export it
(:mod:`bccp.data.label_tables.reading`). Every row either becomes a vote or is counted as a problem of one kind; none is dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bccp.core.errors import BCCPError, nearest
from bccp.core.paths import where_relative
from bccp.data import tables
from bccp.data.label_tables import reading
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.image_names import AMBIGUOUS, find_images
from bccp.data.label_tables.reading import Answer
from bccp.data.layout import KnownNames

_COLUMNS = "image,label[,user]"
"""Of a feedback file, as messages name them."""

PROBLEMS = reading.PROBLEMS | {
    "unknown_image": "rows that name no image of the data",
    "ambiguous_image": "rows that name images of which the data has several",
    "unknown_class": "rows whose label is no class",
    "repeated": "rows that repeat another",
    "conflicting": "rows that contradict another about the same image",
}
"""The kinds of rows that become no vote of their own, in the order in which a row is tested for them."""

_N_EXAMPLES = 5


@dataclass(frozen=True)
class FeedbackFile:
    """A feedback file as it stands.

    Attributes
    ----------
    name : str
        What it is called in messages.
    rows : sequence of Answer
        In the file's order.
    has_users : bool
        Whether it tells users apart.
    kind, wanted : str
        What messages call such a file, and the columns that it should have.
    described : str
        How it was read, where it is no plain file of the columns that are wanted; else empty.
    """

    name: str
    rows: Sequence[Answer]
    has_users: bool
    kind: str = "feedback file"
    wanted: str = _COLUMNS
    described: str = ""


@dataclass(frozen=True)
class Feedback:
    """The votes of a feedback file, and what was wrong with its other rows.

    Attributes
    ----------
    votes : dict of (str, str) to str
        The label that a user (empty without users) gives to an image, by (image, user), sorted.
    named : frozenset of str
        Every image of the data that the file names, also where no vote came of it.
    n_rows : int
        Rows of the file.
    problems : dict of str to list of str
        For each of ``PROBLEMS`` a description of every such row.
    has_users : bool
        Whether the file tells users apart.
    """

    votes: Mapping[tuple[str, str], str]
    named: frozenset[str]
    n_rows: int
    problems: Mapping[str, list[str]]
    has_users: bool


def read_feedback(
    path: Path,
    *,
    kind: str = "feedback file",
    wanted: str = _COLUMNS,
    layout: str = "auto",
    columns: Columns | None = None,
) -> FeedbackFile:
    """Read a feedback file.

    A byte-order mark, Windows line ends, other separators, further columns, blanks around column names and empty lines are fine.

    Parameters
    ----------
    path : Path
    kind, wanted : str
        What messages call such a file, and the columns that they ask for.
    layout, columns
        See :func:`bccp.data.label_tables.reading.read`.

    Returns
    -------
    FeedbackFile

    Raises
    ------
    BCCPError
        If there is no such file, or it is no such table, is empty, or has columns that leave a choice.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
<<<<<<< HEAD
        raise BCCPError(f"the {kind} {path} cannot be read ({error.strerror}){where_relative(path)}: give {accepted}") from error
    except UnicodeDecodeError as error:
        raise BCCPError(f"the {kind} {path} is not text in UTF-8: give {accepted}") from error
    except csv.Error as error:
        raise BCCPError(f"the {kind} {path} is no CSV file ({error}): give {accepted}") from error
    if not lines:
        raise BCCPError(f"the {kind} {path} is empty: give {accepted}")
    columns = _columns(lines[0][1], f"{kind} {path}", accepted)
    n_cells = len(lines[0][1])
    rows = [_row(line, cells, columns, n_cells) for line, cells in lines[1:]]
    return FeedbackFile(name=str(path), rows=rows, has_users="user" in columns, kind=kind, wanted=wanted)
=======
        raise BCCPError(f"the {kind} {path} cannot be read ({error.strerror}){where_relative(path)}: give {_accepted(wanted)}") from error
    table = reading.read(content, f"{kind} {path}", layout=layout, columns=columns)
    is_plain = (table.image, table.labels, table.user or "user") == ("image", ("label",), "user")
    return FeedbackFile(str(path), table.answers, table.has_users, kind, wanted, "" if is_plain else table.described)
>>>>>>> 1ba55f7 (Feedback files are read as annotation tools export them, and an annotator's column of another name is recognised or asked for)


def sort_out(file: FeedbackFile, *, images: Collection[str], classes: Collection[str] | None, unreadable: Collection[str] = ()) -> Feedback:
    """Turn rows into votes.

    Which image a cell means is said by :func:`bccp.data.label_tables.image_names.find_images`. Blanks around a label do not count, unless
    the data has just such a class. Of rows with the same image and user (the same image, where there are no users) equal labels count
    once, and different labels not at all; rows with unknown classes have been put aside by then. Rows with an empty user are one user's.

    Parameters
    ----------
    file : FeedbackFile
    images : collection of str
        The ids of the data's images.
    classes : collection of str or None
        The names of the classes; None: the file says which there are.
    unreadable : collection of str, optional
        The ids of files that were put aside: rows that name them name no other image.

    Returns
    -------
    Feedback

    Raises
    ------
    BCCPError
        If no row is of any use.
    """
    known_images = frozenset(images)
    found = find_images([row.image for row in file.rows], [*images, *unreadable])
    found = [image if image in known_images or image == AMBIGUOUS else None for image in found]
    if classes is None:
        classes = {row.label.strip() for row, image in zip(file.rows, found, strict=True) if image and not row.problem}
    known, known_names = KnownNames(classes), KnownNames(images)
    problems: dict[str, list[str]] = {kind: [] for kind in PROBLEMS}
    ballots: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row, image in zip(file.rows, found, strict=True):
        label = known.find(row.label)
        if row.problem:
            several = f": {row.label or 'no class'} for {row.image}" if row.problem == "several_classes" else ""
            problems[row.problem].append(row.place + several)
        elif not image:
            similar = known_names.describe_similar(row.image)
            problems["ambiguous_image" if image == AMBIGUOUS else "unknown_image"].append(row.image + similar)
        elif label is None:
            problems["unknown_class"].append(f"{row.label!r} for {image}" + nearest(row.label, classes))
        else:
            ballots[image, unicodedata.normalize("NFC", row.user)].append((row.place, label))
    votes, double = _cast(ballots)
    problems |= double
    if not votes:
        raise BCCPError(_useless(file, problems, images, classes))
    return Feedback(votes, frozenset(image for image in found if image), len(file.rows), problems, file.has_users)


def save_feedback(feedback: Feedback, folder: Path) -> None:
    """Write the artifact ``feedback``: ``votes.csv`` (``image, user, label``) and ``feedback.json`` (the rest)."""
    tables.write(votes_table(feedback.votes), folder / "votes.csv")
    about = {
        "rows": feedback.n_rows,
        "has_users": feedback.has_users,
        "named": sorted(feedback.named),
        "problems": {kind: list(cases) for kind, cases in feedback.problems.items()},
    }
    (folder / "feedback.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_feedback(folder: Path) -> Feedback:
    """Read what :func:`save_feedback` has written."""
    votes = tables.read(folder / "votes.csv")
    about = json.loads((folder / "feedback.json").read_text(encoding="utf-8"))
    return Feedback(
        votes={(image, user): label for image, user, label in zip(votes["image"], votes["user"], votes["label"], strict=True)},
        named=frozenset(about["named"]),
        n_rows=about["rows"],
        problems=about["problems"],
        has_users=about["has_users"],
    )


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


def problem_counts(problems: Mapping[str, Sequence[str]]) -> dict[str, dict[str, object]]:
    """Count each kind of problem and give its first examples.

    Parameters
    ----------
    problems : mapping of str to sequence of str

    Returns
    -------
    dict
        ``{kind: {"count": int, "examples": list of at most 5 str}}``.
    """
    return {kind: {"count": len(cases), "examples": list(cases[:_N_EXAMPLES])} for kind, cases in problems.items()}


def problems_sentence(problems: Mapping[str, Sequence[str]]) -> str:
    """Say in one line what was wrong, with the first example of each kind; empty where nothing was."""
    return "; ".join(f"{len(cases)} {kind.replace('_', ' ')} (e.g. {cases[0]})" for kind, cases in problems.items() if cases)


def _accepted(wanted: str) -> str:
    return f"a CSV file in UTF-8, separated by commas, whose first line names the columns {wanted}"


def _cast(
    ballots: Mapping[tuple[str, str], Sequence[tuple[str, str]]],
) -> tuple[dict[tuple[str, str], str], dict[str, list[str]]]:
    """One vote for each image and user from the places and labels of their rows, and the rows that are none."""
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


def _useless(file: FeedbackFile, problems: Mapping[str, Sequence[str]], images: KnownNames, classes: KnownNames) -> str:
    """Why a file without a single vote has none."""
    start = f"none of the {len(file.rows)} rows of the {file.kind} {file.name} can be used"
    if not file.rows:
        return f"the {file.kind} {file.name} has no rows: give one line {file.wanted} for each label"
    if problems["unknown_class"]:
        some = ", ".join(repr(name) for name in sorted(classes.names)[:10])
        return f"{start}: the label {problems['unknown_class'][0]} is no class; the classes are {some}"
    if problems["unknown_image"]:
        unknown = next(row.image for row in file.rows if not row.malformed and not images.find(row.image))
        return (
            f"{start}: an image is called {unknown!r} there{images.describe_similar(unknown)} and {min(images.names)!r} in the data; "
            "give paths relative to the data's top folder"
        )
    return f"{start}: {problems_sentence(problems)}; give {_accepted(file.wanted)}"
