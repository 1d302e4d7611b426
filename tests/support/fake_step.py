"""A stand-in for ``bccp.core.step_context.Step`` that keeps artifacts in a folder, and the way to a step's ``run``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf

from bccp.core.paths import ROOT

DAY = {"target_day": "tuesday"}
RECIPE = {"model": "small_cnn", "weights": None, "freeze_backbone": False, "head": "sgd"}
RESOLVED: dict[str, dict[str, Any]] = {
    "segregation": {**DAY, "label_source": "simulated"},
    "noisy_labels": {"source": "simulated", "user_accuracy": 0.7, "noise": "uniform"},
    "preprocessing": {"image_size": 32, "resize": "stretch"},
    "bayes_cutoff": {**DAY, **RECIPE, "refine": "student", "judge": "network", "folds": 3, "rounds": 1},
    "train": DAY | RECIPE,
    "cp_sampling": DAY,
}
"""What ``auto`` and ``null`` are in a pipeline on digits."""


class FakeStep:
    """Has the section of ``config.yaml`` with some keys changed, and folders for inputs and outputs."""

    def __init__(self, name: str, place: Path, inputs: Mapping[str, Path], **changed: Any) -> None:
        values = OmegaConf.to_container(OmegaConf.load(ROOT / "config.yaml"), resolve=False)
        del values["hydra"]
        section = OmegaConf.to_container(OmegaConf.create(values), resolve=True)[name]
        assert set(changed) <= set(section)
        nested = {
            key: SimpleNamespace(**value | (RECIPE if "model" in value else {}))
            for key, value in section.items()
            if isinstance(value, dict)
        }
        self.config = SimpleNamespace(**section | nested | RESOLVED.get(name, {}) | changed)
        self.context = SimpleNamespace(config={}, folder=None)
        self.inputs = {artifact: artifact[0] * 64 for artifact in inputs}
        self.folders, self.metrics, self.reports, self.said, self.threads = dict(inputs), {}, {}, [], 1
        self.pictures: dict[str, tuple[bytes, bool]] = {}
        self.checkpoint = None
        self.place = place

    def has_input(self, name: str) -> bool:
        """Whether this input was given."""
        return name in self.inputs

    def input(self, name: str) -> Path:
        """The folder of an input."""
        return self.folders[name]

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """A folder to fill."""
        folder = self.place / name
        folder.mkdir(parents=True)
        yield folder
        self.folders[name] = folder

    def ancestor(self, name: str) -> Path | None:
        """The folder of what went into an input."""
        return self.folders.get(name)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Keep figures."""
        self.metrics |= metrics

    @contextmanager
    def report(self, name: str) -> Iterator[Path]:
        """A folder to fill."""
        folder = self.place / f"report-{name}"
        folder.mkdir(parents=True)
        yield folder
        self.reports[name] = str(folder)

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        """Keep a picture, and whether it shows images."""
        self.pictures[path.name] = (path.read_bytes(), pixels)

    def emit(self, line: str) -> None:
        """Keep a line."""
        self.said.append(line)


def load_run(name: str) -> Callable[[Any], None]:
    """The function ``run`` of a step's ``run.py``."""
    spec = importlib.util.spec_from_file_location(f"{name}_run", ROOT / name / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run
