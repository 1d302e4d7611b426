"""Training that starts from a registered model."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bccp.core.errors import BCCPError
from bccp.data.dataset import open_days
from bccp.models import classifier, initialization, mlflow_flavor
from bccp.pipeline.step_runner import resolve_external_refs
from bccp.tracking.registry import register
from bccp.tracking.store import Ledger
from support.fake_step import load_run
from support.training_step import CLASSES, make_step


def test_retraining_can_start_from_a_registered_model_and_remembers_what_that_was_trained_on(tmp_path: Path, home: Path) -> None:
    step = make_step(tmp_path, init="models:/champion@best")
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    source = classifier.build_classifier("small_cnn", 3, image_size=16, dropout=0.5, seed=9)
    ledger = step.ledger = Ledger(f"sqlite:///{home / 'mlflow.db'}")
    with pytest.raises(BCCPError, match=r"train\.init=models:/champion@best is not in the registry"):
        initialization.starting_model(step, days, step.config)
    (tmp_path / "made").mkdir()
    classifier.save_classifier(source, tmp_path / "made", {"class_names": CLASSES})
    run_id = ledger.start("train")
    digest, _ = ledger.publish(run_id, "model", tmp_path / "made")
    ledger.end(run_id, "FINISHED")
    for known in ([], [7, 9]):

        def write(place: Path, seen: list[int] = known) -> None:
            shutil.copytree(ledger.fetch(f"model:{digest}"), place)
            np.save(place / mlflow_flavor.TRAINED_ON, np.array(seen, np.uint64))

        version = register(ledger, f"champion{len(known)}", digest, run_id=ledger.start("test"), write=write)
        ledger.client.set_registered_model_alias(f"champion{len(known)}", "best", version.version)
    step.config.init = "models:/champion2@best"
    model, _ = initialization.starting_model(step, days, step.config)
    assert torch.equal(model.head[1].weight, source.head[1].weight)
    assert resolve_external_refs("train", step.config, ledger) == {"init": digest}  # an alias that moves changes the step's key
    load_run("train")(step)
    mlflow_flavor.write_model(tmp_path / "next", step.folders["model"], seen=np.array([9, 11], np.uint64))
    assert mlflow_flavor.trained_on(tmp_path / "next" / "data" / "next-data").tolist() == [7, 9, 11]
    assert not any("not recorded" in line for line in step.said)
    step.config.init = "models:/champion0@best"
    initialization.starting_model(step, days, step.config)
    assert step.said[-1] == "which images models:/champion0@best was trained on is not recorded: test images may be among them"
