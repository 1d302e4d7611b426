"""Images of no class: found where they are, in a folder of any kind, and not where there are none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bccp.data import outliers
from bccp.data.outliers import EXPECTED, NEIGHBOURS, measure_outliers

FEATURES = 60


def features_of(kinds: dict[int, int], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Features such as a backbone's, above 0: so many images of each kind, which has features of its own that are large."""
    parts = []
    for kind, count in kinds.items():
        own = np.random.default_rng([7, kind]).gamma(0.5, size=FEATURES)
        parts.append(own * rng.gamma(4.0, size=(count, FEATURES)))
    return np.concatenate(parts).astype(np.float32)


def alone(n: int) -> npt.NDArray[np.int64]:
    return np.arange(n)


def test_images_of_no_class_stand_out_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    features = features_of({0: 150, 1: 100, 2: 1, 3: 1, 4: 1}, rng)
    given = rng.integers(0, 2, 253)  # no label helps, or hinders
    found = measure_outliers(features, given, alone(253))
    assert np.flatnonzero(found.found).tolist() == [250, 251, 252]
    assert found.n_judged == 253
    assert found.expected[250:].max() < EXPECTED < found.expected[:250].min()


def test_clean_folders_have_no_image_that_stands_out() -> None:
    n_false = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        features = features_of({0: 60, 1: 40, 2: 25}, rng)
        n_false += int(measure_outliers(features, np.repeat([0, 1, 2], [60, 40, 25]), alone(125)).found.sum())
    assert n_false <= 6


def test_distances_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    features = features_of({0: 30, 1: 12}, rng) - np.float32(0.3)  # some are below 0
    given, groups = np.repeat([0, 1], [30, 12]), np.concatenate([np.arange(38), [0, 0, 5, 31]])
    roots = np.sign(features) * np.sqrt(np.abs(features))
    unit = [row / float(np.linalg.norm(row)) for row in roots]
    firsts = [groups.tolist().index(group) for group in sorted(set(groups.tolist()))]
    n_of_class = [sum(given[i] == label for i in firsts) for label in (0, 1)]
    found = measure_outliers(features, given, groups)
    for i in range(42):
        others = sorted(1 - float(unit[i] @ unit[j]) for j in firsts if groups[j] != groups[i])
        count = min(NEIGHBOURS, max(5, n_of_class[given[i]] // 2))
        assert found.distance[i] == pytest.approx(sum(others[:count]) / count, abs=2e-5)


def test_copies_of_an_image_of_no_class_do_not_hide_it() -> None:
    rng = np.random.default_rng(2)
    features = np.concatenate([features_of({0: 120}, rng), np.repeat(features_of({5: 1}, rng), 25, axis=0)])
    given = np.zeros(145, np.int64)
    assert measure_outliers(features, given, np.append(np.arange(120), np.full(25, 120))).found[120:].all()
    assert not measure_outliers(features, given, alone(145)).found[120:].any()  # so many different pictures are a kind of their own


def test_a_small_class_is_a_class_and_the_smallest_is_not_judged() -> None:
    rng = np.random.default_rng(3)
    features = features_of({0: 200, 1: 8, 2: 3}, rng)
    given = np.repeat([0, 1, 2], [200, 8, 3])
    found = measure_outliers(features, given, alone(211))
    assert not found.found.any()
    assert found.n_judged == 208
    assert np.isnan(found.distance[208:]).all()


def test_what_is_found_hangs_on_no_order_and_a_drawn_part_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    features = features_of({0: 300, 1: 200, 6: 2}, rng)
    given, order = np.repeat([0, 1], [300, 202]), rng.permutation(502)
    whole = measure_outliers(features, given, alone(502))
    np.testing.assert_array_equal(measure_outliers(features[order], given[order], alone(502)).expected, whole.expected[order])
    monkeypatch.setattr(outliers, "_BLOCK_CELLS", 5000)
    np.testing.assert_array_equal(measure_outliers(features, given, alone(502)).distance, whole.distance)
    monkeypatch.setattr(outliers, "MOST_COMPARED", 150)
    assert (
        np.flatnonzero(measure_outliers(features, given, alone(502)).found).tolist() == np.flatnonzero(whole.found).tolist() == [500, 501]
    )


@pytest.mark.parametrize("n", [1, 29, 100])
def test_few_or_equal_pictures_tell_nothing(n: int) -> None:
    found = measure_outliers(np.ones((n, 4), np.float16), np.zeros(n, np.int64), alone(n))
    assert not found.found.any()
    assert found.n_judged == (n if n >= 30 else 0)
