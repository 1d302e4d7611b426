"""The benchmark of refinements: the terms by hand, the students that have them, and the whole command on few images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bccp
from bccp.core.config_schema import MondayModel
from bccp.data.dataset import Days
from bccp.models.monday_model import fit_recipe
from benchmarks import labels, refinements, students

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = ["preprocessing.image_size=16", "train.model=small_cnn", "bayes_cutoff.epochs=1", "bayes_cutoff.refine_epochs=1"]
QUICK += ["bayes_cutoff.passes=2", "main.threads=1"]
RECIPE = MondayModel(
    model="small_cnn",
    weights=None,
    freeze_backbone=False,
    head="sgd",
    normalization="auto",
    epochs=2,
    learning_rate=0.005,
    optimizer="adamw",
    schedule="one_cycle",
    decay=0.95,
    batch_size=8,
    augmentation="generic",
    mirror="always",
    mixup_alpha=0.0,
    ema_decay=0.9,
    dropout=0.5,
    random_seed=3,
)


def make_days() -> Days:
    """Thirty images of noise."""
    names = [f"{row:02d}.png" for row in range(30)]
    columns = {"row": range(30), "day": "monday", "split": "train", "label": "ant", "corruption": "", "corrupted_row": -1}
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    return Days(pd.DataFrame(columns, index=names), ["ant", "bee", "cat"], "tuesday", True, pixels, None)


def fit(term: students.Term, recipe: MondayModel = RECIPE) -> dict[str, torch.Tensor]:
    days = make_days()
    targets = np.random.default_rng(1).dirichlet(np.ones(3), 30)
    return students.fit_with_term(days, recipe, days.ids("monday", "train"), targets, term, device="cpu").state_dict()


def test_consistency_by_hand_and_only_where_the_teacher_is_sure() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    believed = torch.tensor([[0.02, 0.96, 0.02], [0.06, 0.94, 0.0], [0.0, 0.0, 1.0]])
    found = students.consistency(logits, believed)
    np.testing.assert_allclose(found, [-np.log(0.25), 0, -np.log(0.6)], rtol=1e-6)


def test_the_early_learning_term_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    first, remembered = students.early_learning(torch.log(probs), torch.zeros(2, 3))
    np.testing.assert_allclose(remembered, 0.3 * probs, rtol=1e-5)
    np.testing.assert_allclose(first, 3 * np.log([1 - 0.3 * 0.375, 1 - 0.3 * 0.44]), rtol=1e-5)
    turned = torch.log(probs.flip(1)).requires_grad_()
    second, remembered = students.early_learning(turned, remembered)
    np.testing.assert_allclose(remembered[0], [0.7 * 0.15 + 0.3 * 0.25, (0.7 + 1) * 0.3 * 0.25, 0.7 * 0.075 + 0.3 * 0.5], rtol=1e-5)
    assert not remembered.requires_grad
    # <p, t> of the first image, whose probabilities are now 0.25, 0.25, 0.5
    inner = 0.25 * 0.18 + 0.25 * 0.1275 + 0.5 * 0.2025
    assert second[0].item() == pytest.approx(3 * np.log(1 - inner), rel=1e-5)
    (slope,) = torch.autograd.grad(second[0], turned)
    p, t = np.array([0.25, 0.25, 0.5]), np.array([0.18, 0.1275, 0.2025])
    np.testing.assert_allclose(slope[0], -3 * p * (t - inner) / (1 - inner), rtol=1e-4)  # towards what is remembered


def test_the_early_learning_term_stays_finite_where_the_network_is_sure_for_long() -> None:
    logits, remembered = torch.tensor([[100.0, 0, 0]]), torch.zeros(1, 3)
    for _ in range(100):
        found, remembered = students.early_learning(logits, remembered)
    assert np.isfinite(found.item())
    assert found.item() < 3 * np.log(0.001)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_without_a_term_the_student_is_the_pipelines_to_the_bit(tmp_path: Path, ema_decay: float) -> None:
    recipe = replace(RECIPE, ema_decay=ema_decay)
    ours = fit(lambda logits, *_: torch.zeros(len(logits)), recipe)
    days, targets = make_days(), np.random.default_rng(1).dirichlet(np.ones(3), 30)
    theirs, _ = fit_recipe(days, recipe, days.ids("monday", "train"), targets.astype(np.float32), device="cpu", folder=tmp_path)
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_the_terms_look_at_the_chosen_images_alone() -> None:
    chosen, idx = np.array([True, False, True, False]), np.array([3, 2, 0])
    logits, images = torch.zeros(3, 3), torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    seen = []

    def teacher(shown: torch.Tensor) -> torch.Tensor:
        seen.append(shown[:, 0, 0, 0].tolist())
        return torch.tensor([[9.0, 0, 0]]).repeat(len(shown), 1)

    found = students.consistency_term(chosen)(logits, idx, images, teacher)
    assert seen == [[1, 2]]  # the second and third of the batch
    np.testing.assert_allclose(found, [0, np.log(3), np.log(3)], rtol=1e-6)
    assert students.consistency_term(~chosen)(logits[:1], np.array([0]), images[:1], teacher).tolist() == [0]
    assert len(seen) == 1
    term = students.early_learning_term(chosen)
    once, twice = (term(logits, idx, images, teacher) for _ in range(2))
    np.testing.assert_allclose(once, 3 * np.log(1 - np.array([0, 1, 1]) * 0.3 / 3), rtol=1e-5)
    np.testing.assert_allclose(twice, 3 * np.log(1 - np.array([0, 1, 1]) * 0.51 / 3), rtol=1e-5)  # the same positions are remembered


@pytest.mark.slow
def test_the_command_measures_every_refinement_once_and_the_default_as_the_pipeline_does(
    home: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_folder({"ant": 30, "bee": 30, "cat": 30})
    words = ["--seeds", "1", "--data", str(data), "--noises", "uniform", "--accuracies", "0.7", "--", *QUICK]
    outcomes = {}
    cut = refinements.Case.cut

    def noted(self: refinements.Case, post: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outcomes[len(outcomes)] = post
        return cut(self, post)

    monkeypatch.setattr(refinements.Case, "cut", noted)
    assert refinements.main(words) == 0
    first = capsys.readouterr()
    assert len(outcomes) == len(refinements.VARIANTS) + 1  # consistency also asks which labels are disbelieved
    for post in outcomes.values():
        assert post.min() >= 0
        np.testing.assert_allclose(post.sum(1), 1)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in first.out.splitlines() if line.startswith("| ")}
    assert list(rows) == ["refinement", *refinements.VARIANTS]

    store = home / "benchmarks" / "refinements"
    lines = [json.loads(line) for line in (store / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {line["variant"]: line for line in lines}
    assert first.out == (store / "images.md").read_text(encoding="utf-8")
    n_trusted, n_judged = 27, 36  # of 45 images a day, a fifth is for the test, and a quarter of Monday's rest for validation
    monday = n_trusted / (10 * (n_trusted + n_judged))
    costs = {"none": monday, "student": monday + 0.1, "two students": monday + 0.2, "two Monday models": 2 * monday}
    in_folds = (3 * n_trusted + 2 * n_judged) / (10 * (n_trusted + n_judged))
    costs |= {"co-training": 2 * monday + 0.2, "ELR": monday + 0.1, "cross-fit": monday + in_folds}
    for name, cost in costs.items():
        assert found[name]["trainings"] == pytest.approx(cost), name
    assert found["student"]["trainings"] < found["consistency"]["trainings"] < monday + 0.1 + n_judged / (30 * (n_trusted + n_judged))

    monkeypatch.setattr(refinements.Case, "result", None)
    assert refinements.main(words) == 0
    assert capsys.readouterr().out == first.out

    options = ["main.random_seed=1", "noisy_labels.source=simulated", "noisy_labels.user_accuracy=0.7", "segregation.corruption=mixed"]
    options += ["data.source=folder", f"data.path='{data}'", "bayes_cutoff.max_class_ratio=null", "tracking.wandb=disabled", *QUICK]
    summary = bccp.run([*options, f"main.execute_steps=[{','.join(labels.JUDGING)}]"])
    for figure in ("auroc", "f1"):
        assert summary["metrics"][f"bayes_cutoff/{figure}"] == found["student"]["metrics"][figure]

    monkeypatch.setattr(refinements, "VARIANTS", dict.fromkeys(["none"]))
    assert refinements.main([*words, "bayes_cutoff.mixup_alpha=0.2"]) == 1
    assert "BCCPError: consistency and ELR need single images: use bayes_cutoff.mixup_alpha=0" in capsys.readouterr().out
