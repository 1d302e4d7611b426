"""Test the new model on both days' held-out images.

Reads ``model``, ``clean_data``, ``segregated_data``, ``true_labels``, where the truth is not known ``given_labels``, and
the ``monday_model`` that the model's labels or replay were chosen with; to explain errors also the training images with their
``given_labels`` and ``cleansed_labels``. Writes ``evaluation``: ``metrics.json`` and, by slice and with intervals, ``metrics.csv``;
``per_class.csv``, ``predictions.csv``, the tables of :class:`bccp.evaluation.evaluate.Explained`, pictures, ``model_card.md`` and
``data_card.md``. Figures are of the test images whose labels are verified, an expert's audit file being heeded; labels whose truth is not
known are flagged ``verified=false``, and count only where none is verified. With ``registered_model_name`` the model is registered in
MLflow, and promoted where it is better than the champion.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

from bccp.core.step_context import Step
from bccp.data import label_files, tables
from bccp.data.dataset import open_days
from bccp.evaluation import evaluate, model_cards, scores
from bccp.evaluation.promotion import refuse_simulated, register_and_promote
from bccp.evaluation.verified import find_references
from bccp.models import classifier, mlflow_flavor
from bccp.pipeline.step_runner import command_line


def run(step: Step) -> None:
    """Load, predict, measure, save and report."""
    config = step.config
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    simulated = label_files.simulated_in(days.splits, step.input("given_labels") if step.has_input("given_labels") else None)
    refuse_simulated(step, simulated)
    model, about = classifier.load_classifier(step.input("model"))
    scores.check_classes(about["class_names"], days.classes)
    found = find_references(step, days)
    manifest = tables.read(step.input("clean_data") / "manifest.csv", dtypes={"width": int, "height": int})
    before = mlflow_flavor.trained_on(step.input("model"), mlflow_flavor.TRAINED_ON_BEFORE)
    known = mlflow_flavor.known(manifest.set_index("image")["sha256"][found.table["image"]], before)
    references, n_known = scores.without_known(found.table, known)
    judged = evaluate.evaluate_model(step, days, model, references, manifest)
    predictions, explained = judged.predictions, evaluate.explain_errors(step, days, model, judged, manifest)
    drawn = {"top_k": config.top_k, "n_resamples": config.bootstrap, "seed": config.random_seed, "own": config.metrics}
    of_truth = judged.measured()
    measured = scores.metrics_table(*of_truth, days.classes, **drawn)
    figures = scores.evaluate(of_truth.predictions, days.classes) | scores.run_figures(measured) | scores.agreement(predictions)
    figures["unverified_images"] = int((predictions["verified"] == "false").sum())
    note = scores.remark(figures)
    with step.output("evaluation") as folder:
        told = {"verified": bool((of_truth.predictions["verified"] == "true").all())} | figures
        (folder / "metrics.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        by_class = scores.per_class(of_truth.predictions, days.classes)
        written = {"metrics": measured, "per_class": by_class, "predictions": predictions, "errors": explained.errors}
        for name, table in (written | explained.tables).items():
            tables.write(table, folder / f"{name}.csv")
        for picture in evaluate.draw_evaluation(folder, of_truth, days.classes, step.input("model") / "history.csv", note):
            step.log_picture(picture)
        if explained.gallery:
            step.log_picture(evaluate.draw_errors(folder, explained, days.classes, note), pixels=True)
        model_cards.write_cards(folder, model=step.input("model"), clean=step.input("clean_data"), days=days, simulated=simulated)
    step.log_metrics(figures)
    step.log_table("errors", explained.errors.to_dict("records"), (days.view([image])[0] for image in explained.errors["image"]))
    by_day = [f"accuracy_{day} {figures[f'accuracy_{day}']:.1%}" for day in ("monday", "tuesday") if f"accuracy_{day}" in figures]
    step.emit(", ".join([f"{len(of_truth.predictions)} test images, {figures['accuracy']:.1%} right", *by_day]))
    if note:
        step.emit(note)
    for line in found.said:
        step.emit(line)
    left_out = {**found.left_out, "the model that training started from was trained on them": n_known}
    for why, number in left_out.items():
        if number:
            step.emit(f"test images left out, as {why}: {number}")
    if step.config.registered_model_name:
        source = label_files.given_source(step.input("given_labels")) if step.has_input("given_labels") else "ground_truth"
        min_verified = 0 if source in ("simulated", "ground_truth") else config.min_verified
        register_and_promote(step, days, references, judged.probs, simulated=simulated, min_verified=min_verified)


if __name__ == "__main__":
    command_line(run)
