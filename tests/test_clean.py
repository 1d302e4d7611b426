"""The Python API on arrays: scikit-learn's conventions, hand-computed values, and refusals."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone

from bccp import posterior
from bccp.clean import LabelCleaner

NAMES = np.array(["ant", "bee", "cat"])
NOISE = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.05, 0.15, 0.8]])


def draw(n_images: int = 3000, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(3, 0.3), n_images)
    true = (probs.cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=2)
    given = (NOISE[true].cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=2)
    return probs, given, true


def test_em_recovers_the_noise_matrix_and_the_labels_get_better():
    probs, given, true = draw()
    cleaner = LabelCleaner().fit(probs, NAMES[given])
    np.testing.assert_array_equal(cleaner.classes_, NAMES)
    np.testing.assert_allclose(cleaner.noise_matrix_, NOISE, atol=0.06)  # 1,000 labels a row, of which p tells four of five: 3 sigma
    assert cleaner.estimated_accuracy_ == pytest.approx((given == true).mean(), abs=0.03)
    assert cleaner.temperature_ == pytest.approx(1, abs=0.15)
    assert (cleaner.labels_ == NAMES[true]).mean() > (given == true).mean() + 0.1


def test_three_classes_are_what_a_hand_computes():
    probs, given, _ = draw(500)
    cleaner = LabelCleaner(max_temperature=None, max_class_ratio=None).fit(probs, given)
    powers = probs ** (1 / cleaner.temperature_)
    calibrated = powers / powers.sum(axis=1, keepdims=True)
    joint = [calibrated[0, j] * cleaner.noise_matrix_[j, given[0]] for j in range(3)]
    np.testing.assert_allclose(cleaner.posterior_[0], np.array(joint) / sum(joint), atol=1e-9)
    np.testing.assert_allclose(cleaner.p_wrong_[0], 1 - joint[given[0]] / sum(joint), atol=1e-9)
    np.testing.assert_array_equal(cleaner.is_wrong_, cleaner.p_wrong_ > cleaner.cutoff_)
    assert cleaner.cutoff_ == posterior.expected_f1_cutoff(cleaner.p_wrong_)


@pytest.mark.parametrize("action", ["soft", "relabel", "drop"])
def test_the_action_decides_about_the_labels(action: str) -> None:
    probs, given, _ = draw(600)
    cleaner = LabelCleaner(action=action, cutoff=0.3).fit(probs, given)
    best = cleaner.posterior_.argmax(axis=1)
    sure = cleaner.posterior_.max(axis=1) >= 0.5
    wrong = cleaner.is_wrong_
    assert cleaner.cutoff_ == 0.3
    assert (wrong & sure).any()
    assert (wrong & ~sure).any()
    if action == "soft":
        np.testing.assert_array_equal(cleaner.labels_, best)
        assert cleaner.kept_.all()
    elif action == "relabel":
        np.testing.assert_array_equal(cleaner.labels_, np.where(wrong & sure, best, given))
        np.testing.assert_array_equal(cleaner.kept_, ~(wrong & ~sure))
    else:
        np.testing.assert_array_equal(cleaner.labels_, given)
        np.testing.assert_array_equal(cleaner.kept_, ~wrong)


@pytest.mark.parametrize("action", ["soft", "relabel", "drop"])
def test_checked_labels_are_taken_as_true(action: str) -> None:
    probs, given, true = draw(800)
    audited = {place: NAMES[true[place]] for place in range(120)}
    cleaner = LabelCleaner(action=action).fit(probs, NAMES[given], audited=audited)
    np.testing.assert_array_equal(cleaner.is_wrong_[:120], (given != true)[:120])
    np.testing.assert_array_equal(cleaner.labels_[:120], NAMES[true[:120]])
    np.testing.assert_array_equal(cleaner.posterior_[:120], np.eye(3)[true[:120]])
    assert cleaner.kept_[:120].all()
    assert not np.array_equal(cleaner.p_wrong_[120:], LabelCleaner().fit(probs, given).p_wrong_[120:])


def test_doubtful_models_have_their_noise_taken_out():
    probs, given, true = draw()
    mixed = probs @ NOISE  # what a model says that was fitted to other labels as wrong as these
    trusting, doubting = LabelCleaner().fit(mixed, given), LabelCleaner(trusted=False).fit(mixed, given)
    expected = posterior.judge_by_trusted_model(posterior.without_noise(mixed, given), given, start=1.0, most=1.0)
    np.testing.assert_allclose(doubting.posterior_, expected.fit.posterior, atol=1e-9)
    assert not np.allclose(trusting.posterior_, doubting.posterior_)
    audited = dict(enumerate(true[:200].tolist()))
    assert LabelCleaner(trusted=False).fit(mixed, given, audited=audited).estimated_accuracy_ == pytest.approx(
        (given == true).mean(), abs=0.06
    )


def test_users_who_err_as_the_model_does_are_found():
    rng = np.random.default_rng(7)
    probs = rng.dirichlet(np.full(4, 0.15), 3000)
    true = (probs.cumsum(axis=1) < rng.random(3000)[:, None]).sum(axis=1).clip(max=3)
    weak = posterior.temper(probs, 3.0)  # what somebody with weaker eyes sees
    said = (weak.cumsum(axis=1) < rng.random(3000)[:, None]).sum(axis=1).clip(max=3)
    given = np.where(rng.random(3000) < 0.5, said, true)
    kept, free = LabelCleaner().fit(probs, given), LabelCleaner(max_temperature=None).fit(probs, given)
    wrong = given != true
    f1_kept, f1_free = (2 * (found.is_wrong_ & wrong).sum() / (found.is_wrong_.sum() + wrong.sum()) for found in (kept, free))
    assert f1_kept > 0.6
    assert f1_free < 0.2
    assert kept.guess_share_ > 0.4
    assert free.guess_share_ == 0
    assert abs(kept.estimated_accuracy_ - (~wrong).mean()) < 0.1 < free.estimated_accuracy_ - (~wrong).mean()


def test_the_guardrail_gives_labels_back():
    rng = np.random.default_rng(0)
    probs, given, _ = draw(2000)
    hard = given == 1
    probs[hard] = 0.6 * probs[hard] + 0.4 * rng.dirichlet(np.ones(3), int(hard.sum()))
    free = LabelCleaner(max_class_ratio=None).fit(probs, given)
    held = LabelCleaner(max_class_ratio=1.0).fit(probs, given)
    assert (held.is_wrong_ <= free.is_wrong_).all()
    assert held.is_wrong_.sum() < free.is_wrong_.sum()


def test_numbers_may_be_classes_and_columns_may_be_named():
    probs, given, _ = draw(300)
    numbers = LabelCleaner().fit(probs, given * 10)
    assert numbers.classes_.tolist() == [0, 10, 20]
    turned = LabelCleaner(classes=["cat", "bee", "ant"]).fit(probs[:, ::-1], NAMES[given])
    np.testing.assert_allclose(turned.p_wrong_, numbers.p_wrong_, atol=1e-4)
    assert turned.classes_.tolist() == ["cat", "bee", "ant"]
    without = LabelCleaner(classes=["ant", "bee", "cat"]).fit(probs, np.array(["ant", "bee"])[np.minimum(given, 1)])
    assert without.posterior_.shape == (300, 3)


def test_scikit_learns_conventions_hold():
    probs, given, _ = draw(200)
    cleaner = LabelCleaner(action="drop", cutoff=0.4)
    assert cleaner.get_params()["cutoff"] == 0.4
    copy = clone(cleaner).set_params(action="relabel")
    assert (copy.action, cleaner.action) == ("relabel", "drop")
    before = probs.copy(), given.copy()
    np.testing.assert_array_equal(cleaner.fit_predict(probs, given), cleaner.is_wrong_)
    assert cleaner.fit(probs, given) is cleaner
    np.testing.assert_array_equal(probs, before[0])
    np.testing.assert_array_equal(given, before[1])
    assert not hasattr(copy, "p_wrong_")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"action": "delete"}, "action='delete': 'soft', 'relabel' and 'drop'"),
        ({"cutoff": "best"}, "cutoff='best'"),
        ({"cutoff": 1.5}, "cutoff=1.5"),
        ({"cutoff": True}, "cutoff=True"),
        ({"max_class_ratio": 0.5}, "max_class_ratio=0.5"),
        ({"max_temperature": 0}, "max_temperature=0: None and numbers above 0"),
        ({"trusted": "yes"}, "trusted='yes'"),
        ({"classes": ["a", "b"]}, "classes has 2 different names"),
        ({"classes": ["ant", "bee", "cow"]}, "unknown labels .e.g. 'cat'"),
    ],
)
def test_parameters_are_checked_in_fit(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelCleaner(**options).fit(np.full((3, 3), 1 / 3), NAMES)


@pytest.mark.parametrize(
    ("probs", "labels", "audited", "words"),
    [
        ([[0.5, 0.5], [np.nan, 1]], ["a", "b"], None, "nan or infinite values, first in row 1"),
        ([[0.5, 0.5], [0.5, 0.6]], ["a", "b"], None, "row 1 sums to 1.1"),
        ([[0.5, 0.5], [-0.5, 1.5]], ["a", "b"], None, "negative values, first in row 1"),
        ([0.5, 0.5], ["a", "b"], None, "shape"),
        (np.zeros((0, 2)), [], None, "at least one row"),
        ([["x", "y"]], ["a"], None, "no table of numbers"),
        ([[0.5, 0.5]], ["a", "b"], None, "given_labels has 2 labels, probs has 1 rows"),
        ([[0.5, 0.5]] * 2, ["a", "a"], None, "there are 1 different labels"),
        ([[0.5, 0.5]] * 2, [["a", "b"]], None, "given_labels has the shape"),
        ([[0.5, 0.5]] * 2, [1.0, np.nan], None, "given_labels has nan"),
        ([[0.5, 0.5]] * 2, np.array(["a", None], object), None, "all str or all int"),
        ([[0.5, 0.5]] * 2, ["a", "b"], {2: "a"}, "audited names the position 2: 0 to 1"),
    ],
)
def test_arrays_are_checked(probs: object, labels: object, audited: dict[int, str] | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelCleaner().fit(probs, labels, audited=audited)


def test_torch_is_not_needed():
    script = "import sys; from bccp.clean import LabelCleaner; assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})
