"""The losses: their values by hand, soft targets, and gradients where probabilities are extreme."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch

from bccp.core import config_schema
from bccp.core.registries import LOSSES
from bccp.models.fitting.losses import find_loss

PROBS = (0.5, 0.3, 0.2)

LOG = [math.log(p) for p in PROBS]
FOCAL = [-math.sqrt(1 - p) * math.log(p) for p in PROBS]
MOST = -math.log(1e-7)
MOST_FOCAL = math.sqrt(1 - 1e-7) * MOST

BY_HAND = {
    "cross_entropy": [0.693147, 1.203973, 1.609438],
    "gce": [(1 - p**0.7) / 0.7 for p in PROBS],
    "anl_ce": [5 * log / sum(LOG) + 5 * (1 - (MOST + log) / (3 * MOST + sum(LOG))) for log in LOG],
    "anl_fl": [5 * f / sum(FOCAL) + 5 * (1 - (MOST_FOCAL - f) / (3 * MOST_FOCAL - sum(FOCAL))) for f in FOCAL],
    # |30 - 0.5|^2 + 0.3^2 + 0.2^2 = 870.38, and so on for the other classes
    "jal_ce": [log / sum(LOG) + square / 3 for log, square in zip(LOG, (870.38, 882.38, 888.38), strict=True)],
}


def losses_of(name: str, logits: torch.Tensor, targets: np.ndarray) -> np.ndarray:
    return LOSSES[name](logits, torch.as_tensor(targets, dtype=logits.dtype)).numpy()


@pytest.mark.parametrize("name", LOSSES)
def test_each_label_has_the_loss_of_the_published_formula(name: str) -> None:
    logits = (torch.tensor(PROBS, dtype=torch.float64).log() + 3).repeat(3, 1)
    np.testing.assert_allclose(losses_of(name, logits, np.eye(3)), BY_HAND[name], rtol=1e-5)


def test_the_active_negative_losses_have_values_worked_out_by_hand() -> None:
    # -log p: 0.6931, 1.2040, 1.6094, sum 3.5066; 16.1181 less them: 15.4249, 14.9141, 14.5087, sum 44.8477
    by_hand = [5 * 0.6931 / 3.5066 + 5 * (1 - 15.4249 / 44.8477), 5 * 1.2040 / 3.5066 + 5 * (1 - 14.9141 / 44.8477)]
    logits = torch.tensor([PROBS, PROBS], dtype=torch.float64).log()
    np.testing.assert_allclose(losses_of("anl_ce", logits, np.eye(3)[:2]), by_hand, rtol=1e-4)
    # sqrt(1 - p) * -log p: 0.4901, 1.0073, 1.4395, sum 2.9370; 16.1181 less them: 15.6280, 15.1108, 14.6786, sum 45.4173
    by_hand = [5 * 0.4901 / 2.9370 + 5 * (1 - 15.6280 / 45.4173), 5 * 1.0073 / 2.9370 + 5 * (1 - 15.1108 / 45.4173)]
    np.testing.assert_allclose(losses_of("anl_fl", logits, np.eye(3)[:2]), by_hand, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_a_soft_target_has_the_expectation_of_the_hard_losses(name: str) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 3, (7, 4)))
    targets = rng.dirichlet(np.ones(4), 7)
    hard = np.stack([losses_of(name, logits, np.tile(np.eye(4)[k], (7, 1))) for k in range(4)], axis=1)
    np.testing.assert_allclose(losses_of(name, logits, targets), (targets * hard).sum(1), rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("n_classes", [2, 10])
def test_losses_and_gradients_stay_finite_where_the_model_is_sure(name: str, n_classes: int) -> None:
    logits = torch.zeros(4, n_classes)
    logits[0, 0], logits[1, 1], logits[2] = 200.0, -200.0, torch.linspace(-300, 300, n_classes)
    logits.requires_grad_()
    losses = LOSSES[name](logits, torch.eye(n_classes)[[0, 1, 1, 0]])
    losses.sum().backward()
    assert losses.shape == (4,)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_down_the_gradient_makes_the_label_more_likely(name: str) -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (5, 4))).requires_grad_()
    targets = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0]]
    LOSSES[name](logits, targets).sum().backward()
    better = (logits - 0.1 * logits.grad).softmax(1)
    assert ((better * targets).sum(1) > (logits.softmax(1) * targets).sum(1)).all()


@pytest.mark.parametrize(("name", "most"), [("gce", 1 / 0.7), ("anl_ce", 10.0), ("anl_fl", 10.0)])
def test_robust_losses_are_bounded_however_wrong_a_label_is(name: str, most: float) -> None:
    logits = torch.tensor([[0.0, 0.0, 500.0]], dtype=torch.float64)
    loss = losses_of(name, logits, np.eye(3)[:1])[0]
    assert 0.4 * most < loss <= most * (1 + 1e-12)
    assert losses_of("cross_entropy", logits, np.eye(3)[:1])[0] == pytest.approx(500)


def test_only_the_active_negative_losses_shrink_the_weights() -> None:
    assert {name: find_loss(name).l1 for name in LOSSES if find_loss(name).l1} == {"anl_ce": 5e-5, "anl_fl": 5e-5}


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_has_a_module_of_its_own_with_its_reference(name: str) -> None:
    module = importlib.import_module(f"bccp.models.fitting.losses.{name}")
    assert getattr(module, name) is LOSSES[name]
    assert "References\n" in str(module.__doc__) + str(LOSSES[name].__doc__)


def test_the_configuration_knows_the_same_losses() -> None:
    assert config_schema.Train.__dataclass_fields__["loss"].metadata["choices"] == tuple(LOSSES)
