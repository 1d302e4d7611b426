"""Judges each given label, cuts off the ones not to be believed, and says what the new model is to be trained on.

Reads ``clean_data``, ``segregated_data``, ``given_labels`` and, only to measure what was already decided and written,
``true_labels``. Writes ``cleansed_labels``: ``cleansed_labels.csv``, ``posterior.npy`` (the training target of each of its rows) and
``cutoff.json``; where labels are judged also ``probabilities.npy`` (p(true | image) of each row), ``label_report.csv``, which a person can
fill in, ``users.csv`` where users are told apart, ``neighbours.csv`` (what each listed image looks like), ``folder_checks.json`` and
``folder_checks.csv`` (what the images hide beside wrong labels) where features have judged, and a picture of the worst suspects.
"""

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

from bccp.core.step_context import Step
from bccp.data import label_files, tables
from bccp.data.dataset import Days, open_days
from bccp.labels import bayes_cutoff
from bccp.pipeline.step_runner import command_line


def run(step: Step) -> None:
    """Load, judge, decide, save and report."""
    config = step.config
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    labels = label_files.read_given_labels(step.input("given_labels")).sort_values("image")
    ids, given = labels["image"].tolist(), days.encode(labels["label"].tolist())
    judged = config.enabled and config.label != "ground_truth"
    if judged:
        from bccp.labels import label_report  # torch, which takes a second to import, is needed from here on only
        from bccp.labels.folder_checking import check_folder, copy_checks
        from bccp.labels.label_scoring import score_labels
        from bccp.labels.neighbours import confident_neighbours
        from bccp.labels.untrusted_scoring import judge_views_of

        verdict = score_labels(step, days, ids, given)
        decision, about = verdict.decision, verdict.about
        to_check = label_report.make_report(step, days, decision, verdict.audited, verdict.chosen, verdict.finding)
        near = hidden = None
        if verdict.groups is not None:
            view = judge_views_of(step, days, ids, most=1)[0] if ids else np.empty((0, 1), np.float32)
            near = confident_neighbours(days, decision, to_check, verdict.groups, view)
            hidden = check_folder(step, days, ids, given, verdict.groups, view) if ids else None
    else:
        decision, about = bayes_cutoff.pass_through(ids, given, days.classes), {"method": "none"}
        step.emit(f"{len(ids)} given labels pass through (enabled={config.enabled}, label={config.label})")
    with step.output("cleansed_labels") as folder:
        label_files.write_cleansed_labels(folder, decision.table, decision.targets)
        (folder / "cutoff.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if judged:
            np.save(folder / "probabilities.npy", verdict.probs.astype(np.float32))
            tables.write(to_check, folder / "label_report.csv")
            if verdict.users is not None:
                tables.write(verdict.users, folder / "users.csv")
            if near is not None:
                tables.write(near, folder / "neighbours.csv")
            if hidden is not None:
                copy_checks(hidden, folder)
    step.log_metrics({"images": len(ids)})
    if judged:
        step.log_metrics(verdict.metrics)
        report(step, days, decision, told=verdict.audited)
        label_report.log_suspects(step, days, to_check, decision, verdict.finding)


def report(step: Step, days: Days, decision: bayes_cutoff.Decision, *, told: Collection[str]) -> None:
    """Measure on the target day's training images; what needs the truth is left out where it is unknown, or was ``told`` to the judge."""
    table = decision.table[decision.table["image"].isin(days.ids(days.target_day, "train"))]
    step.log_metrics({"kept_rate": 1 - table["above_cutoff"].mean()})
    if (table["p_wrong"] != "").all():
        step.log_metrics({"estimated_user_accuracy": 1 - table["p_wrong"].mean()})
    if not step.has_input("true_labels"):
        return
    truth = tables.read(step.input("true_labels") / "true_labels.csv").set_index("image")["label"]
    known = table[table["image"].isin(truth.index) & ~table["image"].isin(told)]
    if known.empty:
        return
    given, true = days.encode(known["given_label"].tolist()), days.encode(truth[known["image"]].tolist())
    step.log_metrics(bayes_cutoff.detection_metrics(known["above_cutoff"], known["score"], given, true, days.classes))


if __name__ == "__main__":
    command_line(run)
