"""Users and their votes: hand-computed values, slow loops as oracle, known users recovered, and limit cases."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from bccp.labels.annotators import Pooled, choose_user_smoothings, judge_votes, pool_votes, users_table
from bccp.labels.calibration import apply_temperature
from bccp.labels.posterior import estimate_noise_matrix, estimate_user_accuracy, uniform_noise


def draw(n_images: int, users: list[np.ndarray], *, votes: int, seed: int, spread: float = 0.3):
    """Calibrated probabilities, true labels drawn from them, and the votes of users drawn for each image."""
    rng = np.random.default_rng(seed)
    n_classes = len(users[0])
    probs = rng.dirichlet(np.full(n_classes, spread), n_images)
    true = (probs.cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=n_classes - 1)
    image = np.repeat(np.arange(n_images), votes)
    user = rng.random((n_images, len(users))).argsort(axis=1)[:, :votes].ravel()
    rows = np.stack(users)[user, true[image]]
    labels = (rows.cumsum(axis=1) < rng.random(len(rows))[:, None]).sum(axis=1).clip(max=n_classes - 1)
    return probs, true, image, user, labels


def share_right(user: np.ndarray, right: np.ndarray, n_users: int) -> np.ndarray:
    return np.bincount(user, right, minlength=n_users) / np.bincount(user, minlength=n_users)


def test_votes_multiply_as_a_hand_computes():
    # so many votes are lent that the three votes move no matrix; the accuracy that fits them best is the only unknown
    probs, image, user, labels = [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], [0, 0, 1], [0, 1, 0], [0, 1, 2]
    found = pool_votes(probs, image, user, labels, 2, smoothing=1e9, user_smoothing=1e9, matrix_smoothing=1e9)
    right = estimate_user_accuracy(np.array(probs)[image], labels)
    wrong = (1 - right) / 2
    joint = np.array([[0.5 * right * wrong, 0.3 * wrong * right, 0.2 * wrong**2], [0.2 * wrong, 0.2 * wrong, 0.6 * right]])
    np.testing.assert_allclose(found.posterior, joint / joint.sum(axis=1, keepdims=True), atol=1e-7)
    np.testing.assert_allclose(found.noise_matrix, uniform_noise(right, 3), atol=1e-7)


def test_a_round_of_em_is_what_the_slow_loops_give():
    users = [uniform_noise(a, 3) for a in (0.9, 0.6, 0.3)]
    probs, _, image, user, labels = draw(40, users, votes=2, seed=1)
    lent, by_user, by_row = 5.0, 7.0, 4.0
    accuracy = estimate_user_accuracy(probs[image], labels)
    thetas = [uniform_noise(accuracy, 3)] * 3
    for _ in range(2):
        posterior = probs.copy()
        for i, u, y in zip(image, user, labels, strict=True):
            posterior[i] *= thetas[u][:, y]
        posterior /= posterior.sum(axis=1, keepdims=True)
        counts = np.zeros((3, 3, 3))
        for i, u, y in zip(image, user, labels, strict=True):
            counts[u, :, y] += posterior[i]
        total = counts.sum(axis=0) + lent * uniform_noise(accuracy, 3)
        pooled, share = total / total.sum(axis=1, keepdims=True), total.sum(axis=1) / total.sum()
        thetas, accuracies = [], []
        for u in range(3):
            seen = counts[u].sum(axis=1) + by_user * share
            goal = np.trace(counts[u]) + by_user * (share * np.diag(pooled)).sum()
            grid = np.linspace(-6, 6, 200_001)[:, None]
            odds = np.diag(pooled) / (1 - np.diag(pooled)) * np.exp(grid)
            best = int(np.abs((seen * odds / (1 + odds)).sum(axis=1) - goal).argmin())
            chance = odds[best] / (1 + odds[best])
            mean = pooled * ((1 - chance) / (1 - np.diag(pooled)))[:, None]
            mean[np.diag_indices(3)] = chance
            matrix = counts[u] + by_row * mean
            thetas.append(matrix / matrix.sum(axis=1, keepdims=True))
            accuracies.append(goal / seen.sum())
    found = pool_votes(probs, image, user, labels, 3, smoothing=lent, user_smoothing=by_user, matrix_smoothing=by_row, max_iter=2)
    np.testing.assert_allclose(found.posterior, posterior, atol=1e-4)
    np.testing.assert_allclose(found.noise_matrix, pooled, atol=1e-4)
    np.testing.assert_allclose(found.accuracy, accuracies, atol=1e-4)


def test_accuracies_and_truth_are_recovered_from_good_careless_and_hostile_users():
    accuracies = [0.95, 0.8, 0.6, 0.3, 0.0]
    probs, true, image, user, labels = draw(4000, [uniform_noise(a, 5) for a in accuracies], votes=3, seed=2)
    found = pool_votes(probs, image, user, labels, 5)
    realised = share_right(user, labels == true[image], 5)
    np.testing.assert_allclose(found.accuracy, realised, atol=0.02)  # about 2400 votes each: sampling error 0.01
    votes = np.zeros((4000, 5))
    np.add.at(votes, (image, labels), 1)
    assert (found.posterior.argmax(axis=1) == true).mean() > max(
        (votes.argmax(axis=1) == true).mean(), (probs.argmax(axis=1) == true).mean()
    )


def test_intervals_hold_the_accuracy_19_times_of_20():
    rng = np.random.default_rng(3)
    accuracies = rng.beta(8, 2, 400)
    probs, _, image, user, labels = draw(4000, [uniform_noise(a, 4) for a in accuracies], votes=3, seed=3)  # 30 votes each
    found = pool_votes(probs, image, user, labels, 400, user_smoothing=10)
    covered = ((found.low <= accuracies) & (accuracies <= found.high)).mean()
    assert 0.92 <= covered <= 0.985  # 0.95 with a sampling error of 0.011
    assert np.all((found.low >= 0) & (found.low < found.accuracy) & (found.accuracy < found.high) & (found.high <= 1))


def test_a_user_who_calls_one_class_another_is_understood():
    wolf = uniform_noise(0.9, 4)
    wolf[1] = [0.0, 0.02, 0.98, 0.0]
    probs, true, image, user, labels = draw(3000, [uniform_noise(0.9, 4)] * 3 + [wolf], votes=1, seed=4, spread=1.0)
    own = pool_votes(probs, image, user, labels, 4, matrix_smoothing=10).posterior
    alike = pool_votes(probs, image, user, labels, 4, matrix_smoothing=1e6).posterior
    asked = (user == 3) & (labels == 2)  # one vote an image
    assert own[asked, true[asked]].mean() > alike[asked, true[asked]].mean() + 0.05
    _, by_matrix = choose_user_smoothings(probs, image, user, labels, 4)
    assert by_matrix <= 30


def test_users_alike_are_taken_for_alike():
    probs, _, image, user, labels = draw(1500, [uniform_noise(0.7, 4)] * 50, votes=2, seed=5)
    assert choose_user_smoothings(probs, image, user, labels, 50)[0] >= 100


def test_users_unlike_are_told_apart():
    probs, _, image, user, labels = draw(1500, [uniform_noise(0.95, 4), uniform_noise(0.3, 4)] * 25, votes=2, seed=6)
    assert choose_user_smoothings(probs, image, user, labels, 50)[0] <= 30


def test_one_user_gives_what_the_single_noise_matrix_gives():
    probs, _, image, user, labels = draw(3000, [uniform_noise(0.7, 4)], votes=1, seed=7)
    found, single = pool_votes(probs, image, user, labels, 1), estimate_noise_matrix(probs, labels)
    np.testing.assert_allclose(found.noise_matrix, single.noise_matrix, atol=5e-3)
    np.testing.assert_allclose(found.posterior, single.posterior, atol=2e-2)


def test_images_and_users_without_votes_stay_what_they_were():
    probs, _, image, user, labels = draw(500, [uniform_noise(0.8, 3)] * 2, votes=1, seed=8)
    longer = np.concatenate([probs, [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]])
    found, without = pool_votes(longer, image, user, labels, 3), pool_votes(probs, image, user, labels, 2)
    np.testing.assert_array_equal(found.posterior[-2:], longer[-2:])
    np.testing.assert_allclose(found.posterior[:-2], without.posterior, atol=1e-9)
    assert found.n_votes.tolist() == [*without.n_votes.tolist(), 0]
    assert found.low[2] < found.accuracy[2] < found.high[2]
    assert found.high[2] - found.low[2] > 0.2
    average = np.average(found.accuracy[:2], weights=found.n_votes[:2])
    assert found.accuracy[2] == pytest.approx(average, abs=0.02)


@pytest.mark.parametrize("n_images", [0, 3])
def test_no_votes_at_all_leave_the_classifier_alone(n_images: int):
    probs, nothing = np.full((n_images, 2), 0.5), np.zeros(0, np.int64)
    found = pool_votes(probs, nothing, nothing, nothing, 2)
    np.testing.assert_array_equal(found.posterior, probs)
    np.testing.assert_allclose(found.accuracy, 0.5)


def test_two_classes_and_a_hostile_user_are_enough():
    probs, true, image, user, labels = draw(2000, [uniform_noise(0.8, 2), uniform_noise(0.1, 2)], votes=2, seed=9)
    found = pool_votes(probs, image, user, labels, 2)
    np.testing.assert_allclose(found.accuracy, share_right(user, labels == true[image], 2), atol=0.02)
    assert (found.posterior.argmax(axis=1) == true).mean() > 0.9


def test_certain_probabilities_give_finite_numbers():
    probs = np.eye(3)[[0, 1, 2, 0]]
    found = pool_votes(probs, [0, 1, 2, 3, 3], [0, 0, 1, 0, 1], [0, 2, 2, 1, 1], 2)
    assert all(np.isfinite(part).all() for part in (found.posterior, found.noise_matrix, found.accuracy, found.low, found.high))
    assert np.isfinite(found.left_out_likelihood)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)


def everything(found: Pooled) -> list[bytes]:
    numbers = (found.noise_matrix, found.accuracy, found.low, found.high, found.n_votes, np.array(found.left_out_likelihood))
    return [np.ascontiguousarray(part).tobytes() for part in numbers]


def test_the_order_of_votes_and_images_changes_not_a_bit():
    users = [uniform_noise(a, 4) for a in (0.9, 0.7, 0.5)]
    probs, _, image, user, labels = draw(600, users, votes=2, seed=10)
    probs[100:400] = probs[100]  # told apart by their votes alone
    found = pool_votes(probs, image, user, labels, 3)
    rng = np.random.default_rng(0)
    votes, images = rng.permutation(len(image)), rng.permutation(600)
    place = np.argsort(images)
    moved = pool_votes(probs[images], place[image[votes]], user[votes], labels[votes], 3)
    assert everything(moved) == everything(found)
    np.testing.assert_array_equal(moved.posterior, found.posterior[images])


def test_inputs_are_not_modified():
    probs, _, image, user, labels = draw(50, [uniform_noise(0.7, 3)], votes=1, seed=11)
    before = [part.copy() for part in (probs, image, user, labels)]
    pool_votes(probs, image, user, labels, 1)
    for part, kept in zip((probs, image, user, labels), before, strict=True):
        np.testing.assert_array_equal(part, kept)


def test_thousands_of_users_with_few_votes_and_many_classes_take_little_memory():
    rng = np.random.default_rng(12)
    n_images, n_classes, n_users = 4000, 100, 5000  # a matrix each would take 400 MB
    probs = rng.dirichlet(np.full(n_classes, 0.05), n_images)
    image, user, labels = (
        np.repeat(np.arange(n_images), 2),
        rng.integers(0, n_users, 2 * n_images),
        rng.integers(0, n_classes, 2 * n_images),
    )
    tracemalloc.start()
    pool_votes(probs, image, user, labels, n_users, max_iter=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


def test_a_few_votes_stay_near_the_average_and_many_do_not():
    probs, true, image, user, labels = draw(3000, [uniform_noise(0.8, 3)] * 2, votes=1, seed=13)
    # user 2 is always wrong: on two images, then on all
    wrong = (true + 1) % 3
    few = pool_votes(probs, [*image, 0, 1], [*user, 2, 2], [*labels, *wrong[:2]], 3, user_smoothing=30)
    many = pool_votes(probs, [*image, *range(3000)], [*user, *[2] * 3000], [*labels, *wrong], 3, user_smoothing=30)
    assert few.accuracy[2] > 0.7
    assert many.accuracy[2] < 0.05


def test_votes_choose_the_temperature_of_an_overconfident_classifier():
    probs, true, image, user, labels = draw(3000, [uniform_noise(a, 4) for a in (0.9, 0.7, 0.6)], votes=2, seed=14)
    sharp = apply_temperature(np.log(probs), 0.5)
    judged = judge_votes(sharp, image, user, labels, 3, start=1.0)
    assert judged.temperature == pytest.approx(2.0, abs=0.3)
    np.testing.assert_allclose(judged.pooled.accuracy, share_right(user, labels == true[image], 3), atol=0.02)
    assert judged.smoothing in (3.0, 10.0, 30.0, 100.0, 1000.0)


def test_the_report_is_sorted_by_user():
    pooled = pool_votes(np.full((2, 2), 0.5), [0, 1, 1], [1, 1, 0], [0, 1, 1], 2)
    table = users_table(["zoe", "NA"], pooled)
    assert table.columns.tolist() == ["user", "votes", "estimated_accuracy", "low", "high"]
    assert table["user"].tolist() == ["NA", "zoe"]
    assert table["votes"].tolist() == [2, 1]
    assert table["estimated_accuracy"].tolist() == pooled.accuracy[::-1].tolist()


@pytest.mark.parametrize(
    ("votes", "options", "message"),
    [
        (([0, 2], [0, 0], [0, 1]), {}, "image_idx runs from 0 to 2: 0 to 1 are accepted"),
        (([0, 1], [0, 3], [0, 1]), {}, "user_idx runs from 0 to 3: 0 to 0 are accepted"),
        (([0, 1], [0, 0], [-1, 1]), {}, "labels runs from -1 to 1: 0 to 1 are accepted"),
        (([0, 1], [0], [0, 1]), {}, "must have one item a vote"),
        (([0], [0], [0]), {"user_smoothing": 0.0}, "user_smoothing=0.0 must be above 0"),
    ],
)
def test_bad_arguments_are_named(votes, options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        pool_votes([[0.5, 0.5], [0.5, 0.5]], *votes, 1, **options)
