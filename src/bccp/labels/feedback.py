"""What users say about images: reads a feedback file, sorts its rows into votes and problems, settles votes by majority.

A feedback file is a CSV with the columns ``image,label[,user]``. Every row either becomes a vote or is counted as a
problem of one kind; none is dropped in silence.
"""

from __future__ import annotations

import csv
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
from bccp.data.layout import KnownNames

_COLUMNS = "image,label[,user]"
"""Of a feedback file, as messages name them."""

PROBLEMS = {
    "malformed": "rows without an image or a label, or with surplus cells",
    "unknown_image": "rows that name no image of the data",
    "unknown_class": "rows whose label is no class",
    "repeated": "rows that repeat another",
    "conflicting": "rows that contradict another about the same image",
}
"""The kinds of rows that become no vote of their own, in the order in which a row is tested for them."""

_N_EXAMPLES = 5


@dataclass(frozen=True)
class Row:
    """A line of a feedback file.

    Attributes
    ----------
    line : int
        Where it ends, counted from 1.
    image, label, user : str
        Its cells; ``user`` is empty where the file has no such column.
    malformed : bool
        Whether it lacks an image or a label, or has surplus cells.
    """

    line: int
    image: str
    label: str
    user: str
    malformed: bool


@dataclass(frozen=True)
class FeedbackFile:
    """A feedback file as it stands.

    Attributes
    ----------
    name : str
        What it is called in messages.
    rows : sequence of Row
        In the file's order.
    has_users : bool
        Whether it has the column ``user``.
    kind, wanted : str
        What messages call such a file, and the columns that it should have.
    """

    name: str
    rows: Sequence[Row]
    has_users: bool
    kind: str = "feedback file"
    wanted: str = _COLUMNS


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


def read_feedback(path: Path, *, kind: str = "feedback file", wanted: str = _COLUMNS) -> FeedbackFile:
    """Read a feedback file.

    A byte-order mark, Windows line ends, further columns, blanks around column names and empty lines are fine.

    Parameters
    ----------
    path : Path
    kind, wanted : str
        What messages call such a file, and the columns that they ask for.

    Returns
    -------
    FeedbackFile

    Raises
    ------
    BCCPError
        If there is no such file, or if it is no CSV in UTF-8, is empty or lacks the columns ``image`` and ``label``.
    """
    accepted = _accepted(wanted)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except OSError as error:
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


def sort_out(file: FeedbackFile, *, images: Collection[str], classes: Collection[str]) -> Feedback:
    """Turn rows into votes.

    An image may be written with a leading ``./`` or with backslashes, and blanks around a cell and the Unicode form of its letters do
    not count, unless the data has just such a name. Of rows with the same image and user (the same image, where there are no users) equal
    labels count once, and different labels not at all; rows with unknown classes have been put aside by then. Rows with
    an empty user are one user's.

    Parameters
    ----------
    file : FeedbackFile
    images : collection of str
        The ids of the data's images.
    classes : collection of str
        The names of the classes.

    Returns
    -------
    Feedback

    Raises
    ------
    BCCPError
        If no row is of any use.
    """
    known_images, known_classes = KnownNames(images), KnownNames(classes)
    problems: dict[str, list[str]] = {kind: [] for kind in PROBLEMS}
    named = set()
    ballots: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for row in file.rows:
        image, label = known_images.find(row.image) or row.image.strip(), known_classes.find(row.label) or row.label.strip()
        if image in known_images.names:
            named.add(image)
        if row.malformed:
            problems["malformed"].append(f"line {row.line}")
        elif image not in known_images.names:
            problems["unknown_image"].append(row.image + known_images.describe_similar(row.image))
        elif label not in known_classes.names:
            problems["unknown_class"].append(f"{row.label!r} for {image}" + nearest(row.label, known_classes.names))
        else:
            ballots[image, unicodedata.normalize("NFC", row.user)].append((row.line, label))
    votes, double = _cast(ballots)
    problems |= double
    if not votes:
        raise BCCPError(_useless(file, problems, known_images, known_classes))
    return Feedback(votes, frozenset(named), len(file.rows), problems, file.has_users)


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


def _columns(header: Sequence[str], file: str, accepted: str) -> dict[str, int]:
    """Where the columns stand."""
    names = [name.strip() for name in header]
    for name in ("image", "label", "user"):
        if names.count(name) > 1:
            raise BCCPError(f"the {file} has {names.count(name)} columns {name!r}: give {accepted}")
    for name in ("image", "label"):
        if name not in names:
            found = ", ".join(repr(n) for n in names[:10])
            raise BCCPError(f"the {file} has no column {name!r} (its first line has {found}): give {accepted}")
    return {name: names.index(name) for name in ("image", "label", "user") if name in names}


def _row(line: int, cells: Sequence[str], columns: Mapping[str, int], n_cells: int) -> Row:
    values = {name: cells[position] if position < len(cells) else "" for name, position in columns.items()}
    lacking = not values["image"].strip() or not values["label"].strip()
    surplus = any(cell.strip() for cell in cells[n_cells:])
    return Row(line, values["image"], values["label"], values.get("user", "").strip(), malformed=lacking or surplus)


def _cast(
    ballots: Mapping[tuple[str, str], Sequence[tuple[int, str]]],
) -> tuple[dict[tuple[str, str], str], dict[str, list[str]]]:
    """One vote for each image and user from the lines and labels of their rows, and the rows that are none."""
    votes = {}
    double: dict[str, list[str]] = {"repeated": [], "conflicting": []}
    for (image, user), ballot in sorted(ballots.items()):
        labels = dict.fromkeys(label for _, label in ballot)
        if len(labels) == 1:
            votes[image, user] = ballot[0][1]
            double["repeated"] += [f"line {line}: {image}" for line, _ in ballot[1:]]
        else:
            said = " and ".join(repr(label) for label in labels)
            double["conflicting"] += [f"line {line}: {image} as {said}" for line, _ in ballot]
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
