"""The benchmark of finding wrong labels: its statistics by hand, its grid, what it keeps, and what it does when a run fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

import bccp
from bccp.core import config
from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.data import tables
from benchmarks import labels
from benchmarks.label_tables import AUDITED, BEST, BEST_OWN, CLEANLAB, GIVEN, OURS, TRUE, WITHOUT, Found, Judged, Report, Result, figures
from benchmarks.measures import calibration, calibration_error, estimate, f1, gap_closed, interval, paired, right_dropped

NO_AUDIT = np.empty(0, np.int64)


def make_judged(given: Any, true: Any, score: Any, above: Any, *, filters: Any = None, stated: bool = True) -> Judged:
    n = len(given)
    scores = np.asarray(score, np.float64)
    return Judged(
        images=np.array([f"{i:05d}.png" for i in range(n)]),
        classes=np.array(["ant", "bee", "cat"]),
        given=np.asarray(given, np.int64),
        true=np.asarray(true, np.int64),
        score=scores,
        stated=scores if stated else np.empty(0),
        above=np.asarray(above, np.bool_),
        filters=np.empty((0, n), np.bool_) if filters is None else np.asarray(filters, np.bool_),
        estimated=np.array(np.nan),
    )


def make_result(judged: Judged | None = None, accuracy: float | None = None) -> Result:
    return Result({} if accuracy is None else {"test/accuracy": accuracy}, 1.0, 2.0, judged)


def make_report(found: Found, *, audited: Any = NO_AUDIT, digits: bool = True) -> Report:
    cells, variants = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    return Report(found, cells, variants, lambda n, seed: np.asarray(audited, np.int64), digits=digits)


def test_an_interval_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)  # t at 0.975 with 2 degrees of freedom, standard deviation 1
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)
    assert interval([0.5]) == "0.5000 ± nan"
    assert np.isnan(estimate([]).mean)


def test_differences_are_paired_by_seed_and_seeds_that_only_one_has_are_left_out() -> None:
    assert paired({2: 0.75, 1: 0.5, 3: 9.0}, {1: 0.25, 2: 0.25, 4: 9.0}).tolist() == [0.25, 0.5]


def test_f1_by_hand() -> None:
    assert f1([1, 1, 0, 0], [1, 0, 1, 0]) == 0.5  # one hit, two flagged, two wrong
    assert f1([0, 0], [0, 0]) == 0


def test_calibration_error_by_hand() -> None:
    # the first bin says 0.1 wrong and has 1, the last one says 1.95 and has 2
    assert calibration_error([0.05, 0.05, 0.95, 1.0], [0, 1, 1, 1]) == pytest.approx((0.9 + 0.05) / 4)
    assert calibration_error([0.0, 1.0], [0, 1]) == 0


def test_a_perfect_judge_has_no_debiased_calibration_error_on_average_but_a_raw_one() -> None:
    rng = np.random.default_rng(0)
    excess, perfect = [], []
    for _ in range(60):
        p = rng.random(400)
        found = calibration(p, rng.random(400) < p, rng=rng, draws=50)
        excess.append(found.raw - found.perfect)
        perfect.append(found.perfect)
        assert found.debiased == max(0.0, found.raw - found.perfect)
    assert np.mean(perfect) > 0.05
    assert abs(np.mean(excess)) < 4 * np.std(excess, ddof=1) / np.sqrt(60)


def test_a_judge_that_is_ten_points_off_is_found_to_be() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(0.2, 0.8, 20_000)
    found = calibration(p, rng.random(20_000) < p + 0.1, rng=rng, draws=20)
    assert found.raw == pytest.approx(0.1, abs=0.015)
    assert 0.08 < found.debiased < found.raw


def test_what_the_worst_class_loses_by_hand() -> None:
    given, wrong = [0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0, 1, 1]
    above = [1, 0, 0, 0, 1, 0, 1, 1]  # right labels dropped: 1 of 4 of class 0, 1 of 2 of class 1, 2 of 6 of all
    ratio, n_dropped = right_dropped(above, given, wrong)
    assert ratio == pytest.approx((1 / 2) / (2 / 6))
    assert n_dropped == 2
    assert np.isnan(right_dropped([0] * 8, given, wrong)[0])


def test_the_gap_closed_sums_over_the_cells_with_a_gap() -> None:
    share, counts = gap_closed([0.90, 0.80, 0.95], [0.92, 0.86, 0.90], [0.94, 0.88, 0.96], least=0.02)
    assert counts.tolist() == [True, True, False]
    assert share == pytest.approx((0.02 + 0.06) / (0.04 + 0.08))
    assert np.isnan(gap_closed([0.9], [0.9], [0.9], least=0.02)[0])


def test_figures_by_hand_and_without_images_that_do_not_count() -> None:
    judged = make_judged(
        [0, 0, 1, 2], [0, 1, 1, 0], [0.1, 0.9, 0.2, 0.15], [False, True, True, False], filters=[[0, 1, 0, 1], [1, 1, 1, 1]]
    )
    found = figures(judged, np.ones(4, np.bool_), has_posterior=True)
    assert found["auroc"] == pytest.approx(3 / 4)  # of the four pairs of a wrong and a right label one is the wrong way round
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 2))
    assert found["accuracy_error"] == pytest.approx(abs((1 - 1.35 / 4) - 0.5))
    assert found["best_filter"] == 1
    assert figures(judged, np.ones(4, np.bool_), has_posterior=False)["accuracy_error"] == 0
    without_last = figures(judged, np.array([True, True, True, False]), has_posterior=True)
    assert (without_last["auroc"], without_last["f1"]) == (1, pytest.approx(2 / 3))
    assert figures(judged, np.zeros(4, np.bool_), has_posterior=True) == {}


def test_audited_images_are_left_out_of_whatever_is_compared_with_them() -> None:
    given, true, score = [0, 0, 1, 1], [1, 0, 1, 2], [0.9, 0.1, 0.2, 0.8]
    ours = make_judged(given, true, score, [1, 0, 0, 1])
    theirs = make_judged(given, true, score, [0, 0, 0, 1], filters=[[0, 0, 0, 1]])
    report = make_report({("a", AUDITED): {1: make_result(ours)}, ("a", CLEANLAB): {1: make_result(theirs)}}, audited=[0])
    assert report.series("a", CLEANLAB, "f1")[1] == pytest.approx(2 / 3)
    assert report.series("a", CLEANLAB, "f1", WITHOUT)[1] == 1
    assert report.difference("a", AUDITED, CLEANLAB, "f1").mean == 0
    assert report.difference("a", AUDITED, BEST, "f1").mean == 0
    assert report.series("a", AUDITED, "f1")[1] == 1


def test_the_best_filter_is_chosen_anew_for_each_seed_and_for_either_model() -> None:
    given, true, score = [0, 0, 1, 1], [1, 0, 1, 2], [0.9, 0.1, 0.2, 0.8]

    def with_filters(*filters: list[int]) -> Result:
        return make_result(make_judged(given, true, score, [0, 0, 0, 0], filters=filters))

    good, bad = [1, 0, 0, 1], [0, 1, 0, 0]
    found: Found = {("a", CLEANLAB): {1: with_filters(good, bad), 2: with_filters(bad, good)}, ("a", OURS): {1: with_filters(bad, bad)}}
    assert make_report(found).series("a", BEST, "f1") == {1: 1, 2: 1}
    assert make_report(found).series("a", BEST_OWN, "f1") == {1: 0}


def test_a_class_ratio_needs_two_hundred_dropped_right_labels_over_all_seeds() -> None:
    judged = make_judged([0] * 150 + [1] * 450, [0] * 150 + [1] * 450, np.zeros(600), np.arange(600) % 5 == 0)
    found: Found = {("a", OURS): {1: make_result(judged)}}
    assert "class_ratio" not in make_report(found).pooled("a", OURS)
    found["a", OURS][2] = make_result(judged)
    pooled = make_report(found).pooled("a", OURS)
    assert (pooled["class_ratio"], pooled["n_right_dropped"]) == (1, 240)


def accuracies(cell: str, rows: dict[str, list[float]]) -> Found:
    return {(cell, name): {seed: make_result(accuracy=a) for seed, a in enumerate(values, 1)} for name, values in rows.items()}


def test_the_gap_is_that_of_the_cells_and_its_interval_that_of_the_seeds() -> None:
    found = accuracies("a", {GIVEN: [0.8, 0.8], OURS: [0.85, 0.87], TRUE: [0.9, 0.9]})
    found |= accuracies("b", {GIVEN: [0.9, 0.9], OURS: [0.8, 0.8], TRUE: [0.91, 0.91]})
    share, n_cells = make_report(found).gap(OURS)
    assert n_cells == 1
    assert share.mean == pytest.approx(0.6)
    assert share.half == pytest.approx(estimate([0.5, 0.7]).half)


def test_a_figure_is_not_called_reached_without_intervals() -> None:
    def verdict(noisy: list[float], ours: list[float]) -> str:
        goals = make_report(accuracies("a", {GIVEN: noisy, OURS: ours})).goals()
        return next(goal.reached for goal in goals if goal.what.startswith("test accuracy"))

    assert verdict([0.8], [0.9]) == "one seed only"
    assert verdict([0.8, 0.81], [0.8, 0.82]) == "yes"
    assert verdict([0.8, 0.81], [0.7, 0.71]) == "**no**"
    assert verdict([], []) == "not measured"


@pytest.mark.parametrize("digits", [True, False])
def test_no_figure_is_called_reached_by_one_seed(digits: bool) -> None:
    n_images = 330
    true = (np.arange(n_images) % 3 == 0).astype(int)
    perfect = make_judged(np.zeros(n_images), true, true > 0, true > 0, filters=[np.zeros(n_images)])
    blind = perfect._replace(score=np.zeros(n_images), above=np.zeros(n_images, np.bool_))
    dropping = perfect._replace(above=np.ones(n_images, np.bool_))

    def verdicts(ours: Judged, seeds: list[int], accuracy: float) -> list[str]:
        found: Found = {}
        for cell in ("people", "mixed, uniform, 0.7"):
            for name, judged, reached in ((OURS, ours, accuracy), (AUDITED, ours, accuracy), (CLEANLAB, blind, 0.5)):
                found[cell, name] = {seed: make_result(judged, reached) for seed in seeds}
            found[cell, GIVEN] = {seed: make_result(accuracy=0.5) for seed in seeds}
            found[cell, TRUE] = {seed: make_result(accuracy=0.9) for seed in seeds}
        return [goal.reached for goal in make_report(found, digits=digits).goals()]

    assert set(verdicts(perfect, [1, 2], 0.9)) == {"yes", "not measured"}  # it drops no right label whose share could be told
    assert set(verdicts(perfect, [1], 0.9)) == {"one seed only", "not measured"}
    assert "**no**" in verdicts(blind, [1], 0.5)
    assert verdicts(dropping, [1], 0.9)[-3] == "one seed only"  # the worst class's share, of 220 right labels


def test_the_report_says_what_failed_and_holds_every_table() -> None:
    judged = make_judged([0, 0, 1, 1], [1, 0, 1, 2], [0.9, 0.1, 0.2, 0.8], [1, 0, 0, 1], filters=[[1, 0, 0, 0]])
    found: Found = {("mixed, uniform, 0.7", v): {s: make_result(judged, 0.8 + s / 100) for s in (1, 2)} for v in (OURS, CLEANLAB, AUDITED)}
    found |= accuracies("mixed, uniform, 0.7", {GIVEN: [0.7, 0.71], TRUE: [0.9, 0.9]})
    report = make_report(found, audited=[0])
    text = report.text("digits", ["`command`"], ["seed 3 | a | b: BCCPError: why"])
    assert "* seed 3 | a | b: BCCPError: why" in text
    assert f"F1: {OURS} - {BEST}" in text
    assert "**no**" in text
    assert "| accuracy gap closed, cells with a gap ≥ 2 points | 31 to 37% (matched) | ≥ 75% | 56.4" in text
    table = report.cells_table()
    row = table[(table["method"] == AUDITED) & (table["seed"] == "2") & (table["figure"] == f"f1, {WITHOUT}")]
    assert row["value"].tolist() == [1.0]


@pytest.mark.parametrize("name", ["labels", "labels_data"])
def test_the_experiment_is_a_sweep_of_the_projects_own_command_line(name: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT)):
        composed = compose(config_name="config", overrides=[f"+experiments={name}"], return_hydra_config=True)
        params = dict(composed.hydra.sweeper.params)
        plain = compose(config_name="config", overrides=[f"+experiments={name}"])
    axes = labels.read_axes(ROOT / "experiments" / f"{name}.yaml")
    assert set(axes) == set(params)
    assert config.load(plain, base=ROOT).bayes_cutoff.method == OURS  # nothing in it that the configuration does not know
    plan = labels.grid(axes)
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT)):
        for variant in plan.variants:
            overrides = [*plan.fixed, *plan.cells[-1].overrides, *variant.overrides]
            config.load(compose(config_name="config", overrides=overrides), base=ROOT)


def test_the_grid_on_digits() -> None:
    plan = labels.grid(labels.read_axes(ROOT / "experiments" / "labels.yaml"), losses=["gce"])
    assert len(plan.cells) == 2 * 3 * 5
    assert plan.seeds == list(range(1, 11))
    drawn = ("noisy_labels.noise=uniform", "noisy_labels.user_accuracy=0.5")
    overrides = ("noisy_labels.source=simulated", "segregation.corruption=mixed", *drawn)
    assert plan.cells[0] == labels.Cell("mixed, uniform, 0.5", overrides)
    uncertain = ["logit_variance", "predictive_entropy", "mutual_information"]
    names = [OURS, AUDITED, f"{OURS}, rounds 0", CLEANLAB, *uncertain, GIVEN, f"{GIVEN}, gce", TRUE]
    assert [variant.name for variant in plan.variants] == names
    assert [variant.name for variant in plan.variants if not variant.trains] == uncertain
    assert plan.variants[2].overrides == ("bayes_cutoff.method=label_posterior", "bayes_cutoff.rounds=0")
    assert plan.variants[-2].overrides == ("bayes_cutoff.enabled=false", "train.loss=gce")


def test_each_feedback_file_is_a_cell_without_corruption_and_simulated_accuracy(tmp_path: Path) -> None:
    axes = labels.read_axes(ROOT / "experiments" / "labels_data.yaml")
    plan = labels.grid(axes, feedback=[tmp_path / "people.csv"])
    assert plan.fixed == ("train.model=resnet_small", "train.patience=null")
    path = tmp_path / "people.csv"
    assert plan.cells[-1] == labels.Cell("people", ("noisy_labels.source=file", f"noisy_labels.feedback_file='{path}'"))
    with pytest.raises(BCCPError, match=r"train\.model has several values"):
        labels.grid(axes | {"train.model": ["small_cnn", "resnet_small"]})


def test_audited_images_are_a_hundred_or_two_percent_and_the_same_for_a_seed() -> None:
    assert [len(labels.audited_idx(n, 1)) for n in (50, 719, 10_000)] == [50, 100, 200]
    chosen = labels.audited_idx(719, 1)
    assert np.array_equal(chosen, np.unique(chosen))
    assert np.array_equal(chosen, labels.audited_idx(719, 1))
    assert not np.array_equal(chosen, labels.audited_idx(719, 2))


def test_the_cost_of_judging_by_hand() -> None:
    section = {"method": OURS, "epochs": 40, "rounds": 2, "refine": "student", "refine_epochs": 20, "folds": 3, "judge": "network"}
    assert labels.trainings(section, 500, 1000) == pytest.approx((40 * 500 + 2 * 20 * 1500) / 15_000)
    # each of three models sees all trusted images and two thirds of the others
    assert labels.trainings(section | {"refine": "cross_fit"}, 500, 1000) == pytest.approx((40 * 500 + 40 * (1500 + 2000)) / 15_000)
    assert labels.trainings(section | {"refine": "stack"}, 500, 1000) == 0
    assert labels.trainings(section | {"method": CLEANLAB}, 500, 1000) == pytest.approx(40 * 500 / 15_000)
    # nothing trusted: each of three models sees two thirds of the images, and the student all of them
    assert labels.trainings(section, 0, 1000) == pytest.approx((40 * 2000 + 2 * 20 * 1000) / 10_000)
    assert labels.trainings(section | {"method": CLEANLAB}, 0, 1000) == pytest.approx(40 * 2000 / 10_000)
    assert labels.trainings(section | {"judge": "features"}, 0, 1000) == 0


def test_cleanlabs_filters_flag_a_label_that_the_model_is_sure_is_wrong() -> None:
    true = np.tile(np.arange(3), 20)
    probs = np.full((60, 3), 0.02)
    probs[np.arange(60), true] = 0.96
    given = true.copy()
    given[0] = 1
    flagged = labels.clean_filters(given, probs)
    assert flagged.shape == (len(labels.FILTERS), 60)
    assert all(rows[0] and rows.sum() == 1 for rows in flagged)
    assert labels.cleanlab_accuracy(given, probs) == pytest.approx(59 / 60, abs=1e-6)


@pytest.fixture
def bench(tmp_path: Path) -> labels.Bench:
    return labels.Bench(labels.Store(tmp_path / "benchmarks" / "labels"), [], [], trained=True)


def one_cell(*names: str) -> labels.Grid:
    axes = labels.read_axes(ROOT / "experiments" / "labels.yaml")
    axes |= {labels.CORRUPTION: ["none"], labels.NOISE: ["uniform", "pair"], labels.ACCURACY: [0.7]}
    plan = labels.grid(axes)
    return plan._replace(cells=plan.cells[:1], variants=[v for v in plan.variants if v.name in names], seeds=[1, 2])


def test_a_key_holds_options_seed_and_what_files_contain(bench: labels.Bench, tmp_path: Path) -> None:
    plan = one_cell(OURS, AUDITED)
    job, audited = labels.Job(plan.cells[0], 1, plan.variants[0]), labels.Job(plan.cells[0], 1, plan.variants[1])
    known = {bench.key(job), bench.key(audited), bench.key(job._replace(seed=2))}
    other = labels.Bench(bench.store, [], ["bayes_cutoff.rounds=2"], trained=True)
    known.add(other.key(job))
    data = tmp_path / "images.zip"
    for content in (b"a", b"b"):
        data.write_bytes(content)
        labels.path_digest.cache_clear()
        known.add(labels.Bench(bench.store, [f"data.path='{data}'"], [], trained=True).key(job))
    assert len(known) == 6
    moved = data.rename(tmp_path / "renamed.zip")
    assert labels.Bench(bench.store, [f"data.path='{moved}'"], [], trained=True).key(job) in known


def test_true_labels_are_trained_on_once_for_every_noise(bench: labels.Bench) -> None:
    axes = labels.read_axes(ROOT / "experiments" / "labels.yaml")
    plan = labels.grid(axes)
    keys = {bench.key(labels.Job(cell, 1, plan.variants[-1])) for cell in plan.cells}
    assert plan.variants[-1].name == TRUE
    assert len(keys) == 2  # with and without corruption


def test_options_of_the_command_line_do_not_undo_what_a_variant_is(bench: labels.Bench) -> None:
    plan = one_cell(f"{OURS}, rounds 0")
    changed = labels.Bench(bench.store, [], ["bayes_cutoff.rounds=3"], trained=True)
    words = changed.overrides(labels.Job(plan.cells[0], 1, plan.variants[0]))
    assert words.index("bayes_cutoff.rounds=3") < words.index("bayes_cutoff.rounds=0")


def test_what_is_kept_comes_back_and_an_unfinished_line_is_passed_over(tmp_path: Path) -> None:
    judged = make_judged([0, 1], [0, 2], [0.25, 0.75], [0, 1], filters=[[0, 1]])
    store = labels.Store(tmp_path)
    store.add("a" * 64, Result({"x": 0.5}, 1.5, 2.5, judged), {"trained": False})
    with store.lines.open("a", encoding="utf-8") as stream:
        stream.write('{"key": "bb')
    again = labels.Store(tmp_path)
    found = again.find("a" * 64, trained=False)
    assert found is not None
    assert found[:3] == ({"x": 0.5}, 1.5, 2.5)
    assert found.judged is not None
    for mine, theirs in zip(judged, found.judged, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert again.find("a" * 64, trained=True) is None  # judged, but nothing was trained on it
    assert again.find("b" * 64, trained=False) is None
    again.add("c" * 64, make_result(), {"trained": True})
    assert labels.Store(tmp_path).find("c" * 64, trained=True) is not None  # the unfinished line swallows nothing


class Pipeline:
    """Stands in for ``bccp.run``: fails where it is told to, and counts its calls."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[list[str]] = []

    def __call__(self, overrides: list[str]) -> dict[str, Any]:
        self.calls.append(overrides)
        if self.failing and self.failing in overrides:
            raise BCCPError("it does not work")
        return {"metrics": {"test/accuracy": 0.5}, "steps": [], "config": {}}


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pipeline whose labels need no artifacts; 300 images, of which 100 are audited."""
    judged = make_judged(np.zeros(300), np.arange(300) % 3, np.linspace(0, 1, 300), np.arange(300) > 150)

    def result(self: labels.Bench, summary: dict[str, Any], variant: labels.Variant) -> Result:
        return Result(summary["metrics"], 1.0, 1.0, judged if variant.method else None)

    monkeypatch.setattr(labels.Bench, "result_of", result)

    def install(pipeline: Pipeline) -> Pipeline:
        monkeypatch.setattr(bccp, "run", pipeline)
        return pipeline

    return install


def test_a_run_that_fails_is_reported_and_the_others_go_on(bench: labels.Bench, stubbed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = stubbed(Pipeline(failing="bayes_cutoff.method=cleanlab"))
    plan = one_cell(OURS, CLEANLAB, GIVEN)
    found, problems = labels.measure(bench, plan)
    assert len(pipeline.calls) == 6
    assert problems == [f"seed {s} | none, uniform, 0.7 | cleanlab: BCCPError: it does not work" for s in (1, 2)]
    assert {key[1]: sorted(by_seed) for key, by_seed in found.items()} == {OURS: [1, 2], GIVEN: [1, 2]}
    said = capsys.readouterr().err
    assert "1/6, time left unknown: seed 1" in said
    assert "6/6, at most 0 min left: seed 2" in said


def test_a_second_start_only_reads_and_runs_what_failed(bench: labels.Bench, stubbed: Any) -> None:
    stubbed(Pipeline(failing="bayes_cutoff.method=cleanlab"))
    plan = one_cell(OURS, CLEANLAB)
    labels.measure(bench, plan)
    again = stubbed(Pipeline())
    fresh = labels.Bench(labels.Store(bench.store.folder), [], [], trained=True)
    found, problems = labels.measure(fresh, plan)
    assert problems == []
    assert len(again.calls) == 2
    assert all("bayes_cutoff.method=cleanlab" in call for call in again.calls)
    assert len(found[plan.cells[0].name, OURS]) == 2
    lines = [json.loads(line) for line in bench.store.lines.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 4
    assert {line["variant"] for line in lines} == {OURS, CLEANLAB}


def test_only_reporting_runs_nothing(bench: labels.Bench, stubbed: Any) -> None:
    pipeline = stubbed(Pipeline())
    assert labels.measure(bench, one_cell(OURS), only_report=True) == ({}, [])
    assert pipeline.calls == []


def test_the_audited_run_gets_the_truth_of_a_hundred_images(bench: labels.Bench, stubbed: Any) -> None:
    pipeline = stubbed(Pipeline())
    labels.measure(bench, one_cell(OURS, AUDITED)._replace(seeds=[1]))
    (audit,) = [o for o in pipeline.calls[1] if o.startswith("bayes_cutoff.audit_file=")]
    table = tables.read(Path(audit.partition("=")[2].strip("'")))
    chosen = labels.audited_idx(300, 1)
    assert table["image"].tolist() == [f"{i:05d}.png" for i in chosen]
    assert table["label"].tolist() == [("ant", "bee", "cat")[i % 3] for i in chosen]
    assert not any(o.startswith("bayes_cutoff.audit_file=") for o in pipeline.calls[0])


def test_without_training_the_pipeline_ends_at_the_cut_off(bench: labels.Bench, stubbed: Any) -> None:
    pipeline = stubbed(Pipeline())
    quick = labels.Bench(bench.store, [], [], trained=False)
    plan = one_cell(OURS)._replace(seeds=[1])
    labels.measure(quick, plan)
    assert "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels,bayes_cutoff]" in pipeline.calls[0]
    labels.measure(bench, plan)  # now with training: what was only judged does not do
    assert not any(o.startswith("main.execute_steps") for o in pipeline.calls[1])
    labels.measure(quick, plan)
    assert len(pipeline.calls) == 2


def test_a_result_of_changed_code_is_not_kept(bench: labels.Bench, stubbed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stubbed(Pipeline())
    monkeypatch.setattr(labels, "source_digests", lambda: {"config.yaml": 1})
    with pytest.raises(labels.ChangedError, match="start it again"):
        labels.measure(bench, one_cell(OURS))
    assert not bench.store.lines.exists()


def test_judged_labels_are_read_from_the_artifacts(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("segregated_data", "clean_data", "true_labels", "cleansed_labels")}
    for folder in folders.values():
        folder.mkdir()
    names = ["m.png", "t1.png", "t2.png", "t3.png", "test.png"]
    splits = {"image": names, "row": range(5), "day": ["monday"] + ["tuesday"] * 4, "split": ["train"] * 4 + ["test"]}
    rows = pd.DataFrame(splits | {"label": ["a", "", "", "", "b"], "corruption": "", "corrupted_row": -1})
    tables.write(rows, folders["segregated_data"] / "splits.csv")
    tables.write(pd.DataFrame({"label": ["a", "b"]}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "0", "truth_known": True, "target_day": "tuesday"}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    np.save(folders["clean_data"] / "images.npy", np.zeros((5, 4, 4, 3), np.uint8))
    tables.write(pd.DataFrame({"image": names[1:3] + names[4:], "label": ["a", "b", "b"]}), folders["true_labels"] / "true_labels.csv")
    judged_table = {
        "image": names[1:],
        "given_label": ["b", "a", "a", "b"],
        "score": [0.9, 0.25, 0.5, 0.1],
        "above_cutoff": [True, False] * 2,
    }
    tables.write(pd.DataFrame(judged_table), folders["cleansed_labels"] / "cleansed_labels.csv")
    np.save(folders["cleansed_labels"] / "probabilities.npy", np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9]], np.float32))
    judged, n_trusted = labels.read_judged(folders, "predictive_entropy")
    assert n_trusted == 1
    assert judged.images.tolist() == ["t1.png", "t2.png"]  # nobody knows the truth of t3, and the last one is for the test
    assert (judged.given.tolist(), judged.true.tolist()) == ([1, 0], [0, 1])
    assert (judged.score.tolist(), judged.above.tolist()) == ([0.9, 0.25], [True, False])
    assert len(judged.stated) == 0
    assert labels.read_judged(folders, "label_posterior")[0].stated.tolist() == [0.9, 0.25]


def test_wrong_words_on_the_command_line_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path))
    for words, culprit in (
        (["--feedback", "people.csv"], "--feedback needs --data"),
        (["--data", "nowhere.zip"], r"nowhere\.zip does not exist"),
        (["--methods", "magic"], "'magic' is unknown"),
        (["--", "main.random_seed=3"], "main.random_seed=3 is an axis"),
    ):
        with pytest.raises(BCCPError, match=culprit):
            labels.main(words)


def test_make_starts_it_with_the_options_of_its_variables() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = text[text.index("\nbenchmark-labels:") :].split("\n\n")[0]
    for part in ("python -m benchmarks.labels", '--data "$(DATA)"', '--feedback "$(FEEDBACK)"', '--seeds "$(SEEDS)"', '-- "$$OPTIONS"'):
        assert part in recipe
