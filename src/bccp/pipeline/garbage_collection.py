"""Shows what the home holds and, asked, deletes what no named or recent run needs (``bccp gc``).

A run is needed while it goes on, for some days, while it has the tag ``bccp.keep``, and while a registered model comes from it; and with it
the steps of a pipeline, also reused ones, and the runs that made what it has read. Of all else, what is known here and was not used for as
many days can go. A run that goes is first taken from MLflow's sight, so that nothing of it is reused, and only then from the disk.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bccp.core import step_graph
from bccp.core.errors import BCCPError
from bccp.core.home import WANDB_SCRATCH, abandoned, home, moved_along, scratch
from bccp.core.paths import expanded
from bccp.core.redaction import redact
from bccp.data.downloads import slot_name
from bccp.pipeline.environments import WHOLE
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri, local_path
from bccp.tracking.store import Ledger
from bccp.tracking.tags import (
    FOLDER_TAG,
    HOST_TAG,
    KEEP_TAG,
    KEY_TAG,
    LEFT_OUT_PREFIX,
    PIPELINE_TAG,
    REUSED_PREFIX,
    STEP_TAG,
    WANDB_REUSED_TAG,
)
from bccp.tracking.versions import versions_made, versions_read
from bccp.tracking.wandb_sync import recorded

_SECONDS_A_DAY = 86_400.0

_UNKNOWN = "other, not known here"


@dataclass(frozen=True)
class HomeEntry:
    """What is kept or deleted as a whole.

    Attributes
    ----------
    kind : str
        Under which it is counted.
    paths : tuple of Path
    spare : bool
        Whether it can go.
    lock : Path or None
        The file of the lock that is held by whoever uses it.
    """

    kind: str
    paths: tuple[Path, ...]
    spare: bool = False
    lock: Path | None = None

    def size(self) -> int:
        """Bytes on the disk, links not followed."""
        return sum(size_of(path) for path in self.paths)


@dataclass
class Survey:
    """What the home holds.

    Attributes
    ----------
    entries : list of Entry
        All that lies in the home, each file once.
    runs : list of mlflow.entities.Run
        All in the store, with those that MLflow has in its bin.
    spare_runs : list of mlflow.entities.Run
        Those that can go, with all that :attr:`entries` has of them.
    not_uploaded : int
        W&B's records, and pipelines that only reused, that can go although W&B does not have them.
    """

    entries: list[HomeEntry] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)
    spare_runs: list[Any] = field(default_factory=list)
    not_uploaded: int = 0


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed, and what has gone meanwhile counts nothing."""
    return sum(about.st_size for _, about in _tree(path) if not stat.S_ISDIR(about.st_mode))


def runs_used(run: Any) -> set[str]:
    """The ids of the runs whose outputs a pipeline took instead of running a step."""
    return {value for name, value in run.data.tags.items() if name.startswith((REUSED_PREFIX, LEFT_OUT_PREFIX))}


def needed_runs(runs: Sequence[Any], roots: Collection[str]) -> set[str]:
    """The ids of some runs, of their nested runs, of the runs that they used, and of those that made what all these have read."""
    by_id = {run.info.run_id: run for run in runs}
    nested: dict[str, list[str]] = defaultdict(list)
    makers: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        nested[run.data.tags.get("mlflow.parentRunId", "")].append(run.info.run_id)
        for version in versions_made(run):
            makers[version].append(run.info.run_id)
    needed: set[str] = set()
    todo = [run_id for run_id in roots if run_id in by_id]
    while todo:
        run_id = todo.pop()
        if run_id not in needed:
            needed.add(run_id)
            found = [*nested[run_id], *runs_used(by_id[run_id])]
            found += [maker for version in versions_read(by_id[run_id]) for maker in makers[version]]
            todo += [other for other in found if other in by_id]
    return needed


def survey(ledger: Ledger, *, keep_days: int) -> Survey:
    """Look at all that lies in the home.

    Parameters
    ----------
    ledger : Ledger
        The store that is in use. Only where it is the home's own can its runs go.
    keep_days : int
        For how many days all is kept, at least 1.

    Returns
    -------
    Survey
    """
    ledger.close_orphaned_runs()
    place, since = ledger.home, time.time() - keep_days * _SECONDS_A_DAY
    active, deleted = (ledger_runs(ledger, deleted=deleted) for deleted in (False, True))
    registered = {version.run_id for version in _pages(ledger.client.search_model_versions)}
    roots = {run.info.run_id for run in [*active, *deleted] if _is_root(run, registered, since)}
    needed = needed_runs(active, roots) | roots
    # runs that others have made by MLflow are none of our business
    spare = [run for run in [*active, *deleted] if run.info.run_id not in needed and HOST_TAG in run.data.tags]
    found = Survey(runs=[*active, *deleted])
    if is_own_store(ledger):
        found.spare_runs = [run for run in spare if run_folder(run, place) is not None]
    kept = [run for run in [*active, *deleted] if run.info.run_id in needed]
    versions = {version for run in kept for version in versions_made(run) | versions_read(run)}
    dispensable = {version for run in spare for version in versions_made(run)} - versions
    busy = any(run.info.status == "RUNNING" for run in [*active, *deleted])
    known = [*active, *deleted] if is_own_store(ledger) else []
    found.entries += _artifacts(place / "artifacts", known, {run.info.run_id for run in found.spare_runs})
    wandb, wanted, found.not_uploaded = _wandb(place / "wandb", since, dispensable)
    found.not_uploaded += sum(WANDB_REUSED_TAG in run.data.tags for run in found.spare_runs)
    found.entries += wandb
    found.entries += _cache(place / "cache", since, versions, wanted)
    found.entries += _downloads(place / "data", since)
    found.entries += _environments(place / "envs", since, busy=busy)
    found.entries += _outputs(place / "outputs", since, _folders(kept), _folders(spare))
    found.entries += [HomeEntry("checkpoints", (path,), _used(path) < since) for path in _inside(place / "checkpoints")]
    found.entries += [HomeEntry("locks", (lock,), _used(lock) < since, lock) for lock in _inside(place / "locks")]
    found.entries += [
        HomeEntry("scratch", (path,), abandoned(path.name)) for path in [*_inside(place / "tmp"), *_inside(place / WANDB_SCRATCH)]
    ]
    for path in _inside(place):
        if path.name.startswith("mlflow.db"):
            found.entries.append(HomeEntry("store", (path,)))
        elif path.name == "benchmarks":
            found.entries.append(HomeEntry("benchmarks' results", (path,)))
        elif path.name == "serving":
            found.entries.append(HomeEntry("records of the service", (path,)))
        elif path.name == "incoming":
            found.entries += [HomeEntry("incoming images", (batch,)) for batch in _inside(path)]
        elif path.name == "compare":
            found.entries += [HomeEntry("comparisons", (one,), _used(one) < since) for one in _inside(path)]
        elif path.suffix == ".lock":
            found.entries.append(HomeEntry("locks", (path,)))
        elif path.name not in ("artifacts", "cache", "checkpoints", "data", "envs", "locks", "outputs", "tmp", "wandb"):
            found.entries.append(HomeEntry(_UNKNOWN, (path,)))
    return found


def is_own_store(ledger: Ledger) -> bool:
    """Whether a ledger is the home's own store, and no server's or another place's, which others may use too."""
    return ledger.uri == f"sqlite:///{ledger.home / 'mlflow.db'}"


def delete(ledger: Ledger, found: Survey) -> tuple[int, int]:
    """Delete what can go, except for what is in use by now.

    Returns
    -------
    n_runs : int
        Runs that have gone.
    freed : int
        Bytes.
    """
    freed = 0
    runs = [run for run in found.spare_runs if _hide(ledger, run, found.runs)]
    gone = {run.info.run_id for run in runs}
    folders = {folder for run in found.spare_runs if run.info.run_id not in gone and (folder := run_folder(run, ledger.home)) is not None}
    for entry in found.entries:
        if entry.spare and not any(path.parent.parent in folders for path in entry.paths):
            with _unused(entry.lock) as unused:
                if unused:
                    freed += entry.size()
                    remove_paths(entry.paths)
    store = ledger.client._tracking_client.store
    for run in runs:
        folder = run_folder(run, ledger.home)
        if folder is not None:
            freed += size_of(folder)
            remove_paths([folder])
        store._hard_delete_run(run.info.run_id)  # `mlflow gc` does it so, but empties all of MLflow's bin
    for link in _inside(ledger.home / "wandb"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    return len(runs), freed


def keep(ledger: Ledger, named: str) -> int:
    """Give runs the tag :data:`KEEP_TAG`.

    Parameters
    ----------
    ledger : Ledger
    named : str
        A run's id or the first 6 digits of a pipeline's, the folder of a pipeline, its name under ``outputs``, or its ``summary.json``; or
        the folder of a sweep, whose pipelines are all meant.

    Returns
    -------
    int
        How many runs were named so.

    Raises
    ------
    BCCPError
        If there is none.
    """
    path = expanded(named, option="KEEP").resolve()
    meant = {path.parent if path.name == "summary.json" else path, ledger.home / "outputs" / named}
    runs = [run for run in ledger_runs(ledger) if run.info.run_id == named or meant & _own_folders(run)]
    runs = runs or finished_runs.called(named, ledger)
    if len({run.info.run_id for run in runs}) > 1 and not any(meant & _own_folders(run) for run in runs):
        raise BCCPError(f"KEEP={named} is the beginning or end of {len(runs)} runs' names: give more of it")
    if not runs:
        raise BCCPError(
            f"KEEP={named} is no run in {redact(ledger.uri)}: give one's id, its folder, or the folder's name in {ledger.home / 'outputs'}"
        )
    for run in runs:
        ledger.tag(run.info.run_id, {KEEP_TAG: "true"})
    return len(runs)


def _table(found: Survey) -> str:
    """The survey as lines: kind, number and size, and how much of it can go."""
    groups: dict[str, list[HomeEntry]] = defaultdict(list)
    for entry in found.entries:
        groups[entry.kind].append(entry)
    rows = [("kind", "number", "size", "can go", "size")]
    total = [0, 0]
    for kind, entries in groups.items():
        size, spare = sum(e.size() for e in entries), sum(e.size() for e in entries if e.spare)
        count, n_spare = len(entries), sum(entry.spare for entry in entries)
        if kind == "store":
            kind, count, n_spare = "store: runs", len(found.runs), len(found.spare_runs)
        rows.append((kind, str(count), _bytes(size), str(n_spare or ""), _bytes(spare) if spare else ""))
        total = [total[0] + size, total[1] + spare]
    rows.append(("all", "", _bytes(total[0]), "", _bytes(total[1])))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(f"{row[0]:<{widths[0]}}" + "".join(f"  {row[c]:>{widths[c]}}" for c in range(1, 5)) for row in rows)


@dataclass(frozen=True)
class Cleaned:
    """What the home held, and what was deleted.

    Attributes
    ----------
    found : Survey
    ledger : Ledger
    keep_days : int
    n_named : int
        Runs that were given the tag :data:`KEEP_TAG`.
    deleted : tuple of int and int, or None
        Runs and bytes; None: nothing was to be deleted.
    """

    found: Survey
    ledger: Ledger
    keep_days: int
    n_named: int
    deleted: tuple[int, int] | None

    def document(self) -> dict[str, Any]:
        """As plain values; sizes are bytes."""
        rows: dict[str, dict[str, int]] = {}
        for entry in self.found.entries:
            row = rows.setdefault(entry.kind, {"number": 0, "bytes": 0, "spare": 0, "spare_bytes": 0})
            size = entry.size()
            row["number"] += 1
            row["bytes"] += size
            row["spare"] += entry.spare
            row["spare_bytes"] += size if entry.spare else 0
        runs = {"runs": len(self.found.runs), "spare_runs": len(self.found.spare_runs), "not_uploaded": self.found.not_uploaded}
        deleted = None if self.deleted is None else {"runs": self.deleted[0], "bytes": self.deleted[1]}
        return {"home": str(home()), "keep_days": self.keep_days, "kinds": rows, **runs, "named": self.n_named, "deleted": deleted}

    def said(self) -> list[str]:
        """Lines for the user, below the table."""
        lines = []
        if not is_own_store(self.ledger):
            store = redact(self.ledger.uri)
            lines.append(f"not touched: runs and artifacts of {store}, and those of the home's own store while that one is in use")
        if self.deleted is not None:
            return [*lines, f"deleted: {self.deleted[0]} runs, and {_bytes(self.deleted[1])} in all"]
        if self.found.not_uploaded:
            lines.append(f"{self.found.not_uploaded} runs that can go are not on W&B: bccp wandb sync uploads them")
        return [
            *lines,
            f"Needed are runs that go on, that ended in the last {self.keep_days} days (--keep-days), that have the tag {KEEP_TAG} "
            "or are a",
            "registered model's, and what they have read. To name a run for good: bccp gc --keep <its id or folder>, or the tag in MLflow.",
            "Nothing was deleted: bccp gc --delete deletes what can go.",
        ]


def clean_home(*, delete_it: bool, keep_days: int, named: str, show: Callable[[str], object] = print) -> Cleaned:
    """Survey the home, and delete what can go where asked to.

    Parameters
    ----------
    delete_it : bool
    keep_days : int
        For how many days everything is kept.
    named : str
        A run that is kept for good, as for :func:`keep`; or empty.
    show : callable
        Is given what was found, before anything is deleted.

    Raises
    ------
    BCCPError
        If there is no such run, or another process cleans or uploads.
    """
    uri, note = ledger_uri(None)
    if note:
        show(note)
    ledger = Ledger(uri)
    n_named = keep(ledger, named) if named else 0
    if n_named:
        show(f"{n_named} run(s) have the tag {KEEP_TAG} now, and are not deleted here while they have it")
    try:
        with FileLock(home() / "wandb-sync.lock").acquire(blocking=False) if delete_it else nullcontext():  # an upload reads what could go
            found = survey(ledger, keep_days=keep_days)
            show(f"{home()}\n\n{_table(found)}\n")
            deleted = delete(ledger, found) if delete_it else None
    except Timeout as error:
        raise BCCPError("another process uploads to W&B from this home, or cleans it: wait until it has ended") from error
    return Cleaned(found, ledger, keep_days, n_named, deleted)


def _own_folders(run: Any) -> set[Path]:
    """The folder of a pipeline, and that of the sweep that it is a job of: only a job has another name than its folder."""
    if FOLDER_TAG not in run.data.tags:
        return set()
    folder = moved_along(run.data.tags[FOLDER_TAG])
    return {folder} if run.data.tags[PIPELINE_TAG] == folder.name else {folder, folder.parent}


def _is_root(run: Any, registered: Collection[str], since: float) -> bool:
    ended = (run.info.end_time or run.info.start_time) / 1000
    return run.info.status == "RUNNING" or ended >= since or KEEP_TAG in run.data.tags or run.info.run_id in registered


def ledger_runs(ledger: Ledger, *, deleted: bool = False, wanted: str = "") -> list[Any]:
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    experiments = [experiment.experiment_id for experiment in _pages(ledger.client.search_experiments)]
    return list(_pages(lambda **page: ledger.client.search_runs(experiments, wanted, run_view_type=view, **page)))


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def run_folder(run: Any, place: Path) -> Path | None:
    """The folder of a run's files in the home; None where they are elsewhere."""
    artifacts = local_path(run.info.artifact_uri)
    if artifacts is None or artifacts.parent.name != run.info.run_id or not artifacts.is_relative_to(place / "artifacts"):
        return None
    return artifacts.parent


def _folders(runs: Iterable[Any]) -> set[Path]:
    return {moved_along(run.data.tags[FOLDER_TAG]) for run in runs if FOLDER_TAG in run.data.tags}


def _artifacts(place: Path, runs: Sequence[Any], spare: Collection[str]) -> list[HomeEntry]:
    folders = {folder: run.info.run_id in spare for run in runs if (folder := run_folder(run, place.parent)) is not None}
    entries: list[HomeEntry] = []
    for folder, can_go in folders.items():
        entries += [HomeEntry(f"artifacts: {path.name}", (path,), can_go) for path in _inside(folder / "artifacts")]
    above = {parent for folder in folders for parent in folder.parents}
    todo = _inside(place)
    while todo:
        path = todo.pop()
        if path in above:
            todo += _inside(path)
        elif path not in folders:
            entries.append(HomeEntry("artifacts of no run in this store", (path,)))
    return sorted(entries, key=lambda entry: entry.kind)


def _wandb(place: Path, since: float, dispensable: set[str]) -> tuple[list[HomeEntry], set[str], int]:
    """W&B's files, the folders that its records need for their upload, and how many can go that are not uploaded."""
    entries: list[HomeEntry] = []
    wanted: set[str] = set()
    n_lost, oldest = 0, since
    notes = {run.folder: run for run in recorded(place)}
    for path in _inside(place):
        if path in notes:
            note = notes[path].note
            made = {f"{output['name']}:{output['digest']}" for output in note["outputs"]}
            spare = not notes[path].going_on and note["started"] < since and made <= dispensable
            n_lost += spare
            if not spare:
                oldest = min(oldest, note["started"])
                wanted |= {str(moved_along(entry["folder"])) for entry in [*note["inputs"], *note["outputs"]]}
            entries.append(HomeEntry("W&B: records not uploaded", (path,), spare))
        elif path.name.startswith(("run-", "offline-run-")) and not path.is_symlink():
            entries.append(HomeEntry("W&B: records", (path,), _used(path) < since))
    for path in _inside(place):
        if path.name in ("data", "cache", "artifacts"):
            until = oldest if path.name == "data" else since  # what is staged there is read when a record is uploaded
            files = [(file, about.st_mtime) for file, about in _tree(path) if not stat.S_ISDIR(about.st_mode)]
            entries += [HomeEntry("W&B: staged and cached files", (file,), written < until) for file, written in files]
        elif not path.name.startswith(("run-", "offline-run-")) and path.name != "tmp":
            entries.append(HomeEntry("W&B: settings and logs", (path,)))
    return entries, wanted, n_lost


def _cache(place: Path, since: float, versions: Collection[str], wanted: Collection[str]) -> list[HomeEntry]:
    entries: list[HomeEntry] = []
    for copy in _inside(place / "artifacts"):
        version = ":".join(copy.name.rsplit("-", 1))
        spare = version not in versions and str(copy) not in wanted and _used(copy) < since
        entries.append(HomeEntry("copies of artifacts that are elsewhere", (copy,), spare))
    entries += [HomeEntry("pretrained weights", (path,)) for path in _inside(place / "torch")]
    return entries + [HomeEntry("libraries' caches", (path,)) for path in _inside(place) if path.name not in ("artifacts", "torch")]


def _downloads(place: Path, since: float) -> list[HomeEntry]:
    """What was fetched from elsewhere; the lock of a download is touched whenever it is used."""
    entries: list[HomeEntry] = []
    slots: dict[str, list[Path]] = defaultdict(list)
    kaggle = slot_name("kaggle")
    for path in _inside(place):
        name = kaggle if path.name == "kaggle" else path.name.partition(".")[0]
        slots[name if re.fullmatch(r"[0-9a-f]{32}", name) else ""].append(path)
    for name, paths in slots.items():
        lock = place / f"{name}.lock"
        files = tuple(path for path in paths if path != lock)
        if lock not in paths:
            entries.append(HomeEntry("downloads", files))
            continue
        entries.append(HomeEntry("locks", (lock,)))
        if files:
            entries.append(HomeEntry("downloads", files, _used(lock) < since, lock))
    return entries


def _environments(place: Path, since: float, *, busy: bool) -> list[HomeEntry]:
    entries = []
    for path in _inside(place):
        if path.suffix == ".lock":
            entries.append(HomeEntry("locks", (path,)))
        elif path.name.startswith("mlflow-"):
            mark = path / WHOLE  # touched whenever it is used
            used = (mark if mark.exists() else path).stat().st_mtime
            entries.append(HomeEntry("environments", (path,), not busy and used < since, path.with_name(f"{path.name}.lock")))
        else:
            entries.append(HomeEntry(_UNKNOWN, (path,)))
    return entries


def _outputs(place: Path, since: float, needed: Collection[Path], spare: Collection[Path]) -> list[HomeEntry]:
    """The folders of pipelines and sweeps; those with a summary of a run that finished in another store are kept."""
    entries = []
    for path in _inside(place):
        summaries = list(path.rglob("summary.json"))
        strange = [s for s in summaries if s.parent not in spare and _status(s) != "failed"]
        is_needed = any(folder.is_relative_to(path) for folder in needed)
        entries.append(HomeEntry("outputs", (path,), path.is_dir() and not is_needed and not strange and _used(path) < since))
    return entries


def _status(summary: Path) -> str:
    try:
        said: Mapping[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return str(said["status"])
    except (ValueError, KeyError, TypeError, OSError):
        return "unknown"


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; a link is not followed."""
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _used(path: Path) -> float:
    """When a file, or the latest below a folder, was written."""
    return max((about.st_mtime for _, about in _tree(path)), default=0.0)


def _tree(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """A file, or a folder and all below it, without what goes meanwhile: others may use the home."""
    below = [Path(folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files)] if not path.is_symlink() else []
    for inside in [path, *below]:
        with suppress(FileNotFoundError):
            yield inside, inside.lstat()


def _hide(ledger: Ledger, run: Any, known: Sequence[Any]) -> bool:
    """Take a run from MLflow's sight unless it is in use by now; its step's lock is held from a search for it to the note of its use."""
    tags = run.data.tags
    step, key = tags.get(STEP_TAG), tags.get(KEY_TAG)
    lock = ledger.home / "locks" / f"{'step' if step in step_graph.STEPS else step}-{key[:16]}.lock" if step and key else None
    with _unused(lock) as unused:
        if not unused:
            return False
        running = {other.info.run_id: other for other in ledger_runs(ledger, wanted="attributes.status = 'RUNNING'")}
        by_now = {other.info.run_id: other for other in known} | running
        if running and run.info.run_id in needed_runs(list(by_now.values()), running):
            return False
        if run.info.lifecycle_stage == "active":
            ledger.client.delete_run(run.info.run_id)
        if lock is not None:
            lock.unlink(missing_ok=True)
    return True


@contextmanager
def _unused(lock_file: Path | None) -> Iterator[bool]:
    """Hold a lock; False where another process does."""
    if lock_file is None:
        yield True
        return
    lock_file.parent.mkdir(exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def remove_paths(paths: Iterable[Path]) -> None:
    """Delete files and folders, each whole or not at all: what a killed process leaves lies in a scratch folder, which others sweep."""
    with scratch("clean") as away:
        for number, path in enumerate(paths):
            if path.exists() or path.is_symlink():
                path.rename(away / str(number))


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
