"""What a person checks labels with, in a run's own folder: the list to write in, and the page with pictures."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bccp.core.exit_codes import to_bccp_error
from bccp.core.redaction import first_line
from bccp.data import tables
from bccp.labels.checking_list import CHECKING_LIST, checking_sentence
from bccp.reporting.suspects_page import pages_for_run
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified


def leave_checking_list(version: str, method: str, folder: Path, ledger: Ledger) -> str:
    """Copy the list of judged labels into a run's folder, where people look, and which they may write on.

    Parameters
    ----------
    version : str
        Of ``cleansed_labels``.
    method : str
        ``bayes_cutoff.method``.
    folder : Path
        The run folder.
    ledger : Ledger
        That has the artifact.

    Returns
    -------
    str
        What to do with it; empty where no labels were judged.
    """
    source = ledger.fetch(qualified("cleansed_labels", version)) / CHECKING_LIST
    if not source.exists():
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    return checking_sentence(Path(shutil.copyfile(source, folder / CHECKING_LIST)), tables.read(source), method)


def leave_checking_page(record: Mapping[str, Any], folder: Path, ledger: Ledger) -> None:
    """Write the page of suspects into a finished run's folder; what keeps it from being made is one line, and does not fail the run.

    Parameters
    ----------
    record : mapping
        What ``summary.json`` is going to hold.
    folder, ledger
        As for :func:`leave_checking_list`.
    """
    try:
        pages_for_run(folder, ledger, record=record)
    except Exception as error:
        print(f"warning: the page of labels to check is not made ({first_line(to_bccp_error(error))})", flush=True)
