"""The list on which a person writes what labels are in truth: its name, what is open on it, and the advice that goes with it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bccp.labels import expert_labels
from bccp.labels.bayes_cutoff import UNCERTAINTIES

CHECKING_LIST = "label_report.csv"
"""Its name, among the artifact ``cleansed_labels`` and in the folder of a run."""


def unchecked(report: pd.DataFrame) -> pd.DataFrame:
    """The rows of a report that nobody has checked."""
    return report[(report["label"] == "") & (report.get("verdict", "") != expert_labels.OF_NO_CLASS)]


def checking_sentence(path: Path, report: pd.DataFrame, method: str) -> str:
    """Advise in one line how to get better labels.

    Parameters
    ----------
    path : Path
        A file that the report lies in.
    report : DataFrame
        From :func:`bccp.labels.label_report.report_table`.
    method : str
        ``bayes_cutoff.method``.

    Returns
    -------
    str
    """
    groups_left = unchecked(report)["chosen"]
    n_suspects, n_random = (int((groups_left == kind).sum()) for kind in (expert_labels.SUSPECT, expert_labels.RANDOM))
    if not n_suspects + n_random:
        return f"all labels are checked: {path} lists them"
    groups = [f"the {n_suspects} rows with chosen=suspect, which find the most wrong labels"] if n_suspects else []
    groups += [f"all {n_random} with chosen=random, which tell how many are wrong in all"] if n_random else []
    learns = "" if method not in UNCERTAINTIES else " with bayes_cutoff.method=label_posterior"
    return (
        f"to check labels: copy {path}, write the true class into the column label of {' and of '.join(groups)}, also where the given "
        f"label is right, and give the copy as bayes_cutoff.audit_file{learns}"
    )
