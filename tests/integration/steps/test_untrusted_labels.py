"""The step ``bayes_cutoff`` where nothing is trusted: convex judges of pixels or features, what they say, and what is left as it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bccp.core.config_schema import BayesCutoff
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.folder_checks import FolderChecks
from bccp.labels import folder_checking, frozen_scoring, network_scoring, untrusted_scoring
from bccp.labels.findings import Finding, finding_sentence
from bccp.models.fitting import training
from support.fake_step import load_run
from support.judged_data import CLASSES, make_data, make_folder
from support.judging_step import SECTION, JudgingStep, content

ALONE = {"judge": "features", "target_day": "monday", "folds": 5, "max_class_ratio": 1.5}


@pytest.fixture
def run_step(tmp_path: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch):
    """Run the step on artifacts and give it back; what steps share is kept for as long as a test."""
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))
    computed: dict[str, Path] = {}

    def run(data: dict[str, Path], name: str, **changed) -> JudgingStep:
        step = JudgingStep("bayes_cutoff", tmp_path / name, data, computed, tmp_path_factory.mktemp)
        step.config = BayesCutoff(**SECTION | ALONE | changed)
        load_run("bayes_cutoff")(step)
        return step

    return run


def wrong_labels(true: np.ndarray, share: float, n_classes: int = 3) -> np.ndarray:
    """Labels of which a share is wrong, any other class alike."""
    rng = np.random.default_rng(1)
    wrong = rng.permutation(len(true))[: round(share * len(true))]
    given = true.copy()
    given[wrong] = (true[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    return given


TRUE = np.arange(240) % 3
GIVEN = wrong_labels(TRUE, 0.2)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    return make_folder(tmp_path / "data", GIVEN.tolist(), TRUE.tolist())


def about(step: JudgingStep) -> dict:
    return json.loads(content(step)["cutoff.json"])


def judged(step: JudgingStep) -> pd.DataFrame:
    return tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv", dtypes={"weight": float})


def table(step: JudgingStep, name: str) -> pd.DataFrame:
    return tables.read(step.folders["cleansed_labels"] / f"{name}.csv")


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, *names: str) -> list[str]:
    """The names of the functions, once for each call."""
    calls: list[str] = []

    def count(name: str):
        function = getattr(owner, name)
        return lambda *given, **options: (calls.append(name), function(*given, **options))[1]

    for name in names:
        monkeypatch.setattr(owner, name, count(name))
    return calls


def test_pixels_judge_one_another_and_the_finding_comes_first(data, run_step, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("a network is trained"))
    step = run_step(data, "out")
    said, found = step.said, Finding.from_json(about(step)["finding"])
    assert said[0] == finding_sentence(found)
    assert said[0].startswith("at least 1")
    assert said[1].startswith("nothing trusted, 5 held-out folds of pixels, uniform noise: training weighs")
    assert not [line for line in said if "cut off" in line or "given back" in line or "tier" in line]
    assert found.verdict == "found"
    assert not found.trusted
    assert 0.12 < found.at_least < 0.23
    assert found.at_least <= found.at_most < 0.25
    assert step.metrics["auroc"] > 0.99
    report = table(step, "label_report")
    rank = report["rank"].astype(int)
    n_listed = math.ceil(found.at_most * 240)
    assert (report["chosen"] == "random").sum() == 50
    assert (report["chosen"] == "suspect").sum() == n_listed
    assert rank[report["chosen"] == "suspect"].max() <= n_listed + 50
    assert "given_back" not in about(step), "no guardrail where nothing is trusted"
    near = table(step, "neighbours")
    assert sorted(near["image"]) == sorted(report.loc[report["chosen"] != "", "image"])
    given = judged(step).set_index("image")["given_label"]
    known = report.set_index("image")
    for column, label in (("nearest_suggested", "suggested_label"), ("nearest_given", "given_label")):
        shown = near[near[column] != ""]
        assert len(shown) > 80
        assert (given[shown[column]].to_numpy() == known.loc[shown["image"], label].to_numpy()).all()
        assert (known.loc[shown[column], "p_wrong"].astype(float) <= 0.1).all()
        assert (shown[column] != shown["image"]).all()


@pytest.mark.parametrize("action", ["soft", "relabel", "drop"])
@pytest.mark.parametrize("verdict", ["blind", "nothing"])
def test_where_nothing_is_found_every_label_stays_as_it_was_given(tmp_path, run_step, action, verdict):
    given = np.random.default_rng(3).integers(0, 3, 240) if verdict == "blind" else TRUE
    step = run_step(make_folder(tmp_path / "data", given.tolist(), TRUE.tolist()), "out", action=action)
    sentence = {"blind": "this judge cannot tell these classes apart; nothing was changed", "nothing": "no label stands out as wrong"}
    assert step.said[0] == sentence[verdict]
    assert step.said[1].endswith("for training, too, all labels stay as they were given")
    assert about(step)["finding"]["verdict"] == verdict
    rows = judged(step)
    assert (rows["final_label"] == rows["given_label"]).all()
    assert set(rows["action"]) == {"keep"}
    assert set(rows["above_cutoff"]) == {"False"}
    assert (rows["weight"] == 1).all()
    targets = np.load(step.folders["cleansed_labels"] / "posterior.npy")
    np.testing.assert_array_equal(targets, np.eye(3, dtype=np.float32)[given])
    report = table(step, "label_report")
    if verdict == "blind":  # no figure of a judge that cannot tell is shown, and no suspect of his
        assert set(rows["p_wrong"]) == set(report["suggested_label"]) == {""}
        assert set(report["chosen"]) == {"", "random"}
        assert "estimated_user_accuracy" not in step.metrics | about(step)
    else:
        assert rows["p_wrong"].astype(float).mean() < 0.01


def test_what_else_the_folder_hides_is_written_once_for_all_that_is_decided_afterwards(data, run_step, monkeypatch):
    calls = counted(monkeypatch, folder_checking, "find_folder_checks")
    manifest = tables.read(data["clean_data"] / "manifest.csv")
    tables.write(manifest.assign(format=np.where(GIVEN == 1, "JPEG", "PNG")), data["clean_data"] / "manifest.csv")
    step = run_step(data, "first")
    checks = {one.check: one for one in FolderChecks.read(step.folders["cleansed_labels"]).checks}
    assert checks["outliers"].verdict == "no image stands out as of no class"
    (said,) = [cue for cue in checks["cues"].cues if "format" in cue]
    n_jpeg = (GIVEN == 1).sum()
    assert (
        said
        == f"the format alone gives 'b' away: all {n_jpeg} different pictures of it are JPEG, and no other (it tells 100% of pairs apart)"
    )
    assert sum(line.startswith("beside wrong labels: ") for line in step.said) == 1
    other = run_step(data, "other", action="drop")
    assert calls == ["find_folder_checks"]
    for name in ("folder_checks.json", "folder_checks.csv"):
        assert content(step)[name] == content(other)[name]


def test_no_judge_is_fitted_again_for_what_is_decided_afterwards(data, run_step, monkeypatch, tmp_path):
    calls = counted(monkeypatch, untrusted_scoring, "judge_untrusted")
    run_step(data, "first")
    audit = tmp_path / "checked.csv"
    audit.write_text("image,label\n0000.png,a\n0001.png,b\n", encoding="utf-8")
    others = [
        {"action": "drop"},
        {"cutoff": "threshold", "threshold": 0.3},
        {"cutoff": "percentile", "percentile": 80.0},
        {"max_class_ratio": None},
        {"audit_file": str(audit)},
        {"method": "cleanlab", "action": "drop"},
    ]
    for number, changed in enumerate(others):
        run_step(data, f"other{number}", **changed)
    assert calls == ["judge_untrusted"]
    run_step(data, "folds", folds=4)
    table_of_labels = data["given_labels"] / "given_labels.csv"
    tables.write(tables.read(table_of_labels).assign(label=["b", *tables.read(table_of_labels)["label"][1:]]), table_of_labels)
    run_step(data, "labels")
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("changed", "owner", "function", "n_calls"),
    [
        ({"judge": "network", "target_day": "monday", "folds": 2}, network_scoring, "held_out_passes", 1),
        ({"judge": "network", "target_day": "tuesday"}, network_scoring, "stochastic_passes", 2),
        (
            {"judge": "features", "target_day": "tuesday", "refine": "stack", "freeze_backbone": True},
            frozen_scoring,
            "judge_given_labels",
            1,
        ),
    ],
    ids=["folds", "Monday's model", "stack"],
)
def test_other_judges_are_asked_once_too(tmp_path, run_step, monkeypatch, changed, owner, function, n_calls):
    data = make_data(tmp_path / "data", target_day=changed["target_day"])
    calls = counted(monkeypatch, owner, function)
    first = run_step(data, "first", **changed)
    for number, later in enumerate([{"action": "drop"}, {"cutoff": "percentile"}, {"max_class_ratio": None}]):
        run_step(data, f"other{number}", **changed, **later)
    assert len(calls) == n_calls
    again = run_step(data, "again", **changed)
    assert content(again) == content(first)


def checked_file(path: Path, answers: dict[str, str], *, kind: str = "random") -> str:
    """Answers by image: a label, or a verdict."""
    rows = [
        (image, "" if answer in ("none", "unsure") else answer, answer if answer in ("none", "unsure") else "label", kind)
        for image, answer in answers.items()
    ]
    tables.write(pd.DataFrame(rows, columns=["image", "label", "verdict", "chosen"]), path)
    return str(path)


def test_random_checks_turn_the_bounds_into_an_estimate(data, run_step, tmp_path):
    before = table(run_step(data, "before"), "label_report")
    sample = before.loc[before["chosen"] == "random", "image"].tolist()
    truth = dict(zip(before["image"].tolist(), np.array(CLASSES)[TRUE].tolist(), strict=True))
    answers = {image: truth[image] for image in sample[2:]} | {sample[0]: "none", sample[1]: "unsure"}
    step = run_step(data, "out", audit_file=checked_file(tmp_path / "checked.csv", answers))
    found = about(step)["finding"]
    assert (found["n_audited"], found["n_unsure"], found["n_no_class"], found["at_most"]) == (49, 1, 1, None)
    assert found["at_least"] == pytest.approx(0.2, abs=0.03)
    assert f"about {found['at_least']:.0%} of the labels are wrong, as far as 49 checked ones tell" in step.said[1]
    rows = judged(step).set_index("image")
    assert rows.at[sample[0], "action"] == "drop"
    assert (rows.loc[sample[2:], "final_label"] == [truth[image] for image in sample[2:]]).all()
    worst = before.loc[before["rank"].astype(int) <= 5, "image"].tolist()
    few = run_step(data, "few", audit_file=checked_file(tmp_path / "few.csv", {image: truth[image] for image in worst}, kind="suspect"))
    assert about(few)["finding"]["at_most"] is not None, "the worst alone tell nothing of the others"
    other = ~before["image"].isin(worst)
    assert table(few, "label_report").loc[other, "p_wrong"].tolist() == before.loc[other, "p_wrong"].tolist()


def test_a_blind_judge_changes_what_was_checked_alone(tmp_path, run_step):
    given = np.random.default_rng(3).integers(0, 3, 240)
    data = make_folder(tmp_path / "data", given.tolist(), TRUE.tolist())
    wrong = int(np.flatnonzero(given != TRUE)[0])
    audit = checked_file(tmp_path / "checked.csv", {f"{wrong:04d}.png": CLASSES[TRUE[wrong]]})
    step = run_step(data, "out", audit_file=audit)
    assert step.said[1] == "this judge cannot tell these classes apart; nothing was changed but what was checked"
    rows = judged(step)
    assert np.flatnonzero(rows["final_label"] != rows["given_label"]).tolist() == [wrong]


def test_the_truth_and_the_order_of_the_data_change_nothing(data, run_step, tmp_path):
    step = run_step(data, "one")
    shuffled = make_folder(tmp_path / "other", GIVEN.tolist(), TRUE.tolist())
    order = np.random.default_rng(0).permutation(240)
    for name, file in (("clean_data", "manifest"), ("segregated_data", "splits"), ("given_labels", "given_labels")):
        path = shuffled[name] / f"{file}.csv"
        tables.write(tables.read(path).iloc[order], path)
    tables.write(tables.read(shuffled["true_labels"] / "true_labels.csv").assign(label="a"), shuffled["true_labels"] / "true_labels.csv")
    assert content(run_step(shuffled, "two")) == content(step)


def test_users_are_told_apart_by_what_the_pool_says(data, run_step):
    rng, names = np.random.default_rng(2), np.array(CLASSES)
    right = {"ann": 0.95, "bob": 0.6, "cy": 0.9}
    said = {user: np.where(rng.random(240) < p, TRUE, (TRUE + rng.integers(1, 3, 240)) % 3) for user, p in right.items()}
    images = [f"{i:04d}.png" for i in range(240)]
    votes = pd.concat([pd.DataFrame({"image": images, "user": user, "label": names[labels]}) for user, labels in said.items()])
    tables.write(votes.sort_values(["image", "user"]), data["given_labels"] / "votes.csv")
    majority = [int(np.bincount([labels[i] for labels in said.values()], minlength=3).argmax()) for i in range(240)]
    tables.write(pd.DataFrame({"image": images, "label": names[majority]}), data["given_labels"] / "given_labels.csv")
    step = run_step(data, "out")
    users = table(step, "users").set_index("user")
    assert users["estimated_accuracy"].astype(float).idxmin() == "bob"
    assert np.mean(judged(step)["final_label"].to_numpy() == names[TRUE]) > np.mean(np.array(majority) == TRUE)


def test_cleanlab_filters_by_the_same_pool(data, run_step):
    step = run_step(data, "out", method="cleanlab", action="drop")
    assert step.said[0].startswith("nothing trusted, 5 held-out folds of pixels")
    assert step.metrics["f1"] > 0.9
    assert "finding" not in about(step)
    random = np.random.default_rng(3).integers(0, 3, 240)
    labels = data["given_labels"] / "given_labels.csv"
    tables.write(tables.read(labels).assign(label=np.array(CLASSES)[random]), labels)
    blind = run_step(data, "blind", method="cleanlab", action="drop")
    assert blind.said[0] == "this judge cannot tell these classes apart; nothing was changed"
    assert set(judged(blind)["action"]) == {"keep"}


def test_a_frozen_backbone_gives_two_views(data, run_step, monkeypatch):
    seen: list[int] = []
    judge = untrusted_scoring.judge_untrusted
    monkeypatch.setattr(untrusted_scoring, "judge_untrusted", lambda views, *a, **o: (seen.append(len(views)), judge(views, *a, **o))[1])
    step = run_step(data, "out", freeze_backbone=True)
    assert seen == [2]
    assert "5 held-out folds of features" in about(step)["tier"]
    assert {"label_report.csv", "neighbours.csv"} <= content(step).keys()


@pytest.mark.parametrize(
    ("given", "classes", "look"),
    [
        ([0] * 12, 1, None),
        ([0] * 12, 3, None),
        ([0, 1, 0, 1, 0, 1], 2, [0] * 6),
        ([0, 1], 2, None),
        ([0, 1, 2], 3, None),
        ([0] * 20 + [1] * 20 + [2], 3, None),
        ([0] * 20 + [1] * 20 + [2] * 2, 3, None),
        ([0, 1] * 10, 2, [i // 2 for i in range(20)]),
    ],
    ids=[
        "one class",
        "one class used",
        "one picture",
        "two images",
        "fewer images than folds",
        "a class of one",
        "a class of two",
        "pairs",
    ],
)
def test_little_or_odd_data_is_judged_without_a_change_for_the_worse(tmp_path, run_step, given, classes, look):
    true = [k % classes for k in given]
    step = run_step(make_folder(tmp_path / "data", given, true, classes=classes, look=look), "out")
    rows = judged(step)
    assert len(rows) == len(given)
    assert (rows["final_label"] == rows["given_label"]).mean() >= 0.95
    assert np.isfinite(np.load(step.folders["cleansed_labels"] / "posterior.npy")).all()
    assert step.said[0] == finding_sentence(Finding.from_json(about(step)["finding"]))


def test_checked_labels_of_one_class_are_refused(tmp_path, run_step):
    data = make_folder(tmp_path / "data", [0] * 12, [0] * 12, classes=1)
    with pytest.raises(BCCPError, match="with one class none can be"):
        run_step(data, "out", audit_file=checked_file(tmp_path / "checked.csv", {"0000.png": "a"}))
