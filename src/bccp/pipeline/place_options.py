"""The options that a place of images implies: its source, whose labels are to be judged, and what of it is trusted.

A person who only cleans names a folder, an archive or a URL. Its kind tells the source, its files the layout
(:mod:`bccp.data.layout`): class folders, splits over or below them, ``monday/`` beside ``tuesday/``, a table of users' answers named
:data:`FEEDBACK_NAME`. Nothing is trusted but what is said to be: ``monday/``, or a folder that was named so. Names of folders are labels to
be judged, unless a feedback file gives these.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bccp.core import provenance
from bccp.core.errors import BCCPError, few
from bccp.core.home import home
from bccp.core.paths import expanded
from bccp.core.redaction import redact_url
from bccp.data import archives, layout
from bccp.data.archives import File, Listing
from bccp.data.label_tables.in_data import TABLE_SUFFIXES
from bccp.data.layout import Layout
from bccp.data.sources import missing, sole_archive

FEEDBACK_NAME = "feedback.csv"
"""The name, in any case, of a feedback file that is used where it lies at the top of the data."""

STEPS = ("fetch_data", "preprocessing", "segregation", "noisy_labels", "bayes_cutoff")
"""The steps that judge labels and train nothing on them."""

_MAX_BYTES = 50_000_000_000
"""As ``data.max_bytes``: a listing is refused where fetching would be."""


@dataclass(frozen=True)
class PlaceOptions:
    """Options of a pipeline that judges the labels in one place.

    Attributes
    ----------
    values : dict of str to object
        By ``section.key``.
    said : str
        What was recognised, in one line for the user.
    root : Path or None
        The local folder or file; None where the place is remote.
    """

    values: dict[str, object]
    said: str
    root: Path | None

    def overrides(self, words: Sequence[str] = ()) -> list[str]:
        """Write them as overrides before those of a user, which win."""
        given = {re.split(r"[=@]", word.lstrip("+~"), maxsplit=1)[0] for word in words}
        return [*(provenance.override(key, value) for key, value in self.values.items() if key not in given), *words]


def read_place(place: str, *, feedback: str | None = None, trusted: str | None = None, words: Sequence[str] = ()) -> PlaceOptions:
    """Tell the options from a place.

    Parameters
    ----------
    place : str
        A folder, a zip or tar file, or a URL.
    feedback : str, optional
        A table of answers ``image,label[,user]``: they are the labels to be judged.
    trusted : str, optional
        A folder of images whose labels are right, a folder a class; it may lie within the place.
    words : sequence of str
        A user's overrides; ``data.subfolder``, ``data.layout`` and ``data.zip_encoding`` say how the place is read.

    Returns
    -------
    PlaceOptions

    Raises
    ------
    BCCPError
        If there is nothing, or no second class, or what is trusted or answered cannot be put beside it.
    """
    if not place.strip():
        raise BCCPError("which images? give a folder, a zip or tar file, or a URL: bccp clean PATH")
    options: dict[str, object] = {"main.execute_steps": list(STEPS)}
    asked = {key: value.strip("'\"") for key, _, value in (word.partition("=") for word in words)}
    if feedback:
        options |= _feedback_options(_existing_file(feedback, "--feedback"))
    if trusted:
        options["data.trusted"] = str(_trusted_folder(trusted, place))
    if (address := _address(place)) is not None:
        source, remote = address
        # whether it has days is not known yet
        options |= {"data.source": source, "data.path": remote, "main.target_day": "tuesday" if trusted else "auto"}
        if feedback:
            options |= _only_trusted_names(asked)
        return PlaceOptions(options, f"{redact_url(place)}: {_trust(bool(trusted), None)}", None)
    root = expanded(place.removeprefix("file://"), option="PATH")
    if not root.exists():
        raise missing(root, f"PATH={place}", "a folder, a zip or tar file, or a URL")
    if not root.is_dir() and not root.is_file():
        raise BCCPError(f"PATH={place} is neither a file nor a folder: give a folder, a zip or tar file, or a URL")
    with _listed(root, place, asked.get("data.zip_encoding")) as (path, listing):
        options |= {"data.source": "folder" if path.is_dir() else "archive", "data.path": str(path)}
        files = _without(listing.finished(asked.get("data.subfolder")), options.get("data.trusted"))
        found = layout.recognize([file.name for file in files], asked.get("data.layout", "auto"))
        if not feedback and (inside := _feedback_inside(files)):
            feedback = inside.name
            options |= _feedback_options(inside.path or _unpacked(inside, listing))
    if not feedback:
        _refuse_one_class(found, files, place)
    if trusted and found.days:
        raise BCCPError(
            f"PATH={place} has the folder {few(sorted(found.days), 2)} of its own, so --trusted={trusted} is one too many: leave it out"
        )
    has_days = bool(trusted or found.days)
    if feedback and (has_days or found.problem):
        options |= _only_trusted_names(asked)
    options["main.target_day"] = "tuesday" if has_days else "monday"
    return PlaceOptions(options, f"{place}: {_described(files, found, feedback)}; {_trust(bool(trusted), found)}", root)


def _feedback_options(file: Path) -> dict[str, object]:
    """Its answers are the labels, and no other table among the images counts."""
    return {"noisy_labels.source": "file", "noisy_labels.feedback_file": str(file), "data.table": None}


def _only_trusted_names(asked: Mapping[str, str]) -> dict[str, object]:
    """Where answers are the labels, names of folders are classes among trusted images only."""
    if (layout_asked := asked.get("data.layout", "auto")) not in ("auto", "monday"):
        raise BCCPError(
            f"data.layout={layout_asked} would take folders' names for the truth, and the feedback file gives the labels: leave it out"
        )
    return {"data.layout": "monday"}


def _existing_file(named: str, option: str) -> Path:
    path = expanded(named, option=option).absolute()
    if not path.exists():
        raise missing(path, f"{option}={named}", "a file")
    if path.is_dir():
        raise BCCPError(f"{option}={named} is a folder: give a CSV file")
    return path


def _trusted_folder(named: str, place: str) -> Path:
    """The folder of trusted images, which must not hold those that are to be judged."""
    path = expanded(named, option="--trusted").resolve()
    if not path.exists():
        raise missing(path, f"--trusted={named}", "a folder of class folders")
    if not path.is_dir():
        raise BCCPError(f"--trusted={named} is a file: give a folder of class folders whose names are right")
    if "://" not in place and expanded(place, option="PATH").resolve().is_relative_to(path):
        raise BCCPError(
            f"--trusted={named} holds PATH={place}, so that no label would be left to judge: give a folder of trusted images only"
        )
    files = archives.list_folder(path, f"--trusted={named}", _MAX_BYTES).finished()
    if not any("/" in file.name for file in files):
        raise BCCPError(
            f"--trusted={named} holds fewer than two class folders, whose names are its labels: put its images as <class>/<image>"
        )
    return path


def _address(place: str) -> tuple[str, str] | None:
    """The source and the path of a remote place; None for one of this machine."""
    if not re.match(r"[A-Za-z][\w+.-]*://", place) or place.startswith("file://"):
        return None
    parts = urlsplit(place)
    host = (parts.hostname or "").removeprefix("www.")
    if host in ("drive.google.com", "docs.google.com"):
        return "gdrive", place
    if host == "kaggle.com" and (named := re.match(r"/datasets/([^/]+/[^/]+)", parts.path)):
        return "kaggle", named[1]
    return ("archive" if parts.scheme in ("http", "https") else "fsspec"), place


@contextmanager
def _listed(root: Path, place: str, zip_encoding: str | None) -> Iterator[tuple[Path, Listing]]:
    """List a folder, or the archive that it is or holds alone, and name which of these it was."""
    shown = f"PATH={place}"
    archive = root if root.is_file() else sole_archive(root)
    if archive is None:
        yield root.absolute(), archives.list_folder(root, shown, _MAX_BYTES)
        return
    cache = home() / "data"
    cache.mkdir(parents=True, exist_ok=True)
    with archives.open_archive(archive, shown, _MAX_BYTES, scratch=cache, zip_encoding=zip_encoding) as listing:
        yield archive.absolute(), listing


def _without(files: Sequence[File], folder: object) -> list[File]:
    """Leave out the files in a folder, where one is named."""
    return [file for file in files if not (folder and file.path and file.path.is_relative_to(str(folder)))]


def _feedback_inside(files: Sequence[File]) -> File | None:
    """The feedback file at the top of the data, if there is just one."""
    found = [file for file in files if file.name.casefold() == FEEDBACK_NAME]
    return found[0] if len(found) == 1 else None


def _unpacked(file: File, listing: Listing) -> Path:
    """A copy of a file of an archive in the home, named by its content."""
    content = b"".join(archives.read_chunks(file, listing.shown))
    place = home() / "data" / f"feedback-{hashlib.sha256(content).hexdigest()[:32]}.csv"
    fresh = place.with_suffix(".part")
    fresh.write_bytes(content)
    fresh.replace(place)
    return place


def _refuse_one_class(found: Layout, files: Sequence[File], place: str) -> None:
    """Refuse class folders of which there is but one, unless a table may label the images."""
    if len(found.classes) == 1 and not any(Path(file.name).suffix.lower() in TABLE_SUFFIXES for file in files):
        raise BCCPError(
            f"PATH={place} holds one class only, {found.classes[0]!r}, and no other that a wrong label could belong to: give at least two "
            "class folders"
        )


def _described(files: Sequence[File], found: Layout, feedback: str | None) -> str:
    n_classes = len(found.classes)
    folders = f"{len(files)} files in {n_classes} class folders" if n_classes > 1 else f"{len(files)} files"
    splits = f" with the splits {', '.join(sorted(found.splits))}, which are judged together" if found.splits else ""
    labels = (
        f"the labels are those in {Path(unicodedata.normalize('NFC', feedback)).name}, and no folder's name"
        if feedback
        else "their names are the labels"
        if n_classes > 1
        else "the labels are those of a table among them"
    )
    return f"{folders}{splits}; {labels}"


def _trust(named: bool, found: Layout | None) -> str:
    if named:
        return "the images of --trusted are right, all other labels are judged"
    if found is None:
        return "labels are judged, and nothing is trusted but a folder monday/"
    return "monday/ is trusted, the labels of tuesday/ are judged" if found.days else "nothing is trusted, every label is judged"
