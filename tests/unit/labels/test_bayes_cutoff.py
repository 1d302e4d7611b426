"""Scores, cut-offs, decisions and their metrics; then the step itself on small images."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bccp.core.config_schema import BayesCutoff
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.labels import bayes_cutoff, label_scoring, mc_dropout
from bccp.models import classifier, monday_model
from support.fake_step import FakeStep, load_run

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


def test_folds_keep_duplicates_together_and_labels_even():
    rng = np.random.default_rng(3)
    groups, given = np.repeat(np.arange(120), 2), np.repeat(rng.integers(0, 3, 120), 2)
    fold = mc_dropout.assign_folds(groups, given, folds=4, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(fold[::2], fold[1::2])
    for label in range(3):
        share = np.bincount(fold[given == label], minlength=4)
        assert share.max() - share.min() <= 2
    assert not np.array_equal(fold, mc_dropout.assign_folds(groups, given, folds=4, rng=np.random.default_rng(1)))


SECTION = {
    "enabled": True,
    "method": "label_posterior",
    "cutoff": "auto",
    "percentile": 90.0,
    "threshold": 0.5,
    "action": "soft",
    "passes": 4,
    "dropout": 0.2,
    "folds": 2,
    "audit_file": None,
    "max_class_ratio": None,
    "rounds": 0,
    "refine": "student",
    "refine_epochs": 6,
    "label": "user_feedback",
    "target_day": "tuesday",
    "model": "small_cnn",
    "weights": None,
    "freeze_backbone": False,
    "normalization": "auto",
    "epochs": 6,
    "learning_rate": 0.005,
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "decay": 0.95,
    "batch_size": 16,
    "augmentation": "none",
    "mirror": "never",
    "mixup_alpha": 0.0,
    "ema_decay": 0.0,
    "random_seed": 7,
}


def make_data(place: Path, *, target_day: str = "tuesday", permuted: bool = False) -> dict[str, Path]:
    """Artifacts of 54 images of Monday and 36 of Tuesday, three colours, every fourth given label wrong."""
    rng = np.random.default_rng(4)
    n_images, size = 90, 16
    true = np.arange(n_images) % 3
    pixels = np.clip(60 + 140 * np.eye(3)[true][:, None, None, :] + rng.normal(0, 25, (n_images, size, size, 3)), 0, 255).astype(np.uint8)
    names = [f"{i:03d}.png" for i in range(n_images)]
    on_tuesday = np.arange(n_images) >= 54
    day = np.where(on_tuesday & (target_day == "tuesday"), "tuesday", "monday")
    split = np.where(~on_tuesday & (np.arange(n_images) % 6 == 5), "val", "train")
    given = np.where(np.arange(n_images) % 4 == 0, (true + 1) % 3, true)
    doubtful = (day == target_day) & (split == "train")
    label = np.where(doubtful, "", np.array(CLASSES)[true])
    order = rng.permutation(n_images) if permuted else np.arange(n_images)
    row = np.argsort(order)
    splits = pd.DataFrame({"image": names, "row": row, "day": day, "split": split, "label": label, "corruption": "", "corrupted_row": -1})
    folders = {name: place / name for name in ("clean_data", "segregated_data", "given_labels", "true_labels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    np.save(folders["clean_data"] / "images.npy", pixels[order])
    hashes = {"image": names, "sha256": [str(i) for i in range(n_images)], "phash": ["" for _ in names]}
    pd.DataFrame(hashes).iloc[order].to_csv(folders["clean_data"] / "manifest.csv", index=False)
    splits.iloc[order].to_csv(folders["segregated_data"] / "splits.csv", index=False)
    tables.write(pd.DataFrame({"label": CLASSES}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "0" * 64, "truth_known": True, "target_day": target_day}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    for name, values in (("given_labels", given), ("true_labels", true)):
        table = pd.DataFrame({"image": names, "label": np.array(CLASSES)[values]})
        table.iloc[order][doubtful[order]].to_csv(folders[name] / f"{name}.csv", index=False)
    return folders


class JudgingStep(FakeStep):
    """Has what this step needs besides."""

    device = "cpu"

    def __init__(self, name: str, place: Path, inputs: dict[str, Path], known: dict[str, Path], new: Callable[[str], Path]) -> None:
        super().__init__(name, place, inputs)
        self._known, self._new, self.pictures = known, new, 0
        self.ledger = SimpleNamespace(fetch=lambda version: self.folders[version.split(":")[0]])
        self.outputs = {"cleansed_labels": "0" * 64}

    def has_input(self, name: str) -> bool:
        return name in self.inputs

    def shared(self, name: str, key: dict, compute: Callable[[Path], None]) -> Path:
        """Compute once a key, as the ledger does."""
        text = json.dumps([name, key])
        if text not in self._known:
            folder = self._new(name)
            compute(folder)
            self._known[text] = folder
        return self._known[text]

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        assert pixels
        assert path.stat().st_size
        self.pictures += 1

    def log_table(self, name: str, rows: list[dict], pictures: Iterable[np.ndarray]) -> None:
        assert len(rows) == len(list(pictures))


@pytest.fixture(scope="module")
def computed() -> dict[str, Path]:
    """Shared work by what it depends on."""
    return {}


@pytest.fixture
def run_step(tmp_path: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch, computed: dict[str, Path]):
    """Run the step on artifacts and give it back."""
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))

    def run(data: dict[str, Path], name: str, **changed) -> JudgingStep:
        step = JudgingStep("bayes_cutoff", tmp_path / name, data, computed, tmp_path_factory.mktemp)
        step.config = BayesCutoff(**SECTION | changed)
        load_run("bayes_cutoff")(step)
        return step

    return run


def content(step: FakeStep) -> dict[str, bytes]:
    folder = step.folders["cleansed_labels"]
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_step_finds_the_wrong_labels_by_mondays_model(tmp_path, run_step):
    step = run_step(make_data(tmp_path / "data"), "out")
    files = content(step)
    assert sorted(files) == ["cleansed_labels.csv", "cutoff.json", "label_report.csv", "posterior.npy", "probabilities.npy"]
    assert step.pictures == 1
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv", dtypes={"score": float, "p_wrong": float})
    targets = np.load(step.folders["cleansed_labels"] / "posterior.npy")
    assert len(table) == len(targets) == 36
    assert (table["final_label"] == np.array(CLASSES)[targets.argmax(axis=1)]).all()
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert step.metrics["f1"] == 1.0
    assert step.metrics["auroc"] == 1.0
    assert step.metrics["true_user_accuracy"] == step.metrics["kept_rate"] == 0.75
    assert step.metrics["estimated_user_accuracy"] == pytest.approx(0.75, abs=0.02)
    assert step.metrics["right_dropped_a"] == 0.0
    about = json.loads(files["cutoff.json"])
    assert about["tier"] == "trusted day"
    assert np.shape(about["noise_matrix"]) == (3, 3)
    assert "9 of 36 are cut off" in step.said[0]


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({"cutoff": "threshold", "threshold": 0.0}, True),
        ({"cutoff": "threshold", "threshold": 0.0, "audit_file": "audit.csv"}, True),
        ({"cutoff": "percentile", "percentile": 0.0}, False),
        ({}, False),
    ],
    ids=["all", "all but one that is checked", "as many as asked for", "some"],
)
def test_a_judge_that_cuts_off_nearly_all_labels_is_doubted_in_one_line(tmp_path, run_step, monkeypatch, changed, warned):
    monkeypatch.chdir(tmp_path)
    data = make_data(tmp_path / "data")
    Path("audit.csv").write_text("image,label\n055.png,b\n", encoding="utf-8")
    lines = [line for line in run_step(data, "out", **changed).said if line.startswith("warning: ")]
    assert len(lines) == warned
    if warned:
        share = 35 / 36 if "audit_file" in changed else 1.0
        assert lines[0].startswith(f"warning: {share:.0%} of the labels are cut off; probably ")
        assert "bayes_cutoff.epochs" in lines[0]
        assert "bayes_cutoff.audit_file" in lines[0]


def test_poisoned_truth_changes_no_decision_and_permuting_the_data_nothing_at_all(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    honest = run_step(data, "honest")
    truth = tables.read(data["true_labels"] / "true_labels.csv")
    tables.write(truth.assign(label=truth["label"].map({"a": "b", "b": "c", "c": "a"})), data["true_labels"] / "true_labels.csv")
    poisoned = run_step(data, "poisoned")
    assert content(poisoned) == content(honest)
    assert poisoned.metrics["f1"] != honest.metrics["f1"]
    permuted = run_step(make_data(tmp_path / "permuted", permuted=True), "other")
    assert content(permuted) == content(honest)
    assert permuted.metrics == honest.metrics


@pytest.mark.slow
@pytest.mark.parametrize(("target_day", "rounds"), [("tuesday", 1), ("monday", 0)], ids=["student", "nothing trusted"])
def test_permuting_the_data_changes_no_bit_where_models_learn_from_doubtful_labels(tmp_path, run_step, computed, target_day, rounds):
    one = run_step(make_data(tmp_path / "one", target_day=target_day), "out-one", target_day=target_day, rounds=rounds)
    computed.clear()  # nothing is taken over from it
    data = make_data(tmp_path / "other", target_day=target_day, permuted=True)
    other = run_step(data, "out-other", target_day=target_day, rounds=rounds)
    assert content(one) == content(other)
    assert one.metrics == other.metrics


def test_another_seed_is_another_judgement(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    one, other = run_step(data, "one"), run_step(data, "other", random_seed=8)
    assert content(one)["posterior.npy"] != content(other)["posterior.npy"]


def test_nothing_trusted_is_judged_by_held_out_folds(tmp_path, run_step):
    data = make_data(tmp_path / "data", target_day="monday")
    step = run_step(data, "out", target_day="monday")
    assert json.loads(content(step)["cutoff.json"])["tier"] == "nothing trusted, 2 held-out folds"
    assert step.said[0].startswith("nothing trusted, 2 held-out folds: ")
    assert step.metrics["f1"] > 0.9


def test_no_model_is_fitted_to_an_image_that_it_judges(tmp_path, run_step, monkeypatch):
    data = make_data(tmp_path / "data", target_day="monday")
    days = open_days(data["segregated_data"], data["clean_data"])
    fitted, judged = [], []
    monkeypatch.setattr(monday_model.training, "fit", lambda model, data, *args, **rest: fitted.append(set(data.images.row.tolist())))
    judged_by = mc_dropout.stochastic_passes

    def spy(model, days, ids, **options):
        judged.append(set(days.view(ids).row.tolist()))
        return judged_by(model, days, ids, **options)

    monkeypatch.setattr(mc_dropout, "stochastic_passes", spy)
    run_step(data, "out", target_day="monday", folds=3)
    assert len(fitted) == len(judged) == 3
    for training, own in zip(fitted, judged, strict=True):
        assert not training & own
    assert len(set.union(*judged)) == sum(map(len, judged)) == len(days.ids("monday", "train"))


def dealt_folds(run_step, monkeypatch: pytest.MonkeyPatch, data: dict[str, Path], owner, name: str, **changed) -> np.ndarray:
    """The folds that the step deals, told before any of their models is trained."""
    dealt = []

    class Enough(Exception):  # noqa: N818 - no error
        pass

    def look(*args, fold=None, **options):
        dealt.append(args[3] if fold is None else fold)
        raise Enough

    monkeypatch.setattr(owner, name, look)
    with pytest.raises(Enough):
        run_step(data, f"out-{name}", folds=3, **changed)
    return np.asarray(dealt[0])


@pytest.mark.parametrize("refine", [None, "cross_fit"])
def test_equal_and_nearly_equal_pictures_lie_in_one_fold(tmp_path, run_step, monkeypatch, refine):
    data = make_data(tmp_path / "data", target_day="tuesday" if refine else "monday")
    manifest = tables.read(data["clean_data"] / "manifest.csv").set_index("image")
    ids = tables.read(data["given_labels"] / "given_labels.csv")["image"].tolist()
    manifest.loc[ids[:8], "sha256"] = "the same pixels"
    manifest.loc[ids[7:20], "phash"] = "nearly the same picture"
    tables.write(manifest.reset_index(), data["clean_data"] / "manifest.csv")
    if refine:
        fold = dealt_folds(run_step, monkeypatch, data, label_scoring, "student_probabilities", rounds=1, refine=refine)
    else:
        fold = dealt_folds(run_step, monkeypatch, data, label_scoring, "held_out_passes", target_day="monday")
    assert len(fold) == len(ids)
    assert len(set(fold[:20])) == 1
    assert len(set(fold)) == 3


@pytest.mark.parametrize("method", [*bayes_cutoff.UNCERTAINTIES, "cleanlab"])
def test_other_methods_drop_what_they_distrust(tmp_path, run_step, method):
    step = run_step(make_data(tmp_path / "data"), "out", method=method)
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv", dtypes={"score": float, "weight": float})
    assert step.said[0].startswith(f"{method} has no posterior: ")
    assert "estimated_user_accuracy" not in step.metrics
    assert set(table["p_wrong"]) == {""}
    assert ((table["action"] == "drop") == (table["above_cutoff"] == "True")).all()
    assert (table["weight"] == (table["action"] == "keep")).all()
    # 36 images, the 90th percentile: 4 lie above; cleanlab finds the 9 that are wrong
    assert (table["action"] == "drop").sum() == (9 if method == "cleanlab" else 4)


@pytest.mark.parametrize("changed", [{"enabled": False}, {"label": "ground_truth"}])
def test_labels_that_are_not_judged_pass_through(tmp_path, run_step, monkeypatch, changed):
    monkeypatch.setattr(label_scoring, "score_labels", None)
    step = run_step(make_data(tmp_path / "data"), "out", **changed)
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv", dtypes={"weight": float})
    assert (table["final_label"] == table["given_label"]).all()
    assert set(table["action"]) == {"keep"}
    assert set(table["weight"]) == {1.0}
    assert step.metrics == {"images": 36}


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


def test_what_the_guardrail_gives_back_is_told_counted_and_kept(tmp_path, run_step, monkeypatch):
    data = make_data(tmp_path / "data")
    freely = functools.partial(bayes_cutoff.hold_back, max_cost=1.0)  # of so few labels each is worth more than a point of F1
    monkeypatch.setattr(bayes_cutoff, "hold_back", freely)
    # half of the labels are cut off, so that 9 right ones are lost, by chance more of one class than of another
    free, held = (run_step(data, f"ratio-{ratio}", cutoff="percentile", percentile=50.0, max_class_ratio=ratio) for ratio in (None, 1.0))
    without, above = (
        tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv")["above_cutoff"] == "True" for step in (free, held)
    )
    given_back = json.loads(content(held)["cutoff.json"])["given_back"]
    assert list(given_back) == CLASSES
    n_back = sum(given_back.values())
    assert n_back == held.metrics["given_back"] == (without & ~above).sum() > 0
    assert not (above & ~without).any()
    assert f"{n_back} given back so that no class loses too many" in held.said[0]
    assert "given_back" not in json.loads(content(free)["cutoff.json"])
    assert "given back" not in free.said[0]


@pytest.mark.parametrize("action", ["soft", "relabel", "drop"])
def test_audited_labels_are_true_whatever_the_action(tmp_path, run_step, action):
    data = make_data(tmp_path / "data")
    given = tables.read(data["given_labels"] / "given_labels.csv").set_index("image")["label"]
    truth = tables.read(data["true_labels"] / "true_labels.csv").set_index("image")["label"]
    wrong = given.index[given != truth][:2].tolist()
    audit = pd.DataFrame({"image": [*wrong, given.index[1], "nowhere.png"], "label": [*truth[wrong], "c", "a"]})
    audit.to_csv(tmp_path / "audit.csv", index=False)
    step = run_step(data, "out", audit_file=str(tmp_path / "audit.csv"), action=action)
    assert "nowhere.png" in step.said[0]
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv").set_index("image")
    targets = np.load(step.folders["cleansed_labels"] / "posterior.npy")
    for image, label in zip(audit["image"][:3], audit["label"][:3], strict=True):
        assert table.at[image, "final_label"] == label
        assert float(table.at[image, "p_wrong"]) == float(label != given[image])
        assert targets[table.index.get_loc(image)].tolist() == [float(name == label) for name in CLASSES]
        assert table.at[image, "weight"] == "1.0"
    about = json.loads(content(step)["cutoff.json"])
    assert about["tier"] == "trusted day, 3 audited images"
    assert about["audit"]["problems"]["unknown_image"]["count"] == 1


@pytest.mark.parametrize("refine", ["student", "cross_fit"])
def test_rounds_train_on_the_posteriors_and_judge_again(tmp_path, run_step, refine):
    data = make_data(tmp_path / "data")
    plain, refined = run_step(data, "plain"), run_step(data, refine, rounds=2, refine=refine)
    assert refined.said[0].startswith(f"trusted day, 2 rounds of {refine}: ")
    assert refined.metrics["f1"] == 1.0
    assert content(refined)["posterior.npy"] != content(plain)["posterior.npy"]
    # what is known of the users stays as it was before their labels were seen
    one, two = (json.loads(content(step)["cutoff.json"]) for step in (plain, refined))
    assert one["noise_matrix"] == two["noise_matrix"]


def test_a_cross_fitted_image_is_judged_by_a_model_that_has_not_seen_its_posterior(tmp_path, run_step, monkeypatch):
    data = make_data(tmp_path / "data")
    days = open_days(data["segregated_data"], data["clean_data"])
    fitted, judged, follow, look = [], [], mc_dropout.fit_recipe, mc_dropout.stochastic_passes

    def fit(days, recipe, ids, *args, **options):
        fitted.append(set(ids))
        return follow(days, recipe, ids, *args, **options)

    def spy(model, days, ids, **options):
        judged.append(set(ids))
        return look(model, days, ids, **options)

    monkeypatch.setattr(mc_dropout, "fit_recipe", fit)
    monkeypatch.setattr(mc_dropout, "stochastic_passes", spy)
    run_step(data, "out", rounds=1, refine="cross_fit", folds=3, refine_epochs=2)
    assert len(fitted) == len(judged) == 3
    for training, own in zip(fitted, judged, strict=True):
        assert not training & own
        assert set(days.ids("monday", "train")) < training


def test_users_are_told_apart_and_reported(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    truth = tables.read(data["true_labels"] / "true_labels.csv")
    # ann and cy are always right, bob never
    rows = [
        (image, user, label if user != "bob" else CLASSES[(CLASSES.index(label) + 1) % 3])
        for image, label in zip(truth["image"], truth["label"], strict=True)
        for user in ("ann", "bob", "cy")
    ]
    tables.write(pd.DataFrame(rows, columns=["image", "user", "label"]), data["given_labels"] / "votes.csv")
    step = run_step(data, "out")
    users = tables.read(step.folders["cleansed_labels"] / "users.csv", dtypes={"estimated_accuracy": float}).set_index("user")
    assert users["votes"].tolist() == ["36", "36", "36"]
    assert users.at["ann", "estimated_accuracy"] > 0.9 > 0.2 > users.at["bob", "estimated_accuracy"]
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv")
    assert (table["final_label"] == truth["label"]).all()


def test_one_user_is_nobody_to_tell_apart(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    plain = run_step(data, "plain").folders["cleansed_labels"]
    given = tables.read(data["given_labels"] / "given_labels.csv")
    tables.write(given.assign(user="ann")[["image", "user", "label"]], data["given_labels"] / "votes.csv")
    alone = run_step(data, "alone").folders["cleansed_labels"]
    for name in ("cleansed_labels.csv", "posterior.npy", "cutoff.json"):
        assert (alone / name).read_bytes() == (plain / name).read_bytes()
    assert not (alone / "users.csv").exists()
