"""Names of runs, the same in MLflow, in W&B and under ``outputs`` of the home.

* A pipeline is ``<time>-<id>``, such as ``2026-01-31_12-00-00-ab12cd``: its folder, its run in MLflow, the group of its steps in W&B.
* A sweep is named the same way: its folder, the run of its report in MLflow, the group of all its jobs' steps in W&B.
* Job N of a sweep is ``<sweep>-N``, a run in MLflow; its folder is ``<sweep>/N``.
* A step is ``<step>-<pipeline>``: a run in W&B, and one in MLflow within the pipeline's; its log is ``<step>.log`` in the folder.
* A step by itself is ``<step>-alone-<time>-<id>``.
* A report is ``pipeline_report-<pipeline>`` or ``sweep_report-<sweep>`` in W&B, and what is told of a rollback ``rollback-<model>``.

Work that steps share (``monday_model``, ``features``, ``student``) is named like a step, after the pipeline that has computed it.
"""

from __future__ import annotations

import time
import uuid


def new_name() -> str:
    """A name for a pipeline or a sweep that no other has: local time to the second, and 6 hex digits by chance."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{uuid.uuid4().hex[:6]}"


def job_name(sweep: str, number: int) -> str:
    """The name of a sweep's job."""
    return f"{sweep}-{number}"


def part_name(part: str, whole: str) -> str:
    """The name of a part (a step, shared work, a report) of a pipeline or sweep."""
    return f"{part}-{whole}"
