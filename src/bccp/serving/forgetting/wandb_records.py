"""Records of W&B that hold an image or name a user: those in the home, and what W&B itself has."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bccp.core.errors import BCCPError
from bccp.core.home import discard
from bccp.core.redaction import first_line
from bccp.core.runtime.wandb_import import import_wandb
from bccp.serving.forgetting.places import Place
from bccp.serving.forgetting.recorded_runs import Holding
from bccp.serving.forgetting.subjects import Subject, holds
from bccp.tracking.tags import MLFLOW_RUN_KEY, PIPELINE_TAG
from bccp.tracking.versions import split_version
from bccp.tracking.wandb_artifacts import alias
from bccp.tracking.wandb_client import absent, has_login, open_api
from bccp.tracking.wandb_reused import settings
from bccp.tracking.wandb_sync import Recorded, recorded

_BLOCK, _HEADER = 1 << 15, 7
"""Bytes of a block of W&B's own records, and of the header within each, which may cut a name in two."""

_OF_PIPELINES = ("pipeline_report", "reused")
"""Job types of records that are of no step."""

_STAGING = ("data", "cache", "artifacts")


def places_in_home(subject: Subject, found: Holding, home: Path) -> list[Place]:
    """Find W&B's records of runs, and the files that it has staged for them.

    A staged file goes with the record that it is uploaded with; those that no record names, which W&B leaves behind, with any.
    """
    place = home / "wandb"
    notes = {run.folder: run for run in recorded(place)}
    folders = [folder for kind in ("offline-run-*", "run-*") for folder in sorted(place.glob(kind)) if not folder.is_symlink()]
    records = {folder: _text_of(folder) for folder in folders}
    gone = [folder for folder, text in records.items() if _holds(text, notes.get(folder), found) or _has_file(subject, folder)]
    places = [Place("W&B record", str(folder), "goes", _note(notes.get(folder)), functools.partial(_remove, folder)) for folder in gone]
    kept_texts = [text for folder, text in records.items() if folder not in gone]
    busy = min((run.note["started"] for run in notes.values() if run.going_on), default=None)
    for path in _staged(place):
        name = path.name.encode()
        needed = any(name in text for text in kept_texts)
        being_written = busy is not None and path.stat().st_mtime >= busy
        if holds(subject, path, foreign=False) or (gone and not needed and not being_written):
            places.append(Place("W&B's staged and cached files", str(path), "goes", "", functools.partial(_remove, path)))
    return places


def _text_of(folder: Path) -> bytes:
    """W&B's own record of a run, without the headers of its blocks."""
    parts = []
    for file in sorted(folder.glob("*.wandb")):
        data = file.read_bytes()
        parts += [data[start + _HEADER : start + _BLOCK] for start in range(0, len(data), _BLOCK)]
    return b"".join(parts)


def _holds(text: bytes, run: Recorded | None, found: Holding) -> bool:
    if run is not None:
        entries = [*run.note["inputs"], *run.note["outputs"]]
        if found.versions & {f"{entry['name']}:{entry['digest']}" for entry in entries}:
            return True
    if any(run_id.encode() in text for run_id in found.ids):
        return True
    of_pipeline = any(kind.encode() in text for kind in _OF_PIPELINES)
    return of_pipeline and any(name.encode() in text for name in found.names)


def _has_file(subject: Subject, folder: Path) -> bool:
    return any(holds(subject, path, foreign=False) for path in sorted((folder / "files").rglob("*")) if path.is_file())


def _note(run: Recorded | None) -> str:
    return "" if run is None else f"of {run.note['step']}, not uploaded"


def _staged(place: Path) -> list[Path]:
    return [path for name in _STAGING for path in sorted((place / name).rglob("*")) if path.is_file() and not path.is_symlink()]


def _remove(path: Path) -> None:
    """Remove a file or folder, whole or not at all; links to it in W&B's folder go with it."""
    discard(path)
    for link in path.parent.glob("*"):
        if link.is_symlink() and not link.exists():
            link.unlink()


def places_online(found: Holding, home: Path) -> list[Place]:
    """Find the versions and runs that W&B has; without a login, those that it may have.

    What is recorded in the home and was not uploaded is not asked for. Where W&B does not answer, the place found cannot be removed.
    """
    wanted = sorted(_recorded_online(found, home))
    if not wanted:
        return []
    where = ", ".join(f"{f'{entity}/' if entity else ''}{project}" for entity, project in wanted)
    names = ", ".join(f"{name}:{alias(digest)}" for name, digest in sorted(map(split_version, found.versions)))
    if not has_login():
        runs = f"the runs of {', '.join(sorted(found.names))}"
        note = f"if it was uploaded: set WANDB_API_KEY before --purge, or delete there {names} and {runs}"
        return [Place("W&B", where, "is yours", note)]
    try:
        return [place for entity, project in wanted for place in _online(entity, project, found)]
    except Exception as error:  # wandb has several kinds of its own, and lets those of its network through
        return [Place("W&B", where, "goes", f"it does not answer ({first_line(error)})", _Refusal(first_line(error)).remove)]


@dataclass(frozen=True)
class _Refusal:
    """What would be on W&B, which does not answer."""

    reason: str

    def remove(self) -> None:
        raise BCCPError(f"W&B does not answer ({self.reason})")


def _recorded_online(found: Holding, home: Path) -> set[tuple[str, str]]:
    """Entity and project of the pipelines that W&B may have something of."""
    waiting = {run.note["group"] for run in recorded(home / "wandb") if not run.online and not run.uploaded}
    targets = set()
    for pipeline in found.pipelines:
        told = settings(pipeline.data.params).get("tracking", {})
        if told.get("wandb", "disabled") != "disabled" and pipeline.data.tags.get(PIPELINE_TAG) not in waiting:
            targets.add((str(told.get("wandb_entity") or ""), str(told.get("wandb_project", "bccp"))))
    return targets


def _online(entity: str, project: str, found: Holding) -> Iterator[Place]:
    api = open_api()
    path = f"{entity or api.default_entity}/{project}"
    for name, digest in sorted(map(split_version, found.versions)):
        reference = f"{path}/{name}:{alias(digest)}"
        try:
            artifact = api.artifact(reference)
        except (ValueError, import_wandb().errors.Error) as error:
            if not absent(error):
                raise
            continue
        yield Place(
            "artifact on W&B", reference, "goes", "", _Deletion(functools.partial(artifact.delete, delete_aliases=True), reference).remove
        )
    groups = found.names | {re.sub(r"-\d+$", "", name) for name in found.names}  # the jobs of a sweep share one
    for group in sorted(groups):
        for run in api.runs(path, filters={"group": group}, per_page=100):
            told = run.config
            if told.get(MLFLOW_RUN_KEY) in found.ids or (run.job_type in _OF_PIPELINES and told.get(PIPELINE_TAG) in found.names):
                yield Place("run on W&B", f"{path}/{run.id}", "goes", f"of the group {group}", _Deletion(run.delete, run.id).remove)


@dataclass(frozen=True)
class _Deletion:
    """Deletion of something on W&B."""

    delete: Callable[[], object]
    shown: str

    def remove(self) -> None:
        try:
            self.delete()
        except Exception as error:  # as above
            raise BCCPError(f"{self.shown} cannot be deleted from W&B ({first_line(error)})") from error
