"""The Python API on arrays: scikit-learn's conventions, hand-computed values, and refusals."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from bccp.labels import calibration, posterior
from bccp.labels.label_cleaner import LabelCleaner

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
    cleaner = LabelCleaner(classes=NAMES).fit(probs, NAMES[given])
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
    cleaner = LabelCleaner(action=action, classes=NAMES).fit(probs, NAMES[given], audited=audited)
    np.testing.assert_array_equal(cleaner.is_wrong_[:120], (given != true)[:120])
    np.testing.assert_array_equal(cleaner.labels_[:120], NAMES[true[:120]])
    np.testing.assert_array_equal(cleaner.posterior_[:120], np.eye(3)[true[:120]])
    assert cleaner.kept_[:120].all()
    assert not np.array_equal(cleaner.p_wrong_[120:], LabelCleaner().fit(probs, given).p_wrong_[120:])


@pytest.mark.parametrize("action", ["soft", "relabel", "drop"])
def test_a_checked_image_of_no_class_is_dropped(action: str) -> None:
    probs, given, true = draw(300)
    cleaner = LabelCleaner(action=action, classes=NAMES).fit(probs, NAMES[given], audited={0: None, 1: NAMES[true[1]]})
    assert (cleaner.is_wrong_[0], cleaner.kept_[0], cleaner.kept_[1]) == (True, False, True)
    assert cleaner.p_wrong_[0] == pytest.approx(1)
    assert cleaner.labels_[0] == NAMES[given[0]]


def test_the_worst_by_score_are_not_taken_for_a_random_sample() -> None:
    probs, given, true = draw(800)
    before = LabelCleaner().fit(probs, given)
    assert not before.estimated_accuracy_at_most_
    worst = np.argsort(-before.p_wrong_, kind="stable")[:40]
    drawn = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(800), worst))[:150]
    right, rest = given == true, np.setdiff1d(np.arange(800), worst)
    for chosen in ("suspect", None, dict.fromkeys(worst.tolist(), "random")):  # the last is a lie that the scores give away
        cleaner = LabelCleaner().fit(probs, given, audited={i: true[i] for i in worst}, chosen=chosen)
        assert cleaner.estimated_accuracy_at_most_
        np.testing.assert_allclose(cleaner.p_wrong_[rest], before.p_wrong_[rest], atol=1e-12)
        assert cleaner.estimated_accuracy_ == pytest.approx(1 - ((~right[worst]).sum() + before.p_wrong_[rest].sum()) / 800)
    both = np.concatenate([worst, drawn])
    audited = {i: true[i] for i in both}
    mixed = LabelCleaner().fit(probs, given, audited=audited, chosen=dict.fromkeys(drawn.tolist(), "random"))
    alone = LabelCleaner().fit(probs, given, audited={i: true[i] for i in drawn}, chosen="random")
    for cleaner in (mixed, alone):
        assert not cleaner.estimated_accuracy_at_most_
        assert cleaner.estimated_accuracy_ == pytest.approx(right.mean(), abs=0.04)
    for chosen, words in (("worst", "chosen='worst': 'suspect' and 'random'"), ({700: "random"}, "chosen names the position 700")):
        with pytest.raises(ValueError, match=words):
            LabelCleaner().fit(probs, given, audited={3: true[3]}, chosen=chosen)


def test_doubtful_models_have_their_noise_taken_out():
    probs, given, true = draw()
    mixed = probs @ NOISE  # what a model says that was fitted to other labels as wrong as these
    trusting, doubting = LabelCleaner().fit(mixed, given), LabelCleaner(trusted=False).fit(mixed, given)
    expected = calibration.judge_by_trusted_model(posterior.without_noise(mixed, given), given, start=1.0, most=1.0)
    np.testing.assert_allclose(doubting.posterior_, expected.fit.posterior, atol=1e-9)
    assert not np.allclose(trusting.posterior_, doubting.posterior_)
    audited = dict(enumerate(true[:200].tolist()))
    assert LabelCleaner(trusted=False).fit(mixed, given, audited=audited).estimated_accuracy_ == pytest.approx(
        (given == true).mean(), abs=0.06
    )


@pytest.mark.parametrize(
    ("noise", "present", "most_cut"),
    [
        (np.eye(5), 5, 0.01),
        (posterior.uniform_noise(0.0, 4), 4, 1.0),
        (posterior.uniform_noise(0.7, 4), 3, 0.35),
        (posterior.uniform_noise(0.7, 2), 2, 0.35),
    ],
    ids=["no noise", "all wrong", "a class is missing", "two classes"],
)
def test_limit_cases(noise: np.ndarray, present: int, most_cut: float) -> None:
    rng, n_classes = np.random.default_rng(3), len(noise)
    probs = np.zeros((1500, n_classes))
    probs[:, :present] = rng.dirichlet(np.full(present, 0.03), 1500)
    true = (probs.cumsum(axis=1) < rng.random(1500)[:, None]).sum(axis=1).clip(max=n_classes - 1)
    true[:3], probs[:3] = n_classes - 1, np.eye(n_classes)[n_classes - 1]  # of a class that is missing otherwise, three images
    given = (noise[true].cumsum(axis=1) < rng.random(1500)[:, None]).sum(axis=1).clip(max=n_classes - 1)
    wrong = given != true
    for skipped in (0, 3):
        all_wrong = pytest.warns(UserWarning, match="below chance") if wrong.all() else nullcontext()
        with all_wrong:
            cleaner = LabelCleaner(classes=range(n_classes)).fit(probs[skipped:], given[skipped:])
        found, bad = cleaner.is_wrong_, wrong[skipped:]
        assert found.mean() <= most_cut
        assert cleaner.estimated_accuracy_ == pytest.approx(1 - bad.mean(), abs=0.03)
        if bad.any():
            assert 2 * (found & bad).sum() / (found.sum() + bad.sum()) > 0.9
        np.testing.assert_allclose(cleaner.noise_matrix_.sum(axis=1), 1)
        np.testing.assert_allclose(cleaner.posterior_.sum(axis=1), 1)


@pytest.mark.parametrize("shift", [1, None], ids=["pair", "uniform"])
def test_models_that_were_fitted_to_noise_do_not_make_the_noise_matrix_an_identity(shift: int | None) -> None:
    pixels, true = load_digits(return_X_y=True)
    rng = np.random.default_rng(4)
    given = np.where(rng.random(len(true)) < 0.3, (true + (shift or rng.integers(1, 10, len(true)))) % 10, true)
    model = LogisticRegression(C=0.1, tol=1e-2, max_iter=300)
    held_out = cross_val_predict(model, pixels / 16, given, cv=3, method="predict_proba")
    wrong = given != true
    cleaner = LabelCleaner(trusted=False).fit(held_out, given)
    # about 180 labels a class: a standard error of 0.035, and a model that is right on 78% (pair) or 89% of the images
    np.testing.assert_allclose(np.diag(cleaner.noise_matrix_), 0.7, atol=0.14)
    assert cleaner.estimated_accuracy_ == pytest.approx((~wrong).mean(), abs=0.04)
    assert 2 * (cleaner.is_wrong_ & wrong).sum() / (cleaner.is_wrong_.sum() + wrong.sum()) > 0.8
    # taken at its word, the model hides the noise that it has learnt
    assert LabelCleaner().fit(held_out, given).estimated_accuracy_ > cleaner.estimated_accuracy_ + 0.02


def bits(cleaner: LabelCleaner, order: np.ndarray | slice = np.s_[:]) -> list[bytes]:
    rows = (cleaner.posterior_, cleaner.p_wrong_, cleaner.is_wrong_, cleaner.labels_, cleaner.kept_)
    whole = (cleaner.noise_matrix_, cleaner.temperature_, cleaner.guess_share_, cleaner.cutoff_, cleaner.estimated_accuracy_)
    return [np.ascontiguousarray(part).tobytes() for part in (*(part[order] for part in rows), *whole)]


@pytest.mark.parametrize("trusted", [True, False])
def test_neither_the_order_of_images_nor_the_number_of_threads_changes_a_bit(trusted: bool) -> None:
    probs, given, true = draw(1501, seed=5)
    found = []
    for n_threads in (1, 3):
        with threadpool_limits(n_threads):
            cleaner = LabelCleaner(trusted=trusted).fit(probs, given, audited={i: true[i] for i in range(0, 1501, 8)})
            found.append(bits(cleaner))
    order = np.random.default_rng(0).permutation(1501)
    place = np.argsort(order)
    permuted = LabelCleaner(trusted=trusted).fit(probs[order], given[order], audited={int(place[i]): true[i] for i in range(0, 1501, 8)})
    assert found[0] == found[1] == bits(permuted, place)


def test_users_who_err_as_the_model_does_are_found():
    rng = np.random.default_rng(7)
    probs = rng.dirichlet(np.full(4, 0.15), 3000)
    true = (probs.cumsum(axis=1) < rng.random(3000)[:, None]).sum(axis=1).clip(max=3)
    weak = calibration.temper(probs, 3.0)  # what somebody with weaker eyes sees
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
    check_is_fitted(cleaner)
    with pytest.raises(NotFittedError):
        check_is_fitted(copy)
    named = LabelCleaner(classes=np.array([2, 1, 0]))  # an array as a parameter
    assert "array([2, 1, 0])" in repr(named)
    assert clone(named).fit(probs, given).classes_.tolist() == [2, 1, 0]


def test_tables_and_series_will_do():
    probs, given, true = draw(200)
    checked = pd.Series(NAMES[true[:9]], index=range(9))
    plain = LabelCleaner(classes=NAMES).fit(probs, NAMES[given], audited=dict(checked))
    for kind in ("str", "string", "category"):
        other = LabelCleaner(classes=NAMES).fit(pd.DataFrame(probs), pd.Series(NAMES[given], dtype=kind), audited=checked)
        np.testing.assert_array_equal(other.p_wrong_, plain.p_wrong_)
        np.testing.assert_array_equal(other.labels_, plain.labels_)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"action": "delete"}, "action='delete': 'soft', 'relabel' and 'drop'"),
        ({"cutoff": "best"}, "cutoff='best'"),
        ({"cutoff": 1.5}, "cutoff=1.5"),
        ({"cutoff": True}, "cutoff=True"),
        ({"cutoff": np.array([0.1, 0.2])}, r"cutoff=array.* 'auto' and numbers from 0 to 1"),
        ({"action": np.array(["soft", "drop"])}, "action=array.* 'soft', 'relabel' and 'drop'"),
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
        (np.eye(2) + 0.5j, ["a", "b"], None, "probs is no table of numbers .they are complex"),
        ([[0.5, 0.5]], ["a", "b"], None, "given_labels has 2 labels, probs has 1 rows"),
        ([[0.5, 0.5]] * 2, ["a", "a"], None, "there are 1 different labels"),
        ([[0.5, 0.5]] * 2, [["a", "b"]], None, "given_labels has the shape"),
        ([[0.5, 0.5]] * 2, [1.0, np.nan], None, "given_labels has nan"),
        ([[0.5, 0.5]] * 2, np.array(["a", None], object), None, "all str or all int"),
        ([[0.5, 0.5]] * 2, ["a", "b"], {2: "a"}, "audited names the position 2: 0 to 1"),
        (np.eye(2), ["a", "b"], [0, 1], r"audited=\[0, 1\] is no mapping: give a dict"),
        (np.eye(2), ["a", "b"], np.array([0, 1]), r"audited=array.* is no mapping: give a dict"),
        (np.eye(2), [0, 1], {1: 7}, "audited has the unknown label 7: given_labels has 0, 1, .* classes="),
        (np.eye(2), [0, 1], {1: "1"}, "audited has the unknown label '1': given_labels has 0, 1, "),
        (np.eye(3)[:2], [0, 1], {1: "1"}, "audited has the unknown label '1': given_labels has 0, 1, "),
    ],
)
def test_arrays_are_checked(probs: object, labels: object, audited: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelCleaner().fit(probs, labels, audited=audited)


def test_names_of_columns_are_the_labels_that_they_stand_for() -> None:
    probs, given, true = draw(300)
    plain = LabelCleaner(classes=NAMES).fit(probs, NAMES[given])
    turned = pd.DataFrame(probs, columns=NAMES)[["cat", "ant", "bee"]]
    named = LabelCleaner().fit(turned, NAMES[given], audited=None)
    assert named.classes_.tolist() == ["cat", "ant", "bee"]
    np.testing.assert_allclose(named.p_wrong_, plain.p_wrong_, atol=1e-6)
    np.testing.assert_array_equal(named.labels_, plain.labels_)
    np.testing.assert_array_equal(LabelCleaner(classes=["cat", "ant", "bee"]).fit(turned, NAMES[given]).p_wrong_, named.p_wrong_)
    only_two = LabelCleaner().fit(turned, np.array(["ant", "bee"])[np.minimum(given, 1)], audited={0: NAMES[true[0]]})
    assert only_two.classes_.tolist() == ["cat", "ant", "bee"]  # a name without labels is a class
    numbers = LabelCleaner().fit(pd.DataFrame(probs, columns=[20, 5, 10])[[10, 20, 5]], np.array([20, 5, 10])[given])
    assert numbers.classes_.tolist() == [10, 20, 5]
    np.testing.assert_allclose(numbers.p_wrong_, plain.p_wrong_, atol=1e-6)
    foreign = pd.DataFrame(probs, columns=["p_ant", "p_bee", "p_cat"])
    np.testing.assert_array_equal(LabelCleaner(classes=NAMES).fit(foreign, NAMES[given]).p_wrong_, plain.p_wrong_)


@pytest.mark.parametrize(
    ("columns", "classes", "labels", "words"),
    [
        (["p_ant", "p_bee", "p_cat"], None, NAMES, r"column names of probs \('p_ant', .*\) are not the labels \('ant', a given label"),
        (["ant", "bee", "bee"], None, ["ant", "bee", "bee"], "they are not all different"),
        (["0", "1", "2"], None, [0, 1, 2], "column names of probs .* are not the labels .0, a given label, is none of them"),
        (["cat", "bee", "ant"], ["ant", "bee", "cat"], NAMES, "classes .* contradict the column names of probs"),
        (["ant", "bee", "cow"], ["ant", "bee", "cat"], NAMES, "classes .* contradict the column names of probs"),
        (None, None, NAMES, "the labels are text .*, and their alphabetical order .* model.classes_.* DataFrame"),
        (None, None, np.array([b"a", b"b", b"c"]), "the labels are text"),
        (["ant", "bee", "cat"], None, ["ant", "bee", "cow"], "'cow', a given label, is none of them"),
    ],
)
def test_what_columns_mean_is_never_guessed(columns: list[str] | None, classes: list[str] | None, labels: object, words: str) -> None:
    probs = np.full((3, 3), 1 / 3)
    table = probs if columns is None else pd.DataFrame(probs, columns=columns)
    with pytest.raises(ValueError, match=words):
        LabelCleaner(classes=classes).fit(table, labels)


def test_rows_that_pandas_would_not_put_side_by_side_are_refused() -> None:
    probs, given, true = draw(6)
    table, labels = pd.DataFrame(probs, columns=NAMES, index=list("abcdef")), pd.Series(NAMES[given], index=list("abcdef"))
    cleaner = LabelCleaner()
    with pytest.raises(ValueError, match=r"indexes of probs and given_labels differ .first in row 0: 'a' and 'f'.*reindex\(probs.index\)"):
        cleaner.fit(table, labels[::-1])
    with pytest.raises(ValueError, match=r"differ .6 and 5 rows"):
        cleaner.fit(table, labels[:5])
    with pytest.raises(ValueError, match=r"audited is a Series, and the index of .* is not 0, 1, 2"):
        cleaner.fit(table, labels, audited=pd.Series(["ant"], index=["c"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # six images say little
        same = cleaner.fit(table, labels, audited={2: NAMES[true[2]]}).p_wrong_
        np.testing.assert_array_equal(cleaner.fit(table, labels.to_numpy(), audited={2: NAMES[true[2]]}).p_wrong_, same)
        numbered = table.reset_index(drop=True), labels.reset_index(drop=True)
        np.testing.assert_array_equal(cleaner.fit(*numbered, audited=pd.Series([NAMES[true[2]]], index=[2])).p_wrong_, same)


def test_masked_values_are_refused_and_a_mask_without_any_is_none() -> None:
    probs, given, _ = draw(50)
    masked_probs, masked_labels = np.ma.array(probs), np.ma.array(given)
    expected = LabelCleaner().fit(probs, given).p_wrong_
    np.testing.assert_array_equal(LabelCleaner().fit(masked_probs, masked_labels).p_wrong_, expected)
    masked_probs[3, 1] = masked_labels[4] = np.ma.masked
    with pytest.raises(ValueError, match="probs has 1 masked values"):
        LabelCleaner().fit(masked_probs, given)
    with pytest.raises(ValueError, match="given_labels has 1 masked values"):
        LabelCleaner().fit(probs, masked_labels)


def test_an_accuracy_below_chance_is_warned_of() -> None:
    probs, given, _ = draw(600)
    below = r"accuracy of the given labels, 0\.\d+, is below chance .1/3.: check that the columns"
    with pytest.warns(UserWarning, match=below):
        LabelCleaner(classes=["cat", "ant", "bee"]).fit(probs, NAMES[given])  # as the model's columns are not
    with pytest.warns(UserWarning, match=below):
        LabelCleaner().fit(probs[np.argsort(given, kind="stable")][::-1], np.sort(given))  # rows of other images


@pytest.mark.parametrize("trusted", [True, False])
def test_memory_is_that_of_a_few_tables_as_large_as_the_probabilities(trusted: bool) -> None:
    rng = np.random.default_rng(12)
    n_images, n_classes = 800, 100
    true = rng.integers(0, n_classes, n_images)
    probs = 0.2 * rng.dirichlet(np.full(n_classes, 0.5), n_images) + 0.8 * np.eye(n_classes)[true]
    given = np.where(rng.random(n_images) < 0.8, true, rng.integers(0, n_classes, n_images))
    tracemalloc.start()
    try:
        cleaner = LabelCleaner(classes=range(n_classes), trusted=trusted).fit(probs, given)
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cleaner.is_wrong_[given != true].mean() > 0.9
    assert highest < 8 * probs.nbytes + 20 * 8 * n_classes**2


def test_torch_is_not_needed():
    script = (
        "import sys; from bccp.labels.label_cleaner import LabelCleaner; assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)})
