"""Steps that do nothing but write down what they were given, so that pipelines around them are run in a second."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bccp
from bccp.core import config, config_schema
from bccp.core.paths import ROOT
from bccp.core.step_context import Step
from bccp.core.step_graph import SPECS
from bccp.pipeline import compose, runner
from bccp.pipeline.plan import Plan
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

FETCH = "main.execute_steps=[fetch_data]"
QUIET = ("tracking.wandb=disabled", "main.threads=1")
FEW = "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels]"


class Stubs:
    """Stand in for all steps' ``run.py``.

    Attributes
    ----------
    ran : list of str
        The steps that have run, in order.
    failing : str or None
        The step that fails.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.failing: str | None = None
        monkeypatch.setattr(runner, "load_step", lambda name: SimpleNamespace(run=self.work))

    def work(self, step: Step) -> None:
        """Do as a step's ``run`` does."""
        if step.name == self.failing:
            raise RuntimeError(f"{step.name} breaks")
        self.ran.append(step.name)
        for output in SPECS[step.name].outputs:
            with step.output(output) as folder:
                (folder / "given.json").write_text(json.dumps([config_schema.relevant(step.config), step.inputs]))
        step.log_metrics({"steps": len(self.ran)})

    def took(self) -> list[str]:
        """The steps that have run since this was last asked."""
        ran, self.ran = self.ran, []
        return ran


def ledger() -> Ledger:
    """The home's own store, opened anew."""
    return Ledger(ledger_uri(None)[0])


def run(*options: str) -> dict[str, Any]:
    """Run the pipeline; its summary, and in ``runs`` the id of each step's run and, by the name ``pipeline``, of its own."""
    summary = bccp.run([*QUIET, *options])
    runs = {step["name"]: step["run_id"] for step in summary["steps"] if step["run_id"]}
    (own,) = (r for r in all_runs(ledger()) if r.data.tags.get("bccp.folder") == summary["folder"])
    return summary | {"runs": runs | {"pipeline": own.info.run_id}}


def plan(*options: str) -> Plan:
    """What a configuration asks for."""
    return Plan(config.load(compose.compose([*QUIET, *options]), base=ROOT))


def all_runs(store: Ledger) -> list[Any]:
    """The runs in the store that MLflow has not deleted."""
    return list(store.client.search_runs([experiment.experiment_id for experiment in store.client.search_experiments()]))


def grow_old(home: Path, days: float) -> None:
    """Let all that is in a home have been there for some days more."""
    with sqlite3.connect(home / "mlflow.db") as database:
        gone = int(days * 86_400_000)
        database.execute("update runs set start_time = start_time - ?, end_time = end_time - ?", (gone, gone))
    database.close()
    for path in home.rglob("*"):
        about = path.lstat()
        os.utime(path, (about.st_atime, about.st_mtime - days * 86_400), follow_symlinks=False)
