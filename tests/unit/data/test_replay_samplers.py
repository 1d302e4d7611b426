"""Samplers: against slow readings of their procedures, cases worked out by hand, and their limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bccp.core.registries import SAMPLERS
from bccp.data import replay_samplers
from bccp.data.closest_pairs import DISTANCES, closest_pairs, random_sample
from bccp.data.replay_samplers import Sample, class_budgets, herd, spread
from support.buffers import make_buffer

CHOOSERS = sorted(set(SAMPLERS) - {"none", "all"})
NEED_EMBEDDINGS = sorted(name for name, entry in SAMPLERS.entries.items() if entry.needs_embeddings)


def choose(kind: str, embeddings: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], n_chosen: int, *, seed: int = 0) -> Sample:
    given = embeddings if kind in NEED_EMBEDDINGS else None
    return SAMPLERS[kind](given, labels, n_chosen=n_chosen, rng=np.random.default_rng(seed))


def scaled(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)


def slow_herd(vectors: npt.NDArray[np.floating], n_chosen: int) -> list[int]:
    unit = scaled(vectors)
    chosen: list[int] = []
    for _ in range(n_chosen):
        left = [i for i in range(len(unit)) if i not in chosen]
        chosen.append(min(left, key=lambda i: np.linalg.norm(unit.mean(axis=0) - unit[[*chosen, i]].mean(axis=0))))
    return chosen


def slow_spread(vectors: npt.NDArray[np.floating], n_chosen: int, first: int) -> list[int]:
    unit, chosen = scaled(vectors), [first]
    while len(chosen) < n_chosen:
        left = [i for i in range(len(unit)) if i not in chosen]
        chosen.append(max(left, key=lambda i: np.linalg.norm(unit[chosen] - unit[i], axis=1).min()))
    return chosen


@pytest.mark.parametrize("kind", CHOOSERS)
@pytest.mark.parametrize("n_chosen", [0, 2, 30])
def test_each_gives_so_many_images_none_twice_and_the_same_again(kind: str, n_chosen: int) -> None:
    embeddings, labels = make_buffer([20, 20, 20])
    sample = choose(kind, embeddings, labels, n_chosen)
    assert sample.image_idx.dtype == np.int64
    assert len(np.unique(sample.image_idx)) == len(sample.image_idx) == len(sample.pair) == len(sample.distance) == n_chosen
    assert sample.image_idx.tolist() == choose(kind, embeddings, labels, n_chosen).image_idx.tolist()
    made_of_pairs = kind in DISTANCES
    assert (sample.pair >= 0).all() if made_of_pairs else (sample.pair == -1).all()
    assert np.isnan(sample.distance).any() == (n_chosen > 0 and not made_of_pairs)


@pytest.mark.parametrize("kind", ["random", "class_balanced", "herding", "diverse"])
@pytest.mark.parametrize("counts", [[4, 1, 3], [7], [1]])
def test_a_whole_buffer_is_every_image(kind: str, counts: list[int]) -> None:
    embeddings, labels = make_buffer(counts)
    assert choose(kind, embeddings, labels, len(labels)).image_idx.tolist() == list(range(len(labels)))


def test_none_and_all_ignore_the_number() -> None:
    embeddings, labels = make_buffer([4, 3])
    assert choose("none", embeddings, labels, 4).image_idx.tolist() == []
    assert choose("all", embeddings, labels, 4).image_idx.tolist() == list(range(7))


def test_pairs_and_random_images_are_those_of_their_functions() -> None:
    embeddings, labels = make_buffer([9, 9, 9])
    pairs = closest_pairs(embeddings, labels, n_pairs=5, metric="l2_norm", rng=np.random.default_rng(3))
    sample = choose("l2_norm", embeddings, labels, 10, seed=3)
    for number in range(5):
        members = sample.pair == number
        assert sample.image_idx[members].tolist() == [pairs.first_idx[number], pairs.second_idx[number]]
        assert sample.distance[members].tolist() == [pairs.distance[number]] * 2
    expected = random_sample(27, n_chosen=10, rng=np.random.default_rng(3))
    assert choose("random", embeddings, labels, 10, seed=3).image_idx.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("counts", "n_chosen", "budgets"),
    [
        ([5, 5, 5], 6, [2, 2, 2]),
        ([1, 10, 10], 11, [1, 5, 5]),
        ([0, 1, 3, 90], 20, [0, 1, 3, 16]),
        ([4, 4], 8, [4, 4]),
        ([4, 9], 0, [0, 0]),
        ([6], 5, [5]),
        ([], 0, []),
    ],
)
def test_budgets_of_a_small_case_are_those_counted_by_hand(counts: list[int], n_chosen: int, budgets: list[int]) -> None:
    assert class_budgets(counts, n_chosen=n_chosen, rng=np.random.default_rng(0)).tolist() == budgets


def test_what_cannot_be_shared_evenly_goes_to_each_class_as_often() -> None:
    rng, n_trials = np.random.default_rng(0), 3000
    extra = np.zeros(4)
    for _ in range(n_trials):
        budgets = class_budgets([1, 9, 9, 9], n_chosen=9, rng=rng)
        assert budgets[0] == 1
        assert sorted(budgets[1:]) == [2, 3, 3]
        extra += budgets - [1, 2, 2, 2]
    p = 2 / 3
    assert np.abs(extra[1:] - n_trials * p).max() < 5 * np.sqrt(n_trials * p * (1 - p)), "five standard deviations of a binomial"


@pytest.mark.parametrize("kind", ["class_balanced", "herding"])
def test_classes_are_alike_as_far_as_they_reach(kind: str) -> None:
    embeddings, labels = make_buffer([3, 50, 1, 40])
    chosen = choose(kind, embeddings, labels, 24).image_idx
    assert np.bincount(labels[chosen]).tolist() == [3, 10, 1, 10]
    assert (np.diff(chosen) > 0).all()


def test_balanced_images_are_drawn_uniformly_within_the_class() -> None:
    labels, rng, n_trials = np.array([0, 1, 0, 1, 0, 0, 0]), np.random.default_rng(0), 3000
    seen = np.zeros(7)
    for _ in range(n_trials):
        seen[SAMPLERS["class_balanced"](None, labels, n_chosen=4, rng=rng).image_idx] += 1
    assert seen[labels == 1].tolist() == [n_trials] * 2
    assert np.abs(seen[labels == 0] - n_trials * 0.4).max() < 5 * np.sqrt(n_trials * 0.4 * 0.6), "five standard deviations of a binomial"


def test_herding_of_a_small_case_is_that_worked_out_by_hand() -> None:
    # unit vectors at 0°, 90°, 180° and 90° again; their mean is (0, 1/2). First (0, 1), at distance 1/2 as against √5/2. Then the mean of
    # two is (1/2, 1/2), (-1/2, 1/2) or (0, 1), all at distance 1/2: the smallest position. Then (-1, 0) leads to (0, 1/3), nearer than any.
    vectors = np.array([[2.0, 0.0], [0.0, 5.0], [-3.0, 0.0], [0.0, 1.0]])
    assert herd(vectors, n_chosen=4).tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize("gram_rows", [8192, 10])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_herding_is_the_literal_greedy_choice(gram_rows: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_samplers, "GRAM_ROWS", gram_rows)
    vectors = np.random.default_rng(1).standard_normal((60, 5)).astype(np.float32) + np.float32(shift)
    vectors[7] = 0
    assert herd(vectors, n_chosen=40).tolist() == slow_herd(vectors, 40)


def test_herding_keeps_the_mean_nearer_than_chance() -> None:
    embeddings, _ = make_buffer([400], dims=16)
    unit = scaled(embeddings)

    def off(chosen: npt.NDArray[np.int64]) -> float:
        return float(np.linalg.norm(unit[chosen].mean(axis=0) - unit.mean(axis=0)))

    by_chance = [off(random_sample(400, n_chosen=40, rng=np.random.default_rng(seed))) for seed in range(20)]
    assert off(herd(embeddings, n_chosen=40)) < min(by_chance) / 3


def test_diverse_of_a_small_case_is_that_worked_out_by_hand() -> None:
    # from 0° the farthest is 180°; then 90°, which is 90° from both (100° is 80° away); then 12°, and 100°, which is only 10° from 90°
    degrees = np.radians([0, 12, 180, 90, 100])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1) * [[1], [7], [2], [3], [0.5]]
    assert spread(vectors, n_chosen=5, first=0).tolist() == [0, 2, 3, 1, 4]


@pytest.mark.parametrize("candidates", [1024, 12, 1])
@pytest.mark.parametrize("chunk_rows", [4096, 17])
def test_diverse_is_the_literal_greedy_choice(candidates: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_samplers, "CANDIDATES", candidates)
    monkeypatch.setattr(replay_samplers, "CHUNK_ROWS", chunk_rows)
    vectors = np.random.default_rng(2).standard_normal((90, 4)).astype(np.float32)
    vectors[11] = 0
    vectors[12] *= 1e6
    assert spread(vectors, n_chosen=60, first=5).tolist() == slow_spread(vectors, 60, 5)


@pytest.mark.parametrize("candidates", [1024, 7, 1])
def test_diverse_takes_duplicates_last_and_in_order(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_samplers, "CANDIDATES", candidates)
    rng = np.random.default_rng(3)
    originals = rng.standard_normal((10, 30)).astype(np.float32)
    vectors = np.concatenate([originals, originals * 3, originals * np.float32(0.1)])
    chosen = spread(vectors, n_chosen=30, first=4).tolist()
    assert sorted(i % 10 for i in chosen[:10]) == list(range(10))
    assert chosen[10:] == sorted(chosen[10:])
    assert sorted(chosen) == list(range(30))


def test_diverse_starts_at_an_image_that_the_rng_draws() -> None:
    embeddings, labels = make_buffer([30, 30])
    firsts = {choose("diverse", embeddings, labels, 1, seed=seed).image_idx.tolist()[0] for seed in range(20)}
    assert len(firsts) > 10


@pytest.mark.parametrize("kind", ["herding", "diverse"])
def test_images_without_direction_are_chosen_without_complaint(kind: str) -> None:
    zeros = np.zeros((9, 3), dtype=np.float32)
    assert len(choose(kind, zeros, np.arange(9) % 2, 6).image_idx) == 6


@pytest.mark.parametrize("kind", ["herding", "diverse"])
def test_a_class_of_one_and_lengths_do_not_matter(kind: str) -> None:
    embeddings, labels = make_buffer([30, 1, 20])
    stretched = embeddings * np.random.default_rng(0).uniform(0.5, 20, (51, 1)).astype(np.float32)
    chosen = choose(kind, embeddings, labels, 20).image_idx.tolist()
    assert choose(kind, stretched, labels, 20).image_idx.tolist() == chosen
    if kind == "herding":
        assert int(np.flatnonzero(labels == 1)[0]) in chosen


@pytest.mark.parametrize("kind", ["herding", "diverse"])
def test_memory_mapped_embeddings_are_left_as_they_were(kind: str, tmp_path: Path) -> None:
    embeddings, labels = make_buffer([12, 9, 10])
    np.save(tmp_path / "e.npy", embeddings)
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    assert choose(kind, mapped, labels, 14).image_idx.tolist() == choose(kind, embeddings, labels, 14).image_idx.tolist()
    assert np.load(tmp_path / "e.npy").tolist() == make_buffer([12, 9, 10])[0].tolist() == embeddings.tolist()


@pytest.mark.parametrize("kind", NEED_EMBEDDINGS)
def test_embeddings_cannot_be_left_out_where_they_are_needed(kind: str) -> None:
    with pytest.raises(ValueError, match="needs embeddings"):
        SAMPLERS[kind](None, np.array([0, 1]), n_chosen=2, rng=np.random.default_rng(0))
