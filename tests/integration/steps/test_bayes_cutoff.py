"""The step ``bayes_cutoff`` on small images: wrong labels are found, whatever the order, and what a judge learns from."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bccp.core.config_schema import BayesCutoff
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.labels import bayes_cutoff, label_scoring, mc_dropout, network_scoring
from bccp.models import monday_model
from bccp.models.fitting import training
from support.fake_step import load_run
from support.judged_data import CLASSES, make_data
from support.judging_step import SECTION, JudgingStep, content


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
    assert "9 of 36 are doubted" in step.said[0]


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
        assert lines[0].startswith(f"warning: {share:.0%} of the labels are doubted; probably ")
        assert "bayes_cutoff.epochs" in lines[0]
        assert "bayes_cutoff.audit_file" in lines[0]


@pytest.mark.parametrize("head", ["sgd", "logistic_regression"])
def test_poisoned_truth_changes_no_decision_and_permuting_the_data_nothing_at_all(tmp_path, run_step, head):
    data, frozen = make_data(tmp_path / "data"), head == "logistic_regression"
    run_step = functools.partial(run_step, head=head, freeze_backbone=frozen)
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
    monkeypatch.setattr(training, "fit", lambda model, data, *args, **rest: fitted.append(set(data.images.row.tolist())))
    judged_by = mc_dropout.stochastic_passes

    def spy(model, days, ids, **options):
        judged.append(set(days.view(ids).row.tolist()))
        return judged_by(model, days, ids, **options)

    monkeypatch.setattr(mc_dropout, "stochastic_passes", spy)
    run_step(data, "out", target_day="monday", folds=3)
    assert len(fitted) == len(judged) == 3
    for learnt_from, own in zip(fitted, judged, strict=True):
        assert not learnt_from & own
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
        fold = dealt_folds(run_step, monkeypatch, data, network_scoring, "held_out_passes", target_day="monday")
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
    assert f"{n_back} more are not, so that no class loses too many" in held.said[0]
    assert "given_back" not in json.loads(content(free)["cutoff.json"])
    assert "no class loses" not in free.said[0]


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


def test_detection_is_never_scored_on_labels_that_the_judge_was_told(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    given = tables.read(data["given_labels"] / "given_labels.csv").set_index("image")["label"]
    truth = tables.read(data["true_labels"] / "true_labels.csv").set_index("image")["label"]
    told = given.index[::2]
    truth[told].rename("label").to_csv(tmp_path / "audit.csv", index_label="image")
    step = run_step(data, "out", audit_file=str(tmp_path / "audit.csv"))
    rest = given.index.difference(told)
    assert step.metrics["true_user_accuracy"] == (given == truth)[rest].mean()
    known = truth[truth.index.isin(told)].reset_index()
    tables.write(known, data["true_labels"] / "true_labels.csv")
    alone = run_step(data, "alone", audit_file=str(tmp_path / "audit.csv"))
    assert {"kept_rate", "estimated_user_accuracy"} <= set(alone.metrics)
    assert not {"auroc", "f1", "precision", "recall", "true_user_accuracy"} & set(alone.metrics)


@pytest.mark.parametrize("options", [{"action": "soft"}, {"method": "cleanlab"}])
def test_an_image_of_no_class_is_trained_on_by_nobody_and_unsure_ones_are_counted(tmp_path, run_step, options):
    data = make_data(tmp_path / "data")
    images = tables.read(data["given_labels"] / "given_labels.csv")["image"].tolist()
    verdicts = dict(zip(images, ["none", "unsure", "unsure", "label"], strict=False))
    rows = [f"{image},{'a' * (verdict == 'label')},{verdict},suspect,1" for image, verdict in verdicts.items()]
    (tmp_path / "checked.csv").write_text("\n".join(["image,label,verdict,chosen,rank", *rows]) + "\n")
    step = run_step(data, "out", audit_file=str(tmp_path / "checked.csv"), **options)
    words = "audit file: 2 checked images (2 suspects), 1 of them of no class; 2 unsure, which count as not checked"
    assert any(line.startswith(words) for line in step.said)
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv").set_index("image")
    assert table.loc[images[0], ["action", "final_label", "weight", "above_cutoff"]].tolist() == ["drop", "", "0.0", "True"]
    assert float(table.at[images[0], "p_wrong"]) == pytest.approx(1)
    assert not (table.loc[images[1:3], "p_wrong"].isin(["0.0", "1.0"])).any()
    report = tables.read(step.folders["cleansed_labels"] / "label_report.csv").set_index("image")
    assert report.loc[images[:4], "verdict"].tolist() == ["none", "", "", "label"]
    about = json.loads(content(step)["cutoff.json"])["audit"]
    assert (about["images"], about["no_class"], about["unsure"]) == (2, 1, 2)


def test_cleanlab_learns_from_checked_labels_too(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    given = tables.read(data["given_labels"] / "given_labels.csv").set_index("image")["label"]
    truth = tables.read(data["true_labels"] / "true_labels.csv").set_index("image")["label"]
    plain = run_step(data, "plain", method="cleanlab")
    place = plain.folders["cleansed_labels"] / "label_report.csv"
    (invitation,) = [line for line in plain.said if str(place) in line]
    assert invitation.endswith("give the copy as bayes_cutoff.audit_file")
    report = tables.read(place)
    assert set(report["p_wrong"]) == {""}
    drawn = (report["chosen"] == "random").to_numpy()
    report.loc[drawn, "label"] = truth[report.loc[drawn, "image"]].to_numpy()
    tables.write(report, tmp_path / "checked.csv")
    step = run_step(data, "out", method="cleanlab", audit_file=str(tmp_path / "checked.csv"))
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv", dtypes={"p_wrong": float}).set_index("image")
    wrong = (given != truth)[table.index]
    assert step.metrics["f1"] == 1.0  # by its own filter
    assert table.loc[report.loc[drawn, "image"], "p_wrong"].tolist() == wrong[report.loc[drawn, "image"]].astype(float).tolist()
    assert step.metrics["estimated_user_accuracy"] == pytest.approx(0.75, abs=0.06)
    assert step.said[0] == "cleanlab has no posterior: soft becomes drop"
    assert step.said[1].startswith("audit file: 12 checked images (12 at random)")
    assert "% of the labels seem wrong; 9 of 36 are doubted (by cleanlab's filter)" in step.said[2]
    assert "at least" not in step.said[2]
    checked_wrong = [image for image in report.loc[drawn, "image"] if wrong[image]]
    assert table.loc[checked_wrong, "final_label"].tolist() == truth[checked_wrong].tolist()
    about = json.loads(content(step)["cutoff.json"])
    assert about["audit"]["chosen"] == {"suspect": 0, "random": 12, "unknown": 0}
    assert about["audit"]["at_least"] is False


def test_the_worst_alone_give_a_lower_bound_and_a_method_that_learns_nothing_names_one_that_does(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    truth = tables.read(data["true_labels"] / "true_labels.csv").set_index("image")["label"]
    first = run_step(data, "first")
    report = tables.read(first.folders["cleansed_labels"] / "label_report.csv", dtypes={"rank": int})
    worst = report["rank"] <= 6
    tables.write(report.assign(label=truth[report["image"]].where(worst.to_numpy(), "").to_numpy()), tmp_path / "checked.csv")
    step = run_step(data, "out", audit_file=str(tmp_path / "checked.csv"))
    assert json.loads(content(step)["cutoff.json"])["audit"]["at_least"] is True
    assert "trusted day, 6 audited images: at least " in "\n".join(step.said)
    last = step.said[-1]
    assert "rows with chosen=suspect, which find the most wrong labels" in last
    assert "with chosen=random, which tell how many are wrong in all" in last
    entropy = run_step(data, "entropy", method="predictive_entropy", cutoff="percentile")
    assert entropy.said[-1].endswith("give the copy as bayes_cutoff.audit_file with bayes_cutoff.method=label_posterior")


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
    for learnt_from, own in zip(fitted, judged, strict=True):
        assert not learnt_from & own
        assert set(days.ids("monday", "train")) < learnt_from


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


@pytest.mark.parametrize("method", ["mutual_information", "cleanlab"])
def test_stochastic_passes_go_through_a_head_that_was_fitted_at_once(tmp_path, run_step, method):
    step = run_step(make_data(tmp_path / "data"), "out", method=method, freeze_backbone=True, head="logistic_regression")
    score = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv", dtypes={"score": float})["score"]
    assert np.isfinite(score).all()
    assert score.nunique() > 30
    assert step.metrics["auroc"] > 0.95 or method == "mutual_information"


@pytest.mark.parametrize(("target_day", "refine"), [("tuesday", "student"), ("tuesday", "cross_fit"), ("monday", "student")])
def test_models_of_doubtful_labels_may_be_fitted_at_once(tmp_path, run_step, target_day, refine):
    data = make_data(tmp_path / "data", target_day=target_day)
    changed = {"target_day": target_day, "refine": refine, "rounds": 1, "freeze_backbone": True, "head": "logistic_regression"}
    step = run_step(data, "out", **changed)
    assert step.metrics["auroc"] > 0.9


STACK = {"refine": "stack", "freeze_backbone": True}


@pytest.fixture
def trains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is trained is an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model is trained")

    monkeypatch.setattr(monday_model, "fit_recipe", refuse)


def test_a_frozen_backbones_judges_find_the_wrong_labels_and_say_what_they_chose_by(tmp_path, run_step, trains_nothing):
    step = run_step(make_data(tmp_path / "data"), "out", **STACK)
    assert step.metrics["auroc"] == 1.0
    assert step.metrics["f1"] > 0.9
    assert step.metrics["estimated_user_accuracy"] == pytest.approx(0.75, abs=0.06)
    about = json.loads(content(step)["cutoff.json"])
    assert about["judge"]["noise_model"] in about["judge"]["log_likelihoods"]
    assert about["tier"].startswith("trusted day, 4 judges of features")
    assert np.shape(about["noise_matrix"]) == (3, 3)
    assert len(step.said) == 1 + step.said[-1].startswith("to check labels")
    assert 0.3 < step.metrics["separability"] < 0.75
    report = tables.read(step.folders["cleansed_labels"] / "label_report.csv")
    assert (report["nearest_trusted"] != "").sum() >= 8


def test_a_stack_says_that_the_new_images_look_unlike_the_trusted_ones(tmp_path, run_step, trains_nothing):
    data = make_data(tmp_path / "data")
    splits = tables.read(data["segregated_data"] / "splits.csv")
    pixels = np.load(data["clean_data"] / "images.npy")
    rows = splits.loc[splits["day"] == "tuesday", "row"].astype(int)
    pixels[rows] = 255 - pixels[rows]
    np.save(data["clean_data"] / "images.npy", pixels)
    step = run_step(data, "out", **STACK)
    assert step.metrics["separability"] > 0.9
    assert "drift: features tell the new images from the trusted ones" in step.said[0]


def test_the_truth_and_the_order_of_the_data_change_nothing_of_a_stack(tmp_path, run_step, trains_nothing):
    data = make_data(tmp_path / "data")
    honest = run_step(data, "honest", **STACK)
    truth = tables.read(data["true_labels"] / "true_labels.csv")
    tables.write(truth.assign(label=truth["label"].map({"a": "b", "b": "c", "c": "a"})), data["true_labels"] / "true_labels.csv")
    assert content(run_step(data, "poisoned", **STACK)) == content(honest)
    assert content(run_step(make_data(tmp_path / "permuted", permuted=True), "other", **STACK)) == content(honest)


def test_no_option_of_a_trained_judge_changes_what_a_stack_says(tmp_path, run_step, trains_nothing):
    data = make_data(tmp_path / "data")
    one = run_step(data, "one", **STACK)
    other = run_step(data, "other", **STACK, epochs=9, passes=1, folds=4, rounds=3, dropout=0.0, mirror="auto", mixup_alpha=0.4)
    assert content(one) == content(other)
    assert one.config.relevant() == other.config.relevant()


def test_checked_labels_and_users_are_heeded_by_a_stack(tmp_path, run_step, trains_nothing, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_data(tmp_path / "data")
    Path("audit.csv").write_text("image,label\n056.png,c\n055.png,b\n", encoding="utf-8")
    table = tables.read(run_step(data, "audited", **STACK, audit_file="audit.csv").folders["cleansed_labels"] / "cleansed_labels.csv")
    assert table.set_index("image").loc[["055.png", "056.png"], "final_label"].tolist() == ["b", "c"]
    given, truth = (tables.read(data[name] / f"{name}.csv").set_index("image")["label"] for name in ("given_labels", "true_labels"))
    rows = [(image, user, label) for user, said in (("ann", truth), ("bob", truth), ("cat", given)) for image, label in said.items()]
    tables.write(pd.DataFrame(rows, columns=["image", "user", "label"]), data["given_labels"] / "votes.csv")
    step = run_step(data, "users", **STACK)
    users = tables.read(step.folders["cleansed_labels"] / "users.csv", dtypes={"estimated_accuracy": float}).set_index("user")
    assert users.loc["cat", "estimated_accuracy"] < 0.85 < users.loc["ann", "estimated_accuracy"]


def test_a_stack_needs_two_different_trusted_images(tmp_path, run_step):
    data = make_data(tmp_path / "data")
    manifest = tables.read(data["clean_data"] / "manifest.csv")
    on_monday = manifest["image"] < "054.png"
    tables.write(manifest.assign(phash=np.where(on_monday, "00ff00ff00ff00ff", "")), data["clean_data"] / "manifest.csv")
    with pytest.raises(BCCPError, match="show 1 different picture"):
        run_step(data, "out", **STACK)
