"""Given labels: noise of the right rate, drawn once for each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bccp.core.errors import BCCPError
from bccp.labels import feedback, noisy_labels

ABC = ["a", "b", "c"]


def test_uniform_noise_goes_to_all_other_classes_alike() -> None:
    matrix = noisy_labels.noise_matrix("uniform", user_accuracy=0.7, classes=ABC)
    np.testing.assert_allclose(matrix, [[0.7, 0.15, 0.15], [0.15, 0.7, 0.15], [0.15, 0.15, 0.7]])


def test_pair_noise_goes_to_the_next_class_and_from_the_last_to_the_first() -> None:
    matrix = noisy_labels.noise_matrix("pair", user_accuracy=0.6, classes=ABC)
    np.testing.assert_allclose(matrix, [[0.6, 0.4, 0], [0, 0.6, 0.4], [0.4, 0, 0.6]])


def test_a_matrix_stands_for_itself_whatever_the_accuracy() -> None:
    rows = [[0.9, 0.1, 0], [0, 1, 0], [0.25, 0.25, 0.5]]
    np.testing.assert_array_equal(noisy_labels.noise_matrix(rows, user_accuracy=0.1, classes=ABC), rows)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], "has 2 rows, but there are 3 classes"),
        ([[1, 0, 0], [0, 1], [0, 0, 1]], "the row of the true class 'b'"),
        ([[1, 0, 0], [0, 1, 0], [0.5, 0.6, -0.1]], "the row of the true class 'c'"),
        ([[0.9, 0.1, 0.00001], [0, 1, 0], [0, 0, 1]], "the row of the true class 'a'"),
        ([[1, 0, 0], [0, 1, 0], [0, float("nan"), 1]], "the row of the true class 'c'"),
        ("uniformly", "noisy_labels.noise=uniformly is unknown: use uniform, pair"),
    ],
)
def test_a_noise_that_is_none_is_refused_by_name(noise: Any, words: str) -> None:
    with pytest.raises(BCCPError) as caught:
        noisy_labels.noise_matrix(noise, user_accuracy=0.7, classes=ABC)
    assert words in str(caught.value)


def test_a_matrix_may_be_off_by_rounding() -> None:
    third = [round(1 / 3, 7)] * 3
    noisy_labels.noise_matrix([third] * 3, user_accuracy=0.7, classes=ABC)


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.7, 1.0])
def test_the_share_of_right_labels_is_the_accuracy(accuracy: float) -> None:
    n, n_classes = 6000, 4
    true_labels = np.arange(n) % n_classes
    matrix = noisy_labels.noise_matrix("uniform", user_accuracy=accuracy, classes=list("abcd"))
    given = noisy_labels.draw_labels(true_labels, [str(i) for i in range(n)], matrix, seed=5)
    # five standard deviations of a binomial count
    assert abs((given == true_labels).sum() - n * accuracy) <= 5 * np.sqrt(n * accuracy * (1 - accuracy))
    wrong = (given - true_labels)[given != true_labels] % n_classes
    if len(wrong):
        each = np.bincount(wrong, minlength=n_classes)
        assert each[0] == 0
        assert (np.abs(each[1:] - len(wrong) / 3) <= 5 * np.sqrt(len(wrong) * 2 / 9)).all()


def test_pair_noise_gives_the_next_class_or_the_right_one() -> None:
    true_labels = np.arange(900) % 3
    matrix = noisy_labels.noise_matrix("pair", user_accuracy=0.5, classes=ABC)
    given = noisy_labels.draw_labels(true_labels, [str(i) for i in range(900)], matrix, seed=0)
    assert set(np.unique((given - true_labels) % 3)) == {0, 1}
    assert ((true_labels == 2) & (given == 0)).any()


def test_every_entry_of_a_matrix_is_met_and_an_impossible_label_never_given() -> None:
    matrix = np.array([[0.0, 1.0, 0.0], [0.2, 0.5, 0.3], [0.0, 0.6, 0.4]])
    n = 3000
    for j in range(3):
        given = noisy_labels.draw_labels(np.full(n, j), [f"{j}/{i}" for i in range(n)], matrix, seed=1)
        shares = np.bincount(given, minlength=3) / n
        assert (np.abs(shares - matrix[j]) <= 5 * np.sqrt(matrix[j] * (1 - matrix[j]) / n)).all()


def test_an_images_noise_depends_on_the_seed_and_its_id_alone() -> None:
    ids, true_labels = [f"{i}.png" for i in range(500)], np.arange(500) % 3
    matrix = noisy_labels.noise_matrix("uniform", user_accuracy=0.5, classes=ABC)
    given = noisy_labels.draw_labels(true_labels, ids, matrix, seed=7)
    order = np.random.default_rng(0).permutation(500)[:200]
    some = noisy_labels.draw_labels(true_labels[order], [ids[i] for i in order], matrix, seed=7)
    np.testing.assert_array_equal(some, given[order])
    assert (noisy_labels.draw_labels(true_labels, ids, matrix, seed=8) != given).any()


def test_what_is_wrong_at_a_high_accuracy_is_wrong_at_a_lower_one() -> None:
    ids, true_labels = [str(i) for i in range(2000)], np.arange(2000) % 3
    wrong = {}
    for accuracy in (0.9, 0.6):
        matrix = noisy_labels.noise_matrix("uniform", user_accuracy=accuracy, classes=ABC)
        wrong[accuracy] = noisy_labels.draw_labels(true_labels, ids, matrix, seed=0) != true_labels
    assert (wrong[0.6] | ~wrong[0.9]).all()
    assert wrong[0.6].sum() > wrong[0.9].sum() > 0


def test_votes_on_other_images_are_named_and_not_used() -> None:
    votes = {("new", "ann"): "a", ("new", "bob"): "b", ("new", "cy"): "b", ("old", "ann"): "a", ("gone", "ann"): "b"}
    said = feedback.Feedback(votes, frozenset(image for image, _ in votes), 5, {"repeated": []}, has_users=True)
    settled = noisy_labels.resolve_votes(said, doubtful=["new", "silent"], in_splits=["new", "silent", "old"], seed=0)
    assert settled.labels == {"new": "b"}
    assert set(settled.votes) == {("new", "ann"), ("new", "bob"), ("new", "cy")}
    assert settled.problems == {"repeated": [], "trusted_image": ["old"], "left_out_image": ["gone"]}


def make_pictures(n: int, *, n_classes: int = 3, size: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images of flat colour, a class's own or, for every other image, mixed half and half with the next class's."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    colours = rng.integers(30, 226, (n_classes, 3))
    share = np.where(np.arange(n) // n_classes % 2, 0.5, 1.0)[:, None]
    mixed = share * colours[labels] + (1 - share) * colours[(labels + 1) % n_classes]
    pixels = mixed[:, None, None, :] + rng.normal(0, 20, (n, size, size, 3)) + rng.normal(0, 12, (n, 1, 1, 3))
    return pixels.clip(0, 255).astype(np.uint8), labels, [f"{i:05d}.png" for i in range(n)]


def test_chances_of_a_small_case_are_those_worked_out_by_hand() -> None:
    probs = np.array([[0.8, 0.1, 0.1], [0.4, 0.2, 0.4]])
    np.testing.assert_allclose(noisy_labels.confusions(probs, [0, 0], user_accuracy=0.8), [[0.9, 0.05, 0.05], [0.7, 0.1, 0.2]])
    # doubts 0.2 and 0.6 with a mean of 0.7: the second is sure to be wrong, c = 2 gives the first 0.4
    np.testing.assert_allclose(noisy_labels.confusions(probs, [0, 0], user_accuracy=0.3), [[0.6, 0.2, 0.2], [0, 1 / 3, 2 / 3]])


@pytest.mark.parametrize("accuracy", [0.0, 0.001, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize(("n", "n_classes"), [(1, 2), (2, 2), (500, 2), (500, 5)])
def test_the_chances_of_wrong_labels_have_the_mean_that_is_asked_for(accuracy: float, n: int, n_classes: int) -> None:
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.full(n_classes, 0.2), n) * 0.99 + 0.01 / n_classes, rng.integers(0, n_classes, n)
    chances = noisy_labels.confusions(probs, labels, user_accuracy=accuracy)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert (chances >= 0).all()
    assert 1 - chances[np.arange(n), labels].mean() == pytest.approx(1 - accuracy, abs=1e-9)
    lower = noisy_labels.confusions(probs, labels, user_accuracy=accuracy / 2)
    assert (lower[np.arange(n), labels] <= chances[np.arange(n), labels] + 1e-12).all()


def test_a_label_drawn_from_its_own_chances_is_drawn_as_from_a_matrix() -> None:
    ids, true_labels = [str(i) for i in range(600)], np.arange(600) % 3
    matrix = np.array([[0.5, 0.2, 0.3], [0.0, 0.6, 0.4], [1.0, 0.0, 0.0]])
    own = noisy_labels.draw_from(matrix[true_labels], true_labels, ids, seed=3)
    np.testing.assert_array_equal(own, noisy_labels.draw_labels(true_labels, ids, matrix, seed=3))


def test_thumbnails_are_averages_over_cells_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 24, 3), dtype=np.uint8)
    by_hand = pixels.reshape(7, 8, 2, 8, 3, 3).mean(axis=(2, 4)).reshape(7, -1) / 255
    np.testing.assert_allclose(noisy_labels.thumbnails(pixels), by_hand, atol=1e-6)
    monkeypatch.setattr(noisy_labels, "NOISE_CHUNK_BYTES", 3000)
    np.testing.assert_allclose(noisy_labels.thumbnails(pixels), by_hand, atol=1e-6)
    assert noisy_labels.thumbnails(pixels[:, :5, :5]).shape == (7, 75)
    uneven = noisy_labels.thumbnails(np.full((1, 19, 9, 3), 51, dtype=np.uint8))
    np.testing.assert_allclose(uneven, np.full((1, 192), 0.2), atol=1e-6)


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 0.7, 0.9, 1.0])
def test_errors_are_as_many_as_asked_for_and_where_images_are_unclear(accuracy: float) -> None:
    pixels, labels, ids = make_pictures(1200)
    probs = noisy_labels.weak_probs(pixels, labels, ids, n_classes=3, seed=0)
    chances = noisy_labels.confusions(probs, labels, user_accuracy=accuracy)
    given = noisy_labels.draw_from(chances, labels, ids, seed=0)
    wrong = given != labels
    assert abs(wrong.sum() - 1200 * (1 - accuracy)) <= 5 * np.sqrt(1200 * accuracy * (1 - accuracy)), "of a binomial, or narrower"
    if 0.5 <= accuracy < 1:
        mixed = np.arange(1200) // 3 % 2 == 1
        assert wrong[mixed].mean() > 1.5 * wrong[~mixed].mean()
        assert ((given - labels)[wrong & mixed] % 3 == 1).mean() > 0.6, "mixed with the next class, where chance is one in two"


def test_an_image_is_judged_by_a_model_that_has_not_learnt_from_it() -> None:
    pixels, labels, ids = make_pictures(300)
    probs = noisy_labels.weak_probs(pixels, labels, ids, n_classes=3, seed=0)
    for position in (0, 7):
        changed = labels.copy()
        changed[position] = (changed[position] + 1) % 3
        again = noisy_labels.weak_probs(pixels, changed, ids, n_classes=3, seed=0)
        np.testing.assert_array_equal(again[position], probs[position])
        assert (again != probs).any()


def test_the_order_of_the_images_and_the_number_learnt_from_change_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels, ids = make_pictures(400)
    truth = {image: "abc"[k] for image, k in zip(ids, labels, strict=True)}
    options = {"noise": "confusions", "user_accuracy": 0.6, "classes": ABC, "seed": 4}
    given = noisy_labels.simulate(truth, images=pixels, **options)
    order = np.random.default_rng(0).permutation(400)
    turned = noisy_labels.simulate({ids[i]: truth[ids[i]] for i in order}, images=pixels[order], **options)
    assert turned == given
    assert noisy_labels.simulate(truth, images=pixels, **options | {"seed": 5}) != given
    monkeypatch.setattr(noisy_labels, "FIT_IMAGES", 100)
    fewer = noisy_labels.simulate(truth, images=pixels, **options)
    assert np.mean([fewer[image] == given[image] for image in ids]) > 0.9, "the draws are the images' own"


@pytest.mark.parametrize("labels", [[1], [0, 1], [2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 1], [0, 1, 2, 0, 1, 2]])
@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_tiny_classes_and_single_images_get_labels_too(labels: list[int], accuracy: float) -> None:
    pixels = np.full((len(labels), 4, 4, 3), 7, dtype=np.uint8)
    truth = {str(i): ABC[k] for i, k in enumerate(labels)}
    given = noisy_labels.simulate(truth, noise="confusions", user_accuracy=accuracy, classes=ABC, seed=0, images=pixels)
    right = np.mean([given[image] == truth[image] for image in truth])
    assert list(given) == list(truth)
    assert accuracy == 0.5 or right == accuracy
