"""Artifacts in Weights & Biases: upload, download, and their names there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bccp.core.errors import BCCPError
from bccp.core.home import moved_along, scratch
from bccp.core.redaction import first_line
from bccp.core.runtime.wandb_import import import_wandb
from bccp.tracking.wandb_client import open_api, start_run

_PLACEHOLDER = "version.txt"


def upload_input(used: Mapping[str, Any], **where: Any) -> None:
    """Upload an input that was made without W&B, by a run of its own: what its reader logs would count as that one's output.

    Parameters
    ----------
    used : mapping
        An entry of the note.
    where
        Entity, project and group, ``dir`` and ``settings``, as for ``wandb.init``.
    """
    with start_run(mode="online", job_type="upload", name=f"upload-{alias(used['digest'])}", **where) as run:
        log_artifact(run, used)


def log_artifact(run: Any, entry: Mapping[str, Any]) -> None:
    """Log a version, by an entry of the note: its files, or nothing but its name."""
    name, digest = entry["name"], entry["digest"]
    artifact = import_wandb().Artifact(name, type=name, metadata={"version": digest})
    if entry["without_files"]:
        with scratch("placeholder") as own:
            (own / _PLACEHOLDER).write_text(f"{name}:{digest}\nThe files stayed at home: tracking.upload_images=false\n", encoding="utf-8")
            artifact.add_file(str(own / _PLACEHOLDER))  # copied
    else:
        folder = moved_along(entry["folder"])
        for path in sorted(folder.rglob("*")):
            if path.is_file():  # immutable: W&B reads the ledger's own file instead of keeping a copy
                artifact.add_file(str(path), name=path.relative_to(folder).as_posix(), policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=[alias(digest), *entry.get("aliases", [])])


def download(reference: str, folder: Path) -> None:
    """Download an artifact of this project's from W&B into a folder.

    Parameters
    ----------
    reference : str
        ``entity/project/name:d-<12 hex>``; the entity may be left out.
    folder : Path

    Raises
    ------
    BCCPError
        If W&B does not answer, does not have it, or has nothing of it but its name.
    """
    api, errors = open_api(), import_wandb().errors
    try:
        api.artifact(reference).download(root=str(folder), skip_cache=True)
    except (errors.Error, ValueError, OSError) as error:
        raise BCCPError(f"{reference} cannot be downloaded from W&B ({first_line(error)})") from error
    if [path.name for path in folder.iterdir()] == [_PLACEHOLDER]:
        raise BCCPError(f"of {reference} W&B has the name only: it was published with tracking.upload_images=false")


def alias(digest: str) -> str:
    """The W&B alias of a version: ``d-`` and its first 12 hex digits."""
    return f"d-{digest[:12]}"
