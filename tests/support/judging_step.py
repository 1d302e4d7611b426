"""The step ``bayes_cutoff`` on artifacts of :mod:`support.judged_data`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bccp.core.digests import folder_digest
from support.fake_step import FakeStep

SECTION = {
    "enabled": True,
    "method": "label_posterior",
    "judge": "network",
    "cutoff": "auto",
    "percentile": 90.0,
    "threshold": 0.5,
    "action": "soft",
    "passes": 4,
    "dropout": 0.2,
    "folds": 2,
    "audit_file": None,
    "max_class_ratio": None,
    "rounds": 0,
    "refine": "student",
    "refine_epochs": 6,
    "label": "user_feedback",
    "target_day": "tuesday",
    "model": "small_cnn",
    "weights": None,
    "freeze_backbone": False,
    "head": "sgd",
    "normalization": "auto",
    "epochs": 6,
    "learning_rate": 0.005,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "decay": 0.95,
    "batch_size": 16,
    "augmentation": "none",
    "mirror": "never",
    "mixup_alpha": 0.0,
    "ema_decay": 0.0,
    "random_seed": 7,
}


class JudgingStep(FakeStep):
    """Has what this step needs besides."""

    device = "cpu"

    def __init__(self, name: str, place: Path, inputs: dict[str, Path], known: dict[str, Path], new: Callable[[str], Path]) -> None:
        super().__init__(name, place, inputs)
        self._known, self._new, self.pictures = known, new, 0
        self.ledger = SimpleNamespace(fetch=lambda version: self.folders[version.split(":")[0]])
        self.outputs = {"cleansed_labels": "0" * 64}
        self.inputs = {artifact: folder_digest(folder) for artifact, folder in inputs.items()}

    def has_input(self, name: str) -> bool:
        return name in self.inputs

    def shared(self, name: str, key: dict, compute: Callable[[Path], None]) -> Path:
        """Compute once a key, as the ledger does."""
        text = json.dumps([name, key])
        if text not in self._known:
            folder = self._new(name)
            compute(folder)
            self._known[text] = folder
        return self._known[text]

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        assert pixels
        assert path.stat().st_size
        self.pictures += 1

    def log_table(self, name: str, rows: list[dict], pictures: Iterable[np.ndarray]) -> None:
        assert len(rows) == len(list(pictures))


def content(step: FakeStep) -> dict[str, bytes]:
    folder = step.folders["cleansed_labels"]
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
