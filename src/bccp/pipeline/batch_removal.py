"""Removal of single images, or of what a user said, from a batch of incoming images; the batch keeps its id and its other images."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bccp.core.home import discard, home, scratch
from bccp.data import tables
from bccp.pipeline.incoming import ABOUT, ARCHIVE, DATA, OWN
from bccp.pipeline.joined_batch import AUDIT, FEEDBACK

EMPTIED = "emptied"
"""Status of a batch all of whose own images are gone, but not those that it was joined with."""

_PAGE = "data_checks"
_CLEAN = "clean_data"


@dataclass(frozen=True)
class BatchPart:
    """Part of a batch that is to go.

    Attributes
    ----------
    place : Path
        The batch's folder.
    own, joined : frozenset of str
        Names of files in the batch's archive, and in that of the batch joined with its reference.
    n_votes : int
        Rows of the votes that go.
    has_page : bool
        Whether the page of its checks goes, which shows images of the batch and of what it was compared with.
    is_whole : bool
        Whether no image is left.
    """

    place: Path
    own: frozenset[str]
    joined: frozenset[str]
    n_votes: int
    has_page: bool
    is_whole: bool

    @property
    def holds(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self.own or self.joined or self.n_votes or self.has_page)


def find_parts(
    members: Callable[[Path], Sequence[str]], is_user: Callable[[str], bool], versions: Collection[str], *, shows_images: bool
) -> list[BatchPart]:
    """Find what is to go from each batch of the home.

    Parameters
    ----------
    members : callable
        Gives the names of an archive's members that are to go.
    is_user : callable
        Whether a cell of the column ``user`` is to go with its row.
    versions : collection of str
        Versions of artifacts that go; batches that were compared with them may show what they hold.
    shows_images : bool
        Whether it is an image that is to go, so that pages may show it.
    """
    parts, gone = [], set(versions)
    for place in sorted(path.parent for path in (home() / "incoming").glob(f"*/{ABOUT}")):
        archive, data = place / ARCHIVE, place / DATA
        own, joined = (frozenset(members(path)) if path.is_file() else frozenset[str]() for path in (archive, data))
        is_whole = bool(own) and shows_images and not set(_image_names(place)) - own
        parts.append(BatchPart(place, own, joined, _n_votes(place, is_user), bool(own) and shows_images, is_whole))
        if own and shows_images:
            gone.add(f"{OWN}{place.name}")
    if shows_images:
        parts = [_with_page(part, gone) for part in parts]
    return sorted((part for part in parts if part.holds), key=lambda part: bool(part.own))  # what shows others' images goes first


def _with_page(part: BatchPart, gone: Collection[str]) -> BatchPart:
    shown = (part.place / _PAGE).is_dir() and (part.own or part.joined or set(_about(part.place)["reference"]) & set(gone))
    return replace(part, has_page=bool(shown))


def _image_names(place: Path) -> list[str]:
    manifest = place / _CLEAN / "manifest.csv"
    return tables.read(manifest)["image"].tolist() if manifest.is_file() else []


def _n_votes(place: Path, is_user: Callable[[str], bool]) -> int:
    path = place / FEEDBACK
    votes = tables.read(path) if path.is_file() else None
    return sum(map(is_user, votes["user"])) if votes is not None and "user" in votes else 0


def _about(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / ABOUT).read_text(encoding="utf-8")))


def _change(place: Path, changes: dict[str, Any]) -> None:
    _write_json(place / ABOUT, _about(place) | changes)


def _write_json(path: Path, value: Any) -> None:
    with scratch("forget") as folder:
        (folder / path.name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        (folder / path.name).replace(path)


def _members_of(archive: Path) -> set[str]:
    if not archive.is_file():
        return set()
    with zipfile.ZipFile(archive) as files:
        return set(files.namelist())


def remove_part(part: BatchPart, is_user: Callable[[str], bool]) -> None:
    """Remove a part from its batch. Stopped at any moment, each file is as before or as afterwards, and it can be called again.

    Parameters
    ----------
    part : BatchPart
    is_user : callable
        As for :func:`find_parts`.
    """
    place = part.place
    if not place.exists():
        return
    if part.is_whole and not _members_of(place / DATA) - part.joined:
        discard(place)
        return
    if part.has_page:
        discard(place / _PAGE)
    _cut_table(place / FEEDBACK, part.joined, is_user)
    _cut_table(place / AUDIT, part.joined, is_user)
    _cut_text(place / ABOUT, part.own | part.joined)
    _cut_clean_data(place / _CLEAN, part.own)
    if part.is_whole and _about(place)["status"] != EMPTIED:  # what is left is what it was joined with, and nothing to compare others with
        _change(place, {"status": EMPTIED})
    _cut_archive(place / DATA, part.joined)
    _cut_archive(place / ARCHIVE, part.own)  # last: it tells that the batch holds the image


def _cut_archive(path: Path, names: frozenset[str]) -> None:
    if not names & _members_of(path):
        return
    with scratch("forget") as folder:
        fresh = folder / path.name
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(fresh, "w") as copy:
            for info in source.infolist():
                if info.filename not in names:
                    with source.open(info) as file, copy.open(info, "w") as written:
                        while chunk := file.read(1 << 20):
                            written.write(chunk)
        fresh.replace(path)


def _cut_clean_data(folder: Path, names: Collection[str]) -> None:
    """Drop images from the array and from the tables beside it, in an order in which any part that is done already tells so."""
    manifest_file, array_file, rejected_file = (folder / name for name in ("manifest.csv", "images.npy", "quarantine.csv"))
    if not names or not manifest_file.is_file():
        return
    _cut_table(rejected_file, names, lambda _: False)
    _cut_text(folder / "report.json", names)
    manifest = tables.read(manifest_file, dtypes={"row": int})
    if manifest["image"].isin(names).any():
        manifest = manifest[~manifest["image"].isin(names)]
        _replace(manifest_file, manifest)  # with the rows of the array that still has all
    array = np.load(array_file, mmap_mode="r")
    if len(array) != len(manifest):
        with scratch("forget") as parent:
            np.save(parent / array_file.name, array[manifest["row"].to_numpy()])
            (parent / array_file.name).replace(array_file)
    if (manifest["row"] != np.arange(len(manifest))).any():
        _replace(manifest_file, manifest.assign(row=np.arange(len(manifest))))


def _cut_table(path: Path, names: Collection[str], is_user: Callable[[str], bool]) -> None:
    if not path.is_file():
        return
    table = tables.read(path)
    goes = table["image"].isin(names)
    if "user" in table:
        goes |= table["user"].map(is_user)
    if goes.any():
        _replace(path, table[~goes])


def _replace(path: Path, table: Any) -> None:
    with scratch("forget") as folder:
        table.to_csv(folder / path.name, index=False, encoding="utf-8", lineterminator="\n")
        (folder / path.name).replace(path)


def _cut_text(path: Path, names: Collection[str]) -> None:
    """Take names from the values of a JSON file: an example of a list goes, and what a sentence names becomes an ellipsis."""
    if not names or not path.is_file():
        return
    about = json.loads(path.read_text(encoding="utf-8"))
    kept = _without(about, names)
    if kept != about:
        _write_json(path, kept)


def _without(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(one, names) for one in value if not (isinstance(one, str) and one in names)]
    if isinstance(value, str):
        for name in names:
            value = value.replace(name, "…")
    return value


def forget_references(versions: Collection[str]) -> None:
    """Let accepted batches be compared with no version that is gone.

    A batch that is not accepted yet keeps them: it is refused then, as the images that it was to be joined with are gone.
    """
    batches = [path.parent for path in sorted((home() / "incoming").glob(f"*/{ABOUT}"))]
    there = {f"{OWN}{place.name}" for place in batches if _about(place)["status"] != EMPTIED}
    for place in batches:
        about = _about(place)
        kept = [one for one in about["reference"] if one not in versions and (not one.startswith(OWN) or one in there)]
        if about["status"] == "accepted" and kept != about["reference"]:
            _change(place, {"reference": kept, "run": ""})
