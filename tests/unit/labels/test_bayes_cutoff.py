"""Scores, cut-offs, decisions and their metrics."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bccp.core.errors import BCCPError
from bccp.data.dataset import open_days
from bccp.labels import bayes_cutoff, mc_dropout
from bccp.models import classifier
from support.judged_data import make_data

CLASSES = ["a", "b", "c"]
POSTERIOR = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.4, 0.3, 0.3], [0.55, 0.45, 0.0]])


def decide(action: str, above: list[bool], posterior: np.ndarray | None = POSTERIOR) -> bayes_cutoff.Decision:
    score = [0.1, 0.8, 0.6, 0.45]
    return bayes_cutoff.decide(list("wxyz"), [0, 0, 0, 0], CLASSES, score=score, above=above, action=action, posterior=posterior)


def test_scores_of_two_passes_over_three_classes_are_what_a_hand_computes():
    # pass 1: (1/2, 1/4, 1/4), pass 2: (1/4, 1/2, 1/4), each with an entropy of 3/2 log 2; sums of logits 0 and 6
    shift = np.log(32) / 3
    logits = np.array([[np.log([1 / 2, 1 / 4, 1 / 4]) + shift], [np.log([1 / 4, 1 / 2, 1 / 4]) + shift + 2]])
    found = bayes_cutoff.summarise(logits)
    np.testing.assert_allclose(found.mean_probs, [[3 / 8, 3 / 8, 1 / 4]])
    np.testing.assert_allclose(found.logit_variance, [9])
    entropy = -(3 / 4 * np.log(3 / 8) + 1 / 4 * np.log(1 / 4))
    np.testing.assert_allclose(found.predictive_entropy, [entropy])
    np.testing.assert_allclose(found.mutual_information, [entropy - 1.5 * np.log(2)])


def test_scores_are_what_the_slow_loops_give():
    logits = np.random.default_rng(0).normal(0, 3, (5, 7, 4))
    found = bayes_cutoff.summarise(logits)
    for i in range(7):
        probs = [np.exp(one[i]) / np.exp(one[i]).sum() for one in logits]
        mean = sum(probs) / 5
        sums = [one[i].sum() for one in logits]
        assert found.logit_variance[i] == pytest.approx(sum((s - sum(sums) / 5) ** 2 for s in sums) / 5)
        assert found.predictive_entropy[i] == pytest.approx(-sum(p * np.log(p) for p in mean))
        inner = sum(-sum(p * np.log(p) for p in one) for one in probs) / 5
        assert found.mutual_information[i] == pytest.approx(found.predictive_entropy[i] - inner)


def test_equal_passes_differ_in_nothing_and_certainty_has_no_entropy():
    found = bayes_cutoff.summarise(np.full((3, 2, 2), [0.0, -2000.0]))
    np.testing.assert_array_equal(found.logit_variance, 0)
    np.testing.assert_array_equal(found.mutual_information, 0)
    np.testing.assert_array_equal(found.predictive_entropy, 0)


def test_percentile_and_threshold_cut_strictly_above():
    scores = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert bayes_cutoff.cut_off(scores, "percentile", percentile=75, threshold=0.0) == pytest.approx(0.3)
    assert bayes_cutoff.cut_off(scores, "threshold", percentile=75, threshold=0.25) == 0.25
    assert bayes_cutoff.cut_off([1.0, 0.0], "auto", percentile=75, threshold=0.9) == 0.5
    equal = np.ones(4)
    assert not (equal > bayes_cutoff.cut_off(equal, "percentile", percentile=50, threshold=0.0)).any()


def test_methods_without_a_posterior_say_what_they_do_instead():
    assert bayes_cutoff.plan_cutoff("label_posterior", "auto", "soft") == ("auto", "soft", "")
    assert bayes_cutoff.plan_cutoff("logit_variance", "percentile", "drop") == ("percentile", "drop", "")
    replaced = bayes_cutoff.plan_cutoff("mutual_information", "auto", "soft")
    assert replaced[:2] == ("percentile", "drop")
    assert replaced.note == "mutual_information has no posterior: auto becomes percentile and soft becomes drop"
    assert bayes_cutoff.plan_cutoff("cleanlab", "auto", "soft") == ("auto", "drop", "cleanlab has no posterior: soft becomes drop")


@pytest.mark.parametrize("method", [*bayes_cutoff.UNCERTAINTIES, "cleanlab"])
def test_methods_without_a_posterior_refuse_what_needs_one(method):
    with pytest.raises(BCCPError, match=rf"cutoff=threshold .*\.method={method} "):
        bayes_cutoff.plan_cutoff(method, "threshold", "drop")
    with pytest.raises(BCCPError, match=rf"action=relabel .*\.method={method} "):
        bayes_cutoff.plan_cutoff(method, "auto", "relabel")


def test_soft_trains_every_image_on_its_posterior():
    table, targets, _ = decide("soft", [False, True, True, False])
    np.testing.assert_array_equal(targets, POSTERIOR.astype(np.float32))
    assert targets.dtype == np.float32
    assert table["action"].tolist() == ["soften"] * 4
    assert table["final_label"].tolist() == ["a", "b", "a", "a"]
    assert table["weight"].tolist() == [1.0] * 4
    assert table["above_cutoff"].tolist() == [False, True, True, False]
    np.testing.assert_allclose(table["p_wrong"].astype(float), [0.1, 0.8, 0.6, 0.45])
    assert list(table) == ["image", "given_label", "score", "p_wrong", "above_cutoff", "action", "final_label", "weight"]


def test_relabel_takes_the_likeliest_class_only_where_it_is_likely():
    table, targets, _ = decide("relabel", [False, True, True, True])
    # 0.7 for b; nothing reaches a half; the given class itself has 0.55
    assert table["action"].tolist() == ["keep", "relabel", "drop", "keep"]
    assert table["final_label"].tolist() == ["a", "b", "", "a"]
    assert table["weight"].tolist() == [1.0, 1.0, 0.0, 1.0]
    np.testing.assert_array_equal(targets, np.eye(3)[[0, 1, 0, 0]])


@pytest.mark.parametrize("posterior", [POSTERIOR, None])
def test_drop_keeps_the_rest_as_given(posterior):
    table, targets, _ = decide("drop", [False, True, False, False], posterior)
    assert table["action"].tolist() == ["keep", "drop", "keep", "keep"]
    assert table["weight"].tolist() == [1.0, 0.0, 1.0, 1.0]
    np.testing.assert_array_equal(targets, np.eye(3)[[0, 0, 0, 0]])
    assert (table["p_wrong"].tolist() == [""] * 4) == (posterior is None)


@pytest.mark.parametrize("action", ["soft", "relabel", "drop"])
def test_images_of_no_class_are_dropped_whatever_the_action(action):
    given = POSTERIOR.argmin(axis=1)
    foreign = [False, True, False, True]
    table, targets, _ = bayes_cutoff.decide(
        list("wxyz"), given, CLASSES, score=[0.1] * 4, above=[False] * 4, action=action, posterior=POSTERIOR, no_class=foreign
    )
    assert (table["action"] == "drop").tolist() == foreign == table["above_cutoff"].tolist()
    assert table["final_label"][[1, 3]].tolist() == ["", ""]
    assert table["weight"].tolist() == [1.0, 0.0, 1.0, 0.0]
    np.testing.assert_array_equal(targets[[1, 3]], np.eye(len(CLASSES), dtype=np.float32)[given[[1, 3]]])


def test_without_a_posterior_nothing_can_be_softened():
    with pytest.raises(ValueError, match="action=soft needs a posterior"):
        decide("soft", [True] * 4, None)


def test_auroc_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(1)
    for n_levels in (2, 5, 1000):
        score, wrong = rng.integers(0, n_levels, 300) / n_levels, rng.random(300) < 0.3
        assert bayes_cutoff.auroc(score, wrong) == pytest.approx(roc_auc_score(wrong, score), abs=1e-12)
    assert bayes_cutoff.auroc([0.1, 0.2], [False, True]) == 1.0
    assert bayes_cutoff.auroc([1, 1, 1], [False, True, True]) == 0.5


def test_detection_metrics_of_six_labels():
    given, true = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 2]
    above, score = [False, True, True, False, True, False], [0.1, 0.7, 0.9, 0.2, 0.8, 0.3]
    found = bayes_cutoff.detection_metrics(above, score, given, true, ["x", "y/z", "y:z"])
    # wrong: 2, 4, 5; cut off: 1, 2, 4; of 9 pairs one (5 below 1) is in the wrong order
    assert found == pytest.approx(
        {
            "auroc": 8 / 9,
            "precision": 2 / 3,
            "recall": 2 / 3,
            "f1": 2 / 3,
            "true_user_accuracy": 0.5,
            "right_dropped_x": 0.5,
            "right_dropped_y_z_1": 0.0,
        }
    )


def test_metrics_that_are_not_defined_are_left_out():
    assert set(bayes_cutoff.detection_metrics([False, False], [0, 0], [0, 1], [0, 1], CLASSES)) == {
        "true_user_accuracy",
        "right_dropped_a",
        "right_dropped_b",
    }
    all_wrong = bayes_cutoff.detection_metrics([False, False], [0, 0], [0, 1], [1, 0], CLASSES)
    assert all_wrong == {"recall": 0.0, "f1": 0.0, "true_user_accuracy": 0.0}
    assert bayes_cutoff.detection_metrics([], [], [], [], CLASSES) == {}


def test_confident_learning_of_three_classes_is_what_a_hand_counts():
    true = [0, 0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 2, 0]
    given = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    probs = 0.7 * np.eye(3)[true] + 0.1
    probs[4] = [0.4, 0.5, 0.1]
    # the usual p of the given label: 0.58 for class 0, (3 * 0.8 + 0.1) / 4 = 0.625 for the others. The fifth image has 0.5 for class 1 and
    # counts as nothing; the joint is 3 right and 1 wrong of each class: one label is pruned from each, that with the greatest margin
    score, above = bayes_cutoff.confident_learning(probs, given)
    assert np.flatnonzero(above).tolist() == [3, 8, 12]
    np.testing.assert_allclose(score, [0.2] * 3 + [0.9, 0.6] + [0.2] * 3 + [0.9] + [0.2] * 3 + [0.9])


def test_cleanlab_finds_wrong_labels_also_where_a_class_is_missing():
    rng = np.random.default_rng(2)
    true = rng.integers(0, 2, 200)
    probs = 0.9 * np.eye(3)[true] + 0.1 / 3
    given = np.where(rng.random(200) < 0.2, 1 - true, true)
    score, above = bayes_cutoff.confident_learning(probs, given)
    wrong = given != true
    np.testing.assert_array_equal(above, wrong)
    np.testing.assert_allclose(score, np.where(wrong, 1 - 0.1 / 3, 0.1 * 2 / 3))


def test_chunks_change_nothing_but_rounding(tmp_path):
    data = make_data(tmp_path / "data")
    days = open_days(data["segregated_data"], data["clean_data"])
    model = classifier.build_classifier("small_cnn", 3, image_size=16, dropout=0.5, seed=0).eval()
    ids = days.ids("tuesday", "train")
    whole, parts = (mc_dropout.stochastic_passes(model, days, ids, passes=3, seed=5, device="cpu", chunk=chunk) for chunk in (100, 7))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    none = mc_dropout.stochastic_passes(model, days, [], passes=3, seed=5, device="cpu")
    assert none.mean_probs.shape == (0, 3)


def test_the_guardrail_gives_back_the_likeliest_labels_of_a_class_that_loses_too_many():
    p_wrong, given = np.array([0.9, 0.6, 0.5, 0.1, 0.9, 0.1, 0.1, 0.1]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    above = p_wrong >= 0.5
    # class 0 loses (0.1 + 0.4 + 0.5) / 1.9 of its right labels, both together 1.1 / 4.7: 2.25 times as much
    held = bayes_cutoff.hold_back(p_wrong, given, above, 3, max_ratio=2.0, max_cost=1.0, slack=0.0)
    # without the one at 0.5: (0.5 / 1.9) / (0.6 / 4.7) = 2.06; without the one at 0.6, too: (0.1 / 1.9) / (0.2 / 4.7) = 1.24
    np.testing.assert_array_equal(held.given_back, [2, 0, 0])
    np.testing.assert_array_equal(held.above, [True, False, False, False, True, False, False, False])
    total = p_wrong.sum()
    assert held.cost == pytest.approx(2 * 2.9 / (4 + total) - 2 * 1.8 / (2 + total))


def test_the_guardrail_minds_no_single_label():
    p_wrong, given = np.array([0.9, 0.6, 0.5, 0.1, 0.9, 0.1, 0.1, 0.1]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    held = bayes_cutoff.hold_back(p_wrong, given, p_wrong >= 0.5, 2, max_ratio=1.5, max_cost=1.0, slack=1.0)
    assert not held.given_back.any()


def test_the_guardrail_stops_before_it_costs_more_than_it_may():
    p_wrong, given = np.array([0.9, 0.6, 0.5, 0.1, 0.9, 0.1, 0.1, 0.1]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    held = bayes_cutoff.hold_back(p_wrong, given, p_wrong >= 0.5, 2, max_ratio=1.0, max_cost=0.05, slack=0.0)
    assert held.given_back.tolist() == [1, 0]
    assert held.cost == pytest.approx(5.8 / 7.3 - 4.8 / 6.3)
    assert not bayes_cutoff.hold_back(p_wrong, given, p_wrong >= 0.5, 2, max_ratio=1.0, max_cost=0.0, slack=0.0).given_back.any()


def test_the_guardrail_lets_a_cut_off_stand_that_somebody_has_set_far_from_the_posteriors_own():
    p_wrong, given = np.array([0.9, *[0.1] * 9, 0.9, *[0.1] * 9]), np.repeat([0, 1], 10)
    above = (p_wrong > 0.5) | (np.arange(20) < 8)
    held = bayes_cutoff.hold_back(p_wrong, given, above, 2, max_ratio=1.0, max_cost=0.01, slack=0.0)
    assert held.above.tolist() == above.tolist()  # expected F1 would rise by half
    assert bayes_cutoff.hold_back(p_wrong, given, above, 2, max_ratio=1.0, max_cost=1.0, slack=0.0).given_back.tolist() == [7, 0]


@pytest.mark.parametrize("above", [np.zeros(6, bool), np.ones(6, bool)])
def test_the_guardrail_leaves_alone_what_is_even(above):
    held = bayes_cutoff.hold_back(np.full(6, 0.7), [0, 0, 1, 1, 2, 2], above, 3, max_ratio=1.5)
    np.testing.assert_array_equal(held.above, above)
    assert held.cost == 0
    assert bayes_cutoff.hold_back([], [], np.zeros(0, bool), 3, max_ratio=1.5).above.shape == (0,)


def test_the_guardrail_does_not_depend_on_the_order_of_the_images():
    rng = np.random.default_rng(0)
    p_wrong, given, order = rng.beta(0.4, 0.8, 300).round(2), rng.integers(0, 4, 300), rng.permutation(300)
    p_wrong[given == 2] **= 0.4
    held = bayes_cutoff.hold_back(p_wrong, given, p_wrong > 0.4, 4, max_ratio=1.2, max_cost=1.0, slack=0.5)
    other = bayes_cutoff.hold_back(p_wrong[order], given[order], p_wrong[order] > 0.4, 4, max_ratio=1.2, max_cost=1.0, slack=0.5)
    assert held.given_back[2] > 0
    np.testing.assert_array_equal(other.above, held.above[order])
    right, cut = 1 - p_wrong, held.above
    shares = [right[(given == k) & cut].sum() / right[given == k].sum() for k in range(4)]
    assert max(shares) > 1.2 * right[cut].sum() / right.sum()
    excess = [(right[(given == k) & cut].sum() - 1.2 * right[cut].sum() / right.sum() * right[given == k].sum()) for k in range(4)]
    assert max(excess) <= 0.5 + 1e-6
