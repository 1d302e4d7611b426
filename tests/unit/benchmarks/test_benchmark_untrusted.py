"""The benchmark where nothing is trusted: its labels, its figures, what it counts over all runs, and its drawn surfaces."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import textures, untrusted
from benchmarks.untrusted import CLEANLAB, JUDGE, ON_POOL, TODAY, Case, Runs, Seen

N, K = 120, 3


def blobs(n_views: int = 2) -> Seen:
    """Images of three classes that the features tell apart."""
    rng = np.random.default_rng(0)
    true, centres = np.arange(N) % K, 3 * rng.normal(size=(K, 6))
    views = [centres[true] + rng.normal(size=(N, 6)) for _ in range(n_views)]
    return Seen("blobs", views, true, np.arange(N), ["a", "b", "c"], [f"{i:03d}.png" for i in range(N)])


def test_labels_are_wrong_by_the_share_asked_for_and_pairs_go_one_way() -> None:
    seen = blobs()
    cases = {case.labels: case.given for case in untrusted.made_cases(seen, (0.0, 0.1), 0, weak=True)}
    assert (cases["nothing wrong"] == seen.true).all()
    assert (cases["10% any other class"] != seen.true).mean() == pytest.approx(0.1)
    pairs = cases["25% in pairs"]
    assert set(((pairs - seen.true) % K).tolist()) == {0, 1}
    assert sorted(cases[untrusted.RANDOM]) == sorted(seen.true)
    assert (cases[untrusted.RANDOM] != seen.true).mean() > 0.5


def test_people_are_asked_for_some_of_their_images_and_each_seed_has_another_user() -> None:
    seen = blobs()
    rows = [(seen.images[i], "abc"[(i + (user == "u2")) % K], user) for i in range(60) for user in ("u1", "u2")]
    answers = pd.DataFrame(rows, columns=["image", "label", "user"])
    (first,), (second,) = (list(untrusted.people_cases(seen, answers, (40,), seed)) for seed in (0, 1))
    assert first.labels == "40 images, one user's labels"
    assert first.places.max() < 60
    assert (first.given == seen.true[first.places]).all()
    assert (second.given == (seen.true[second.places] + 1) % K).all()
    alone = answers[answers["user"] == "u2"].drop(columns="user")
    labels = [case.labels for case in untrusted.people_cases(seen, alone, (40, 9999), 0)]
    assert labels == [f"{n} images, {what}" for n in (40, 60) for what in ("people's labels", "nothing wrong")]


def test_the_judge_and_its_rivals_have_their_lines_and_a_second_call_measures_nothing(tmp_path: Path) -> None:
    seen, path = blobs(), tmp_path / "runs.csv"
    given = untrusted.uniform(seen.true, K, 0.2, np.random.default_rng(0))
    case, runs = Case("20%", np.arange(N), given), Runs(path)
    runs.measure("blobs", "20%", 0, lambda: untrusted.judge_case(seen, case, 0))
    again = Runs(path)
    again.measure("blobs", "20%", 0, lambda: pytest.fail("measured twice"))
    by_judge = again.table.set_index("judge")
    assert set(by_judge.index) == {JUDGE, *(f"{rival} {p}" for rival in (CLEANLAB, TODAY) for p in (untrusted.ON_VIEW, ON_POOL))}
    judge = by_judge.loc[JUDGE]
    assert judge["AUROC"] > 0.95
    assert judge["wrong"] == pytest.approx(0.2)
    assert judge["at least"] <= judge["at most"]
    assert judge["right at 0.8"] >= judge["right before"]
    assert judge["audited share off"] < judge["sample mean off"]
    text = untrusted.figures_table(again.table)
    assert "| blobs | 20% | judge | 1 |" in text
    assert len(text.splitlines()) == 2 + 5


def test_users_are_pooled_beside_the_judge_of_their_majority() -> None:
    seen, rng = blobs(), np.random.default_rng(1)
    says = {user: untrusted.uniform(seen.true, K, 0.3, rng) for user in ("u1", "u2", "u3")}
    rows = [(seen.images[i], seen.classes[says[user][i]], user) for i in range(N) for user in says]
    found = untrusted.judge_users(seen, pd.DataFrame(rows, columns=["image", "label", "user"]), 0, N)
    judge, pooled = found[JUDGE], found["users' model, pool's p"]
    assert judge["right before"] == pooled["right before"] > 0.7  # of the majority
    assert pooled["right at 0.5"] >= judge["right before"]


def test_the_time_is_told_by_size() -> None:
    header, _, line = untrusted.speed(["60x3"]).splitlines()
    assert header.count("|") == line.count("|")
    assert line.startswith("| 60 | 3 | ")


def test_what_holds_of_every_run_is_counted_with_exact_intervals() -> None:
    shared = {"wrong": 0.1, "right before": 0.9, "right at 0.5": 0.9, "at most": 0.2, "sure": 10.0, "sure and wrong": 9.0, "blind": 0.0}
    shared |= {"audited share off": 0.01, "sample mean off": 0.03, "audited ECE": 0.04}
    lines = []
    for seed, (said, after, auroc) in enumerate([(0.1, 0.92, 0.95), (0.14, 0.89, 0.88)]):
        lines.append({"seed": seed, "judge": JUDGE, "at least": said, "right at 0.8": after, "AUROC": auroc} | shared)
        lines.append({"seed": seed, "judge": f"{CLEANLAB} {ON_POOL}", "AUROC": 0.9} | shared)
    found = pd.DataFrame(lines).assign(data="some", labels="10%")
    rows = {row.what: row for row in untrusted.every_run(found)}
    said = rows["said at most the truth and 3 points more"]
    assert said.measured.startswith("50.0% (1 of 2; 1.3 to 98.7)")
    assert said.reached is False
    against = rows[f"AUROC at least cleanlab's {ON_POOL}, less 0.5"]
    assert "least -2.0" in against.measured
    assert against.reached is False
    assert rows["labels with P(wrong) ≥ 0.9 that are wrong"].measured.startswith("90.0% (18 of 20;")
    assert "least -1.0" in rows["right labels after changes at 0.8 at least as many"].measured
    assert rows["after 50 random audits: share off, points"] == (
        "after 50 random audits: share off, points",
        "the mean of the checked: 3.0",
        "2",
        "1.0",
        True,
    )
    assert rows["after 50 random audits: ECE, points"].reached is False
    assert rows["the upper end at least the truth"].reached is None


def test_a_judge_that_finds_nothing_changes_nothing() -> None:
    given, true = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    believed = np.eye(3)[true]
    assert untrusted.posterior_figures(believed, given, true)["right at 0.8"] == 1
    kept = untrusted.posterior_figures(believed, given, true, changes=False)
    assert (kept["right at 0.8"], kept["changed at 0.8"], kept["all changed"]) == (0.75, 0, 1)


def test_surfaces_are_drawn_alike_each_time_and_differ_where_the_defect_is(tmp_path: Path) -> None:
    textures.make_textures(tmp_path / "a.zip", 8)
    textures.make_textures(tmp_path / "b.zip", 4)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, zipfile.ZipFile(tmp_path / "b.zip") as other:
        assert [name.split("/")[0] for name in archive.namelist()] == [*textures.CLASSES, *textures.CLASSES]
        assert all(archive.read(name) == other.read(name) for name in other.namelist())
    sound, scratched = (textures.surface(kind, np.random.default_rng(1)).astype(int) for kind in ("sound", "scratch"))
    assert (np.abs(sound - scratched).max(axis=2) > 10).mean() < 0.5
