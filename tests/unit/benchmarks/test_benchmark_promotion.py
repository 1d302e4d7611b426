"""The simulation of the rule of promotion: too few verified images promote nothing, and votes could do anything."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import promotion

WORSE, BETTER = promotion.Scenario("worse", (1.0, 1.0), (0.6, 0.85)), promotion.Scenario("better", (0.97, 0.97), (0.99, 0.7))


@pytest.mark.parametrize(("scenario", "n_verified", "expected"), [(BETTER, 80, False), (BETTER, 200, True), (WORSE, 200, False)])
def test_the_rule_decides_by_verified_images_alone(scenario: promotion.Scenario, n_verified: int, expected: bool) -> None:
    rng = np.random.default_rng(0)
    assert all(promotion.promoted(scenario, n_verified, rng) is expected for _ in range(5))


def test_by_the_rule_before_malicious_votes_promote_a_worse_model() -> None:
    rng = np.random.default_rng(0)
    assert all(promotion.promoted_by_votes(WORSE, rng, malicious=True) for _ in range(5))
    assert not any(promotion.promoted_by_votes(WORSE, rng, malicious=False) for _ in range(5))


def test_a_comparison_by_counts_is_that_of_the_images() -> None:
    challenger, champion = np.array([True, True, False, True]), np.array([True, False, True, False])
    assert promotion.alone(challenger, champion) == (2, 1)
    found = promotion.compared((0, 3), (2, 1), 4)
    assert found.by_day == {"monday": -3 / promotion.N_MONDAY, "tuesday": 1 / 4}
    assert promotion.rate(12, 600) == "2.0 (1.1 to 3.5)"
