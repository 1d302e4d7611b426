"""The cleaned data set as files (``bccp export-data``): the originals, byte by byte, with their final labels.

Nothing is judged here: labels are those that a finished run left in ``cleansed_labels``. How files are laid out is a matter of
:mod:`bccp.pipeline.exports.formats`, where they go one of :mod:`bccp.pipeline.exports.targets`.
"""

from __future__ import annotations

import hashlib
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from bccp.core.errors import BCCPError
from bccp.core.registries import EXPORT_FORMATS
from bccp.data import label_files, tables
from bccp.pipeline.exports import targets
from bccp.pipeline.exports.dataset import Dataset
from bccp.pipeline.exports.formats import LIST
from bccp.pipeline.exports.targets import Target
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

NEEDED = ("raw_data", "segregated_data", "cleansed_labels")
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
        As of :func:`decide_files`.
    place, list_file : str
        The target and the list in it, for the user.
    applied : bool
        False where no label is trusted, and files lie under the labels that they came with.
    """

    table: pd.DataFrame
    place: str
    list_file: str
    applied: bool


def decide_files(files: Sequence[str], splits: pd.DataFrame, cleansed: pd.DataFrame, *, apply: bool = True) -> pd.DataFrame:
    """Decide under which label each original file is written.

    Parameters
    ----------
    files : sequence of str
        The ids of all that was fetched.
    splits : DataFrame
        ``image, label``; a label that is not empty is trusted.
    cleansed : DataFrame
        ``image, given_label, p_wrong, action, final_label``, all text, and ``above_cutoff``.
    apply : bool, default True
        Otherwise judged images keep their given labels, and those that the run would relabel or drop are suspects.

    Returns
    -------
    DataFrame
        ``image, given, final, p_wrong, action, file``, sorted by image; without ``apply`` ``suggested`` too, the run's final label, empty
        where it drops the image. ``action`` is that of ``cleansed_labels`` (``keep``, ``soften``, ``relabel``, ``drop``; without
        ``apply``: ``keep``, ``suspect``), ``trusted`` (under its own label), or ``left_out``: unreadable, without any label, or in no
        split. ``final`` and ``file``, a path that no other file has, are empty where nothing is written.
    """
    judged = cleansed.assign(final=cleansed["final_label"], suggested=cleansed["final_label"])
    if not apply:
        suspect = cleansed["above_cutoff"] | (cleansed["final_label"] != cleansed["given_label"])
        judged = judged.assign(final=cleansed["given_label"], action=np.where(suspect, "suspect", "keep"))
    columns = ["image", "given_label", "final", "suggested", "p_wrong", "action"]
    decided = {row[0]: row[1:] for row in judged[columns].itertuples(index=False)}
    trusted = {image: label for image, label in zip(splits["image"], splits["label"], strict=True) if label}
    rows = []
    for image in sorted(files):
        if image in decided:
            rows.append((image, *decided[image]))
        elif image in trusted:
            rows.append((image, trusted[image], trusted[image], trusted[image], "", "trusted"))
        else:
            rows.append((image, "", "", "", "", "left_out"))
    table = pd.DataFrame(rows, columns=["image", "given", "final", "suggested", "p_wrong", "action"])
    table = table.drop(columns="suggested") if apply else table
    # an image that is dropped has an empty final label already; a class cannot be named so
    written = table[table["final"] != ""]
    return table.assign(file=table["image"].map(file_names(written["image"].tolist(), written["final"].tolist())).fillna(""))


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
        that would, or that a file system does not take, are changed, and get a suffix of their own.
    """
    digests = {image: hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest() for image in images}
    folders = {final: _safe(final) for final in set(finals)}
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
    segregated: Path,
    cleansed: Path,
    format_name: str = "folder",
    shard_bytes: int = SHARD_BYTES,
    apply: bool = False,
) -> Exported:
    """Write the cleaned data set; nothing passes for it before it is whole.

    Parameters
    ----------
    target : Target
        A place that does not exist, or is empty.
    raw, segregated, cleansed : Path
        Folders of ``raw_data``, ``segregated_data`` and ``cleansed_labels``, which belong together.
    format_name : str
        As in :data:`bccp.core.registries.EXPORT_FORMATS`, or the dotted name of a user's own function.
    shard_bytes : int
        Largest size of a shard, for formats that have any.
    apply : bool, default False
        Where no label is trusted, files go under the run's final labels only with this, else under the labels that they came with.

    Raises
    ------
    BCCPError
        If the format is unknown, or the place holds something or cannot be written.
    """
    write = EXPORT_FORMATS.find(format_name)
    judged = label_files.read_cleansed_labels(cleansed)
    splits = tables.read(segregated / "splits.csv")
    applied = apply or bool((splits["label"] != "").any())
    table = decide_files(tables.read(raw / "files.csv")["image"].tolist(), splits, judged.table, apply=applied)
    with target.writing(), zipfile.ZipFile(raw / "images.zip") as archive:
        name = write(Dataset(table, archive, segregated, judged, shard_bytes), target)
    return Exported(table, target.shown, target.path(name), applied)


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
    """Count the files that were written, and all by action, in one line."""
    written = table[table["file"] != ""]
    counts = ", ".join(f"{n} {action}" for action, n in sorted(Counter(table["action"]).items()))
    classes = "class folders" if format_name == "folder" else "classes"
    return f"{len(written)} of {len(table)} files in {written['final'].nunique()} {classes} ({counts})"


def suspects_sentence(exported: Exported) -> str:
    """Say what a run suggests and the export did not do; empty where it did all or there is nothing to do."""
    n_suspects = int((exported.table["action"] == "suspect").sum())
    if exported.applied or not n_suspects:
        return ""
    return (
        f"no label of this run is trusted, so files lie under the labels that they came with; {n_suspects} of them are suspects, with "
        "suggested labels in the list: look at them, then move files to the suggested labels with --apply"
    )


def export_run(
    out: str, run: str, format_name: str = "folder", shard_bytes: int = SHARD_BYTES, *, apply: bool = False, simulated: bool = False
) -> tuple[Exported, str]:
    """Export what a finished run has made.

    Parameters
    ----------
    out : str
        Where to, a local path or a URL; it must not exist, or be empty.
    run : str
        As for :func:`bccp.tracking.finished_runs.find`; empty: the newest with cleansed labels.
    format_name, shard_bytes, apply
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
    raw, segregated, cleansed = (ledger.fetch(qualified(name, versions[name])) for name in NEEDED)
    parts = {"raw": raw, "segregated": segregated, "cleansed": cleansed}
    return export(target, **parts, format_name=format_name, shard_bytes=shard_bytes, apply=apply), shown


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
    return f"{kept}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _named(image: str, suffix: str) -> str:
    """The last part of an id, with a suffix before its ending."""
    path = PurePosixPath(image)
    if not suffix and _safe(path.name) == path.name:
        return path.name
    ending = path.suffix if _safe(path.suffix[1:]) == path.suffix[1:] and len(path.suffix) <= 10 else ""
    return "-".join(filter(None, [_safe(path.name.removesuffix(ending)), suffix])) + ending
