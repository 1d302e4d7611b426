"""Turns image files of any kind into one array of equal pictures.

Reads ``raw_data`` (``images.zip``). Writes ``clean_data``: ``images.npy``, ``manifest.csv``, ``quarantine.csv`` (files that cannot be
used, with the reason) and ``report.json`` (counts, sizes, duplicates, anomalies); ``votes.csv`` where a table among the images gives their
labels and tells annotators apart. Logs the page ``data_checks/data_checks.html``, also
where a limit of ``preprocessing.checks`` stops it.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

from bccp.core import automatic
from bccp.core.step_context import Step
from bccp.data import checks, preprocessing
from bccp.data.decoding import grey_levels
from bccp.data.label_tables.columns import Columns
from bccp.pipeline.step_runner import command_line
from bccp.reporting import data_checks_page


def run(step: Step) -> None:
    """Load, clean and save in one stream; report."""
    config = step.config
    archive = step.input("raw_data") / "images.zip"
    with step.output("clean_data") as folder:
        report = preprocessing.clean(
            archive,
            folder,
            image_size=config.image_size,
            resize=config.resize,
            max_rejected_rate=config.max_rejected_rate,
            max_pixels=config.max_pixels,
            threads=step.threads,
            cleanup=config.cleanup,
            layout=config.layout,
            table=config.table,
            columns=Columns.of(config.columns, "data.columns"),
            labelled_elsewhere=config.label_source == "file",
            scale=grey_levels.asked(config.range),
            near_copy_tolerance=config.near_copy_tolerance,
            allow_lost_classes=config.allow_lost_classes,
        )
        for note in report.get("layout", []):
            step.emit(note)
        found = checks.check_images(folder, config.checks)
        with step.report("data_checks") as place:
            data_checks_page.write_images(place, folder, found, simulation=automatic.simulation_sentence(step.context.config))
        page = f"{step.reports['data_checks']}/{data_checks_page.DATA_CHECKS_PAGE}"
        step.log_metrics(checks.figures(found.findings))
        checks.gate(found.findings, page)
    exact, near = report["exact_duplicates"], report["near_duplicates"]
    step.log_metrics(
        {
            "images": report["images"],
            "rejected": report["rejected"],
            "rejected_rate": report["rejected_rate"],
            "classes": len(report["classes"]),
            "duplicates": exact["copies"],
            "near_duplicates": near["copies"],
        }
    )
    reasons = ", ".join(f"{count} {reason}" for reason, count in report["rejected_by_reason"].items())
    of_classes = f"of {len(report['classes'])} classes" if report["classes"] else "without labels"
    step.emit(
        f"{report['images']} images {of_classes}, {report['rejected']} files rejected"
        + (f" ({reasons})" if reasons else "")
        + f", {exact['copies']} exact and {near['copies']} near duplicates, "
        f"{exact['across_classes'] + near['across_classes']} groups of them across classes"
    )
    for line in preprocessing.notes(report):
        step.emit(line)
    step.emit(checks.findings_sentence(found.findings, page))


if __name__ == "__main__":
    command_line(run)
