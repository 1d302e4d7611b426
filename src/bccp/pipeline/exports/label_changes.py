"""The rule by which a run's labels leave it: surely wrong ones are changed or dropped, checked ones are applied, all else stays as given.

:mod:`bccp.labels.confident_changes` decides; here its arrays are read from a run's ``cleansed_labels``, and its decision is put into words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bccp.core.errors import BCCPError
from bccp.data import label_files, tables
from bccp.labels import expert_labels
from bccp.labels.confident_changes import ACTIONS, MIN_CONFIDENCE, Action, Changes, choose_changes

CHECKED, CHECKED_OF_NO_CLASS = "checked", "checked: of no class"
"""Reasons of what somebody has looked at."""


@dataclass(frozen=True)
class Rule:
    """Rule of changes.

    Attributes
    ----------
    action : {"relabel", "drop", "keep"}
    min_confidence : float
        In [0, 1]; see :func:`bccp.labels.confident_changes.choose_changes`.

    Raises
    ------
    BCCPError
        For a confidence that is no probability, an unknown action, or a rule that would drop every image.
    """

    action: Action = "relabel"
    min_confidence: float = MIN_CONFIDENCE

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise BCCPError(f"--action={self.action} is unknown: use one of {', '.join(ACTIONS)}")
        if not 0 <= self.min_confidence <= 1:
            raise BCCPError(f"--min-confidence={self.min_confidence:g} is no probability: give a number from 0 to 1, such as 0.8")
        if self.action == "drop" and self.min_confidence == 0:
            raise BCCPError("--action=drop --min-confidence=0 would drop every image: give a confidence above 0, such as 0.5")

    def __str__(self) -> str:
        return f"--action={self.action}" + ("" if self.action == "keep" else f" --min-confidence={self.min_confidence:g}")


@dataclass(frozen=True)
class LabelChanges:
    """What becomes of a run's labels.

    Attributes
    ----------
    table : DataFrame
        A row for each of N judged images, sorted by image: ``image, given_label, suggested_label, action, final_label, reason`` (text; the
        final label is empty where the image is dropped), ``p_wrong, p_suggested`` (float, NaN where unknown), and ``rank`` (from 1 for the
        worst on, checked ones last).
    rule : Rule
        That was asked for.
    changes : Changes
        Row by row.
    note : str
        One sentence on why no label is changed but those that somebody has checked; else empty.
    """

    table: pd.DataFrame
    rule: Rule
    changes: Changes
    note: str

    def figures(self) -> dict[str, Any]:
        """Counts of labels that were changed, dropped and left, and expectations of mistakes in them."""
        changes = self.changes
        return {
            "changed": changes.count("relabel"),
            "dropped": changes.count("drop"),
            "left": changes.count("keep"),
            "expected_wrong_changes": round(changes.expected_wrong_changes, 4),
            "expected_right_drops": round(changes.expected_right_drops, 4),
        }

    def sentence(self) -> str:
        """Count the labels that were changed, dropped and left, with the mistakes that are expected in that."""
        changes = self.changes
        is_checked = self.table["reason"].isin([CHECKED, CHECKED_OF_NO_CLASS])

        def counted(action: str, done: str, expected: float, wrongly: str) -> str:
            is_done = self.table["action"] == action
            doubt = f" (of which {expected:.1f} are expected to be {wrongly})" if (is_done & ~is_checked).any() else ""
            return f"{is_done.sum()} {done}{doubt}"

        changed = counted("relabel", "changed", changes.expected_wrong_changes, "wrong")
        dropped = counted("drop", "dropped", changes.expected_right_drops, "right")
        n_checked = (is_checked & (self.table["action"] != "keep")).sum()
        checked = f", {n_checked} of that because somebody has checked them" if n_checked else ""
        return f"labels: {changed}, {dropped}, {changes.count('keep')} left as given{checked} ({self.rule})"


def label_changes(cleansed: Path, rule: Rule) -> LabelChanges:
    """Decide what becomes of a run's labels.

    Parameters
    ----------
    cleansed : Path
        Folder of ``cleansed_labels``.
    rule : Rule

    Returns
    -------
    LabelChanges
        Where the run says that its judge cannot tell the classes apart, or that no label stands out, none is changed but checked ones,
        whatever the rule.
    """
    judged = label_files.read_cleansed_table(cleansed).sort_values("image", ignore_index=True)
    report = _report(cleansed, judged["image"])
    checked, no_class = report["label"] != "", report["verdict"] == expert_labels.OF_NO_CLASS
    p_wrong = pd.to_numeric(judged["p_wrong"]).to_numpy(float)
    suggested = report["label"].where(checked, report["suggested_label"])
    p_suggested = pd.to_numeric(report["posterior"]).to_numpy(float)
    note = _note(cleansed, judged, p_wrong)
    changes = choose_changes(
        judged["given_label"].to_numpy(object),
        p_wrong,
        suggested.to_numpy(object),
        p_suggested,
        action="keep" if note else rule.action,
        min_confidence=rule.min_confidence,
        no_class=no_class.to_numpy(bool),
        audited=checked.to_numpy(bool),
    )
    suspect = f"suspect by {_about(cleansed).get('method', '')}, which knows no P(wrong)"
    unknown = judged["above_cutoff"].to_numpy(bool) & np.isnan(p_wrong)
    table = pd.DataFrame(
        {
            "image": judged["image"],
            "given_label": judged["given_label"],
            "p_wrong": p_wrong,
            "suggested_label": suggested,
            "p_suggested": p_suggested,
            "action": changes.actions,
            "final_label": np.where(changes.actions == "drop", "", changes.final),
            "reason": np.where(no_class, CHECKED_OF_NO_CLASS, np.where(checked, CHECKED, np.where(unknown, suspect, ""))),
            "rank": _ranks(judged, report["rank"]),
        }
    )
    return LabelChanges(table, rule, changes, note)


def _report(cleansed: Path, images: pd.Series) -> pd.DataFrame:
    """The columns of ``label_report.csv`` that count here, by image; empty where no label was judged."""
    columns = ["label", "verdict", "suggested_label", "posterior", "rank"]
    path = cleansed / "label_report.csv"
    report = tables.read(path) if path.exists() else pd.DataFrame({"image": []}, dtype=str)
    return report.set_index("image").reindex(index=images, columns=columns, fill_value="").reset_index(drop=True)


def _ranks(judged: pd.DataFrame, reported: pd.Series) -> Any:
    """The report's ranks; without a report the order of the ids."""
    known = pd.to_numeric(reported)
    return np.arange(1, len(judged) + 1) if known.isna().any() else known.to_numpy(int)


def _about(cleansed: Path) -> dict[str, Any]:
    """What the run says of its judge."""
    path = cleansed / "cutoff.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _note(cleansed: Path, judged: pd.DataFrame, p_wrong: Any) -> str:
    """Say in one sentence why no label is changed unseen, where none is."""
    about = _about(cleansed)
    verdict = about.get("finding", {}).get("verdict", "")
    if verdict == "blind":
        return "the judge of this run cannot tell its classes apart, so no label is changed that nobody has checked"
    if verdict == "nothing":
        return "no label of this run stands out as wrong, so none is changed that nobody has checked"
    if not len(judged) or not np.isnan(p_wrong).all():
        return ""
    if about.get("method", "none") == "none":
        return "this run has judged no label, so all stay as they were given"
    n_suspects = int(judged["above_cutoff"].sum())
    return (
        f"bayes_cutoff.method={about['method']} knows no P(wrong), so no label is changed that nobody has checked; the list names its "
        f"{n_suspects} suspects (bayes_cutoff.method=label_posterior gives P(wrong))"
    )
