"""Naming and removal of every place that holds an image or names a user (``bccp forget``).

The home is searched in three ways: the ledger tells what derives from data that holds it, the service's store has rows of it, and all
other files are read. Removal begins with what can be found only by way of something else, and ends with what is found by itself, so that
it can be repeated wherever it was stopped.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bccp.core import config, progress
from bccp.core.config_schema import Serve
from bccp.core.digests import file_digest
from bccp.core.errors import BCCPError
from bccp.core.home import discard, home, keep_within_home, sweep_scratch
from bccp.core.paths import expanded
from bccp.core.redaction import first_line
from bccp.pipeline import batch_removal
from bccp.pipeline.compose import compose
from bccp.pipeline.exports.labels_list import LIST
from bccp.pipeline.exports.own_folder import MANIFEST
from bccp.pipeline.garbage_collection import is_own_store
from bccp.serving import user_names
from bccp.serving.forgetting import recorded_runs, wandb_records
from bccp.serving.forgetting.places import Place
from bccp.serving.forgetting.subjects import Image, Subject, User, holds, members_with
from bccp.serving.store import removal
from bccp.serving.store.opening import NoStoreError, Store, StoreUnavailableError, open_store
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.wandb_reused import settings

_SEARCHED_OTHERWISE = ("artifacts", "cache/artifacts", "incoming", "outputs", "serving/images", "wandb")
_NOBODYS = ("cache/matplotlib", "cache/torch", "envs", "locks", "tmp")
"""Folders of the home that are not read file by file: what lies in the former is found in other ways, the latter are of no data."""

_OUR_OWN = ("benchmarks", "cache", "compare", "serving")
"""Folders of which the files are written here, so that a user's name may be any other word in them."""

_NOT_READ_FILES = frozenset({".lock", ".npy", ".onnx", ".pt", ".db", ".db-shm", ".db-wal"})

_OWN_FILES = ("data.path", "data.trusted", "noisy_labels.feedback_file", "bayes_cutoff.audit_file")
"""Options that name files of the user's own."""


@dataclass(frozen=True)
class Forgotten:
    """Result of a search, and of the removal where it was asked for.

    Attributes
    ----------
    subject : Image or User
    places : list of Place
        As they were found.
    images : list of str
        Digests of the images that a user gave labels to, as far as the service has them.
    purged : bool
    """

    subject: Subject
    places: list[Place]
    images: list[str]
    purged: bool

    def document(self) -> dict[str, Any]:
        """As plain values."""
        about = {"image": self.subject.sha256} if isinstance(self.subject, Image) else {"user": self.subject.name}
        places = [place.document() for place in self.places]
        return {**about, "home": str(home()), "purged": self.purged, "places": places, "images_labelled": self.images}

    def lines(self) -> list[str]:
        """Lines for people."""
        if not self.places:
            return [f"nothing in {home()} holds {self.subject.shown}"]
        n_places = f"{len(self.places)} place{'s' if len(self.places) > 1 else ''}"
        kind, fate = (max(len(getattr(place, name)) for place in self.places) for name in ("kind", "fate"))
        lines = [f"{self.subject.shown} is in {n_places} ({home()}):"]
        for place in self.places:
            where = place.where.removeprefix(f"{home()}/")
            lines.append(f"  {place.kind:<{kind}}  {place.fate:<{fate}}  {where}" + (f"  ({place.note})" if place.note else ""))
        if self.images:
            n_images = f"{len(self.images)} image{'s' if len(self.images) > 1 else ''}"
            lines.append(f"{n_images} of the service that they labelled are kept (--json lists the digests): --image forgets one")
        removable = sum(place.remove is not None for place in self.places)
        if self.purged:
            lines.append(f"deleted: {removable} of them; the next run makes anew what it needs")
        else:
            lines.append("Nothing was deleted: --purge deletes what goes, and what is cut out.")
        return lines


def forget_image(named: str, *, purge: bool, words: Sequence[str] = ()) -> Forgotten:
    """Name every place that holds an image file, and let none hold it any more where asked to.

    Parameters
    ----------
    named : str
        SHA-256 of its bytes, or a path of the file.
    purge : bool
    words : sequence of str
        Hydra's overrides, of which the sections ``store``, ``serve`` and ``tracking`` count.

    Returns
    -------
    Forgotten

    Raises
    ------
    BCCPError
        If it is neither digest nor file, or something cannot be removed; what could be is, and doing it again does the rest.
    """
    digest = named.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", digest):
        path = expanded(named, option="--image")
        if not path.is_file():
            raise BCCPError(f"--image={named} is neither a SHA-256 (64 hexadecimal digits) nor a file: give the image's file or its digest")
        digest = file_digest(path)
    return _forget(lambda _: Image(digest), purge=purge, words=words)


def forget_user(name: str, *, purge: bool, words: Sequence[str] = ()) -> Forgotten:
    """Name every place that names a user, and let none name them any more where asked to.

    Parameters
    ----------
    name : str
        As the service or a feedback file was given it, or the hash that stands for it.
    purge, words
        As for :func:`forget_image`.

    Returns
    -------
    Forgotten

    Raises
    ------
    BCCPError
        If something cannot be removed; what could be is, and doing it again does the rest.
    """
    name = name.strip()
    if not name:
        raise BCCPError("--user is empty: give the name, or the hash that stands for it")
    return _forget(lambda serve: User(name, _hashed(name, serve.user_key_env)), purge=purge, words=words)


def _hashed(name: str, env_name: str) -> str | None:
    """What the service has instead of a name; None where there is no key, and none is made."""
    if not os.environ.get(env_name) and not (home() / "serving" / "user.key").exists():
        return None
    return user_names.hashed(name, user_names.user_key(env_name))


def _forget(subject_of: Callable[[Serve], Subject], *, purge: bool, words: Sequence[str]) -> Forgotten:
    keep_within_home()
    sweep_scratch()
    composed = compose(words)
    serve, kept, tracking = (config.load_section(composed, name, base=Path.cwd()) for name in ("serve", "store", "tracking"))
    subject = subject_of(serve)
    uri, note = ledger_uri(tracking.mlflow_uri)
    if note:
        print(note, flush=True)
    ledger = Ledger(uri)
    ledger.close_orphaned_runs()
    try:
        store: Store | None = open_store(kept.url, images=_folder(kept.images), create=False)
    except NoStoreError:
        store = None
    try:
        with FileLock(home() / "wandb-sync.lock").acquire(blocking=False) if purge else nullcontext():  # an upload reads what goes
            search = Search(subject, ledger, store)
            if purge:
                search.purge()
            return Forgotten(subject, search.places, search.images, purge)
    except Timeout as error:
        raise BCCPError("another process uploads to W&B from this home, or cleans it: wait until it has ended") from error
    except StoreUnavailableError as error:
        raise BCCPError(f"the store of the service does not answer ({error}): call this again once it does") from error
    finally:
        if store is not None:
            store.close()


def _folder(path: str | None) -> Path | None:
    return Path(path) if path else None


class Search:
    """Places of the home that hold a subject.

    Parameters
    ----------
    subject : Image or User
    ledger : Ledger
    store : Store or None
        Of the service.
    """

    def __init__(self, subject: Subject, ledger: Ledger, store: Store | None) -> None:
        self.subject, self._ledger, self._store = subject, ledger, store
        self._home = home()
        self.found = recorded_runs.find_runs(subject, ledger)
        self.images = self._images_labelled()
        derived, direct = recorded_runs.places_of_runs(subject, self.found, ledger)
        self._online = wandb_records.places_online(self.found, self._home)
        self._derived = [
            *recorded_runs.places_of_models(self.found),
            *wandb_records.places_in_home(subject, self.found, self._home),
            *self._of_pipelines(),
            *derived,
        ]
        self._by_themselves = [*self._batches(), *self._rows(), *direct]
        self._by_themselves += self._others({place.where for place in (*self._derived, *self._by_themselves)})

    @property
    def places(self) -> list[Place]:
        """All of them, in the order in which they can go."""
        return [*self._online, *self._derived, *self._by_themselves, *self._own_files()]

    def purge(self) -> None:
        """Remove all that can be removed.

        Raises
        ------
        BCCPError
            If something cannot be; what it can be found by stays as well then.
        """
        recorded_runs.refuse_running(self.found)
        self._remove(self._online)
        recorded_runs.tag_models(self.found, self._ledger, datetime.now(UTC).date().isoformat())
        self._remove(self._derived)
        batch_removal.forget_references(self.found.versions)
        self._remove(self._by_themselves)
        batch_removal.forget_references(self.found.versions)
        if is_own_store(self._ledger):
            _erase_deleted(self._home / "mlflow.db")
        left = [place for place in Search(self.subject, self._ledger, self._store).places if place.remove is not None]
        if left:
            raise BCCPError(f"{len(left)} places hold {self.subject.shown} again, such as {left[0].where}: call this once more")

    def _remove(self, places: Sequence[Place]) -> None:
        from mlflow.exceptions import MlflowException

        errors = (BCCPError, OSError, MlflowException, StoreUnavailableError)
        failed: list[tuple[Place, Exception]] = []
        removable = [(place, place.remove) for place in places if place.remove is not None]
        for place, remove in progress.each("place", removable):
            try:
                remove()
            except errors as error:
                failed.append((place, error))
        if failed:
            place, cause = failed[0]
            raise BCCPError(
                f"{len(failed)} places still hold {self.subject.shown}, such as {place.where} ({first_line(cause)}): call this again"
            ) from cause

    def _images_labelled(self) -> list[str]:
        if self._store is None or isinstance(self.subject, Image):
            return []
        return removal.images_of_users(self._store, self.subject.names)

    def _of_pipelines(self) -> Iterator[Place]:
        """Run folders, comparisons, checkpoints, and copies of artifacts that are elsewhere."""
        digests = {version.partition(":")[2] for version in self.found.versions}
        folders = recorded_runs.run_folders(self.found)
        folders |= {folder for folder in _run_folders(self._home / "outputs") if self._is_held_by(folder, digests)}
        for folder in sorted(folders):
            if folder.is_dir() and folder.is_relative_to(self._home):
                yield _whole("run folder", folder)
        marks = {*self.found.ids, *self.found.names, *(digest[:12] for digest in digests)}
        for folder in sorted((self._home / "compare").glob("*")):
            if any(mark in _text(path) for path in folder.rglob("*") if path.is_file() for mark in marks):
                yield _whole("comparison", folder)
        if any(run.info.status in ("FAILED", "KILLED") for run in (*self.found.runs, *self.found.pipelines)):
            for path in sorted((self._home / "checkpoints").glob("*")):
                yield _whole("checkpoint", path, "of work that was stopped, which begins anew")
        for version, folder in recorded_runs.copies(self._home):
            if version in self.found.versions:
                yield _whole("copy of an artifact", folder)

    def _is_held_by(self, folder: Path, digests: set[str]) -> bool:
        """Whether a run folder, also one of a pipeline in another store, names versions that go, or holds the subject itself."""
        if digests & set(re.findall(r"\b[0-9a-f]{64}\b", _text(folder / "summary.json"))):
            return True
        columns = "\n".join(re.findall(r"columns=.*", _text(folder / ".hydra" / "overrides.yaml")))
        if self.subject.in_text(columns.replace("=", "\n"), is_table=False, foreign=True):
            return True
        return any(holds(self.subject, path, foreign=False) for path in folder.rglob("*") if path.is_file())

    def _batches(self) -> Iterator[Place]:
        def members(path: Path) -> list[str]:
            return list(members_with(self.subject, path))

        def is_user(cell: str) -> bool:
            return isinstance(self.subject, User) and self.subject.is_cell(cell)

        parts = batch_removal.find_parts(members, is_user, self.found.versions, shows_images=isinstance(self.subject, Image))
        for part in parts:
            counts = {"files": len(part.own), "joined files": len(part.joined), "votes": part.n_votes, "page of its checks": part.has_page}
            note = ", ".join(f"{int(n)} {name}" for name, n in counts.items() if n)
            yield Place("incoming batch", str(part.place), "is cut out", note, partial(batch_removal.remove_part, part, is_user))

    def _rows(self) -> Iterator[Place]:
        if self._store is None:
            return
        if isinstance(self.subject, Image):
            counts = removal.image_rows(self._store, self.subject.sha256)
            if self._store.images.path(self.subject.sha256).exists():
                counts["its file"] = 1
        else:
            counts = removal.user_rows(self._store, self.subject.names)
        if counts:
            note = ", ".join(f"{n} of {name}" if name != "its file" else name for name, n in counts.items())
            yield Place("store of the service", self._store.address, "goes", note, partial(self._forget_rows, self._store))

    def _forget_rows(self, store: Store) -> None:
        if isinstance(self.subject, Image):
            removal.forget_image(store, self.subject.sha256)
        else:
            removal.forget_users(store, self.subject.names)

    def _others(self, listed: set[str]) -> Iterator[Place]:
        """All other files of the home; of an exported folder, whose pages and lists show the image by its name, all."""
        exports = set[Path]()
        for path in _files_to_read(self._home, [Path(where) for where in listed]):
            if any(path.is_relative_to(export) for export in exports):
                continue
            if holds(self.subject, path, foreign=not any(path.is_relative_to(self._home / name) for name in _OUR_OWN)):
                if export := _export_of(path, self._home):
                    exports.add(export)
                elif path.is_relative_to(self._home / "data"):
                    yield _whole("download", path, "its source has it still, and the next run that reads it brings it back")
                else:
                    yield _whole("file", path)
        for export in sorted(exports):
            yield _whole("export", export, "the command that has written it makes it anew")

    def _own_files(self) -> Iterator[Place]:
        """Files of the user's own that runs were given: nothing is deleted there, and the next run would bring it back."""
        told = set[Path]()
        for key, text in sorted({item for run in self.found.pipelines for item in _given_files(run.data.params)}):
            path = Path(text)
            if path.is_relative_to(self._home) or not path.exists():
                continue
            inside = sorted(path / name for name in self.found.images) if path.is_dir() else [path]
            if isinstance(self.subject, User) and path.is_dir():
                inside = [file for file in sorted(path.rglob("*.csv")) if file.is_file()]
            for file in inside:
                if file not in told and file.is_file() and holds(self.subject, file):
                    told.add(file)
                    yield Place("file of your own", str(file), "is yours", f"{key}: the next run that reads it brings it back")


def _whole(kind: str, path: Path, note: str = "") -> Place:
    return Place(kind, str(path), "goes", note, partial(discard, path))


def _run_folders(outputs: Path) -> list[Path]:
    """The folders of pipelines; those of sweeps are around them."""
    marks = [*outputs.glob("*/summary.json"), *outputs.glob("*/*/summary.json"), *outputs.glob("*/.hydra"), *outputs.glob("*/*/.hydra")]
    return sorted({mark.parent for mark in marks})


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _given_files(params: Any) -> Iterator[tuple[str, str]]:
    values = settings(params)
    for key in _OWN_FILES:
        section, _, name = key.partition(".")
        value = values.get(section, {}).get(name)
        if isinstance(value, str) and Path(value).is_absolute():
            yield key, value


def _files_to_read(place: Path, listed: Sequence[Path]) -> Iterator[Path]:
    """Files that nothing else has told of, in order."""
    closed = {place / name for name in (*_SEARCHED_OTHERWISE, *_NOBODYS)} | set(listed)
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if Path(folder, name) not in closed)
        for name in sorted(files):
            path = Path(folder, name)
            if path not in closed and path.suffix not in _NOT_READ_FILES and not path.is_symlink():
                yield path


def _export_of(path: Path, place: Path) -> Path | None:
    """The folder of ``bccp clean`` or ``bccp export-data`` that a file of the home lies in."""
    for folder in path.parents:
        if folder == place or not folder.is_relative_to(place):
            return None
        if (folder / MANIFEST).is_file() or (folder / LIST).is_file():
            return folder
    return None


def _erase_deleted(database: Path) -> None:
    """Write the ledger's file anew, in whose free pages deleted records can be read else."""
    try:
        with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise BCCPError(f"{database} cannot be written anew ({error}): call this again once nobody else uses it") from error
