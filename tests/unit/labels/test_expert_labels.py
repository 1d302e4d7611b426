"""Checked labels: what is read, what the judge learns from them, and limit cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bccp.core.errors import BCCPError
from bccp.labels import calibration, expert_labels, posterior
from bccp.labels.expert_labels import NO_CLASS, calibrate, fit_logistic, judge_features, log_loss, read_audit, sigmoid

IMAGES = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
JUDGED = ["a/1.png", "b/1.png"]


def read(folder: Path, content: str | bytes) -> expert_labels.Audit:
    path = folder / "audit.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_audit(path, images=IMAGES, judged=JUDGED, classes=["a", "b"])


def overconfident(n_images: int = 3000, n_classes: int = 4, *, seed: int = 0):
    """Probabilities that are too sharp, and labels that are the more often wrong the harder the image."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(n_classes, 0.4), n_images)
    true = (honest.cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=n_classes - 1)
    wrong = rng.random(n_images) < np.where(honest.max(axis=1) < 0.8, 0.5, 0.05)
    given = np.where(wrong, (true + rng.integers(1, n_classes, n_images)) % n_classes, true)
    probs = calibration.apply_temperature(np.log(np.maximum(honest, 1e-12)), 0.5)
    believed = posterior.label_posterior(probs, given, posterior.uniform_noise(0.8, n_classes))
    return probs, believed, given, true


def test_an_audit_file_gives_the_labels_of_judged_images(tmp_path: Path) -> None:
    said = read(tmp_path, "\ufeffimage,label\r\n./b/1.png,a\r\na/1.png,b\r\na/1.png,b\r\nb/2.png,b\r\nx.png,a\r\na/2.png,cow\r\n")
    assert list(said.labels.items()) == [("a/1.png", "b"), ("b/1.png", "a")]
    counts = {kind: len(cases) for kind, cases in said.problems.items() if cases}
    assert counts == {"repeated": 1, "not_judged": 1, "unknown_image": 1, "unknown_class": 1}
    assert said.n_blank == 0


def test_a_filled_in_report_will_do_and_its_users_do_not_count(tmp_path: Path) -> None:
    rows = "a/1.png,,b,0.9,ann\nb/1.png,b,a,0.8,ann\nb/1.png,b,a,0.8,bob\na/2.png, ,b,0.1,bob\n"
    said = read(tmp_path, "image,label,given_label,p_wrong,user\n" + rows)
    assert said.labels == {"b/1.png": "b"}
    assert said.n_blank == 2
    assert len(said.problems["repeated"]) == 1
    assert not said.problems["malformed"]


def test_contradicting_checks_count_for_nothing(tmp_path: Path) -> None:
    said = read(tmp_path, "image,label,user\na/1.png,a,ann\na/1.png,b,bob\nb/1.png,b,ann\n")
    assert said.labels == {"b/1.png": "b"}
    assert len(said.problems["conflicting"]) == 2


def test_a_verdict_says_what_came_of_a_look_at_an_image(tmp_path: Path) -> None:
    rows = "a/1.png,,none,suspect,1\nb/1.png,a,label,random,2\nb/2.png,b,,random,3\na/2.png,,Unsure,random,4\n"
    path = tmp_path / "checked.csv"
    path.write_text("image,label,verdict,chosen,rank\n" + rows)
    said = read_audit(path, images=IMAGES, judged=IMAGES, classes=["a", "b"])
    assert said.labels == {"b/1.png": "a", "b/2.png": "b"}
    assert said.no_class == {"a/1.png"}
    assert said.n_unsure == 1
    assert said.chosen == {"a/1.png": "suspect", "b/1.png": "random", "b/2.png": "random"}
    assert said.answers == {"a/1.png": None, "b/1.png": "a", "b/2.png": "b"}
    places, labels = said.encoded(IMAGES, ["a", "b"])
    assert (places.tolist(), labels.tolist()) == ([0, 2, 3], [NO_CLASS, 0, 1])
    assert said.n_random_blank == 1  # whoever was unsure left no random sample
    assert said.n_blank == 0
    assert not any(said.problems.values())


def test_classes_may_be_called_as_verdicts_are(tmp_path: Path) -> None:
    path = tmp_path / "checked.csv"
    path.write_text("image,label,verdict\na/1.png,none,\nb/1.png,(unsure),label\nb/2.png,,none\n")
    said = read_audit(path, images=IMAGES, judged=IMAGES, classes=["none", "(unsure)", "(of no class)"])
    assert said.labels == {"a/1.png": "none", "b/1.png": "(unsure)"}
    assert said.no_class == {"b/2.png"}


def test_contradicting_and_unknown_verdicts_count_for_nothing(tmp_path: Path) -> None:
    rows = "a/1.png,a,label\na/1.png,,none\na/2.png,a,none\nb/1.png,,none\nb/1.png,,none\nb/2.png,b,maybe\ngone.png,,unsure\n"
    path = tmp_path / "checked.csv"
    path.write_text("image,label,verdict\n" + rows)
    said = read_audit(path, images=IMAGES, judged=IMAGES, classes=["a", "b"])
    assert (said.labels, said.no_class, said.n_unsure) == ({}, {"b/1.png"}, 0)
    assert said.problems["conflicting"] == [
        "line 4: a/2.png as 'a' and of no class",
        "line 2: a/1.png as 'a' and '(of no class)'",
        "line 3: a/1.png as 'a' and '(of no class)'",
    ]
    assert said.problems["unknown_verdict"] == ["'maybe' for b/2.png: label, unsure and none are accepted"]
    assert said.problems["repeated"] == ["line 6: b/1.png"]
    assert said.problems["unknown_image"] == ["gone.png"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,label,verdict\na/1.png,,unsure\nb/1.png,,unsure\n", "its 2 answer(s) are unsure, which counts as not checked"),
        ("image,label,verdict\na/1.png,a,sure\n", "can be used: e.g. 'sure' for a/1.png: label, unsure and none are accepted"),
        ("image,label,verdict\na/1.png,a,none\n", "can be used: e.g. line 2: a/1.png as 'a' and of no class"),
        ("image,label,verdict\na/1.png,,label\n", "none of the 1 rows of the audit file"),
        ("image,label,verdict\na/1.png,cow,label\n", "'cow' for a/1.png is no class; the classes are 'a', 'b'"),
        ("image,label\na/1.png,\nb/1.png, \n", "none of the 2 rows of the audit file"),
        ("image,label\nb/2.png,b\n", "'b/2.png' is not): check some of those, e.g. 'a/1.png'"),
        ("image,label\na/1.png,cow\n", "'cow' for a/1.png is no class"),
        ("image,label\na/1.png,a\na/1.png,b\n", "2 conflicting"),
        ("image,label\n", "has no rows"),
        ("image,colour,mood\na/1.png,red,good\n", "no column 'label'"),
        ("image,label,label\na/1.png,a,a\n", "has 2 columns 'label': leave one"),
        (b"image,label\n\xff,a\n", "not text in UTF-8"),
    ],
)
def test_an_audit_file_of_no_use_is_refused_in_one_sentence(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(BCCPError) as caught:
        read(tmp_path, content)
    assert words in str(caught.value)
    assert f"audit file {tmp_path / 'audit.csv'}" in str(caught.value)
    assert "feedback file" not in str(caught.value)
    assert "annotator" not in str(caught.value)
    assert "user" not in str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in str(caught.value)


def test_features_of_an_image_are_what_a_hand_computes():
    found = judge_features([[0.5, 0.3, 0.2]], [[0.2, 0.7, 0.1]], [0])
    entropy = -(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2))
    np.testing.assert_allclose(found, [[np.log(0.8 / 0.2), np.log(0.5), np.log(0.3), 0.2, entropy]])


def small_problem():
    rng = np.random.default_rng(1)
    columns = np.column_stack([np.ones(60), rng.normal(size=(60, 2))])
    groups, offset = rng.integers(0, 3, 60), rng.normal(size=60)
    target = rng.random(60) < sigmoid(offset + columns @ [0.5, 1.0, -1.0])
    return columns, groups, target, {"offset": offset, "penalties": np.array([0.5, 1.0, 2.0]), "group_penalty": 1.5, "n_groups": 3}


def test_the_fit_is_where_the_slope_of_the_penalised_loss_is_zero():
    columns, groups, target, options = small_problem()
    fit = fit_logistic(columns, groups, target, **options)
    slope = sigmoid(options["offset"] + columns @ fit.weights + fit.constants[groups]) - target
    np.testing.assert_allclose(columns.T @ slope + options["penalties"] * fit.weights, 0, atol=1e-4)
    np.testing.assert_allclose(np.bincount(groups, slope) + 1.5 * fit.constants, 0, atol=1e-4)


def test_left_out_logits_are_those_of_fits_without_the_row():
    columns, groups, target, options = small_problem()
    found, exact = fit_logistic(columns, groups, target, **options).left_out, []
    for row in range(60):
        rest = np.arange(60) != row
        fit = fit_logistic(columns[rest], groups[rest], target[rest], **options | {"offset": options["offset"][rest]})
        exact.append(options["offset"][row] + columns[row] @ fit.weights + fit.constants[groups[row]])
    np.testing.assert_allclose(found, exact, atol=0.1)
    assert log_loss(found, target).sum() == pytest.approx(log_loss(np.array(exact), target).sum(), rel=0.01)


def test_checked_labels_calibrate_the_others():
    probs, believed, given, true = overconfident()
    wrong, before = given != true, 1 - believed[np.arange(3000), given]
    for n_checked, least_gain in ((100, 0.02), (600, 0.05)):
        places = np.arange(n_checked)
        found = calibrate(probs, believed, given, places, true[places])
        rest = np.arange(3000) >= n_checked

        def loss(p, rest=rest):
            p = np.clip(p[rest], 1e-9, 1 - 1e-9)
            return -np.log(np.where(wrong[rest], p, 1 - p)).mean()

        assert loss(found.p_wrong) < loss(before) - least_gain
        assert abs(found.estimated_user_accuracy - (~wrong).mean()) < abs(1 - before.mean() - (~wrong).mean())


def test_a_checked_image_is_what_the_expert_says_and_the_posterior_agrees_with_p_wrong():
    probs, believed, given, true = overconfident(400)
    places = np.array([7, 3, 100, *range(200, 220)])
    found = calibrate(probs, believed, given, places, true[places], at_random=np.ones(23, bool))
    np.testing.assert_array_equal(found.p_wrong[places], given[places] != true[places])
    np.testing.assert_array_equal(found.posterior[places], np.eye(4)[true[places]])
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    np.testing.assert_array_equal(np.delete(found.posterior[np.arange(400), given], places), np.delete(1 - found.p_wrong, places))
    others = [k for k in range(4) if k != given[0]]
    np.testing.assert_allclose(found.posterior[0, others] / found.p_wrong[0], believed[0, others] / believed[0, others].sum())
    assert found.cutoff == posterior.expected_f1_cutoff(found.p_wrong)


def test_permuted_images_give_the_same_to_the_bit():
    probs, believed, given, true = overconfident(501, seed=3)
    places = np.arange(0, 500, 5)
    found = calibrate(probs, believed, given, places, true[places])
    shuffle = np.random.default_rng(0).permutation(501)
    moved = np.random.default_rng(1).permutation(np.argsort(shuffle)[places])
    again = calibrate(probs[shuffle], believed[shuffle], given[shuffle], moved, true[shuffle][moved])
    np.testing.assert_array_equal(again.p_wrong, found.p_wrong[shuffle])
    np.testing.assert_array_equal(again.posterior, found.posterior[shuffle])
    assert again[2:] == found[2:]
    assert not found.at_least  # nobody says how they were chosen, but they are spread over all scores


def photographs(seed: int, *, n_images: int = 500):
    """Images whose names are wrong in one of ten cases, a judge that knows its own doubts, and what it believes without checked labels."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(8, 0.25), n_images)
    true = (honest.cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=7)
    given = np.where(rng.random(n_images) < 0.1, (true + rng.integers(1, 8, n_images)) % 8, true)
    judged = calibration.judge_by_trusted_model(honest, given, start=1.0, most=1.0)
    p_wrong = 1 - judged.fit.posterior[np.arange(n_images), given]
    return judged, given, true, np.argsort(-p_wrong, kind="stable"), rng


def samples(seed: int):
    """The 40 worst, 50 at random, and both, each with which are at random; and what goes with them."""
    judged, given, true, worst, rng = photographs(seed)
    drawn = rng.permutation(500)[:100]
    both = np.union1d(worst[:40], drawn)
    chosen = {"worst": (worst[:40], np.zeros(40, bool)), "random": (drawn, np.ones(100, bool)), "both": (both, np.isin(both, drawn))}
    return judged, given, true, chosen


@pytest.mark.parametrize("kind", ["worst", "random", "both"])
def test_the_share_of_wrong_labels_is_right_however_the_checked_images_were_chosen(kind: str) -> None:
    misses, plain = [], []
    for seed in range(4):
        judged, given, true, chosen = samples(seed)
        places, at_random = chosen[kind]
        found = calibrate(judged.probs, judged.fit.posterior, given, places, true[places], at_random=at_random)
        wrong = given != true
        misses.append((1 - found.estimated_user_accuracy) - wrong.mean())
        plain.append(wrong[places].mean() - wrong.mean())
        rest = np.setdiff1d(np.arange(500), places)
        # the share is what was found and what is believed of the others, and never a mean over chosen images
        assert 1 - found.estimated_user_accuracy == pytest.approx((wrong[places].sum() + found.p_wrong[rest].sum()) / 500)
        assert found.at_least == (kind == "worst")
    assert np.sqrt(np.mean(np.square(misses))) < 0.035
    if kind != "random":
        assert min(plain) > 0.1


def test_the_worst_say_nothing_of_images_that_nobody_doubts() -> None:
    judged, given, true, chosen = samples(0)
    places, _ = chosen["worst"]
    before = judged.fit.posterior[np.arange(500), given]
    rest = np.setdiff1d(np.arange(500), places)
    for answers in (true[places], given[places]):  # what they are, or all found right
        found = calibrate(judged.probs, judged.fit.posterior, given, places, answers)
        np.testing.assert_allclose(found.p_wrong[rest], 1 - before[rest], atol=1e-12)
        np.testing.assert_array_equal(found.posterior[rest], judged.fit.posterior[rest])
        assert found.at_least


def test_a_sample_of_which_nobody_says_that_it_is_random_does_as_well_where_it_is_spread_over_all_scores() -> None:
    judged, given, true, chosen = samples(1)
    places, at_random = chosen["both"]
    said, unsaid = (
        calibrate(judged.probs, judged.fit.posterior, given, places, true[places], at_random=known) for known in (at_random, None)
    )
    assert unsaid.estimated_user_accuracy == said.estimated_user_accuracy
    assert not unsaid.at_least


def test_images_between_checked_ones_are_judged_by_them_and_the_others_are_not() -> None:
    scores = np.arange(100.0)
    nobody = np.zeros(3, bool)
    assert np.flatnonzero(expert_labels.looked_at(scores, [60, 65, 99], at_random=nobody)).tolist() == [*range(60, 66), 99]
    assert expert_labels.looked_at(scores, list(range(5, 100, 10)), at_random=np.zeros(10, bool)).all()
    assert not expert_labels.looked_at(scores, [], at_random=[]).any()
    assert np.flatnonzero(expert_labels.looked_at(np.repeat([0.0, 1.0], 50), [99], at_random=[False])).tolist() == list(range(50, 100))


def test_a_sample_is_random_only_where_it_is_large_enough_and_its_ranks_do_not_speak_against_it() -> None:
    scores, rng = np.random.default_rng(0).random(400), np.random.default_rng(1)
    worst = np.argsort(-scores)[:40]
    drawn = rng.permutation(400)[:40]
    assert expert_labels.looked_at(scores, drawn, at_random=np.ones(40, bool)).all()
    assert not expert_labels.looked_at(scores, drawn[:9], at_random=np.ones(9, bool)).all()
    assert expert_labels.looked_at(scores, worst, at_random=np.ones(40, bool)).sum() == 40  # somebody wrote "random" beside the worst
    others = rng.permutation(np.setdiff1d(np.arange(400), worst))[:40]  # drawn from what the worst leave, which is as good
    both, at_random = np.concatenate([worst, others]), np.repeat([False, True], 40)
    assert expert_labels.looked_at(scores, both, at_random=at_random).all()
    assert expert_labels.looked_at(scores, np.arange(400), at_random=np.ones(400, bool)).all()


def test_a_file_says_how_each_image_was_chosen_and_what_people_make_of_it_is_understood(tmp_path: Path) -> None:
    rows = ["a/1.png,a,suspect", "./a/2.png,b, Random ", "b/1.png,b,suspect 3", "b/2.png,a,because", "b/2.png,a,random"]
    path = tmp_path / "audit.csv"

    def said(header: str, *rows: str) -> expert_labels.Audit:
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
        return read_audit(path, images=IMAGES, judged=IMAGES, classes=["a", "b"])

    found = said("image,label,chosen", *rows).chosen
    assert found == {"a/1.png": "suspect", "a/2.png": "random", "b/1.png": "suspect", "b/2.png": "unknown"}  # two rows say otherwise
    assert set(said("image,label", *(row.rpartition(",")[0] for row in rows)).chosen.values()) == {"unknown"}
    by_hand = said("chosen, image ,label", "random,a/1.png,a", ",a/2.png,b", "random,b/1.png,")
    assert by_hand.chosen == {"a/1.png": "random", "a/2.png": "unknown"}
    assert by_hand.n_random_blank == 1
    short = said("image,label,chosen", "a/1.png,a", "", "a/2.png,b,random")
    assert short.chosen == {"a/1.png": "unknown", "a/2.png": "random"}


def test_a_sample_that_is_left_half_blank_is_none() -> None:
    chosen = ["suspect", *["random"] * 9]
    assert expert_labels.trusted_origins(chosen, 1) == (chosen, "")
    kept, note = expert_labels.trusted_origins(chosen, 2)
    assert kept == ["suspect", *["unknown"] * 9]
    assert note.startswith("2 of 11 rows chosen at random are blank, ")
    assert expert_labels.trusted_origins(["suspect"], 50) == (["suspect"], "")  # nobody has begun with them


@pytest.mark.parametrize("n_checked", [0, 1, 2, 300])
@pytest.mark.parametrize("verdict", ["all right", "all wrong"])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_one_sided_and_tiny_audits_give_probabilities(n_checked: int, verdict: str, n_classes: int) -> None:
    probs, believed, given, _ = overconfident(400, n_classes)
    given[given == n_classes - 1] = 0  # a class without a label
    places = np.arange(n_checked)
    found = calibrate(probs, believed, given, places, (given[places] + (verdict == "all wrong")) % n_classes)
    assert ((found.p_wrong >= 0) & (found.p_wrong <= 1)).all()
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    before, rest = 1 - believed[np.arange(400), given], np.arange(400) >= n_checked
    if n_checked == 0:
        np.testing.assert_allclose(found.p_wrong, before, atol=1e-8)
    elif verdict == "all wrong":
        assert found.p_wrong[rest].mean() > before[rest].mean() - 1e-6  # one label that was sure to be wrong teaches nothing
    else:
        assert found.p_wrong[rest].mean() < before[rest].mean() + 1e-6


def test_an_image_of_no_class_counts_as_wrong_and_gets_no_class() -> None:
    probs, believed, given, true = overconfident(600)
    places = np.arange(80)
    checked = true[places].copy()
    checked[:2] = NO_CLASS
    found = calibrate(probs, believed, given, places, checked)
    assert found.p_wrong[:2].tolist() == [1, 1]
    np.testing.assert_array_equal(found.posterior[[0, 1], given[:2]], 0)
    assert (found.posterior[:2] > 0).sum() > 2  # the other classes stay as likely as they were, side by side
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    otherwise_wrong = np.where(checked == NO_CLASS, (given[places] + 1) % 4, checked)
    np.testing.assert_array_equal(found.p_wrong, calibrate(probs, believed, given, places, otherwise_wrong).p_wrong)


def test_certainty_stays_finite():
    probs = np.array([[1.0, 0.0, 0.0]] * 4 + [[0.0, 1.0, 0.0]] * 4)
    given = np.array([0, 0, 1, 1] * 2)
    believed = np.array(probs)
    found = calibrate(probs, believed, given, [0, 2], [0, 0])
    assert np.isfinite(found.posterior).all()
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    assert found.p_wrong[3] > 0.5 > found.p_wrong[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"audited": [0, 0], "checked": [1, 1]}, "each position once"),
        ({"audited": [9], "checked": [1]}, "audited runs from 9"),
        ({"checked": [2]}, "checked runs from 2"),
        ({"given": [0]}, "must be"),
        ({"given": [0, 5]}, "given runs from 0 to 5"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, list[int]], words: str) -> None:
    arrays = {"probs": [[0.5, 0.5]] * 2, "posterior": [[0.5, 0.5]] * 2, "given": [0, 1], "audited": [0], "checked": [1]}
    with pytest.raises(ValueError, match=words):
        calibrate(**arrays | change)
