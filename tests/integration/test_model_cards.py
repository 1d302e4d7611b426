"""The model card and the data card say what the run's own figures say."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bccp.data.dataset import open_days
from bccp.evaluation import model_cards
from support.made_up_models import CLASSES, MONDAY, TUESDAY, World


def test_the_cards_of_a_run_hold_its_figures(home: Path, tmp_path: Path, one_thread: None) -> None:
    world = World(tmp_path / "made")
    step = world.test(world.model(wrong=[*MONDAY[:3], *TUESDAY[:6]], seed=1), registered_model_name=None, whole=True)
    evaluation = world.ledger.fetch(f"evaluation:{step.outputs['evaluation']}")
    model_card, data_card = ((evaluation / name).read_text(encoding="utf-8") for name in (model_cards.MODEL_CARD, model_cards.DATA_CARD))
    assert model_card.startswith("# Model card: small_cnn for 3 classes\n")
    for line in ("| accuracy | 0.8500 |", "| accuracy_tuesday | 0.8500 |", "| images | 60 |", "| epochs | 1 |"):
        assert line in model_card.splitlines()
    assert "All test labels are known to be true." in model_card
    for name in CLASSES:
        assert f"\n| {name} | {(world.label_idx[:60] == CLASSES.index(name)).sum()} |" in model_card
    for line in ("| monday | test | 20 |", "| monday | val | 3 |", "| tuesday | test | 40 |", "| artificial corruption | none |"):
        assert line in data_card.splitlines()
    again = world.test(step.inputs["model"], registered_model_name=None, whole=True)
    assert again.outputs == step.outputs
    # without a name nothing is registered
    assert not world.ledger.client.search_registered_models()
    assert "bccp.verdict" not in world.tags(step)


def test_names_cannot_break_a_table_and_unknown_truth_is_told(home: Path, tmp_path: Path) -> None:
    about = {"architecture": "small_cnn", "image_size": 8, "class_names": ["a|b", "<script>\nx"], "mean": [0], "std": [1]}
    rows = [
        {"day": "all", "label": name, "images": "1", "precision": "0.5", "recall": "1.0", "f1": "0.25"} for name in about["class_names"]
    ]
    text = model_cards.model_card(about, {"verified": False, "unverified_images": 2, "accuracy": 0.5}, pd.DataFrame(rows), pd.DataFrame())
    assert "| a\\|b | 1 | 0.5000 | 1.0 | 0.2500 |" in text
    assert "| &lt;script> x | 1 |" in text
    assert "**The true labels of 2 test images are not known" in text


def test_the_penalty_of_a_head_that_was_fitted_at_once_stands_in_the_place_of_epochs() -> None:
    about = {"architecture": "small_cnn", "image_size": 8, "class_names": ["a"], "mean": [0], "std": [1], "frozen": True}
    rows = pd.DataFrame([{"day": "all", "label": "a", "images": "1", "precision": "1", "recall": "1", "f1": "1"}])
    history = pd.DataFrame({"epoch": ["1", "2", "3"], "strength": ["0.01", "0.001", "0.0001"], "val_loss": ["0.9", "0.10", "0.2"]})
    text = model_cards.model_card(about, {"verified": True}, rows, history)
    assert "| head | logistic regression with a penalty of 0.001, fitted at once |" in text
    assert "epochs" not in text


@pytest.mark.parametrize("n_classes", [50, 60])
def test_of_many_classes_the_weakest_are_shown(n_classes: int) -> None:
    names = [f"c{i:02d}" for i in range(n_classes)]
    about = {"architecture": "small_cnn", "image_size": 8, "class_names": names, "mean": [0], "std": [1]}
    rows = [{"day": "all", "label": n, "images": "1", "precision": "1", "recall": "1", "f1": f"0.{n[1:]}"} for n in reversed(names)]
    text = model_cards.model_card(about, {"verified": True}, pd.DataFrame(rows), pd.DataFrame())
    assert "\n| c49 |" in text
    assert "\n| c55 |" not in text
    assert ("with the lowest F1" in text) == (n_classes == 60)


def test_a_report_without_details_gives_a_card_all_the_same(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "made")
    segregated, clean = (world.ledger.fetch(f"{name}:{world.versions[name]}") for name in ("segregated_data", "clean_data"))
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    assert "| sizes | not recorded |" in model_cards.data_card(report, open_days(segregated, clean))
