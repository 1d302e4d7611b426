"""Cuts the images into days and splits, and corrupts Tuesday's.

Reads ``clean_data``. Writes ``segregated_data`` (``splits.csv``, ``classes.csv``, ``clean_data.json``, and ``corrupted.npy``
where Tuesday is corrupted) and ``true_labels`` (``true_labels.csv``: the target day's, where they are known); from a feedback file also
``feedback``, its votes and the problems of its other rows. Logs the page
``data_checks/data_checks.html``, also where a limit of ``preprocessing.checks`` stops it.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

from bccp.core import automatic
from bccp.core.errors import BCCPError
from bccp.core.step_context import Step
from bccp.data import checks, corruption, segregation, tables
from bccp.data.dataset import open_days
from bccp.data.duplicates import duplicate_groups
from bccp.data.label_tables.in_data import is_named, own_labels
from bccp.data.label_tables.votes import majority
from bccp.labels import feedback
from bccp.pipeline.step_runner import command_line
from bccp.reporting import data_checks_page


def run(step: Step) -> None:
    """Load, cut, corrupt, save, report."""
    config, clean = step.config, step.input("clean_data")
    manifest = tables.read(clean / "manifest.csv", dtypes=checks.MANIFEST_DTYPES)
    images = np.load(clean / "images.npy", mmap_mode="r")
    said: feedback.Feedback | None = None
    given: dict[str, str] = {}
    if config.label_source == "file":
        manifest["label"] = own_labels(manifest, clean)
        file = feedback.read_configured(config)
        classes = segregation.class_names(manifest, target_day=config.target_day)
        if config.target_day == "monday" and not feedback.knows_any(file, classes):
            classes = []  # nothing is trusted, and the folders' names are something else
        unreadable = tables.read(clean / "quarantine.csv")["image"]
        # where no folder names a class, the file does
        new = manifest.loc[manifest["day"] == "tuesday", "image"].tolist()
        said = feedback.sort_out(file, images=manifest["image"], classes=classes or None, unreadable=unreadable, new=new)
        if file.described:
            step.emit(f"feedback file: {file.described}")
        given = majority(said.votes, seed=config.random_seed)[0]
    if not said and not (manifest["label"] != "").any():
        raise BCCPError(
            "no image has a label: put images into class folders, name a table of their labels by data.table, or give one by "
            "noisy_labels.source=file noisy_labels.feedback_file"
        )
    split = None
    if config.split != "own":
        split = segregation.find_given_split(manifest, Path(config.split_file) if config.split_file else None)
    if config.split == "given" and split is None:
        raise BCCPError(
            "segregation.split=given, but the data gives no split: put images into train/<class>/, val/<class>/ and test/<class>/, name "
            "a table image,split in segregation.split_file, or use segregation.split=auto"
        )
    cut = segregation.segregate(
        manifest,
        duplicate_groups(manifest["sha256"], manifest["phash"]),
        segregation.Shares(**{name: getattr(config, name) for name in segregation.Shares.__annotations__}),
        target_day=config.target_day,
        seed=config.random_seed,
        folder_is_truth=automatic.folders_are_truth(config) or (config.label_source == "file" and is_named(clean)),
        named=said.named if said else None,
        given=given,
        split=split,
    )
    simulated = config.label_source == "simulated"
    splits = segregation.mark_corrupted(cut, corruption=config.corruption, simulated=simulated, seed=config.random_seed)
    changed = splits[splits["corruption"] != ""]
    with step.output("segregated_data") as folder:
        tables.write(splits, folder / "splits.csv")
        tables.write(pd.DataFrame({"label": cut.classes}), folder / "classes.csv")
        about = {"clean_data": step.inputs["clean_data"], "truth_known": cut.truth_known, "target_day": config.target_day}
        (folder / "clean_data.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if len(changed):
            # written, not mapped: a full disk is then an error that is told, and not a crash
            with (folder / "corrupted.npy").open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(changed), *images.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
                rows = changed["row"].to_numpy()
                ids, kinds = changed["image"].tolist(), changed["corruption"].tolist()
                for pixels in corruption.stream(images, rows, ids, kinds, seed=config.random_seed):
                    file.write(pixels.tobytes())
        days, seed = open_days(folder, clean), config.random_seed
        found = checks.check_days(days, manifest, config.checks, with_labels=cut.truth_known, seed=seed)
        with step.report("data_checks") as place:
            data_checks_page.write_days(place, found, seed=seed, simulation=automatic.simulation_sentence(step.context.config))
        page = f"{step.reports['data_checks']}/{data_checks_page.DATA_CHECKS_PAGE}"
        step.log_metrics(checks.figures(found.findings))
        checks.gate(found.findings, page)
    with step.output("true_labels") as folder:
        tables.write(cut.true_labels, folder / "true_labels.csv")
    if said:
        with step.output("feedback") as folder:
            feedback.save_feedback(said, folder)
    report(step, splits, cut, split)
    step.emit(checks.findings_sentence(found.findings, page))


def report(step: Step, splits: pd.DataFrame, cut: segregation.Segregated, split: segregation.GivenSplit | None) -> None:
    """Count images by day and split, and say what was given, moved and left out."""
    counts = {f"{day}_{split}": n for (day, split), n in splits.groupby(["day", "split"]).size().items()}
    corrupted = int((splits["corruption"] != "").sum())
    totals = {"images": len(splits), "classes": len(cut.classes), "corrupted": corrupted, "duplicates_grouped": cut.n_duplicates}
    step.log_metrics(counts | totals | {"left_out": sum(cut.left_out.values())})
    days = {str(day): of["split"].value_counts() for day, of in splits.groupby("day")}
    said = [
        f"{automatic.day_words(day, step.config.target_day)}: "
        + ", ".join(
            f"{of[part]} {words}"
            for part, words in (("train", "for training"), ("val", "for validation"), ("test", "for test"))
            if part in of
        )
        for day, of in days.items()
    ]
    step.emit("; ".join([*said, f"{len(cut.classes)} classes"]))
    if split and set(cut.given) - {"train"}:
        parts = ", ".join(f"{n} {part}" for part, n in cut.given.items())
        step.log_metrics({"moved_to_train": cut.moved_to_train})
        lacking = [part for part in ("val", "test") if part not in cut.given]
        cut_from = f"; cut from the training images: {' and '.join(lacking)}" if lacking else ""
        trained = splits.loc[(splits["day"] == "tuesday") & (splits["split"] == "train"), "image"]
        if n_val := sum(split.part[image] == "val" for image in trained):
            cut_from += f"; {n_val} images of Tuesday's val are trained on, as validation is Monday's"
        step.emit(f"the given split is kept ({parts}); moved to training, as copies lie across it: {cut.moved_to_train}{cut_from}")
    if split and split.unknown:
        step.emit(f"rows of segregation.split_file that name no image: {len(split.unknown)} (such as {split.unknown[0]!r})")
    if reasons := [f"{n} {reason.replace('_', ' ')}" for reason, n in cut.left_out.items() if n]:
        step.emit(f"left out: {', '.join(reasons)}")
    if step.config.target_day == "monday" and step.config.corruption not in ("auto", "none"):
        step.emit(f"segregation.corruption={step.config.corruption} changes nothing: with main.target_day=monday there is no Tuesday")


if __name__ == "__main__":
    command_line(run)
