"""The judge with nothing trusted: what is wrong is found, what cannot be told is said, and what is right is left alone."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from bccp.labels import untrusted_judge
from bccp.labels.untrusted_judge import UntrustedJudgement, judge_skill, judge_untrusted
from bccp.models import logistic_regression
from bccp.models.logistic_regression import fit_scaling
from tests.support import plain_untrusted

K = 3


def photographs(
    n_images: int, *, seed: int = 0, n_classes: int = K, n_features: int = 8, blur: float = 1.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Two views of images, and their classes, every one of which has its share."""
    rng = np.random.default_rng(seed)
    true = np.arange(n_images) % n_classes
    centres = 2 * np.random.default_rng(99).normal(size=(n_classes, n_features))
    signal = centres[true] + blur * rng.normal(size=(n_images, n_features))
    views = [signal + 0.5 * rng.normal(size=signal.shape) for _ in range(2)]
    return [fit_scaling(view).apply(view) for view in views], true


def folds_of(n_images: int, n_folds: int = 4) -> np.ndarray:
    return np.arange(n_images) // K % n_folds


def judge(views: Sequence[np.ndarray], given: np.ndarray, n_classes: int = K, folds: np.ndarray | None = None) -> UntrustedJudgement:
    return judge_untrusted(views, given, n_classes=n_classes, folds=folds_of(len(given)) if folds is None else folds)


def flipped(true: np.ndarray, share: float, *, n_classes: int = K, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(true)) < share, (true + rng.integers(1, n_classes, len(true))) % n_classes, true)


def p_wrong(posterior: np.ndarray, given: np.ndarray) -> np.ndarray:
    return 1 - posterior[np.arange(len(given)), given]


@pytest.fixture(scope="module")
def noisy() -> tuple[list[np.ndarray], np.ndarray, np.ndarray, UntrustedJudgement]:
    views, true = photographs(240)
    given = flipped(true, 0.25)
    return views, true, given, judge(views, given)


def test_wrong_labels_are_found_and_their_share_lies_between_what_is_said(noisy):
    _, true, given, found = noisy
    wrong = p_wrong(found.posterior, given)
    assert wrong[given != true].mean() > 0.8
    assert wrong[given == true].mean() < 0.1
    assert (found.posterior.argmax(axis=1) == true).mean() > 0.92
    assert found.verdict == "found"
    assert found.at_least == pytest.approx(wrong.mean())
    assert found.at_least - 0.03 <= (given != true).mean() <= found.at_most
    for table in (found.posterior, found.uniform_posterior, found.matrix_posterior, found.probs, found.uniform_probs):
        np.testing.assert_allclose(table.sum(axis=1), 1)


def test_what_was_chosen_is_told_in_numbers_that_json_holds(noisy):
    numbers = json.loads(json.dumps(noisy[3].numbers()))
    assert numbers["verdict"] == "found"
    assert numbers["noise_model"] == "uniform"
    assert set(numbers["log_likelihoods"]) == {"uniform", "matrix"}
    assert len(numbers["settings"]) == 4


def test_uniform_noise_counts_where_the_matrix_is_refused(noisy):
    found = noisy[3]
    assert not found.matrix_accepted
    assert found.posterior is found.uniform_posterior
    np.testing.assert_array_equal(found.probs, found.uniform_probs)
    assert np.ptp(np.diag(found.noise_matrix)) == 0
    assert set(found.weights) == {0.25}


@pytest.mark.parametrize(("n_views", "confused"), [(1, False), (2, True)], ids=["one view", "two views, the next class for every fifth"])
def test_a_plain_loop_finds_the_same(monkeypatch: pytest.MonkeyPatch, confused: bool, n_views: int):
    strengths = [1e-2, 1e-3]
    monkeypatch.setattr(logistic_regression.fit_by_folds, "__kwdefaults__", {"weights": None, "strengths": strengths})
    views, true = photographs(45, n_features=3, blur=1.5)
    given = np.where(np.arange(45) % 5 == 0, (true + 1) % K, true) if confused else flipped(true, 0.2)
    folds = folds_of(45, 3)
    found = judge(views[:n_views], given, folds=folds)
    slow = plain_untrusted.judge(views[:n_views], given, K, folds, strengths)
    assert found.settings == tuple(slow.settings)
    np.testing.assert_allclose(found.uniform_posterior, slow.uniform.posterior, atol=0.01)
    np.testing.assert_allclose(found.matrix_posterior, slow.matrix.posterior, atol=0.02)
    assert found.retraining_gain == pytest.approx(slow.gain, abs=0.1)  # of 45 images
    assert found.retraining_z == pytest.approx(slow.z, abs=0.2)
    assert found.skill == pytest.approx(slow.skill, rel=0.01)
    assert not found.matrix_accepted
    assert not slow.accepted
    assert len(found.settings) == n_views + 2


def test_people_who_confuse_two_classes_are_found_by_retraining():
    views, true = photographs(600, blur=0.6)
    given = np.where(np.random.default_rng(1).random(600) < 0.3, (true + 1) % K, true)
    found = judge(views, given)
    assert found.matrix_accepted
    assert found.retraining_z > untrusted_judge.LEAST_Z
    assert found.posterior is found.matrix_posterior
    assert len(set(found.weights)) == 4
    np.testing.assert_allclose(found.noise_matrix, 0.7 * np.eye(K) + 0.3 * np.roll(np.eye(K), 1, axis=1), atol=0.1)
    assert (found.posterior.argmax(axis=1) == true).mean() > 0.95


def test_a_judge_that_confuses_two_classes_does_not_accuse_people_of_it():
    rng = np.random.default_rng(3)
    views, true = photographs(600, n_classes=4)
    alike = [np.where((true == 3)[:, None], rng.permutation(view[true == 2])[rng.integers(150, size=600)], view) for view in views]
    found = judge(alike, true, 4)  # classes 2 and 3 look the same, and all labels are right
    assert not found.matrix_accepted
    assert found.at_least < 0.03
    assert p_wrong(found.posterior, true).max() < 0.8


def test_random_labels_are_no_finding():
    views, true = photographs(240)
    found = judge(views, np.random.default_rng(2).permutation(true))
    assert found.verdict == "blind"
    assert found.skill < untrusted_judge.LEAST_SKILL


def test_of_right_labels_none_stands_out():
    views, true = photographs(240, blur=0.5)
    found = judge(views, true)
    assert found.verdict == "nothing"
    assert found.at_least < 0.01
    assert p_wrong(found.posterior, true).max() < 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_plainly_wrong_labels_of_a_small_folder_stand_out(seed: int):
    views, true = photographs(150, seed=seed, n_features=40, blur=0.3)
    given = true.copy()
    given[:15] = (true[:15] + 1 + np.arange(15) // K % 2) % K
    found = judge(views[:1], given, folds=np.arange(150) // K % 5)
    wrong = p_wrong(found.posterior, given)
    assert found.verdict == "found"
    assert 0.04 < found.at_least <= found.at_most <= 0.11
    assert set(np.argsort(-wrong)[:15]) == set(range(15))


def test_no_image_is_judged_by_its_own_label_nor_by_that_of_a_copy(noisy):
    views, _, given, before = noisy
    folds = folds_of(len(given))
    copies = [np.concatenate([view, view[:4]]) for view in views]
    labels, places = np.concatenate([given, (given[:4] + 1) % K]), np.concatenate([folds, folds[:4]])
    after = judge(copies, labels, folds=places)
    # p(z | x) of the images whose copies say otherwise moves as little as that of all others: by what four labels do to the rest
    moved = np.abs(after.uniform_probs[: len(given)] - before.uniform_probs).max(axis=1)
    assert moved[:4].max() < max(0.05, 2 * np.quantile(moved[4:], 0.99))


def test_the_order_of_the_images_does_not_matter(noisy):
    views, _, given, found = noisy
    order = np.random.default_rng(6).permutation(len(given))
    other = judge([view[order] for view in views], given[order], folds=folds_of(len(given))[order])
    np.testing.assert_allclose(other.posterior, found.posterior[order], atol=1e-4)
    assert other.settings == found.settings
    assert other.skill == pytest.approx(found.skill, rel=1e-4)


def test_the_same_again_to_the_bit(noisy):
    views, _, given, found = noisy
    assert judge(views, given).posterior.tobytes() == found.posterior.tobytes()


def test_two_classes_are_judged_too():
    views, true = photographs(160, n_classes=2)
    given = flipped(true, 0.2, n_classes=2)
    found = judge(views, given, 2)
    assert found.verdict == "found"
    assert (found.posterior.argmax(axis=1) == true).mean() > 0.95


def test_one_name_for_all_images_is_no_skill():
    views, _ = photographs(60)
    found = judge(views, np.zeros(60, np.int64), 2)
    assert found.verdict == "blind"
    assert np.isfinite(found.posterior).all()


def test_the_only_image_of_a_class_is_as_doubtful_as_any_other_and_leaves_the_rest_as_it_is(noisy):
    views, _, given, before = noisy
    odd = [np.concatenate([view, -view[:1]]) for view in views]  # the only one of its class
    found = judge(odd, np.append(given, K), K + 1, np.append(folds_of(len(given)), 0))
    assert found.taught.sum() == len(given)
    assert p_wrong(found.posterior, np.append(given, K))[-1] == pytest.approx(found.at_least)
    assert found.at_least == pytest.approx(before.at_least, abs=0.02)
    np.testing.assert_allclose(found.posterior[:-1, :K], before.posterior, atol=0.05)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    assert found.posterior.shape == found.probs.shape == (len(given) + 1, K + 1)


def test_a_class_of_two_images_is_judged_where_they_lie_in_different_folds(noisy):
    views, _, given, _ = noisy
    far = [np.concatenate([view, np.full((2, view.shape[1]), 3.0)]) for view in views]
    found = judge(far, np.append(given, [K, K]), K + 1, np.append(folds_of(len(given)), [0, 1]))
    assert found.taught.all()
    assert np.isfinite(found.posterior).all()
    assert (found.posterior[:-2].argmax(axis=1) < K).all()


def test_where_every_image_has_a_label_of_its_own_nothing_is_said():
    views, _ = photographs(12)
    found = judge(views, np.arange(12), 12)
    assert found.verdict == "blind"
    assert (found.posterior.argmax(axis=1) == np.arange(12)).all()
    assert not found.taught.any()
    assert json.loads(json.dumps(found.numbers()))["n_not_taught"] == 12


def test_skill_is_measured_beyond_the_shares_of_the_classes():
    given = np.repeat([0, 1], [90, 10])
    assert abs(judge_skill(np.tile(np.log([0.9, 0.1]), (100, 1)), given)) < 3
    assert judge_skill(np.log(0.6 * np.eye(2)[given] + 0.2), given) > 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_classes": 1, "given": np.zeros(12, np.int64)}, "at least 2"),
        ({"given": np.full(12, 3)}, "0 to 2"),
        ({"folds": np.zeros(12, np.int64)}, "at least 2"),
        ({"folds": np.arange(12) % 2 * 2}, "each of them"),
        ({"views": []}, "go together"),
    ],
    ids=["one class", "a label that is none", "one fold", "an empty fold", "no view"],
)
def test_what_cannot_be_judged_is_refused(wrong: dict, said: str):
    views, true = photographs(12)
    arguments = {"views": views, "given": true, "n_classes": K, "folds": folds_of(12)} | wrong
    with pytest.raises(ValueError, match=said):
        judge_untrusted(arguments["views"], arguments["given"], n_classes=arguments["n_classes"], folds=arguments["folds"])
