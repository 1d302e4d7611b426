"""Test the new model on both days' held-out images.

Reads ``model``, ``segregated_data`` (and through it ``clean_data``), ``true_labels`` and, where the truth is not known, ``given_labels``.
Writes ``evaluation``: ``metrics.json``, ``per_class.csv``, ``predictions.csv``, ``confusion_matrix.png``, ``threshold_curves.png`` (ROC,
precision and recall) and ``training_curves.png``.
Labels whose truth is not known are flagged ``verified=false`` in all of them. With ``registered_model_name`` the model is registered in
MLflow, and promoted where it is better than the champion.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from bccp import frozen_features, models, plots, tables, test
from bccp.images import open_days
from bccp.step import Step, command_line


def run(step: Step) -> None:
    """Load, predict, measure, save and report."""
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    model, about = models.load(step.input("model"))
    test.check_classes(about["class_names"], days.classes)
    labels = {name: tables.read(step.input(name) / f"{name}.csv") for name in ("true_labels", "given_labels") if step.has_input(name)}
    references, n_left_out = test.reference_labels(days.splits, target_day=days.target_day, **labels)
    inputs = frozen_features.shared_inputs(step, days)(model, references["image"].tolist())
    probs = models.probabilities(model, inputs, batch_size=step.config.batch_size, device=step.device)
    predictions = test.predictions_table(references, probs, days.classes)
    figures = test.evaluate(predictions, days.classes)
    note = test.remark(figures)
    title = f"{len(predictions)} test images, {figures['accuracy']:.1%} right"
    with step.output("evaluation") as folder:
        (folder / "metrics.json").write_text(json.dumps({"verified": not note} | figures, indent=2) + "\n", encoding="utf-8")
        tables.write(test.per_class(predictions, days.classes), folder / "per_class.csv")
        tables.write(predictions, folder / "predictions.csv")
        matrix, thresholds, curves = (folder / f"{name}.png" for name in ("confusion_matrix", "threshold_curves", "training_curves"))
        plots.confusion_matrix(test.confusion(predictions, days.classes), days.classes, matrix, title=title, note=note)
        plots.threshold_curves(
            test.threshold_curves(references, probs, days.classes), thresholds, title="Each class against the others", note=note
        )
        history = tables.read(step.input("model") / "history.csv", dtypes=dict.fromkeys(plots.CURVES, float))
        plots.training_curves(history, curves, title="Training", note=note)
        for picture in (matrix, thresholds, curves):
            step.log_picture(picture)
    step.log_metrics(figures)
    wrong = test.worst_errors(predictions)
    step.log_table("errors", wrong.to_dict("records"), (days.view([image])[0] for image in wrong["image"]))
    step.say(", ".join([title, *(f"{name} {value:.1%}" for name, value in figures.items() if name.startswith("accuracy_"))]))
    for line in [note, f"test images left out, as they have no label at all: {n_left_out}" if n_left_out else ""]:
        if line:
            step.say(line)
    if step.config.registered_model_name:
        from bccp.promotion import settle  # what it needs is loaded where a model is registered

        settle(step, days, references, probs)


if __name__ == "__main__":
    command_line(run)
