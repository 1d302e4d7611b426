"""Runs of the ledger that made what holds an image or names a user, or something that derives from it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bccp.core import step_graph
from bccp.core.errors import BCCPError
from bccp.core.home import discard, moved_along, scratch
from bccp.core.redaction import redact
from bccp.data import tables
from bccp.models import mlflow_flavor
from bccp.pipeline.garbage_collection import is_own_store, ledger_runs, run_folder, runs_used
from bccp.serving.forgetting.places import Place
from bccp.serving.forgetting.subjects import Image, Subject, User, holds
from bccp.tracking.backends import local_path
from bccp.tracking.store import Ledger, tag_value
from bccp.tracking.tags import FOLDER_TAG, FORGOTTEN_TAG, HOST_TAG, KEY_PARTS_TAG, MODEL_TAG, PIPELINE_TAG, STEP_TAG
from bccp.tracking.versions import versions_made, versions_read

_TOLD_BY = {
    "raw_data": ("files.csv",),
    "feedback": ("votes.csv",),
    "given_labels": ("votes.csv",),
    "cleansed_labels": ("label_report.csv",),
}
"""Of artifacts that no local folder has: files that tell what they hold."""

_WITHOUT_IMAGES = frozenset({"exported_backbone", "image_sizes"})
"""Work that steps share and that holds nothing of single images."""

_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass
class Holding:
    """Runs, and what they made.

    Attributes
    ----------
    runs : list of mlflow.entities.Run
        Of steps and of work that they share; what derives stands before what it derives from.
    pipelines : list of mlflow.entities.Run
        Of which these are a part.
    versions : set of str
        ``name:digest`` of all that they made.
    direct : set of str
        The ids of the runs that took it in, from outside; as long as their files are there, all others can be found.
    images : set of str
        Names of the image in the data.
    fingerprints : ndarray of uint64
        Of its pixels.
    registered : list of mlflow.entities.model_registry.ModelVersion
        Models that were trained on it.
    """

    runs: list[Any] = field(default_factory=list)
    pipelines: list[Any] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    direct: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    fingerprints: Any = field(default_factory=lambda: np.array([], np.uint64))
    registered: list[Any] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        """The ids of all runs, the pipelines' own too."""
        return {run.info.run_id for run in (*self.runs, *self.pipelines)}

    @property
    def names(self) -> set[str]:
        """Names of the pipelines."""
        return {run.data.tags[PIPELINE_TAG] for run in self.pipelines if PIPELINE_TAG in run.data.tags}


def find_runs(subject: Subject, ledger: Ledger) -> Holding:
    """Find the runs that hold a subject, those that read what these made, and the pipelines around them."""
    known = [run for deleted in (False, True) for run in ledger_runs(ledger, deleted=deleted) if HOST_TAG in run.data.tags]
    found = Holding(direct={run.info.run_id for run in known if _names_columns(subject, run) or any(_direct(subject, run, ledger))})
    for version in copies(ledger.home):  # also where the run that made it is in another store
        if any(holds(subject, file, foreign=False) for file in _telling_files(subject, version[1])):
            found.versions.add(version[0])
    derived = _derived(known, found)
    pipelines = _pipelines(known, {run.info.run_id for run in derived})
    pipelines += [run for run in known if FOLDER_TAG in run.data.tags and run.info.run_id in found.direct and run not in pipelines]
    if isinstance(subject, Image):
        beside = _shared(known, derived, {run.info.run_id for run in pipelines})
        _read_names(subject, derived, found)
    else:
        beside = []
    found.runs, found.pipelines = [*reversed(derived), *beside], pipelines
    found.runs.sort(key=lambda run: run.info.run_id in found.direct)  # which are found by their own files: last
    ids = {run.info.run_id for run in found.runs}
    found.versions |= _made_by_all(found.runs, [run for run in known if run.info.run_id not in ids])
    found.registered = [version for version in _registered(ledger) if _was_trained_on(version, found)]
    return found


def _names_columns(subject: Subject, run: Any) -> bool:
    """Whether a run was told of columns, which may be called as their annotators are, and one of them is the user."""
    told = "\n".join(value for name, value in run.data.params.items() if name.endswith("columns"))
    return isinstance(subject, User) and subject.in_text(told, is_table=False, foreign=True)


def _direct(subject: Subject, run: Any, ledger: Ledger) -> Iterator[str]:
    """Artifacts of a run that hold the subject by themselves."""
    root = local_path(run.info.artifact_uri)
    for version in sorted(versions_made(run)):
        name, _, _ = version.partition(":")
        if root is not None:
            files = _telling_files(subject, root / name)
            if any(holds(subject, file, foreign=False) for file in files):
                yield version
        elif name in _TOLD_BY:
            with scratch("forget") as folder:
                files = _fetched(run, name, folder, ledger)
                if any(holds(subject, file, foreign=False) for file in files):
                    yield version


def _telling_files(subject: Subject, folder: Path) -> list[Path]:
    """Tables and archives of an artifact; of images, a table of digests beside the archive tells as much in a moment."""
    tell = {".csv"} if isinstance(subject, Image) and (folder / "files.csv").is_file() else {".csv", ".zip"}
    return sorted(path for path in folder.rglob("*") if path.suffix in tell and path.is_file())


def _fetched(run: Any, name: str, folder: Path, ledger: Ledger) -> list[Path]:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    files = []
    for file in _TOLD_BY[name]:
        try:
            place = download_artifacts(artifact_uri=f"{run.info.artifact_uri}/{name}/{file}", dst_path=str(folder), tracking_uri=ledger.uri)
        except (MlflowException, OSError):  # deleted, or not there in this version
            continue
        files.append(Path(place))
    return files


def copies(home: Path) -> list[tuple[str, Path]]:
    """Artifacts that were brought from elsewhere: version and folder."""
    folders = sorted((home / "cache" / "artifacts").glob("*-*"))
    return [(":".join(folder.name.rsplit("-", 1)), folder) for folder in folders]


def _derived(known: Sequence[Any], found: Holding) -> list[Any]:
    """Runs that hold it or read what holds it, or whose key does, in the order of what they read."""
    derived = [run for run in known if run.info.run_id in found.direct and FOLDER_TAG not in run.data.tags]
    left = [run for run in known if run.info.run_id not in found.direct and FOLDER_TAG not in run.data.tags]
    while True:
        versions = found.versions | _made_by_all(derived, left)
        digests = {version.partition(":")[2] for version in versions}
        more = [run for run in left if versions_read(run) & versions or (_is_shared(run) and _named_in_key(run) & digests)]
        if not more:
            return derived
        derived += more
        ids = {run.info.run_id for run in more}
        left = [run for run in left if run.info.run_id not in ids]


def _made_by_all(runs: Iterable[Any], others: Iterable[Any]) -> set[str]:
    """Versions that some runs made and no other did: what comes out without the subject too, such as an empty table, has nothing of it."""
    made = set[str]().union(*map(versions_made, runs))
    return made - set[str]().union(*map(versions_made, others))


def _is_shared(run: Any) -> bool:
    """Whether a run did work that steps share."""
    return STEP_TAG in run.data.tags and run.data.tags[STEP_TAG] not in step_graph.STEPS


def _named_in_key(run: Any) -> set[str]:
    try:
        parts = json.loads(tag_value(run.data.tags, KEY_PARTS_TAG) or "{}")
    except ValueError:
        return set()
    return set(_DIGEST.findall(json.dumps(parts.get("parameters", {}))))


def _pipelines(known: Iterable[Any], ids: Collection[str]) -> list[Any]:
    """The pipelines that some runs are a part of, or were reused by."""
    by_id = {run.info.run_id: run for run in known}
    above = {by_id[run_id].data.tags.get("mlflow.parentRunId") for run_id in ids}
    return [run for run in by_id.values() if FOLDER_TAG in run.data.tags and (run.info.run_id in above or runs_used(run) & set(ids))]


def _shared(known: Iterable[Any], derived: Sequence[Any], pipelines: Collection[str]) -> list[Any]:
    """Shared work on the pixels of derived data: its key has a digest of the pixels, of which no version tells.

    Other pipelines may have read it too; they are none of those that hold the image, if their own data does not.
    """
    ids = {run.info.run_id for run in derived}
    read = {version for run in derived for version in versions_read(run)}
    return [
        run
        for run in known
        if run.info.run_id not in ids
        and _is_shared(run)
        and run.data.tags[STEP_TAG] not in _WITHOUT_IMAGES
        and (versions_made(run) & read or run.data.tags.get("mlflow.parentRunId") in pipelines)
    ]


def _read_names(image: Image, derived: Sequence[Any], found: Holding) -> None:
    """Read what the image is called in the data, and the fingerprints of its pixels."""
    names: dict[str, set[str]] = {}
    for run, root in _local(derived):
        if (root / "raw_data" / "files.csv").is_file():
            files = tables.read(root / "raw_data" / "files.csv")
            own = set(files.loc[files["sha256"] == image.sha256, "image"])
            names |= dict.fromkeys(versions_made(run), own)
    for run, root in _local(derived):
        if (root / "clean_data" / "manifest.csv").is_file():
            manifest = tables.read(root / "clean_data" / "manifest.csv")
            own = set[str]().union(*(names.get(version, ()) for version in versions_read(run)))
            seen = mlflow_flavor.fingerprints(manifest.loc[manifest["image"].isin(own), "sha256"])
            found.fingerprints = np.union1d(found.fingerprints, seen)
    found.images = set[str]().union(*names.values())


def _local(runs: Iterable[Any]) -> Iterator[tuple[Any, Path]]:
    """Runs with the folders of their artifacts, as far as these are on this machine."""
    for run in runs:
        if (root := local_path(run.info.artifact_uri)) is not None:
            yield run, root


def _registered(ledger: Ledger) -> list[Any]:
    found, token = [], None
    while True:
        page = ledger.client.search_model_versions(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _was_trained_on(version: Any, found: Holding) -> bool:
    if version.run_id in found.ids or f"model:{version.tags.get(MODEL_TAG)}" in found.versions:
        return True
    return bool(len(found.fingerprints)) and any(np.isin(seen, found.fingerprints).any() for _, seen in _fingerprints_in(version))


def _fingerprints_in(version: Any) -> Iterator[tuple[Path, Any]]:
    """Files of a registered version that hold fingerprints of the images that it was trained on."""
    place = local_path(version.source)
    for path in sorted(place.rglob(mlflow_flavor.TRAINED_ON)) if place is not None else []:
        yield path, np.load(path, allow_pickle=False)


def refuse_running(found: Holding) -> None:
    """Refuse to remove what a pipeline goes on with.

    Raises
    ------
    BCCPError
    """
    for run in (*found.pipelines, *found.runs):
        if run.info.status == "RUNNING":
            raise BCCPError(f"the run {run.info.run_name} goes on and reads what is to be forgotten: wait until it has ended, or end it")


def places_of_runs(subject: Subject, found: Holding, ledger: Ledger) -> tuple[list[Place], list[Place]]:
    """Artifacts and reports of runs: those that derive, in the order in which they can go, and those that are found by themselves."""
    own, sources = is_own_store(ledger), [place for version in _registered(ledger) if (place := local_path(version.source)) is not None]
    derived: list[Place] = []
    direct: list[Place] = []
    for run in (*found.pipelines, *found.runs):
        folder, run_id = run_folder(run, ledger.home), run.info.run_id
        versions = [version.partition(":") for version in sorted(versions_made(run))]
        made = f"{', '.join(f'{name}:{digest[:12]}' for name, _, digest in versions) or 'reports'} of {run.info.run_name}"
        places = direct if run_id in found.direct else derived
        if folder is None or not own:
            address = f"{redact(ledger.uri)}, run {run_id}"
            places.append(Place("artifacts of a store outside the home", address, "is yours", f"{made}: delete the run there"))
        else:
            removal = RunRemoval(ledger, run, folder, subject, [place for place in sources if place.is_relative_to(folder)])
            if removal.is_left():
                places.append(Place("artifacts", str(folder), "goes", made, removal.remove))
    return derived, direct


@dataclass(frozen=True)
class RunRemoval:
    """Removal of a run's files, and of the run from MLflow's sight.

    A run of which registered models come stays in sight, with their folders. A run whose own record names a user goes for good, all others
    go to MLflow's bin, where their figures are.
    """

    ledger: Ledger
    run: Any
    folder: Path
    subject: Subject
    models: Sequence[Path]

    def is_left(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self._files()) or (not self.models and self.run.info.lifecycle_stage == "active")

    def _files(self) -> list[Path]:
        if not self.models:
            return [self.folder] if self.folder.exists() else []
        files = sorted((self.folder / "artifacts").glob("*"))
        return [path for path in files if not any(model.is_relative_to(path) for model in self.models)]

    def remove(self) -> None:
        """Remove them; what is gone already is left as it is."""
        client, run_id = self.ledger.client, self.run.info.run_id
        if not self.models and client.get_run(run_id).info.lifecycle_stage == "active":
            client.delete_run(run_id)  # before its files, so that nothing of it is reused
        for path in self._files():
            discard(path)
        if not self.models and self._record_names_it():
            client._tracking_client.store._hard_delete_run(run_id)

    def _record_names_it(self) -> bool:
        record = "\n".join(text for values in (self.run.data.params, self.run.data.tags) for item in values.items() for text in item)
        return self.subject.in_text(record, is_table=False, foreign=True)


def places_of_models(found: Holding) -> list[Place]:
    """Registered models that were trained on it: their weights stay, the fingerprint of the image goes."""
    places = []
    for version in found.registered:
        note = "its weights stay, as nothing can be cut out of them: train without it, then delete this version in MLflow"
        places.append(Place("registered model", f"models:/{version.name}/{version.version}", "stays", note))
        for path, seen in _fingerprints_in(version):
            if np.isin(seen, found.fingerprints).any():
                cut = _Cut(path, found.fingerprints)
                places.append(Place("fingerprint of the image", str(path), "is cut out", "64 bits of the digest of its pixels", cut.remove))
    return places


@dataclass(frozen=True)
class _Cut:
    """Removal of fingerprints from a file."""

    path: Path
    fingerprints: Any

    def remove(self) -> None:
        seen = np.load(self.path, allow_pickle=False)
        with scratch("forget") as folder:
            np.save(folder / "fresh.npy", seen[~np.isin(seen, self.fingerprints)])
            (folder / "fresh.npy").replace(self.path)


def tag_models(found: Holding, ledger: Ledger, day: str) -> None:
    """Note at each registered model that something it was trained on was forgotten."""
    for version in found.registered:
        ledger.client.set_model_version_tag(version.name, version.version, FORGOTTEN_TAG, day)


def run_folders(found: Holding) -> set[Path]:
    """The folders of pipelines, where people look."""
    return {moved_along(run.data.tags[FOLDER_TAG]) for run in found.pipelines}
