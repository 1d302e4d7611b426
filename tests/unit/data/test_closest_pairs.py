"""Closest pair sampling: against a literal loop, its law counted out by hand, and its limits."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bccp.core.errors import BCCPError
from bccp.data.closest_pairs import (
    DISTANCES,
    Pairs,
    closest_pairs,
    cosine_distances,
    l1_distances,
    l2_distances,
    n_pairs_for,
    random_sample,
)
from support.buffers import make_buffer

METRICS = sorted(DISTANCES)


def slow_distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], metric: str) -> float:
    if metric == "l1_norm":
        return float(np.abs(a - b).sum())
    if metric == "l2_norm":
        return float(np.sqrt(((a - b) ** 2).sum()))
    lengths = float(np.sqrt((a * a).sum())) * float(np.sqrt((b * b).sum()))
    return max(1 - float((a * b).sum()) / lengths, 0.0) if lengths else 1.0


def slow_pairs(
    embeddings: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], n_pairs: int, metric: str, rng: np.random.Generator
) -> list[tuple[int, int, float]]:
    """The procedure read aloud: lists of unused images, one round after the other."""
    unused = {int(k): [int(i) for i in np.flatnonzero(labels == k)] for k in np.unique(labels)}
    found = []
    for _ in range(n_pairs):
        uniform = rng.random(len(unused) + 1)
        drawn = {k: images[int(u * len(images))] for (k, images), u in zip(unused.items(), uniform[:-1], strict=True) if images}
        alive = list(drawn)
        anchor = alive[int(uniform[-1] * len(alive))]
        best = None
        for k in alive:
            if k != anchor:
                a, b = (embeddings[drawn[c]].astype(np.float64) for c in (anchor, k))
                candidate = (slow_distance(b, a, metric), drawn[k], k)
                best = candidate if best is None or candidate < best else best
        assert best is not None
        found.append((drawn[anchor], best[1], best[0]))
        for k in (anchor, best[2]):
            images = unused[k]
            images[images.index(drawn[k])] = images[-1]
            images.pop()
    return found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("counts", "n_pairs"), [([9, 9, 9, 9], 14), ([2, 40, 1, 30, 7], 20), ([600, 700], 560), ([3] * 40, 50)])
def test_the_pairs_are_those_of_the_literal_loop_to_the_bit(metric: str, counts: list[int], n_pairs: int) -> None:
    embeddings, labels = make_buffer(counts)
    pairs = closest_pairs(embeddings, labels, n_pairs=n_pairs, metric=metric, rng=np.random.default_rng(5))
    slow = slow_pairs(embeddings, labels, n_pairs, metric, np.random.default_rng(5))
    assert list(zip(pairs.first_idx.tolist(), pairs.second_idx.tolist(), pairs.distance.tolist(), strict=True)) == slow


@pytest.mark.parametrize("metric", METRICS)
def test_the_first_pair_follows_the_law_counted_out_by_hand(metric: str) -> None:
    embeddings, labels = make_buffer([2, 1, 3], dims=2, seed=3)
    law: Counter[tuple[int, int]] = Counter()
    outcomes = list(itertools.product(*(np.flatnonzero(labels == k).tolist() for k in range(3)), range(3)))
    for *drawn, anchor in outcomes:
        rows = embeddings[drawn].astype(np.float64)
        others = [(slow_distance(rows[k], rows[anchor], metric), drawn[k]) for k in range(3) if k != anchor]
        law[drawn[anchor], min(others)[1]] += 1
    n_trials = 6000
    rng = np.random.default_rng(11)
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(n_trials):
        pair = closest_pairs(embeddings, labels, n_pairs=1, metric=metric, rng=rng)
        seen[int(pair.first_idx[0]), int(pair.second_idx[0])] += 1
    assert set(seen) == set(law)
    for pair_idx, ways in law.items():
        p = ways / len(outcomes)
        assert abs(seen[pair_idx] - n_trials * p) < 5 * np.sqrt(n_trials * p * (1 - p)), "five standard deviations of a binomial"


@pytest.mark.parametrize("metric", METRICS)
def test_only_the_two_chosen_images_leave_the_pool_and_none_twice(metric: str) -> None:
    embeddings, labels = make_buffer([20] * 10)
    n_pairs = n_pairs_for(0.8, 200)  # a pool that lost all ten drawn images a round would be empty at a ratio of 0.2
    pairs = closest_pairs(embeddings, labels, n_pairs=n_pairs, metric=metric, rng=np.random.default_rng(0))
    used = np.concatenate([pairs.first_idx, pairs.second_idx])
    assert len(np.unique(used)) == 160
    assert (labels[pairs.first_idx] != labels[pairs.second_idx]).all()


def test_fewer_pairs_are_a_prefix_of_more() -> None:
    embeddings, labels = make_buffer([900, 800, 700])
    few, many = (closest_pairs(embeddings, labels, n_pairs=n, metric="l2_norm", rng=np.random.default_rng(1)) for n in (30, 700))
    assert few.first_idx.tolist() == many.first_idx[:30].tolist()
    assert few.second_idx.tolist() == many.second_idx[:30].tolist()


def test_equally_near_images_are_decided_by_the_smallest_position() -> None:
    labels = np.array([3, 2, 1, 0])
    embeddings = np.array([[1.0], [-1.0], [1.0], [0.0]], dtype=np.float32)
    firsts = {}
    for seed in range(40):
        pair = closest_pairs(embeddings, labels, n_pairs=1, metric="l1_norm", rng=np.random.default_rng(seed))
        firsts[int(pair.first_idx[0])] = int(pair.second_idx[0])
    assert firsts == {0: 2, 1: 3, 2: 0, 3: 0}, "position 3 is as near to 0, 1 and 2"


def test_distances_of_a_small_case_are_those_computed_by_hand() -> None:
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0], [6.0, 8.0]])
    assert l1_distances(vectors, 0).tolist() == [0, 7, 8, 7]
    assert l2_distances(vectors, 0).tolist() == pytest.approx([0, 5, np.sqrt(50), 5])
    assert cosine_distances(vectors, 0).tolist() == pytest.approx([0, 1, 1, 0], abs=1e-12)
    assert cosine_distances(vectors, 1).tolist() == [1, 1, 1, 1], "a zero vector is at distance 1 from everything"


@pytest.mark.parametrize("counts", [[30, 3, 2], [5, 5], [1, 60, 1, 1], [7], [1, 15_000]])
def test_a_ratio_too_large_names_the_one_that_can_be_reached_and_that_one_works(counts: list[int]) -> None:
    embeddings, labels = make_buffer(counts)
    n_images = len(labels)
    with pytest.raises(BCCPError, match=r"cp_sampling\.ratio asks for .* use cp_sampling\.ratio=([\d.]+) or less") as caught:
        closest_pairs(embeddings, labels, n_pairs=n_images, metric="l2_norm", rng=np.random.default_rng(2))
    words = str(caught.value)
    ratio = float(words.split("cp_sampling.ratio=")[1].split()[0])
    reached = int(words.split("but after ")[1].split()[0])
    assert n_pairs_for(ratio, n_images) == reached
    pairs = closest_pairs(embeddings, labels, n_pairs=reached, metric="l2_norm", rng=np.random.default_rng(2))
    assert len(pairs.distance) == reached
    with pytest.raises(BCCPError):
        closest_pairs(embeddings, labels, n_pairs=reached + 1, metric="l2_norm", rng=np.random.default_rng(2))


def test_memory_mapped_embeddings_give_the_same_pairs_and_are_left_as_they_were(tmp_path: Path) -> None:
    embeddings, labels = make_buffer([12, 9, 10])
    np.save(tmp_path / "e.npy", embeddings)
    before = embeddings.copy(), labels.copy()
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    both = [closest_pairs(e, labels, n_pairs=9, metric="cosine_similarity", rng=np.random.default_rng(4)) for e in (embeddings, mapped)]
    assert both[0].first_idx.tolist() == both[1].first_idx.tolist()
    assert both[0].distance.tolist() == both[1].distance.tolist()
    assert (embeddings == before[0]).all()
    assert (labels == before[1]).all()


def test_no_pairs_are_an_empty_sample() -> None:
    embeddings, labels = make_buffer([4, 4])
    pairs = closest_pairs(embeddings, labels, n_pairs=0, metric="l1_norm", rng=np.random.default_rng(0))
    assert isinstance(pairs, Pairs)
    assert pairs.first_idx.shape == pairs.second_idx.shape == pairs.distance.shape == (0,)


def test_an_unknown_distance_is_refused_with_the_nearest_name() -> None:
    embeddings, labels = make_buffer([4, 4])
    with pytest.raises(BCCPError, match=r"cp_sampling\.type=l2 is no distance: use one of l1_norm"):
        closest_pairs(embeddings, labels, n_pairs=1, metric="l2", rng=np.random.default_rng(0))


@pytest.mark.parametrize(("ratio", "n_images", "n_pairs"), [(0.5, 50_000, 12_500), (0.5, 3, 1), (0.01, 30, 0), (1, 7, 3), (0, 9, 0)])
def test_a_ratio_is_that_many_pairs(ratio: float, n_images: int, n_pairs: int) -> None:
    assert n_pairs_for(ratio, n_images) == n_pairs


def test_a_random_sample_has_no_image_twice_and_takes_each_as_often() -> None:
    rng = np.random.default_rng(0)
    n_trials, n_images, n_chosen = 2000, 20, 6
    seen = np.zeros(n_images)
    for _ in range(n_trials):
        chosen = random_sample(n_images, n_chosen=n_chosen, rng=rng)
        assert len(np.unique(chosen)) == n_chosen
        assert (np.diff(chosen) > 0).all()
        seen[chosen] += 1
    p = n_chosen / n_images
    assert np.abs(seen - n_trials * p).max() < 5 * np.sqrt(n_trials * p * (1 - p)), "five standard deviations of a binomial"
