"""Changes that are sure enough: what moves, what goes, and that all else stays as it was given."""

from __future__ import annotations

import numpy as np
import pytest

from bccp.labels.confident_changes import MIN_CONFIDENCE, choose_changes

#             surely another  wrong, but what?  doubtful  surely right  not judged
GIVEN = np.array(["cat", "cat", "dog", "dog", "cat"])
SUGGESTED = np.array(["dog", "dog", "cat", "dog", ""])
P_WRONG = np.array([0.97, 0.95, 0.7, 0.02, np.nan])
P_SUGGESTED = np.array([0.96, 0.55, 0.6, 0.98, np.nan])


def test_a_label_moves_only_where_it_is_surely_wrong_and_the_suggestion_surely_right() -> None:
    found = choose_changes(GIVEN, P_WRONG, SUGGESTED, P_SUGGESTED, action="relabel", min_confidence=MIN_CONFIDENCE)
    assert found.actions.tolist() == ["relabel", "keep", "keep", "keep", "keep"]
    assert found.final.tolist() == ["dog", "cat", "dog", "dog", "cat"]
    assert found.expected_wrong_changes == pytest.approx(0.04)
    assert (found.count("relabel"), found.count("drop"), found.count("keep")) == (1, 0, 4)


def test_an_image_is_dropped_where_its_label_is_surely_wrong_whatever_else_it_may_be() -> None:
    found = choose_changes(GIVEN, P_WRONG, SUGGESTED, P_SUGGESTED, action="drop", min_confidence=MIN_CONFIDENCE)
    assert found.actions.tolist() == ["drop", "drop", "keep", "keep", "keep"]
    assert found.final.tolist() == GIVEN.tolist()
    assert (found.expected_wrong_changes, found.expected_right_drops) == (0.0, pytest.approx(0.08))


def test_to_reach_the_confidence_is_enough_and_to_keep_changes_nothing() -> None:
    for confidence, action in ((0.7, "keep"), (0.6, "relabel")):
        found = choose_changes(GIVEN, P_WRONG, SUGGESTED, P_SUGGESTED, action="relabel", min_confidence=confidence)
        assert found.actions[2] == action
    assert choose_changes(GIVEN, P_WRONG, SUGGESTED, P_SUGGESTED, action="drop", min_confidence=0.7).actions[2] == "drop"
    kept = choose_changes(GIVEN, P_WRONG, SUGGESTED, P_SUGGESTED, action="keep", min_confidence=0.0)
    assert set(kept.actions) == {"keep"}
    assert kept.expected_wrong_changes == 0


def test_with_a_confidence_of_0_every_judged_image_moves_to_its_likeliest_class() -> None:
    found = choose_changes(GIVEN, P_WRONG, SUGGESTED, P_SUGGESTED, action="relabel", min_confidence=0.0)
    assert found.final.tolist() == ["dog", "dog", "cat", "dog", "cat"]
    assert found.actions.tolist() == ["relabel", "relabel", "relabel", "keep", "keep"]
    assert found.expected_wrong_changes == pytest.approx(0.04 + 0.45 + 0.4)


@pytest.mark.parametrize("action", ["relabel", "drop", "keep"])
def test_what_somebody_has_checked_is_applied_under_any_action_and_is_no_guess(action: str) -> None:
    given, suggested = np.array([0, 0, 1, 1]), np.array([1, 0, 1, 0])
    found = choose_changes(
        given,
        [1.0, 0.0, 1.0, 0.99],
        suggested,
        [1.0, 1.0, 0.4, 0.99],
        action=action,  # type: ignore[arg-type]
        min_confidence=1.0,
        audited=[True, True, False, False],
        no_class=[False, False, True, False],  # the third is of no class
    )
    assert found.actions.tolist() == ["relabel", "keep", "drop", "keep"]
    assert found.final[[0, 1, 3]].tolist() == [1, 0, 1]
    assert (found.expected_wrong_changes, found.expected_right_drops) == (0.0, 0.0)


def test_the_order_of_the_images_changes_nothing_to_the_bit() -> None:
    rng = np.random.default_rng(3)
    given, suggested = rng.integers(0, 4, 2000), rng.integers(0, 4, 2000)
    wrong, right = rng.random(2000), rng.random(2000)
    order = rng.permutation(2000)
    plain = choose_changes(given, wrong, suggested, right, action="relabel", min_confidence=0.3)
    moved = choose_changes(given[order], wrong[order], suggested[order], right[order], action="relabel", min_confidence=0.3)
    assert moved.actions.tolist() == plain.actions[order].tolist()
    assert moved.final.tolist() == plain.final[order].tolist()
    assert moved.expected_wrong_changes == plain.expected_wrong_changes
    # against the rule, image by image
    for i in range(2000):
        sure = wrong[i] >= 0.3 and right[i] >= 0.3 and suggested[i] != given[i]
        assert (plain.actions[i], plain.final[i]) == (("relabel", suggested[i]) if sure else ("keep", given[i]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action": "soft"}, "accepted are relabel, drop, keep"),
        ({"min_confidence": 1.5}, "from 0 to 1"),
        ({"min_confidence": float("nan")}, "from 0 to 1"),
        ({"audited": [True]}, "of one length"),
    ],
)
def test_what_is_no_rule_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose_changes(GIVEN, P_WRONG, SUGGESTED, P_SUGGESTED, **({"action": "relabel", "min_confidence": 0.8} | change))  # type: ignore[arg-type]


def test_no_images_are_no_changes() -> None:
    found = choose_changes([], [], [], [], action="relabel", min_confidence=0.8)
    assert (len(found.actions), found.expected_wrong_changes) == (0, 0.0)
