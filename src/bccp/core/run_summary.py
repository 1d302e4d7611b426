"""``summary.json``: the record of a pipeline in its run folder."""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bccp.core.step_graph import STEPS

HEADLINES = (
    "bayes_cutoff/auroc",
    "bayes_cutoff/f1",
    "bayes_cutoff/estimated_user_accuracy",
    "bayes_cutoff/true_user_accuracy",
    "train/val_accuracy",
    "test/accuracy",
    "test/accuracy_monday",
    "test/accuracy_tuesday",
    "test/f1_macro",
)

PAGE = "report.html"
"""In the run folder, beside ``summary.json``: see :mod:`bccp.reporting.run_report`."""

SUSPECTS_PAGE = "suspects.html"
"""Beside it, where labels were judged: see :mod:`bccp.reporting.suspects_page`."""


@dataclass
class StepRecord:
    """What became of a step; ``summary.json`` lists one for each."""

    name: str
    status: str = "skipped"
    reason: str = "not asked for"
    seconds: float = 0.0
    work_seconds: float = 0.0
    run_id: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass
class Summary:
    """What became of a pipeline."""

    status: str = "failed"
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=lambda: [StepRecord(name) for name in STEPS])
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    promotion: dict[str, str] | None = None
    """Of a registered model: ``verdict``, ``reason`` and ``model`` (``models:/name/version``)."""

    def not_promoted(self) -> str:
        """Say why a finished pipeline promoted nothing; an empty string where it promoted its model."""
        test = next(step for step in self.steps if step.name == "test")
        if self.promotion is None or test.status != "ran":
            return f"test was {test.status} ({test.reason})"
        return "" if self.promotion["verdict"] in ("promoted", "forced") else f"{self.promotion['verdict']}: {self.promotion['reason']}"

    def write(self, folder: Path) -> None:
        """Write ``summary.json``, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".summary-{uuid.uuid4().hex}"
        fresh.write_text(json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n", encoding="utf-8")
        fresh.replace(folder / "summary.json")
