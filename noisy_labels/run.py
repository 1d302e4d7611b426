"""Gives the target day's images the labels that they come with.

Reads ``clean_data``, ``segregated_data``, ``true_labels`` (to simulate, and to count how many are right) and, with
``source=file``, the votes in ``feedback``. Writes ``given_labels`` (``given_labels.csv``, ``report.json``, and ``votes.csv`` where there
are users).
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

from bccp.core.errors import BCCPError
from bccp.core.step_context import Step
from bccp.data import label_files, tables
from bccp.data.dataset import open_days
from bccp.data.label_tables.votes import VOTES, load_votes, majority, problems_sentence, votes_table
from bccp.labels import feedback, noisy_labels
from bccp.pipeline.step_runner import command_line


def run(step: Step) -> None:
    """Load, label, save, report."""
    config, clean = step.config, step.input("clean_data")
    days, manifest = open_days(step.input("segregated_data"), clean), tables.read(clean / "manifest.csv")
    known = tables.read(step.input("true_labels") / "true_labels.csv")
    truth = dict(zip(known["image"], known["label"], strict=True))
    training = days.ids(days.target_day, "train")
    # the labels to give: training images, and any other whose truth nobody knows
    doubtful = training + [image for image in days.ids(days.target_day, ["val", "test"]) if image not in truth]
    source = "ground_truth" if config.label == "ground_truth" else config.source
    about, votes = {"source": source}, None
    if source == "folder":
        names = dict(zip(manifest["image"], manifest["label"], strict=True))
        given = {image: names[image] for image in doubtful if names[image]}
        if (clean / VOTES).is_file():  # several annotators' answers, in a table among the images
            wanted = frozenset(doubtful)
            cast = {key: label for key, label in load_votes(clean / VOTES).items() if key[0] in wanted and label in days.classes}
            given, votes = majority(cast, seed=config.random_seed)[0], votes_table(cast)
    elif source == "file":
        if not step.has_input("feedback"):
            raise BCCPError("noisy_labels.source=file needs feedback=feedback:<digest>: the step segregation makes it of the feedback file")
        said = feedback.load_feedback(step.input("feedback"))
        settled = noisy_labels.resolve_votes(said, doubtful=doubtful, in_splits=days.splits.index, seed=config.random_seed)
        given, votes = settled.labels, votes_table(settled.votes) if said.has_users else None
        about |= {"rows": said.n_rows, "ties": settled.n_ties, "problems": feedback.problem_counts(settled.problems)}
        step.emit(f"{said.n_rows} rows, {len(settled.votes)} used; {problems_sentence(settled.problems) or 'nothing wrong'}")
    else:
        if unknown := [image for image in doubtful if image not in truth]:
            raise BCCPError(
                f"noisy_labels: {source} labels are made from true ones, but {len(unknown)} images of {days.target_day} have none "
                f"(the first is {unknown[0]!r}): set noisy_labels.label=user_feedback and noisy_labels.source=file or folder"
            )
        given = {image: truth[image] for image in training}
        if source == "simulated":
            given = noisy_labels.simulate(
                given,
                noise=config.noise,
                user_accuracy=config.user_accuracy,
                classes=days.classes,
                seed=config.random_seed,
                images=days.view(training),
            )
    labelled = [image for image in training if image in given]
    if not labelled:
        raise BCCPError(
            f"none of the {len(training)} training images of {days.target_day} has a given label: the feedback file "
            f"{config.feedback_file} must name some of them, such as {training[0]!r}"
        )
    about |= {"images": len(given), "without_label": len(doubtful) - len(given)}
    with step.output("given_labels") as folder:
        label_files.write_given_labels(folder, given, votes)
        (folder / label_files.REPORT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    step.log_metrics({"images": len(given), "without_label": len(doubtful) - len(given)})
    step.emit(f"{len(given)} given labels ({source}), {len(doubtful) - len(given)} images left out without one")
    if all(image in truth for image in labelled):
        step.log_metrics({"true_user_accuracy": sum(given[image] == truth[image] for image in labelled) / len(labelled)})


if __name__ == "__main__":
    command_line(run)
