"""The cleaned data set as files (``bccp export-data``): the originals, byte by byte, with their final labels.

Nothing is judged here: which labels change is decided by :mod:`bccp.pipeline.exports.label_changes` from what a finished run left in
``cleansed_labels``. How files are laid out is a matter of :mod:`bccp.pipeline.exports.formats`, where they go one of
:mod:`bccp.pipeline.exports.targets`.
"""

from __future__ import annotations

import hashlib
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from bccp.core import progress
from bccp.core.errors import BCCPError, few
from bccp.core.registries import EXPORT_FORMATS
from bccp.data import label_files
from bccp.pipeline.exports import targets
from bccp.pipeline.exports.dataset import Dataset
from bccp.pipeline.exports.label_changes import LabelChanges, Rule, label_changes
from bccp.pipeline.exports.labels_list import LIST, labels_table
from bccp.pipeline.exports.targets import Target
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

NEEDED = ("raw_data", "clean_data", "segregated_data", "cleansed_labels")
"""The artifacts that an export is made of."""

SHARD_BYTES = 500_000_000
"""Largest size of a shard unless another is asked for."""

_LONGEST_NAME = 200  # bytes; file systems take 255
_UNSAFE = frozenset('/\\:*?"<>|') | {chr(code) for code in (*range(32), 127)}


@dataclass(frozen=True)
class Exported:
    """A data set that was written.

    Attributes
    ----------
    table : DataFrame
        As of :func:`place_files`.
    place, list_file : str
        The target and the list in it, for the user.
    changes : LabelChanges
        What became of the labels.
    """

    table: pd.DataFrame
    place: str
    list_file: str
    changes: LabelChanges


def place_files(listed: pd.DataFrame) -> pd.DataFrame:
    """Give each image that has a final label a path of its own.

    Parameters
    ----------
    listed : DataFrame
        As of :func:`bccp.pipeline.exports.labels_list.labels_table`.

    Returns
    -------
    DataFrame
        The same rows and columns, and ``file``, a path that no other image has, empty where nothing is written.
    """
    # an image that is dropped has an empty final label already; a class cannot be named so
    written = listed[listed["final_label"] != ""]
    return listed.assign(file=listed["image"].map(file_names(written["image"].tolist(), written["final_label"].tolist())).fillna(""))


def file_names(images: Sequence[str], finals: Sequence[str]) -> dict[str, str]:
    """Give each image a path ``<final label>/<file name>`` of its own.

    Parameters
    ----------
    images : sequence of str
        Distinct ids.
    finals : sequence of str
        Their final labels.

    Returns
    -------
    dict of str to str
        By image. Those that would share a path, also where upper and lower case or forms of Unicode are one, all get a suffix that is
        made of their ids, so that the order does not matter. No path leads out of the folder or is that of :data:`LIST`; labels and names
        that would, or that a file system does not take, are changed, and get a suffix of their own. So do all but the first of labels
        that some system takes for one folder.
    """
    digests = {image: hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest() for image in images}
    folders = _folder_names(set(finals))
    final_of = dict(zip(images, finals, strict=True))
    n_digits = dict.fromkeys(images, 0)
    while True:
        paths = {image: f"{folders[final_of[image]]}/{_named(image, digests[image][: n_digits[image]])}" for image in images}
        counts = Counter(map(_one_name, paths.values()))
        shared = [image for image, path in paths.items() if counts[_one_name(path)] > 1]
        if not shared:
            return paths
        for image in shared:
            n_digits[image] += 8


def export(
    target: Target,
    *,
    raw: Path,
    clean: Path,
    segregated: Path,
    cleansed: Path,
    format_name: str = "folder",
    shard_bytes: int = SHARD_BYTES,
    rule: Rule | None = None,
) -> Exported:
    """Write the cleaned data set; nothing passes for it before it is whole.

    Parameters
    ----------
    target : Target
        A place that does not exist, or is empty.
    raw, clean, segregated, cleansed : Path
        Folders of ``raw_data``, ``clean_data``, ``segregated_data`` and ``cleansed_labels``, which belong together.
    format_name : str
        As in :data:`bccp.core.registries.EXPORT_FORMATS`, or the dotted name of a user's own function.
    shard_bytes : int
        Largest size of a shard, for formats that have any.
    rule : Rule, optional
        Which labels are changed; by default those that are surely wrong.

    Raises
    ------
    BCCPError
        If the format is unknown, or the place holds something or cannot be written.
    """
    write = EXPORT_FORMATS.find(format_name)
    changes = label_changes(cleansed, rule or Rule())
    table = place_files(labels_table(clean, segregated, changes))
    shown = progress.display("export-data", done=0, total=1)
    with shown, target.writing(), zipfile.ZipFile(raw / "images.zip") as archive:
        name = write(Dataset(table, archive, segregated, label_files.read_cleansed_labels(cleansed), shard_bytes), target)
    return Exported(table, target.shown, target.path(name), changes)


def versions_of(run: str | None, ledger: Ledger, *, simulated: bool = True) -> tuple[str, dict[str, str]]:
    """Find what a finished pipeline made.

    Parameters
    ----------
    run : str or None
        Its run id, or the path of its ``summary.json`` or of the folder that holds it; None is the newest finished one of the ledger that
        has cleansed labels.
    ledger : Ledger
    simulated : bool, default True
        Otherwise a run on a user's own data with simulated labels is refused.

    Returns
    -------
    shown : str
        The pipeline, for the user.
    versions : dict of str to str
        Of :data:`NEEDED`, by name.

    Raises
    ------
    BCCPError
        If there is none, or it did not finish, cleansed no labels, or is refused.
    """
    if run is None:
        found = finished_runs.newest(ledger, with_artifact="cleansed_labels")
        if found is None:
            raise BCCPError(f"{ledger.uri} has no finished run with cleansed labels: run the pipeline first (bccp run)")
    else:
        found = finished_runs.find(run, ledger, option="RUN")
    if not simulated:
        found.refuse_simulated("this would export")
    shown, versions = found.shown, found.versions
    missing = [name for name in NEEDED if name not in versions]
    if missing:
        raise BCCPError(f"{shown} has no {missing[0]}: choose a run in which the steps fetch_data to bayes_cutoff took part")
    return shown, {name: versions[name] for name in NEEDED}


def export_sentence(table: pd.DataFrame, format_name: str = "folder") -> str:
    """Count the images that were written, and all by action, in one line."""
    written = table[table["file"] != ""]
    counts = ", ".join(f"{n} {action}" for action, n in sorted(Counter(table["action"]).items()))
    classes = "class folders" if format_name == "folder" else "classes"
    return f"{len(written)} of {len(table)} images in {written['final_label'].nunique()} {classes} ({counts})"


def emptied_sentence(table: pd.DataFrame) -> str:
    """Name the classes that had images and have none any more; empty where there is no such class."""
    lost = sorted(set(table["given_label"]) - set(table.loc[table["file"] != "", "final_label"]) - {""})
    return f"warning: no image is left of {few(lost)}" if lost else ""


def export_run(
    out: str, run: str, format_name: str = "folder", shard_bytes: int = SHARD_BYTES, *, rule: Rule | None = None, simulated: bool = False
) -> tuple[Exported, str]:
    """Export what a finished run has made.

    Parameters
    ----------
    out : str
        Where to, a local path or a URL; it must not exist, or be empty.
    run : str
        As for :func:`bccp.tracking.finished_runs.find`; empty: the newest with cleansed labels.
    format_name, shard_bytes, rule
        As for :func:`export`.
    simulated : bool, default False
        Export a run on a user's own data although its labels were simulated.

    Returns
    -------
    exported : Exported
    shown : str
        The run, for the user.

    Raises
    ------
    BCCPError
        If there is no such run, or the place cannot be written.
    """
    if not out:
        raise BCCPError("where to? give a folder that does not exist yet: bccp export-data --out folder")
    EXPORT_FORMATS.check(format_name)
    target = targets.find(out)
    target.check_free()
    uri, note = ledger_uri(finished_runs.configured_uri(run, option="RUN"))
    if note:
        print(note, flush=True)
    ledger = Ledger(uri)
    shown, versions = versions_of(run or None, ledger, simulated=simulated)
    raw, clean, segregated, cleansed = (ledger.fetch(qualified(name, versions[name])) for name in NEEDED)
    parts = {"raw": raw, "clean": clean, "segregated": segregated, "cleansed": cleansed}
    return export(target, **parts, format_name=format_name, shard_bytes=shard_bytes, rule=rule), shown


def _one_name(path: str) -> str:
    """Reduce a path to a key that paths share which some file system takes for one."""
    return unicodedata.normalize("NFC", path).casefold()


def _safe(name: str) -> str:
    """A name that is one folder's or one file's everywhere: itself, or what is left of it with a suffix that tells it from others."""
    kept = "".join("_" if letter in _UNSAFE else letter for letter in name).strip(" ") or "_"
    kept = "_" + kept.lstrip(".") if set(kept) == {"."} else kept
    kept = kept.encode("utf-8", "replace")[:_LONGEST_NAME].decode("utf-8", "ignore")
    if kept == name and name.casefold() != LIST:
        return name
    return f"{kept}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _folder_names(labels: Collection[str]) -> dict[str, str]:
    """A folder for each label that is no other label's on any system."""
    taken: set[str] = set()
    found = {}
    for label in sorted(labels):
        folder = _safe(label)
        if _one_name(folder) in taken:
            folder = f"{folder}-{_digest(label)}"
        taken.add(_one_name(folder))
        found[label] = folder
    return found


def _named(image: str, suffix: str) -> str:
    """The last part of an id, with a suffix before its ending."""
    path = PurePosixPath(image)
    if not suffix and _safe(path.name) == path.name:
        return path.name
    ending = path.suffix if _safe(path.suffix[1:]) == path.suffix[1:] and len(path.suffix) <= 10 else ""
    return "-".join(filter(None, [_safe(path.name.removesuffix(ending)), suffix])) + ending
