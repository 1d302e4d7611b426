"""The cleaned data set as files (``bccp export-data``): the originals, byte by byte, in class folders by their final labels.

Nothing is judged here: labels are those that a
finished run left in ``cleansed_labels``. ``cleansed.csv`` lists every file that was fetched, with what became of it.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pandas as pd

from bccp.core.errors import BCCPError
from bccp.core.home import abandoned, scratch_owner
from bccp.data import label_files, tables
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

LIST = "cleansed.csv"
"""The table beside the class folders: ``image, given, final, p_wrong, action, file``."""

NEEDED = ("raw_data", "segregated_data", "cleansed_labels")
"""The artifacts that an export is made of."""

_LONGEST_NAME = 200  # bytes; file systems take 255
_UNSAFE = frozenset('/\\:*?"<>|') | {chr(code) for code in (*range(32), 127)}


def decide_files(files: Sequence[str], splits: pd.DataFrame, cleansed: pd.DataFrame) -> pd.DataFrame:
    """Say what becomes of each original file.

    Parameters
    ----------
    files : sequence of str
        The ids of all that was fetched.
    splits : DataFrame
        ``image, label``; a label that is not empty is trusted.
    cleansed : DataFrame
        ``image, given_label, p_wrong, action, final_label``, all text.

    Returns
    -------
    DataFrame
        ``image, given, final, p_wrong, action, file``, sorted by image. ``action`` is that of ``cleansed_labels`` (``keep``, ``soften``,
        ``relabel``, ``drop``), ``trusted`` (under its own label), or ``left_out``: unreadable, without any label, or in no split. ``final``
        and ``file``, a path that no other file has, are empty where nothing is written.
    """
    decided = {row[0]: row[1:] for row in cleansed[["image", "given_label", "final_label", "p_wrong", "action"]].itertuples(index=False)}
    trusted = {image: label for image, label in zip(splits["image"], splits["label"], strict=True) if label}
    rows = []
    for image in sorted(files):
        if image in decided:
            rows.append((image, *decided[image]))
        elif image in trusted:
            rows.append((image, trusted[image], trusted[image], "", "trusted"))
        else:
            rows.append((image, "", "", "", "left_out"))
    table = pd.DataFrame(rows, columns=["image", "given", "final", "p_wrong", "action"])
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
        By image. Those that would share a path, also where upper and lower case are one, all get a suffix that is made of their ids, so
        that the order does not matter. No path leads out of the folder or is that of :data:`LIST`; labels and names that would, or that a
        file system does not take, are changed, and get a suffix of their own.
    """
    digests = {image: hashlib.sha256(image.encode("utf-8", "surrogatepass")).hexdigest() for image in images}
    folders = {final: _safe(final) for final in set(finals)}
    final_of = dict(zip(images, finals, strict=True))
    n_digits = dict.fromkeys(images, 0)
    while True:
        paths = {image: f"{folders[final_of[image]]}/{_named(image, digests[image][: n_digits[image]])}" for image in images}
        counts = Counter(path.casefold() for path in paths.values())
        shared = [image for image, path in paths.items() if counts[path.casefold()] > 1]
        if not shared:
            return paths
        for image in shared:
            n_digits[image] += 8


def export(out: Path, *, raw: Path, segregated: Path, cleansed: Path) -> pd.DataFrame:
    """Write the cleaned data set; the folder appears when it is whole.

    Parameters
    ----------
    out : Path
        A folder that does not exist, or is empty.
    raw, segregated, cleansed : Path
        Folders of ``raw_data``, ``segregated_data`` and ``cleansed_labels``, which belong together.

    Returns
    -------
    DataFrame
        What :data:`LIST` holds.

    Raises
    ------
    BCCPError
        If the folder holds something, or cannot be written.
    """
    out = out.expanduser().resolve()
    table = decide_files(
        tables.read(raw / "files.csv")["image"].tolist(),
        tables.read(segregated / "splits.csv"),
        label_files.read_cleansed_labels(cleansed).table,
    )
    with _whole_or_not_at_all(out) as folder, zipfile.ZipFile(raw / "images.zip") as archive:
        for image, file in zip(table["image"], table["file"], strict=True):
            if file:
                target = folder / file
                target.parent.mkdir(exist_ok=True)
                with archive.open(image) as source, target.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
        tables.write(table, folder / LIST)
    return table


def versions_of(run: str | None, ledger: Ledger) -> tuple[str, dict[str, str]]:
    """Find what a finished pipeline made.

    Parameters
    ----------
    run : str or None
        Its run id, or the path of its ``summary.json`` or of the folder that holds it; None is the newest finished one of the ledger that
        has cleansed labels.
    ledger : Ledger

    Returns
    -------
    shown : str
        The pipeline, for the user.
    versions : dict of str to str
        Of :data:`NEEDED`, by name.

    Raises
    ------
    BCCPError
        If there is none, or it did not finish, or it cleansed no labels.
    """
    if run is None:
        found = finished_runs.newest(ledger, with_artifact="cleansed_labels")
        if found is None:
            raise BCCPError(f"{ledger.uri} has no finished run with cleansed labels: run the pipeline first (bccp run)")
    else:
        found = finished_runs.find(run, ledger, option="RUN")
    shown, versions = found.shown, found.versions
    missing = [name for name in NEEDED if name not in versions]
    if missing:
        raise BCCPError(f"{shown} has no {missing[0]}: choose a run in which the steps fetch_data to bayes_cutoff took part")
    return shown, {name: versions[name] for name in NEEDED}


def export_sentence(table: pd.DataFrame) -> str:
    """What was written, in one line."""
    written = table[table["file"] != ""]
    counts = ", ".join(f"{n} {action}" for action, n in sorted(Counter(table["action"]).items()))
    return f"{len(written)} of {len(table)} files in {written['final'].nunique()} class folders ({counts})"


def export_run(folder: str, run: str) -> tuple[pd.DataFrame, str, Path]:
    """Export what a finished run has made.

    Parameters
    ----------
    folder : str
        Where to; it must not exist, or be empty.
    run : str
        As for :func:`bccp.tracking.finished_runs.find`; empty: the newest with cleansed labels.

    Returns
    -------
    table : DataFrame
        What :data:`LIST` holds.
    shown : str
        The run, for the user.
    out : Path

    Raises
    ------
    BCCPError
        If there is no such run, or the folder cannot be written.
    """
    if not folder:
        raise BCCPError("where to? give a folder that does not exist yet: bccp export-data --out folder")
    out = Path(folder).expanduser().resolve()
    _check_free(out)
    uri, note = ledger_uri(finished_runs.configured_uri(run, option="RUN"))
    if note:
        print(note, flush=True)
    ledger = Ledger(uri)
    shown, versions = versions_of(run or None, ledger)
    raw, segregated, cleansed = (ledger.fetch(qualified(name, versions[name])) for name in NEEDED)
    return export(out, raw=raw, segregated=segregated, cleansed=cleansed), shown, out


@contextmanager
def _whole_or_not_at_all(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when the block ends well, and is gone when it does not."""
    _check_free(out)
    partial = out.with_name(f".{out.name}.{scratch_owner()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for stale in out.parent.glob(f".{_literal(out.name)}.*.partial"):  # of a process that was killed
            if abandoned(stale.name.removeprefix(f".{out.name}.")):
                shutil.rmtree(stale)
        partial.mkdir()
        yield partial
        partial.replace(out)
    except OSError as error:
        raise BCCPError(
            f"{error.filename or out} cannot be written ({error.strerror or error}): make room, or choose another folder with OUT="
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_free(out: Path) -> None:
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
        above = next(parent for parent in out.parents if parent.exists())
        above_is_folder = above.is_dir()
    except OSError as error:
        raise BCCPError(f"OUT={out} cannot be read ({error.strerror}): choose another folder") from error
    if taken:
        raise BCCPError(f"OUT={out} is not an empty folder, and nothing is overwritten: choose another, or delete it first")
    if not above_is_folder:
        raise BCCPError(f"OUT={out} cannot be made, as {above} is a file and no folder: choose another folder")


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


def _literal(name: str) -> str:
    """A name as a pattern for itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
