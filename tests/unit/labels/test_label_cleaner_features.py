"""LabelCleaner on features: nothing trusted, no probabilities, folds of its own."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from bccp.data.duplicates import assign_folds
from bccp.labels import bayes_cutoff, label_cleaner
from bccp.labels.label_cleaner import LabelCleaner
from bccp.labels.untrusted_judge import judge_untrusted
from bccp.models.logistic_regression import fit_scaling

NAMES = np.array(["ant", "bee", "cat"])


def draw(n_images: int = 240, *, wrong: float = 0.2, apart: float = 2.5, seed: int = 0):
    """Embeddings of three classes, float32; given and true labels."""
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.arange(n_images) % 3)
    features = (rng.normal(size=(n_images, 8)) + apart * np.eye(3, 8)[true]).astype(np.float32)
    given = np.where(rng.random(n_images) < wrong, (true + rng.integers(1, 3, n_images)) % 3, true)
    return features, given, true


def test_wrong_labels_are_found_with_features_alone() -> None:
    features, given, true = draw(apart=4.0)
    cleaner = LabelCleaner(action="relabel", cutoff=0.8).fit_features(features, NAMES[given])
    wrong = given != true
    assert cleaner.verdict_ == "found"
    assert cleaner.classes_.tolist() == NAMES.tolist()
    assert bayes_cutoff.auroc(cleaner.p_wrong_, wrong) > 0.95
    assert (cleaner.labels_[cleaner.kept_] == NAMES[true][cleaner.kept_]).mean() > 0.9 > (~wrong).mean()
    assert cleaner.is_wrong_.tolist() == (cleaner.p_wrong_ > 0.8).tolist()
    assert cleaner.at_least_ == pytest.approx(cleaner.p_wrong_.mean())
    assert cleaner.at_least_ <= wrong.mean() + 0.03 <= cleaner.at_most_ + 0.03
    assert cleaner.estimated_accuracy_ == pytest.approx(1 - cleaner.at_least_)
    assert cleaner.estimated_accuracy_at_most_
    assert cleaner.n_features_in_ == 8
    np.testing.assert_allclose(cleaner.posterior_.sum(axis=1), 1)
    np.testing.assert_allclose(bayes_cutoff.probability_wrong(cleaner.posterior_, given), cleaner.p_wrong_)
    np.testing.assert_allclose(cleaner.probs_.sum(axis=1), 1)
    np.testing.assert_allclose(cleaner.noise_matrix_.sum(axis=1), 1)


def test_the_example_of_the_docs_runs_as_it_stands(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (root / "docs" / "labels.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    (block,) = [block for block in blocks if "fit_features" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    found, estimated = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"found: at least \d+% of the labels are wrong, at most \d+%", found)
    assert re.fullmatch(r"\d+% of the labels are wrong", estimated)
    right, before = (names["cleaned"] == names["true"]).mean(), (names["labels"] == names["true"]).mean()
    assert right > before + 0.05
    assert (names["labels"] != names["true"])[names["worst"][:40]].all()


def test_the_judge_is_that_of_the_step() -> None:
    features, given, _ = draw(90)
    found = LabelCleaner().fit_features([features, features[:, ::-1]], given)
    digests = [hashlib.sha256(np.append(one, one[::-1]).astype(np.float64).tobytes()).hexdigest() for one in features]
    order = np.argsort(digests)
    folds = assign_folds(np.arange(90), given[order], folds=5, rng=np.random.default_rng(0))
    views = [fit_scaling(view[order]).apply(view[order]) for view in (features, features[:, ::-1])]
    expected = judge_untrusted(views, given[order], n_classes=3, folds=folds)
    np.testing.assert_array_equal(found.probs_[order], expected.probs)
    np.testing.assert_array_equal(found.posterior_[order], expected.posterior)
    assert (found.verdict_, found.at_least_, found.at_most_) == (expected.verdict, pytest.approx(expected.at_least), expected.at_most)


def test_neither_the_order_of_images_nor_names_of_groups_change_a_bit() -> None:
    features, given, true = draw(120)
    groups = np.arange(120) // 2
    audited = {i: NAMES[true[i]] for i in range(0, 120, 10)}
    first = LabelCleaner().fit_features(features, NAMES[given], groups, audited=audited, chosen="random")
    order = np.random.default_rng(1).permutation(120)
    place = np.argsort(order)
    moved = {int(place[i]): label for i, label in audited.items()}
    names = np.array([f"scene {-group}" for group in groups])[order]
    again = LabelCleaner().fit_features(features[order].tolist(), NAMES[given][order], names, audited=moved, chosen="random")
    for name in ("probs_", "posterior_", "p_wrong_", "labels_", "kept_", "is_wrong_"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name)[order], err_msg=name)
    assert (again.at_least_, again.at_most_, again.cutoff_) == (first.at_least_, first.at_most_, first.cutoff_)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_scale_of_features_does_not_matter_where_their_squares_leave_the_range_of_floats(scale: float) -> None:
    features, given, true = draw(120, apart=4.0)
    cleaner = LabelCleaner().fit_features(features.astype(np.float64) * scale, given)
    assert cleaner.verdict_ == "found"
    assert bayes_cutoff.auroc(cleaner.p_wrong_, given != true) > 0.95


def test_copies_are_judged_by_others_than_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    features, given, _ = draw(60)
    twice, labels = np.concatenate([features, features]), np.concatenate([given, given])
    dealt = {}

    def noted(views, given, *, n_classes, folds):
        dealt["folds"], dealt["rows"] = folds, views[0]
        return judge_untrusted(views, given, n_classes=n_classes, folds=folds)

    monkeypatch.setattr(label_cleaner, "judge_untrusted", noted)
    LabelCleaner().fit_features(twice, labels)
    folds_of_picture: dict[bytes, set[int]] = {}
    for row, fold in zip(dealt["rows"], dealt["folds"], strict=True):
        folds_of_picture.setdefault(row.tobytes(), set()).add(int(fold))
    assert len(folds_of_picture) == 60
    assert all(len(folds) == 1 for folds in folds_of_picture.values())
    by_class = np.arange(60) % 4
    LabelCleaner().fit_features(twice, labels, np.tile(by_class, 2))  # four groups
    assert np.bincount(dealt["folds"]).tolist() == [30] * 4


def test_where_nothing_stands_out_nothing_changes_but_what_was_checked() -> None:
    features, given, true = draw(wrong=0.0, apart=6.0)
    for action in ("soft", "relabel", "drop"):
        cleaner = LabelCleaner(action=action, cutoff=0.0).fit_features(features, given)
        assert cleaner.verdict_ == "nothing"
        assert cleaner.at_least_ < 0.01
        assert not cleaner.is_wrong_.any()
        assert cleaner.kept_.all()
        np.testing.assert_array_equal(cleaner.labels_, given)
        np.testing.assert_array_equal(cleaner.posterior_, np.eye(3)[given])
    first, second, *_ = np.argsort(-cleaner.p_wrong_).tolist()  # labels that are wrong, but not so as the features could show it
    checked = LabelCleaner(classes=[0, 1, 2]).fit_features(features, given, audited={first: (true[first] + 1) % 3, second: None})
    assert checked.verdict_ == "nothing"
    assert set(np.flatnonzero(checked.is_wrong_)) == {first, second}
    assert np.flatnonzero(checked.labels_ != given).tolist() == [first]
    assert np.flatnonzero(~checked.kept_).tolist() == [second]


def test_features_that_do_not_tell_classes_apart_change_nothing() -> None:
    features, given, _ = draw(apart=0.0)
    cleaner = LabelCleaner(cutoff=0.0).fit_features(features, given)
    assert (cleaner.verdict_, cleaner.at_least_, cleaner.at_most_) == ("blind", 0.0, None)
    np.testing.assert_array_equal(cleaner.labels_, given)
    constant = LabelCleaner().fit_features(np.ones((240, 4)) * np.arange(240)[:, None] // 120, np.arange(240) % 2)
    assert constant.verdict_ == "blind"


def test_labels_checked_at_random_turn_the_bound_into_an_estimate() -> None:
    features, given, true = draw(600, wrong=0.4, apart=1.5)
    drawn = np.random.default_rng(0).permutation(600)[:80]
    audited = {int(i): NAMES[true[i]] for i in drawn}
    before = LabelCleaner().fit_features(features, NAMES[given])
    after = LabelCleaner().fit_features(features, NAMES[given], audited=audited, chosen="random")
    share = (given != true).mean()
    assert abs(after.at_least_ - share) < min(0.05, abs(before.at_least_ - share))
    assert after.at_most_ is None
    assert not after.estimated_accuracy_at_most_
    np.testing.assert_array_equal(after.is_wrong_[drawn], (given != true)[drawn])
    np.testing.assert_array_equal(after.labels_[drawn], NAMES[true][drawn])
    worst = np.argsort(-before.p_wrong_, kind="stable")[:30]
    bound = LabelCleaner().fit_features(features, NAMES[given], audited={int(i): NAMES[true[i]] for i in worst}, chosen="suspect")
    assert bound.at_most_ >= bound.at_least_


def test_a_second_fit_leaves_nothing_of_the_first_behind() -> None:
    features, given, _ = draw(90)
    cleaner = LabelCleaner().fit_features(features, given)
    assert not hasattr(cleaner, "guess_share_")
    probs = cleaner.probs_
    cleaner.fit(probs, given)
    assert hasattr(cleaner, "guess_share_")
    assert not hasattr(cleaner, "verdict_")
    assert cleaner.fit_features(features, given).n_features_in_ == 8
    assert not hasattr(clone(cleaner), "verdict_")


def test_tables_will_do_where_their_rows_belong_together() -> None:
    features, given, _ = draw(60)
    table, labels = pd.DataFrame(features), pd.Series(NAMES[given])
    plain = LabelCleaner().fit_features(features, NAMES[given])
    np.testing.assert_array_equal(LabelCleaner().fit_features(table, labels, pd.Series(range(60))).p_wrong_, plain.p_wrong_)
    with pytest.raises(
        ValueError, match=r"indexes of features and given_labels differ .first in row 0: 0 and 59.*reindex\(features.index\)"
    ):
        LabelCleaner().fit_features(table, labels[::-1])
    with pytest.raises(ValueError, match="indexes of features and groups differ"):
        LabelCleaner().fit_features(table, labels, pd.Series(range(60))[::-1])


EIGHT = np.random.default_rng(0).normal(size=(8, 3))
LABELS = ["a", "b"] * 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((EIGHT, ["a"] * 8), r"given_labels has one label only \('a'\).*at least two classes"),
        ((EIGHT, LABELS[:7]), "given_labels has 7 values, features has 8 rows"),
        ((EIGHT, LABELS, [1, 2]), "groups has 2 values, features has 8 rows"),
        ((EIGHT, LABELS, [None] * 8), "groups must be all str or all int"),
        ((EIGHT, LABELS, [1] * 8), "all images are copies of one another"),
        ((np.ones((8, 3)), LABELS), "all images are copies of one another"),
        ((EIGHT[:1], LABELS[:1]), r"features has the shape \(1, 3\)"),
        ((EIGHT[:, 0], LABELS), r"features has the shape \(8,\)"),
        (([EIGHT, EIGHT[:7]], LABELS), "views of features have 8 and 7 rows"),
        ((np.where(np.arange(24).reshape(8, 3) == 7, np.nan, EIGHT), LABELS), "features has nan or infinite values, first in row 2"),
        (([["x"] * 3] * 8, LABELS), "features is no table of numbers"),
        ((np.ma.masked_array(EIGHT, EIGHT > 1), LABELS), "features has .* masked values"),
    ],
)
def test_bad_arrays_are_refused_in_one_sentence(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        LabelCleaner().fit_features(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"audited": {0: "cow"}}, "audited has 1 unknown labels .e.g. 'cow'.: the classes are 'a', 'b'"),
        ({"audited": {9: "a"}}, "audited names the position 9: 0 to 7"),
        ({"audited": {0: "a"}, "chosen": "worst"}, "chosen='worst'"),
    ],
)
def test_checked_labels_that_fit_nothing_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelCleaner().fit_features(EIGHT, LABELS, **options)
    with pytest.raises(ValueError, match="classes has 1 different names"):
        LabelCleaner(classes=["a", "a"]).fit_features(EIGHT, LABELS)


def test_few_and_rare_labels_give_probabilities() -> None:
    for labels in (LABELS, ["a"] * 7 + ["b"], ["a", "b", "c", "d", "e", "f", "g", "h"]):
        cleaner = LabelCleaner().fit_features(EIGHT, labels)
        assert np.isfinite(cleaner.posterior_).all()
        assert ((cleaner.p_wrong_ >= 0) & (cleaner.p_wrong_ <= 1)).all()
    assert LabelCleaner().fit_features(EIGHT[:2], ["a", "b"]).verdict_ != "found"
