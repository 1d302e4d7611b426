"""Names of the tags that runs, registered models and configurations in W&B carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bccp.core import automatic

PIPELINE_TAG = "bccp.pipeline"
"""The pipeline's id: on its run, and on those of its steps."""

FOLDER_TAG = "bccp.folder"
"""The run folder, of a pipeline's run."""

STEP_TAG = "bccp.step"
"""The step, or the shared work, that a run did."""

KEY_TAG = "bccp.key"
"""The key by which its work is found again (:mod:`bccp.pipeline.cache_keys`)."""

KEY_PARTS_TAG = "bccp.key_parts"
"""The parts of that key, as JSON."""

WORK_SECONDS_TAG = "bccp.work_seconds"
"""Seconds of the step's own work."""

HOST_TAG, PID_TAG, STARTED_TAG = "bccp.host", "bccp.pid", "bccp.started"
"""Host, id and start of the process that a run belongs to."""

INPUT_PREFIX, OUTPUT_PREFIX = "bccp.input.", "bccp.output."
"""Versions of the artifacts that a run read and made, by name."""

REUSED_PREFIX, LEFT_OUT_PREFIX = "bccp.reused.", "bccp.left_out."
"""Of a pipeline's run: the run of each step that was reused, or whose outputs were used although the step was left out."""

SIMULATED_TAG = "bccp.simulated"
"""Of runs and registered versions: what was simulated, ``labels`` or ``images`` or both, separated by commas."""

KEEP_TAG = "bccp.keep"
"""Of a run that is never deleted."""

WANDB_LOST_TAG = "bccp.wandb_lost"
"""Of a pipeline's run: W&B's server did not answer."""

WANDB_REUSED_TAG = "bccp.wandb_reused"
"""Of a pipeline's run: W&B has yet to get the lineage of what was reused."""

MLFLOW_RUN_KEY = "bccp.mlflow_run"
"""In a run's configuration in W&B: the run in MLflow."""

SWEEP_TAG, KIND_TAG = "bccp.sweep", "bccp.kind"
"""Of the run that holds a sweep's report."""

VERDICT_TAG, VERDICT_REASON_TAG = "bccp.verdict", "bccp.verdict_reason"
"""Of a test's run and of a registered version: whether it was promoted, and why."""

JUDGED_TAG = "bccp.judged"
"""Of a registered version: what its comparison said, and with what, as ``promoted against 3``; ``test.promote`` may have overruled it."""

UNVERIFIED_TAG = "bccp.unverified"
"""Of a registered version: ``true`` where too few test images were verified to compare it with anything."""

REGISTERED_TAG = "bccp.registered"
"""Of a test's run: the version that was registered."""

MODEL_TAG = "bccp.model"
"""Of a registered version: the version of the artifact ``model`` that it packs."""

FORGOTTEN_TAG = "bccp.forgotten"
"""Of a registered version: the day on which something that it was trained on was forgotten."""

CHAMPIONS_TAG, ROLLED_BACK_TAG = "bccp.champions", "bccp.rolled_back"
"""Of a registered model: the versions that have been champion, and those that were rolled back."""


def simulated_tag(config: Mapping[str, Any]) -> dict[str, str]:
    """Make :data:`SIMULATED_TAG` of a run with this configuration (see :func:`bccp.core.automatic.simulated_parts`), or nothing."""
    parts = automatic.simulated_parts(config)
    return {SIMULATED_TAG: ",".join(parts)} if parts else {}
