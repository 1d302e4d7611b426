"""The report of a sweep, from job records made by hand: figures, failures, pictures, and where it goes."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml
from omegaconf import OmegaConf

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.core.run_summary import Summary
from bccp.core.step_graph import STEPS
from bccp.pipeline import hydra_app
from bccp.reporting import sweep_data, sweep_plots, sweep_report
from bccp.reporting.sweep_data import Job, SweepData, aggregate, best, gather, seed_interval
from bccp.tracking import wandb_sync
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.wandb_stand_in import WandbStandIn

QUIET = "tracking.wandb=disabled"
TYPES = {"none": 0.80, "all": 0.90, "random": 0.84, "l1_norm": 0.88}
"""Test accuracy from a tenth of Monday, for the sweep that most tests look at."""


RAW: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "config.yaml"), resolve=False)
SECTIONS = [name for name in RAW if name not in ("defaults", "hydra")]


def configured(overrides: Sequence[str]) -> dict[str, Any]:
    """What ``config.yaml`` becomes by overrides of keys or sections, its links resolved."""
    made = copy.deepcopy(RAW)
    for word in overrides:
        key, _, value = word.partition("=")
        section, _, name = key.partition(".")
        made[section] |= {name: yaml.safe_load(value)} if name else yaml.safe_load(value.replace(":", ": "))

    def followed(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: followed(one) for name, one in value.items()}
        link = re.fullmatch(r"\$\{(\w+)\.(\w+)\}", str(value))
        return followed(made[link[1]][link[2]]) if link else value

    return {section: followed(made[section]) for section in SECTIONS}


def record(number: int, overrides: Sequence[str], status: str = "finished", error: str | None = None, **metrics: float) -> Job:
    """A job as its summary tells of it; ``test_accuracy=0.9`` is the figure ``test/accuracy``."""
    return sweep_data.job_record(number, summary(overrides, status, error, **metrics), overrides)


def summary(overrides: Sequence[str], status: str = "finished", error: str | None = None, **metrics: float) -> dict[str, Any]:
    steps = [{"name": name, "status": "reused" if name == "fetch_data" else "ran", "seconds": 1.5, "work_seconds": 1.0} for name in STEPS]
    figures = {name.replace("_", "/", 1) if name != "f1" else "bayes_cutoff/f1": value for name, value in metrics.items()}
    return {"status": status, "error": error, "metrics": figures, "steps": steps, "config": configured(overrides)}


def write_job(folder: Path, number: int, overrides: Sequence[str], said: Mapping[str, Any] | str | None) -> None:
    """A job's folder, as Hydra and the pipeline leave it."""
    place = folder / str(number)
    (place / ".hydra").mkdir(parents=True)
    (place / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))  # which is YAML too
    (place / ".hydra" / "config.yaml").write_text(json.dumps({"tracking": configured(overrides)["tracking"]}))
    if said is not None:
        (place / "summary.json").write_text(said if isinstance(said, str) else json.dumps(said))


def write_plan(folder: Path, task: Sequence[str], params: Mapping[str, str] | None = None) -> None:
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    (folder / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"sweeper": sweeper, "overrides": {"task": list(task)}}}))


def grid(**swept: Sequence[Any]) -> list[list[str]]:
    """The overrides of each job of a sweep; ``cp_sampling__type`` is the key ``cp_sampling.type``."""
    keys = [name.replace("__", ".") for name in swept]
    return [[f"{key}={value}" for key, value in zip(keys, values, strict=True)] for values in product(*swept.values())]


def accuracy(overrides: Sequence[str]) -> float:
    given = dict(word.split("=") for word in overrides)
    ratio = 0 if given["cp_sampling.type"] in ("none", "all") else float(given["cp_sampling.ratio"])
    noise = (float(given["noisy_labels.user_accuracy"]) - 0.7) / 10
    return TYPES[given["cp_sampling.type"]] + ratio / 10 + noise + {"1": -0.01, "2": 0.0, "3": 0.01}[given["main.random_seed"]]


PAPER = grid(
    cp_sampling__type=list(TYPES), cp_sampling__ratio=[0.1, 0.4], noisy_labels__user_accuracy=[0.5, 0.9], main__random_seed=[1, 2, 3]
)


@pytest.fixture
def paper(home: Path) -> Path:
    """A sweep of 48 jobs, of which 43 finished: 0 and 47 failed, 12 was killed, 13 while it wrote, 14 left nothing; 15 lacks a figure."""
    folder = home / "outputs" / "2026-11-21_10-00-00-abc123"
    said: dict[int, Any] = {
        0: summary(PAPER[0], "failed", "data.path='https://me:passw0rd@h/x.zip?token=t0ken' is <gone>: give another"),
        47: summary(PAPER[47], "failed", "RuntimeError: out of memory"),
        12: None,
        13: '{"status": "finished", "metr',
        15: summary(PAPER[15], test_accuracy=math.nan),
    }
    for number, overrides in enumerate(PAPER):
        if number != 14:
            measured = {"test_accuracy": accuracy(overrides), "train_val_accuracy": accuracy(overrides) + 0.02}
            write_job(folder, number, [*overrides, QUIET], said.get(number, summary(overrides, **measured)))
    (folder / "13" / ".hydra" / "overrides.yaml").write_text("- cp_sampling.type=none\n- [")
    task = ["cp_sampling.type=" + ",".join(TYPES), "cp_sampling.ratio=0.1,0.4", "noisy_labels.user_accuracy=0.5,0.9"]
    write_plan(folder, [*task, "main.random_seed=range(1,4)", QUIET])
    return folder


def of(jobs: Sequence[Job]) -> SweepData:
    return gather("a-sweep", jobs)


def measured(jobs: Sequence[Sequence[str]], value: Callable[[list[str]], float]) -> SweepData:
    return of([record(number, words, test_accuracy=value(list(words))) for number, words in enumerate(jobs)])


def test_the_report_of_a_sweep_in_which_jobs_failed_were_killed_and_never_began(
    paper: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = sweep_report.write_report(paper)
    assert capsys.readouterr().out == ""
    assert page == paper / "sweep.html"
    text = page.read_text(encoding="utf-8")
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))
    table = pd.read_csv(paper / "sweep.csv", keep_default_na=False).set_index("job")

    # a line a job, and which did not finish, of what, and with what settings
    statuses = table["status"].to_dict()
    assert sorted(statuses) == list(range(48))
    assert {n: status for n, status in statuses.items() if status != "finished"} == {
        0: "failed",
        47: "failed",
        12: "unfinished",
        13: "unfinished",
        14: "not started",
    }
    assert "43 of 48 jobs finished" in said
    assert "5 of 48 jobs did not finish" in said
    assert "job 47 (type=l1_norm, ratio=0.4, user_accuracy=0.9) RuntimeError: out of memory" in said
    assert "jobs 12, 13 it left no summary: it was killed, or is still going on" in said
    assert "job 14 (type=all, user_accuracy=0.5) never started" in said
    assert table.loc[14, "overrides"] == " ".join([*PAPER[14], QUIET])
    assert float(table.loc[20, "test/accuracy"]) == pytest.approx(accuracy(PAPER[20]))

    # no password, no other place, and what is text stays text
    for kept in (text, (paper / "sweep.csv").read_text(), capsys.readouterr().out):
        assert not re.search("passw0rd|t0ken", kept)
    assert "https://h/x.zip' is &lt;gone&gt;".replace("'", "&#x27;") in text
    assert re.findall(r"(?:src|href)=['\"]([^#'\"]*)['\"]", text) == ["sweep.csv"]
    assert not re.search(r"@import|url\((?!#)|<script", text)
    assert len(text) < 5e6
    assert "prefers-color-scheme: dark" in text

    # the pictures are in it and beside it
    names = sorted(path.name for path in (paper / "report").iterdir())
    assert names == ["test-accuracy-heat-map-1.png", "test-accuracy-over-ratio-1.png", "test-accuracy-over-user_accuracy-1.png"]
    assert all((paper / "report" / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert text.count("<svg") == text.count("</svg>") == 3
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids) > 30

    # what all were given
    assert f"What all jobs were given {QUIET}" in said
    assert [path.name for path in paper.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("n", [2, 3, 10])
def test_intervals_are_students(n: int) -> None:
    values = np.random.default_rng(n).normal(0.9, 0.02, n)
    mean, half = seed_interval(list(values))
    low, high = scipy.stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_an_interval_by_hand_and_none_from_one_seed() -> None:
    assert seed_interval([0.8, 0.9]) == pytest.approx((0.85, 12.7062 * 0.05), rel=1e-5)  # of t with one degree of freedom; sd / sqrt(2)
    assert seed_interval([0.9, 0.9, 0.9]) == pytest.approx((0.9, 0))
    mean, half = seed_interval([0.8])
    assert mean == 0.8
    assert math.isnan(half)


def test_what_was_swept_is_told_from_what_differs_and_seeds_are_averaged_over() -> None:
    jobs = grid(
        train__epochs=[5, 10], train__loss=["gce", "anl_ce"], main__threads=[1], main__random_seed=[1, 2], cp_sampling__ratio=["0.50"]
    )
    sweep = measured(jobs, lambda words: 0.7 if "train.epochs=5" in words else 0.8 + 0.1 * ("main.random_seed=2" in words))
    assert [(axis.key, axis.name, axis.values, axis.numeric) for axis in sweep.axes] == [
        ("train.epochs", "epochs", ("5", "10"), True),
        ("train.loss", "loss", ("gce", "anl_ce"), False),
    ]
    assert sweep.seeds == ("main.random_seed",)  # what is linked to it is not another
    means = aggregate(sweep.table, ["train.epochs"], sweep.seeds, "test/accuracy")
    assert means[["train.epochs", "n"]].to_numpy().tolist() == [["5", 2], ["10", 2]]
    assert means["mean"].tolist() == pytest.approx([0.7, 0.85])
    assert means["half"].tolist() == pytest.approx([0, 12.7062 * 0.05], rel=1e-5)


def test_what_a_configuration_ignores_is_no_part_of_its_setting() -> None:
    swept = {"noisy_labels__label": ["user_feedback", "ground_truth"], "noisy_labels__user_accuracy": [0.5, 0.9]}
    jobs = grid(
        cp_sampling__type=["none", "all", "l1_norm"], cp_sampling__ratio=[0.1, 0.4], bayes_cutoff__cutoff=["auto", "percentile"], **swept
    )
    sweep = measured(jobs, lambda _: 0.9)
    settings = aggregate(sweep.table, sweep.keys, sweep.seeds, "test/accuracy")
    by_type = settings.groupby("cp_sampling.type")["cp_sampling.ratio"].unique().map(set).to_dict()
    assert by_type == {"none": {""}, "all": {""}, "l1_norm": {"0.1", "0.4"}}
    by_label = settings.groupby("noisy_labels.label")[["noisy_labels.user_accuracy", "bayes_cutoff.cutoff"]].agg(set).to_dict("index")
    assert by_label["ground_truth"] == {"noisy_labels.user_accuracy": {""}, "bayes_cutoff.cutoff": {""}}
    assert by_label["user_feedback"] == {"noisy_labels.user_accuracy": {"0.5", "0.9"}, "bayes_cutoff.cutoff": {"auto", "percentile"}}
    assert len(settings) == 4 * (2 * 2 + 1)
    assert set(settings["n"]) == {1}  # jobs that did the same are one trial


def test_jobs_that_did_the_same_do_not_narrow_the_interval() -> None:
    jobs = grid(cp_sampling__type=["none", "random"], cp_sampling__ratio=[0.1, 0.2, 0.3], main__random_seed=[1, 2])
    sweep = measured(jobs, lambda words: 0.8 if "main.random_seed=1" in words else 0.9)
    (none,) = aggregate(sweep.table, sweep.keys, sweep.seeds, "test/accuracy").query("`cp_sampling.type` == 'none'").to_dict("records")
    assert (none["n"], none["half"]) == (2, pytest.approx(12.7062 * 0.05, rel=1e-5))


def test_a_recipe_that_others_are_linked_to_counts_where_any_of_them_heeds_it() -> None:
    def epochs(*words: str) -> set[str]:
        jobs = [[f"bayes_cutoff.epochs={n}", *words] for n in (2, 4)]
        return {axis.key for axis in measured(jobs, lambda _: 0.9).axes}

    assert epochs("noisy_labels.label=ground_truth", "cp_sampling.type=l1_norm") == {"bayes_cutoff.epochs"}  # its embeddings
    assert epochs("noisy_labels.label=ground_truth", "cp_sampling.type=random") == set()


def test_sections_and_experiments_that_were_swept_are_named_as_they_were_given_and_stray_differences_are_found() -> None:
    sections = [["bayes_cutoff={method:cleanlab}"], ["bayes_cutoff={method:label_posterior,rounds:0}"], ["bayes_cutoff={enabled:false}"]]
    jobs = [record(n, words, test_accuracy=0.9) for n, words in enumerate(sections)]
    assert [(axis.key, len(axis.values)) for axis in of(jobs).axes] == [("bayes_cutoff", 3)]
    other = record(3, sections[0], test_accuracy=0.7)
    other.config["train"]["epochs"] = 99  # from another state of config.yaml
    assert [axis.key for axis in of([*jobs, other]).axes] == ["bayes_cutoff", "train.epochs"]


def test_jobs_that_were_refused_at_once_are_in_their_cells() -> None:
    jobs = [record(n, [f"cp_sampling.ratio={ratio}"], test_accuracy=0.9) for n, ratio in enumerate((0.1, 0.4))]
    for number, ratio in enumerate((1.5, 0.4), start=2):
        refused = summary([f"cp_sampling.ratio={ratio}"], "failed", "not accepted")
        refused["config"]["train"]["random_seed"] = "${main.random_seed}"  # not resolved yet
        refused["config"]["data"]["path"] = "images"  # not absolute yet
        jobs.append(sweep_data.job_record(number, refused, [f"cp_sampling.ratio={ratio}"]))
    assert [(axis.key, axis.values) for axis in of(jobs).axes] == [("cp_sampling.ratio", ("0.1", "0.4", "1.5"))]
    assert of(jobs).seeds == ()


@pytest.mark.parametrize(
    "said", [None, [], {}, {"status": "finished", "metrics": {"test/accuracy": None, "a": "b"}, "steps": 5, "config": []}, {"status": 3}]
)
def test_a_summary_may_hold_anything(said: Any) -> None:
    job = sweep_data.job_record(0, said, ["train.epochs=3", "~", "a=[", "data.path='${oc.env:BCCP_SECRET_AB12}'"])
    assert job.status == ("finished" if said and said["status"] == "finished" else "unfinished")
    assert job.overrides[-1] == "data.path='(hidden)'"
    sweep = of([job])
    assert sweep.figures == []
    assert "No finished job has measured anything" in sweep_report.sweep_page(sweep, [])


def test_the_best_is_found_under_each_condition_with_how_many_it_is_not_told_apart_from() -> None:
    figures = {
        ("a", 0.5): [0.70, 0.72, 0.74],
        ("b", 0.5): [0.69, 0.70, 0.71],
        ("c", 0.5): [0.5, 0.5, 0.5],
        ("a", 0.9): [0.8],
        ("b", 0.9): [0.9],
    }
    validation = {"a": 0.85, "b": 0.95, "c": 0.1}
    jobs = []
    for (loss, user), values in figures.items():
        for seed, value in enumerate(values):
            words = [f"train.loss={loss}", f"noisy_labels.user_accuracy={user}", f"main.random_seed={seed}"]
            jobs.append(record(len(jobs), words, test_accuracy=value, train_val_accuracy=validation[loss]))
    by_test, by_test_at_9 = best(of(jobs), "test/accuracy")
    assert (by_test.condition, by_test.setting) == ({"user_accuracy": "0.5"}, {"loss": "a"})
    assert by_test.figures["test/accuracy"] == pytest.approx((0.72, 4.3027 * 0.02 / math.sqrt(3)), rel=1e-4)  # from 0.6703 on
    assert (by_test.n, by_test.n_others, by_test.n_within) == (3, 2, 1)
    assert (by_test_at_9.setting, by_test_at_9.n_others, by_test_at_9.n_within) == ({"loss": "b"}, 1, None)
    by_validation, _ = best(of(jobs), "train/val_accuracy")
    assert by_validation.setting == {"loss": "b"}
    assert by_validation.figures["test/accuracy"][0] == pytest.approx(0.7)
    text = re.sub(r"<[^>]*>", "|", sweep_report.sweep_page(of(jobs), []))
    assert re.search(r"\|0\.5\|+loss=a\|+test/accuracy\|+72\.0 ± 5\.0\|+85\.0 ± 0\.0\|+3\|+1 of 2 others\|", text)
    assert re.search(r"\|0\.5\|+loss=b\|+train/val_accuracy\|+70\.0 ± 2\.5\|+95\.0 ± 0\.0\|", text)
    assert re.search(r"\|0\.9\|+loss=b\|+both\|+90\.0\|+95\.0\|+1\|+one seed, no interval\|", text)


LOSSES = ["gce", "anl_ce", "jal_ce"]


@pytest.mark.parametrize(
    ("jobs", "names"),
    [
        (grid(cp_sampling__type=["none", "l1_norm"], cp_sampling__ratio=[0.1, 0.4]), ["heat-map-1", "over-ratio-1"]),
        (
            grid(train__loss=LOSSES, train__epochs=[5, 10], noisy_labels__user_accuracy=[0.5, 0.9], bayes_cutoff__rounds=[0, 1]),
            [f"{name}-{number}" for name in ("heat-map", "over-epochs", "over-user_accuracy", "over-rounds") for number in (1, 2)],
        ),
        (grid(train__loss=LOSSES, main__random_seed=[1, 2]), ["ranking"]),
        (grid(train__learning_rate=[0.0001, 0.01, 1]), ["over-learning_rate-1"]),
        (
            [[f"train.learning_rate={0.001 * n}", f"train.dropout={0.01 * n * n}"] for n in range(1, 9)],
            ["over-learning_rate", "over-dropout", "ranking"],
        ),
        (grid(train__epochs=[5], main__random_seed=[1, 2]), []),
        (grid(train__epochs=[5]), []),
    ],
    ids=["type and ratio", "four axes", "names", "numbers", "search", "seeds", "one job"],
)
def test_any_sweep_gets_the_pictures_that_it_lends_itself_to(jobs: list[list[str]], names: list[str]) -> None:
    sweep = measured(jobs, lambda words: 0.6 + 0.001 * sum(map(ord, "".join(words))) % 0.3)
    pictures = sweep_plots.draw_sweep(sweep, "test/accuracy")
    assert [picture.name.removeprefix("test-accuracy-") for picture in pictures] == names
    text = sweep_report.sweep_page(sweep, pictures[:1])
    assert text.count("<svg") == len(pictures[:1])
    assert "var(--ink)" in text


def test_a_heat_map_shows_mean_and_interval_in_each_cell_and_what_ignores_the_ratio_in_all_of_its_row() -> None:
    jobs = grid(cp_sampling__type=["none", "random"], cp_sampling__ratio=[0.4, 0.1], main__random_seed=[1, 2])
    sweep = measured(
        jobs,
        lambda words: 0.5 if "cp_sampling.type=none" in words else float(words[1].split("=")[1]) + 0.1 * ("main.random_seed=2" in words),
    )
    kind, ratio = sweep.axes
    cells = sweep_plots.heat_map_cells(aggregate(sweep.table, sweep.keys, sweep.seeds, "test/accuracy"), kind, ratio)
    half = 12.7062 * 0.05
    np.testing.assert_allclose(cells, [[[0.5, 0, 1], [0.5, 0, 1]], [[0.15, half, 0], [0.45, half, 0]]], rtol=1e-4)
    (text,) = [picture.svg() for picture in sweep_plots.draw_sweep(sweep, "test/accuracy") if "heat" in picture.name]
    shown = re.findall(r">([^<>]+)</text>", text)
    assert [figure for figure in shown if re.fullmatch(r"\d\d\.\d", figure)] == ["50.0", "15.0", "45.0"]


def test_a_cell_in_which_jobs_failed_says_so() -> None:
    jobs = [
        record(n, words, test_accuracy=0.5 + n / 10) for n, words in enumerate(grid(train__loss=["gce", "anl_ce"], train__epochs=[5, 10]))
    ]
    jobs[2] = record(2, grid(train__loss=["anl_ce"], train__epochs=[5])[0], "failed", "out of memory")
    (heat_map, _) = sweep_plots.draw_sweep(of(jobs), "test/accuracy")
    assert ">failed<" in heat_map.svg()


def test_a_page_that_would_be_too_large_names_the_pictures_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = measured(grid(train__epochs=[5, 10]), lambda _: 0.9)
    monkeypatch.setattr(sweep_report, "MOST_DRAWN", 100)
    text = sweep_report.sweep_page(sweep, sweep_plots.draw_sweep(sweep, "test/accuracy"))
    assert "<svg" not in text
    assert "<a href='report/test-accuracy-over-epochs-1.png'>" in text


def test_an_interval_that_is_wider_than_all_else_does_not_flatten_the_curves() -> None:
    means, halves = pd.Series([0.80, 0.90]), pd.Series([0.5, math.nan])
    assert sweep_plots.axis_limits(means) == pytest.approx((0.796, 0.904))
    assert sweep_plots.axis_limits(means, halves) == pytest.approx((0.7 - 0.008, 0.9 + 0.008))


def test_a_figure_that_is_missing_is_replaced_by_the_next() -> None:
    jobs = [record(n, words, f1=0.8 + n / 100) for n, words in enumerate(grid(bayes_cutoff__passes=[3, 5]))]
    assert of(jobs).figures == ["bayes_cutoff/f1"]
    assert [picture.name for picture in sweep_plots.draw_sweep(of(jobs), "bayes_cutoff/f1")] == ["bayes_cutoff-f1-over-passes-1"]


@pytest.fixture
def two(home: Path) -> Path:
    """A sweep of two jobs that were recorded in W&B."""
    folder = home / "outputs" / "two"
    for number, words in enumerate(grid(train__epochs=[5, 10])):
        write_job(folder, number, [*words, "tracking.upload_images=false", "tracking.finish_timeout=20"], summary(words, test_accuracy=0.8))
    write_plan(folder, ["train.epochs=5,10"])
    return folder


def test_making_the_report_again_replaces_it_on_disk_and_in_the_ledger(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    sweep_report.write_report(two)
    before = (two / "sweep.html").read_bytes()
    (two / "report" / "stale.png").touch()
    write_job(two, 2, ["train.epochs=20"], summary(["train.epochs=20"], test_accuracy=0.99))
    sweep_report.write_report(two)
    assert "3 of 3" in (two / "sweep.html").read_text()
    assert [path.name for path in (two / "report").iterdir()] == ["test-accuracy-over-epochs-1.png"]
    ledger = Ledger(ledger_uri(None)[0])
    (run,) = ledger.client.search_runs([ledger.experiment_id], "tags.`bccp.kind` = 'report'")
    assert (run.info.run_name, run.info.status, run.data.tags["bccp.sweep"]) == ("two", "FINISHED", "two")
    assert run.data.metrics["sweep_report/finished"] == 3
    assert run.data.metrics["sweep_report/best_test_accuracy"] == 0.99
    place = ledger.fetch(f"sweep_report:{run.data.tags['bccp.output.sweep_report']}")
    assert (place / "sweep.html").read_bytes() == (two / "sweep.html").read_bytes() != before
    assert {path.name for path in place.iterdir()} == {"sweep.html", "sweep.csv", "test-accuracy-over-epochs-1.png"}


def test_wandb_has_one_run_in_the_sweeps_group_however_often_the_report_is_made(server: WandbStandIn, home: Path, two: Path) -> None:
    for _ in range(2):
        sweep_report.write_report(two)
    (run,) = server.runs.values()
    assert (run.group, run.job_type, run.state, run.values["sweep"]) == ("two", "sweep_report", "finished", "two")
    assert run.summary["sweep_report/best_test_accuracy"] == 0.8
    kept = [name.rpartition("/")[2] for name in run.files]
    for start, end in (("test-accuracy-over-epochs-1", ".png"), ("sweep", ".html")):  # plots show no pixel of any image
        assert any(name.startswith(start) and name.endswith(end) for name in kept), kept
    assert list((home / "wandb").glob("*/bccp.json")) == []


def test_offline_the_report_is_recorded_once_and_synced_later(
    server: WandbStandIn, home: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for _ in range(2):
        sweep_report.write_report(two)
    assert server.calls == []
    assert len(list((home / "wandb").glob("offline-run-*"))) == 1
    monkeypatch.delenv("WANDB_MODE")
    assert wandb_sync.sync() == "W&B: 1 runs and 0 input edges uploaded"
    (run,) = server.runs.values()
    assert (run.group, run.job_type) == ("two", "sweep_report")


def test_where_it_cannot_be_recorded_the_report_is_made_and_one_line_says_so(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracking = {"tracking": {"mlflow_uri": "${oc.env:BCCP_SECRET_0}", "wandb": "disabled"}}
    (two / "0" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(tracking))
    sweep_report.conclude_sweep(two)
    warning, made = capsys.readouterr().out.splitlines()
    assert warning == (
        "warning: the sweep's report is not recorded (the sweep's ledger has a password, which is written nowhere: "
        "set MLFLOW_TRACKING_URI to its address)"
    )
    assert made == f"sweep report: {two / 'sweep.html'}"


def test_the_newest_sweep_is_reported_on_and_a_wrong_folder_is_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert call(["sweep-report", ""]) == 1
    assert capsys.readouterr().err.startswith(f"error: no sweep is in {home}/outputs: run one with -m")
    (tmp_path / "empty" / "0").mkdir(parents=True)
    (tmp_path / "file").touch()
    wrongs = {"no": "does not exist", "file": "is no folder", ".": "holds no job of a sweep", "empty": "holds no job of a sweep"}
    for wrong, sentence in {str(tmp_path / name): sentence for name, sentence in wrongs.items()}.items():
        assert call(["sweep-report", wrong]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert sentence in line
    folder = home / "outputs" / "2026-11-21_10-00-00-abc123"
    write_job(folder, 0, ["train.epochs=5"], None)
    write_plan(folder, ["train.epochs=5"])
    for given in ("", folder.name, str(folder)):
        assert call(["sweep-report", given]) == 0
        assert capsys.readouterr().out == f"sweep report: {folder / 'sweep.html'}\n"
    search = home / "outputs" / "2026-11-21_11-00-00-abc124"  # has no plan
    write_job(search, 0, ["train.epochs=5"], None)
    os.utime(folder / "multirun.yaml", (1, 1))
    os.utime(folder / "0", (1, 1))
    assert call(["sweep-report", ""]) == 0
    assert capsys.readouterr().out == f"sweep report: {search / 'sweep.html'}\n"


def test_what_draws_is_loaded_only_when_the_home_is_known() -> None:
    loaded = "import sys, bccp.reporting.sweep_report; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_sweep_ends_with_its_report_also_when_a_job_fails_and_a_report_that_fails_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(composed: Any, folder: Path, **about: Any) -> Summary:
        said = summary([f"train.epochs={composed.train.epochs}"], test_accuracy=0.9)
        failed = composed.train.epochs == 2
        done = Summary("failed" if failed else "finished", "no luck" if failed else None, said["metrics"], [], said["config"])
        done.write(folder)
        if failed:
            raise BCCPError("no luck")
        return done

    monkeypatch.setattr(hydra_app, "run_composed", run)
    monkeypatch.setattr(hydra_app, "text_report", lambda *_: "")
    sweep = ["-m", "hydra/launcher=basic", "train.epochs=1,2,3", QUIET]  # another runs jobs elsewhere, where nothing is replaced
    assert hydra_app.hydra_main(sweep) == 1
    (folder,) = (home / "outputs").iterdir()
    assert f"sweep report: {folder}/sweep.html" in capsys.readouterr().out.splitlines()
    assert "2 of 3" in (folder / "sweep.html").read_text()
    monkeypatch.setattr(sweep_report, "read_sweep", lambda folder: 1 / 0)
    assert hydra_app.hydra_main([*sweep[:2], "train.epochs=1,3", QUIET]) == 0
    assert "warning: the sweep has no report (division by zero): bccp sweep-report " in capsys.readouterr().out
