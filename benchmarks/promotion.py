"""Rates at which the rule of promotion is right: ``python -m benchmarks.promotion [--trials 600]``, minutes.

Champion and challenger answer each test image independently of each other, right with their accuracies of its day, which are the scenario.
300 test images are Monday's, whose labels are trusted; 200 are Tuesday's, of which so many are verified as the column says. The share of
trials in which a challenger takes the place of a champion, in %, with its 95% interval (Wilson).

``votes as truth``: the rule before, which took what people say for the truth where nothing is verified, and let a day veto by its single
images. People are right on 70% of Tuesday's images, or say whatever the challenger says.
"""

from __future__ import annotations

import argparse
import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bccp.evaluation.promotion import PairedComparison, compare_models, settle
from bccp.reporting.run_data import wilson

Mask = npt.NDArray[np.bool_]

N_MONDAY, N_TUESDAY, MIN_VERIFIED, MAX_REGRESSION = 300, 200, 100, 0.01
VERIFIED = (0, 24, 80, 200)
N_CLASSES, VOTERS_RIGHT = 10, 0.7
RANDOM_SEED = 1


class Scenario(NamedTuple):
    """Accuracies of challenger and champion on both days."""

    name: str
    monday: tuple[float, float]
    tuesday: tuple[float, float]


SCENARIOS = (
    Scenario("equal", (0.97, 0.97), (0.85, 0.85)),
    Scenario("better by 5 on Tuesday", (0.97, 0.97), (0.90, 0.85)),
    Scenario("better by 10 on Tuesday", (0.97, 0.97), (0.95, 0.85)),
    Scenario("better by 10 on Tuesday, worse by 1 on Monday", (0.96, 0.97), (0.95, 0.85)),
    Scenario("better by 2.5 on Monday", (0.995, 0.97), (0.85, 0.85)),
    Scenario("worse by 2 on Tuesday", (0.97, 0.97), (0.83, 0.85)),
    Scenario("worse by 5 on Tuesday", (0.97, 0.97), (0.80, 0.85)),
    Scenario("worse by 2 on both days", (0.95, 0.97), (0.83, 0.85)),
    Scenario("worse by 5 on Tuesday, better by 2.5 on Monday", (0.995, 0.97), (0.80, 0.85)),
    Scenario("worse by 10 on Tuesday, better by 2.5 on Monday", (0.995, 0.97), (0.75, 0.85)),
)


@functools.lru_cache(maxsize=100_000)
def compared(monday: tuple[int, int], tuesday: tuple[int, int], n_tuesday: int) -> PairedComparison:
    """Compare by how many images each alone is right on, which is all that the comparison depends on."""
    days, challenger, champion = ["monday"] * N_MONDAY + ["tuesday"] * n_tuesday, list[bool](), list[bool]()
    for (won, lost), size in ((monday, N_MONDAY), (tuesday, n_tuesday)):
        challenger += [True] * won + [False] * (size - won)
        champion += [False] * won + [True] * lost + [False] * (size - won - lost)
    return compare_models(days, np.array(challenger), np.array(champion), rng=np.random.default_rng(0))


def alone(right: Mask, other: Mask) -> tuple[int, int]:
    """Images on which the first alone is right, and those on which the second alone is."""
    return int((right & ~other).sum()), int((other & ~right).sum())


def promoted(scenario: Scenario, n_verified: int, rng: np.random.Generator) -> bool:
    """Draw the models' answers, and decide by the rule."""
    monday, tuesday = (
        alone(*(rng.random(size) < accuracy for accuracy in accuracies))
        for accuracies, size in ((scenario.monday, N_MONDAY), (scenario.tuesday, n_verified))
    )
    found = compared(monday, tuesday, n_verified)
    asked = {"min_verified": MIN_VERIFIED, "max_regression": MAX_REGRESSION}
    return settle(found, n_verified=n_verified, day="tuesday", first=False, **asked).promotes


def promoted_by_votes(scenario: Scenario, rng: np.random.Generator, *, malicious: bool) -> bool:
    """Draw answers and votes, and decide as it was done before: a wrong vote agrees with a wrong answer by chance."""
    monday = alone(*(rng.random(N_MONDAY) < accuracy for accuracy in scenario.monday))
    challenger, champion = (
        np.where(rng.random(N_TUESDAY) < accuracy, 0, rng.integers(1, N_CLASSES, N_TUESDAY)) for accuracy in scenario.tuesday
    )
    votes = np.where(rng.random(N_TUESDAY) < VOTERS_RIGHT, 0, rng.integers(1, N_CLASSES, N_TUESDAY))
    votes = challenger if malicious else votes
    found = compared(monday, alone(challenger == votes, champion == votes), N_TUESDAY)
    return found.ahead >= 0.95 and min(found.by_day.values()) >= -MAX_REGRESSION - 1e-9


def rate(hits: int, trials: int) -> str:
    """A share with its interval, in %."""
    low, high = wilson(hits, trials)
    return f"{100 * hits / trials:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=600)
    trials = parser.parse_args().trials
    columns = [*(f"{n} verified" for n in VERIFIED), "votes as truth", "malicious votes as truth"]
    print(f"| promoted, % | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", flush=True)
    for scenario in SCENARIOS:
        rng = np.random.default_rng(RANDOM_SEED)
        few = trials // 10  # where the answer is plain
        cells = [rate(sum(promoted(scenario, n, rng) for _ in range(few)), few) for n in VERIFIED if n < MIN_VERIFIED]
        cells += [rate(sum(promoted(scenario, n, rng) for _ in range(trials)), trials) for n in VERIFIED if n >= MIN_VERIFIED]
        cells += [rate(sum(promoted_by_votes(scenario, rng, malicious=evil) for _ in range(few)), few) for evil in (False, True)]
        print(f"| {scenario.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
