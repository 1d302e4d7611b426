"""Checks incoming images against known ones, and keeps them apart until they are accepted.

``bccp check-new --data PLACE`` and ``bccp accept ID``.

A batch is fetched, cleaned and checked like the pipeline's own data, and then lies under ``incoming/<id>`` in the home, where ``id`` begins
the checksum of its files. It becomes part of no run and changes no data. An accepted batch gets ``data.zip``: the known images and the
batch, laid out by what the reference's run knew of their labels (:mod:`bccp.pipeline.joined_batch`).
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core import automatic_models, config, config_schema
from bccp.core.errors import BCCPError
from bccp.core.home import home, keep_within_home, moved_along, scratch, sweep_scratch
from bccp.core.paths import expanded
from bccp.core.redaction import redact_url
from bccp.core.runtime.threads import default_threads
from bccp.data import checks, drift, layout, preprocessing, sources, tables
from bccp.data.checks import Finding
from bccp.data.decoding import grey_levels
from bccp.data.decoding.image_files import MAX_PIXELS
from bccp.data.duplicates import told_apart
from bccp.pipeline import data_images, joined_batch
from bccp.pipeline.compose import compose
from bccp.reporting import data_checks_page
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.tags import FOLDER_TAG

ABOUT, ARCHIVE, DATA = "batch.json", "images.zip", "data.zip"
"""Of a batch's folder: what it is, its files, and once it is accepted those of the reference with them."""

NAMES = ("the known data", "the new data")

OWN = "incoming:"
"""What a batch's id has before it where it stands among versions of artifacts."""

_TUESDAY = "tuesday/"
_SHOWN = 5


@dataclass(frozen=True)
class Reference:
    """The images that a batch is compared with.

    Attributes
    ----------
    shown : str
        For the user.
    versions : tuple of str
        What it consists of: ``clean_data:<digest>``, ``incoming:<id>``.
    clean : tuple of Path
        The folder of each, as ``clean_data`` is laid out.
    archive : Path or None
        Their original files, in a zip file; None where these are gone.
    run : str
        The finished pipeline that knows their labels, as :func:`bccp.tracking.finished_runs.find` takes it; empty where none does.
    """

    shown: str
    versions: tuple[str, ...]
    clean: tuple[Path, ...]
    archive: Path | None
    run: str = ""

    @property
    def size(self) -> tuple[int, str]:
        """``preprocessing.image_size`` and ``.resize`` that it was cleaned with."""
        return self.settings["image_size"], self.settings["resize"]

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of :func:`bccp.data.preprocessing.clean` that make pictures of the same kind of other files."""
        report = json.loads((self.clean[0] / "report.json").read_text(encoding="utf-8"))
        kept = {"image_size": report["image_size"], "resize": report["resize"], "cleanup": report.get("cleanup", ())}
        return kept | {"scale": report.get("range"), "max_pixels": report.get("max_pixels", MAX_PIXELS)}


class _Joined:
    """Images of several arrays, one after another, or some of them; read when they are indexed."""

    def __init__(self, arrays: Sequence[npt.NDArray[np.uint8]], rows: npt.NDArray[np.int64]) -> None:
        self._arrays, self._rows = arrays, rows
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.shape: tuple[int, ...] = (len(rows), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, positions: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        rows = self._rows[positions]
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for number, array in enumerate(self._arrays):
            own = which == number
            pixels[own] = array[rows[own] - self._starts[number]]
        return pixels


def find_reference(named: str, ledger: Ledger, *, simulated: bool = False) -> Reference | None:
    """Find the images to compare with.

    Parameters
    ----------
    named : str
        A pipeline as :func:`bccp.tracking.finished_runs.find` takes it, ``clean_data:<digest>``, the id of an accepted batch, or ``none``.
        Empty: the batch that was accepted last, else the newest finished pipeline's data.
    ledger : Ledger
    simulated : bool, default False
        Take a pipeline on a user's own data although its labels were simulated.

    Returns
    -------
    Reference or None
        None where there is nothing to compare with.

    Raises
    ------
    BCCPError
        If what is named is not there.
    """
    if named == "none":
        return None
    accepted = sorted(_accepted().items(), key=lambda item: (item[1]["accepted"], item[0]))
    if not named and accepted:
        return _of_batch(accepted[-1][0], ledger)
    if found := [batch for batch, _ in accepted if named and batch.startswith(named)]:
        return _of_batch(found[0], ledger)
    if named.startswith("clean_data:"):
        digest = ledger.full_digest(named)
        user = finished_runs.newest(ledger, with_artifact="clean_data", digest=digest)
        return _of_version(f"clean_data:{digest[:12]}", digest, ledger, run=_name(user) if user else "")
    pipeline = finished_runs.find(named, ledger, option="REFERENCE") if named else finished_runs.newest(ledger, with_artifact="clean_data")
    if pipeline is None:
        return None
    if not simulated:
        pipeline.refuse_simulated("this would compare with")
    if "clean_data" not in pipeline.versions:
        raise BCCPError(f"REFERENCE={named} has no clean_data: choose a run in which the step preprocessing took part")
    return _of_version(pipeline.shown, pipeline.versions["clean_data"], ledger, run=_name(pipeline))


def _name(pipeline: finished_runs.Pipeline) -> str:
    """Name of a pipeline for :func:`bccp.tracking.finished_runs.find`."""
    return pipeline.shown.removeprefix("run ")


def _of_version(shown: str, digest: str, ledger: Ledger, *, run: str) -> Reference:
    raw = finished_runs.raw_of(digest, ledger)
    archive = ledger.fetch(f"raw_data:{raw['raw_data']}") / ARCHIVE if raw else None
    return Reference(shown, (f"clean_data:{digest}",), (ledger.fetch(f"clean_data:{digest}"),), archive, run)


def _of_batch(batch: str, ledger: Ledger) -> Reference:
    about = _about(batch)
    if "join" not in about:
        raise BCCPError(
            f"the batch {batch} was accepted by an earlier version, which took doubtful labels of what it was checked against for trusted "
            f"ones: bccp accept {batch} joins them anew"
        )
    versions = (*about["reference"], f"{OWN}{batch}")
    trained = _trained_on(batch, ledger)
    shown = f"the accepted batch {batch} and what it was checked against"
    return Reference(shown, versions, _clean(versions, ledger), _place(batch) / DATA, _name(trained) if trained else "")


def _clean(versions: Sequence[str], ledger: Ledger) -> tuple[Path, ...]:
    """The folder of each version of a reference."""
    return tuple(_place(v.removeprefix(OWN)) / "clean_data" if v.startswith(OWN) else ledger.fetch(v) for v in versions)


def _trained_on(batch: str, ledger: Ledger) -> finished_runs.Pipeline | None:
    """The newest finished pipeline on an accepted batch's data that knows days and labels."""
    wanted = f"params.`data.path` LIKE '%{_incoming().name}/{batch}/{DATA}' and tags.`{FOLDER_TAG}` LIKE '%'"
    runs = finished_runs.search(ledger, f"{wanted} and attributes.status = 'FINISHED'")
    found = (finished_runs.of_run(run, ledger) for run in runs)
    return next((pipeline for pipeline in found if "segregated_data" in pipeline.versions), None)


def check_batch(data: str, reference: Reference | None, options: Sequence[str], *, ledger: Ledger) -> tuple[str, list[Finding]]:
    """Fetch, clean and check a batch, and keep it under ``incoming``.

    Parameters
    ----------
    data : str
        A folder, an archive, or an archive's URL.
    reference : Reference or None
    options : sequence of str
        Hydra overrides. Images are made as large as those of the reference.
    ledger : Ledger

    Returns
    -------
    batch : str
        Its id.
    findings : list of Finding

    Raises
    ------
    BCCPError
        If the images cannot be fetched or read; nothing is kept then.
    """
    checked = _configured(data, options)
    with scratch("incoming") as parent:
        folder = parent / "batch"
        clean = folder / "clean_data"
        clean.mkdir(parents=True)
        with _told_as_given():
            files = sources.fetch(checked.data, parent / ARCHIVE, cache=home() / "data", fetch_ledger=ledger.fetch).files
        batch = sources.files_digest(files["image"].tolist(), files["sha256"].tolist())[:12]
        if batch in _accepted():
            raise BCCPError(f"DATA={data} is the batch {batch}, which was accepted already: {_place(batch)} holds it")
        prefix = _as_tuesday(parent / ARCHIVE, folder / ARCHIVE)
        section = checked.preprocessing
        if reference is None and automatic_models.waiting(checked):
            data_images.resolve_by_archive(checked, folder / ARCHIVE)
        settings = {
            "image_size": section.image_size,
            "resize": section.resize,
            "cleanup": section.cleanup,
            "scale": grey_levels.asked(section.range),
            "max_pixels": section.max_pixels,
        }
        if reference is not None:
            settings = reference.settings | {"max_pixels": max(section.max_pixels, reference.settings["max_pixels"])}
        preprocessing.clean(
            folder / ARCHIVE,
            clean,
            **settings,
            max_rejected_rate=section.max_rejected_rate,
            near_copy_tolerance=section.near_copy_tolerance,
            threads=checked.main.threads or default_threads(),
            layout=section.layout,
            needs_classes=False,
            called=lambda image: _as_given(data, image.removeprefix(prefix)),
        )
        findings = _examine(batch, folder, clean, reference, section, seed=checked.main.random_seed)
        over = [found.check for found in findings if found.verdict == "over"]
        about = {"data": data, "status": "refused" if over else "waiting", "over": over}
        about |= {"reference": list(reference.versions) if reference else [], "archive": str(reference.archive or "") if reference else ""}
        about |= {"run": reference.run if reference else ""}
        _write(folder / ABOUT, about)
        place = _place(batch)
        place.parent.mkdir(exist_ok=True)
        if place.exists():  # it was checked before
            place.rename(parent / "before")
        folder.rename(place)
    return batch, findings


def accept_batch(batch: str, ledger: Ledger) -> list[str]:
    """Accept a batch: its images can be used beside the reference's, whose trusted ones are Monday's.

    Parameters
    ----------
    batch : str
        Its id, or how it begins.
    ledger : Ledger

    Returns
    -------
    list of str
        Lines for the user, the last one of which is the command that uses it.

    Raises
    ------
    BCCPError
        If there is no such batch, it was refused, or what it was checked against is gone.
    """
    known = _batches()
    found = [name for name in known if batch and name.startswith(batch)]
    if len(found) != 1:
        there = f"the batches are {', '.join(known)}" if known else "there is none; bccp check-new --data folder checks one"
        raise BCCPError(f"ID={batch} {'names several batches' if found else 'is no batch that was checked'}: {there}")
    place, about = _place(found[0]), known[found[0]]
    if about["status"] == "refused":
        raise BCCPError(
            f"the batch {found[0]} was refused, as it is over the limit of {', '.join(about['over'])}: mend it, or check it again with "
            "another limit"
        )
    if "join" not in about:
        about = _join(found[0], about, ledger)
    said = about["join"]
    return [line.replace(said["place"], str(place)) for line in said["lines"]]


def _join(batch: str, about: Mapping[str, Any], ledger: Ledger) -> dict[str, Any]:
    """Join a batch with what it was checked against; what is said of it from then on."""
    place, archive = _place(batch), moved_along(about["archive"]) if about["reference"] else None
    if archive is not None and not archive.is_file():
        raise BCCPError(
            f"the files that the batch {batch} was checked against are gone ({about['archive'] or 'no run has them'}): "
            "check it again, with REFERENCE= another run"
        )
    known, size = _known(about, ledger)
    manifest = tables.read(place / "clean_data" / "manifest.csv")
    joined = joined_batch.join(known, manifest, batch=batch)
    with scratch("accept") as folder:
        with zipfile.ZipFile(folder / DATA, "w") as copy:
            for source, names in ((archive, joined.reference), (place / ARCHIVE, joined.batch)):
                if source is not None:
                    _copy_all(source, names, copy)
        joined_batch.write(folder, joined)
        for path in sorted(folder.iterdir()):
            path.replace(place / path.name)
    settings = {} if known is None else dict(known.settings)
    options = joined_batch.options(place, joined, settings, size=size)
    n_rejected = len(tables.read(place / "clean_data" / "quarantine.csv"))
    counted = f"accepted: batch {batch}, {len(manifest)} images" + (f" of {len(manifest) + n_rejected} files" if n_rejected else "")
    lines = [counted, *joined_batch.lines(place, joined, known), f"bccp run {' '.join(options)}"]
    n_accepted = max((other["accepted"] for other in _accepted().values()), default=0) + 1
    changed = {"status": "accepted", "accepted": about.get("accepted", n_accepted), "settings": settings}
    full = {**about, **changed, "join": {"place": str(place), "lines": lines}}
    _write(place / ABOUT, full)
    return full


def _known(about: Mapping[str, Any], ledger: Ledger) -> tuple[joined_batch.KnownLabels | None, tuple[int, str] | None]:
    """Read what is known of the labels of a batch's reference, and the size and shape that its images were given."""
    if not about["reference"]:
        return None, None
    clean = _clean(about["reference"], ledger)
    size = Reference("", tuple(about["reference"]), clean, None).size
    last, run = about["reference"][-1], about.get("run", "")
    if last.startswith(OWN) and not run:
        before = last.removeprefix(OWN)
        trained = _trained_on(before, ledger)
        if trained is None:
            with zipfile.ZipFile(_place(before) / DATA) as files:
                return joined_batch.labels_of_batch(_place(before), files.namelist(), _about(before).get("settings", {})), size
        return joined_batch.labels_of_run(trained, ledger), size
    if run:
        return joined_batch.labels_of_run(finished_runs.find(run, ledger, option="REFERENCE"), ledger), size
    user = finished_runs.newest(ledger, with_artifact="clean_data", digest=last.partition(":")[2])
    return (joined_batch.labels_of_run(user, ledger) if user else joined_batch.labels_of_images(clean[-1])), size


def rejected_lines(batch: str) -> list[str]:
    """Say in one line which files of a batch were left out, and why; nothing where none was."""
    place = _place(batch) / "clean_data"
    rejected, n_images = tables.read(place / "quarantine.csv"), len(tables.read(place / "manifest.csv"))
    if not len(rejected):
        return []
    images, reasons = rejected["image"].tolist(), rejected["reason"].tolist()
    some = [f"{image.removeprefix(_TUESDAY)!r} ({reason})" for image, reason in zip(images[:_SHOWN], reasons, strict=False)]
    more = f" and {len(rejected) - _SHOWN} more in {place / 'quarantine.csv'}" if len(rejected) > _SHOWN else ""
    return [f"{len(rejected)} of {n_images + len(rejected)} files cannot be used and are left out: {', '.join(some)}{more}"]


def _configured(data: str, options: Sequence[str]) -> config_schema.Config:
    if not data:
        raise BCCPError("which images? give a folder or an archive: bccp check-new --data folder")
    place = expanded(data, option="DATA")
    is_url, is_folder = data.lower().startswith(("http://", "https://")), place.is_dir()
    if not is_url and not place.exists():
        shown = redact_url(data) if "://" in data else data
        raise sources.missing(place, f"DATA={shown}", "a folder, an archive or an archive's URL")
    composed = compose(options)
    composed.data.source, composed.data.path = "folder" if is_folder else "archive", data
    return config.load(composed, base=Path.cwd())


@contextmanager
def _told_as_given() -> Iterator[None]:
    """Let errors name ``DATA``, which the user gave, instead of the option that it becomes."""
    try:
        yield
    except BCCPError as error:
        raise BCCPError(str(error).replace("set data.source=archive data.path=", "give DATA=").replace("data.path=", "DATA=")) from error


def _as_given(data: str, image: str) -> str:
    """An image as the user has it: in the folder that was given, where it lies there under this name."""
    place = Path(data) / image
    return str(place) if expanded(place, option="DATA").is_file() else image


def _as_tuesday(archive: Path, target: Path) -> str:
    """Copy files so that all are Tuesday's: in a class folder, or without a label; what their names begin with that was not given so."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as copy:
        names = [name for name in source.namelist() if not name.endswith("/")]  # without entries of empty folders
        tops = {name.partition("/")[0] for name in names if "/" in name}
        days = {layout.day_name(top) for top in tops}
        if "monday" in days:
            raise BCCPError("the incoming images have a folder monday/, whose labels would be trusted: give new images only, with no days")
        has_day = days == {"tuesday"} and not any("/" not in name for name in names)
        prefix = "" if has_day else _TUESDAY
        for name in names:
            _copy(source, name, copy, prefix + name)
    return prefix


def _copy_all(archive: Path, names: Mapping[str, str], target: zipfile.ZipFile) -> None:
    """Copy the images that are named, each under its new name, in the order of the archive."""
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            if name in names:
                _copy(source, name, target, names[name])


def _copy(source: zipfile.ZipFile, name: str, target: zipfile.ZipFile, new_name: str) -> None:
    entry = zipfile.ZipInfo(new_name, (1980, 1, 1, 0, 0, 0))
    entry.file_size = source.getinfo(name).file_size  # over 2 GB it decides on the format of the entry
    with source.open(name) as file, target.open(entry, "w") as copy:
        shutil.copyfileobj(file, copy)


def _examine(
    batch: str, folder: Path, clean: Path, reference: Reference | None, section: config_schema.Preprocessing, *, seed: int
) -> list[Finding]:
    """Check a batch and write its page."""
    limits = section.checks
    alone = checks.check_images(clean, limits)
    findings, parts = alone.findings, data_checks_page.parts_of_images(clean, alone)
    if reference is not None:
        joined = _manifest([*reference.clean, clean], section.near_copy_tolerance)
        n_known = sum(len(tables.read(one / "manifest.csv")) for one in reference.clean)
        known, new = joined[:n_known], joined[n_known:].reset_index(drop=True).assign(row=lambda table: np.arange(len(table)))
        views = _once(known, reference.clean), _once(new, [clean])
        rng = np.random.default_rng(seed)
        found = drift.drifted(*views, rng=rng)
        against = checks.limited(checks.of_days(known, new, found, names=NAMES), limits)
        shown = data_checks_page.side_by_side(list(zip(("known", "new"), views, strict=True)), rng)
        findings, parts = [*against, *findings], [data_checks_page.changes_table(found, NAMES), shown, *parts]
    place = folder / "data_checks"
    place.mkdir()
    compared = f"<p class='note'>Compared with {escape(reference.shown)}.</p>" if reference else ""
    n_images = len(tables.read(clean / "manifest.csv"))
    data_checks_page.write_page(place, f"Incoming batch {batch}: {n_images} images", findings, [compared, *parts])
    return findings


def _manifest(folders: Sequence[Path], near_copy_tolerance: float | None) -> pd.DataFrame:
    """Manifests one below another; ``row`` counts through all arrays, and hashes tell images apart across them."""
    table = pd.concat([tables.read(folder / "manifest.csv", dtypes=checks.MANIFEST_DTYPES) for folder in folders], ignore_index=True)
    table = table.assign(row=np.arange(len(table)))
    arrays = [np.load(folder / "images.npy", mmap_mode="r") for folder in folders]
    return table.assign(phash=told_apart(table, _Joined(arrays, np.arange(len(table))), tolerance=near_copy_tolerance))


def _once(manifest: pd.DataFrame, folders: Sequence[Path]) -> _Joined:
    """Different images, each once."""
    arrays = [np.load(folder / "images.npy", mmap_mode="r") for folder in folders]
    return _Joined(arrays, drift.once_each(manifest)["row"].to_numpy(np.int64))


def _incoming() -> Path:
    return home() / "incoming"


def _place(batch: str) -> Path:
    return _incoming() / batch


def _about(batch: str) -> dict[str, Any]:
    try:
        return dict(json.loads((_place(batch) / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BCCPError(f"the batch {batch} in {_place(batch)} is gone or damaged: check its images again") from error


def _batches() -> dict[str, dict[str, Any]]:
    """What is known of each batch, by id."""
    return {path.parent.name: _about(path.parent.name) for path in sorted(_incoming().glob(f"*/{ABOUT}"))}


def _accepted() -> dict[str, dict[str, Any]]:
    return {batch: about for batch, about in _batches().items() if about["status"] == "accepted"}


def _write(path: Path, about: Mapping[str, Any]) -> None:
    """Write a small file, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def check_incoming(data: str, named: str, options: Sequence[str], *, simulated: bool = False) -> tuple[str, list[Finding], Path]:
    """Check a batch, say what it is compared with, and keep it apart.

    Parameters
    ----------
    data : str
        As for :func:`check_batch`.
    named, simulated
        As for :func:`find_reference`.
    options : sequence of str
        Hydra overrides.

    Returns
    -------
    batch : str
        Its id.
    findings : list of Finding
    page : Path
        What was found, for people to look at.
    """
    keep_within_home()
    sweep_scratch()
    uri, note = ledger_uri(finished_runs.configured_uri(named, option="REFERENCE"))
    if note:
        print(note, flush=True)
    ledger = Ledger(uri)
    reference = find_reference(named, ledger, simulated=simulated)
    print(f"compared with {reference.shown}" if reference else "there is nothing to compare with: the images are checked by themselves")
    batch, findings = check_batch(data, reference, options, ledger=ledger)
    return batch, findings, _place(batch) / "data_checks" / data_checks_page.DATA_CHECKS_PAGE


def accept_incoming(batch: str) -> list[str]:
    """Accept a batch as :func:`accept_batch` does, in the home that this process uses."""
    keep_within_home()
    sweep_scratch()
    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    return accept_batch(batch, Ledger(uri))
