"""Two pipelines side by side: what differs, and what it did to each figure on the same test images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from bccp.reporting import compare
from support.predictions import predictions


def test_figures_are_paired_on_images_that_both_have_with_one_label() -> None:
    truth, days = list("aabbabab"), ["monday"] * 4 + ["tuesday"] * 4
    old = predictions(truth, list("abbbabaa"), days=days)
    new = predictions([*truth[:6], "a", "c"], list("aabbbbac"), days=days, names=[*old["image"][:6], "other.png", old["image"][7]])
    found, notes = compare.pair(old, new, rng=np.random.default_rng(0), draws=50)
    figures = found.set_index("metric")
    assert figures["images"].to_dict() == {"test/accuracy": 6, "test/accuracy_monday": 4, "test/accuracy_tuesday": 2, "test/f1_macro": 6}
    assert figures.loc["test/accuracy_monday", ["a", "b", "difference"]].tolist() == [0.75, 1.0, 0.25]
    assert figures.loc["test/accuracy_tuesday", "difference"] == -0.5
    assert figures.loc["test/f1_macro", "a"] == pytest.approx(f1_score(list("aabbab"), list("abbbab"), average="macro"))
    assert (figures["low"] <= figures["difference"]).all()
    assert (figures["difference"] <= figures["high"]).all()
    assert notes == ["measured on the 6 test images that both have with one day and true label, of A's 8 and B's 8"]
    alone, notes = compare.pair(old, new.assign(day="sunday"), rng=np.random.default_rng(0))
    assert alone.empty
    assert "the 0 test images" in notes[0]


def test_equal_models_have_no_difference_and_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(list("abc"), 300)
    right = rng.random(300) < 0.7
    old = predictions(truth.tolist(), np.where(right, truth, "a").tolist())
    same, _ = compare.pair(old, old, rng=rng, draws=50)
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)
    better = np.where(right | (rng.random(300) < 0.1), truth, "a")
    found, _ = compare.pair(old, predictions(truth.tolist(), better.tolist()), rng=rng, draws=200)
    row = found.iloc[0]
    assert row["low"] >= 0  # no image became worse
    assert row["high"] - row["low"] < 2 * 1.96 * np.sqrt(2 * 0.7 * 0.3 / 300) / 2  # of independent test sets it would be twice as wide


@pytest.mark.slow
def test_the_interval_covers_at_its_rate() -> None:
    covered = []
    for seed in range(120):
        rng = np.random.default_rng([5, seed])
        truth = rng.choice(list("ab"), 150)
        old, new = (np.where(rng.random(150) < share, truth, np.where(truth == "a", "b", "a")) for share in (0.7, 0.8))
        found, _ = compare.pair(predictions(truth.tolist(), old.tolist()), predictions(truth.tolist(), new.tolist()), rng=rng, draws=150)
        row = found.iloc[0]
        covered.append(row["low"] <= 0.1 <= row["high"])
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 120) < np.mean(covered)


def test_the_page_leaves_the_ends_of_each_runs_intervals_to_the_file() -> None:
    named = {"test/mcc": 0.1, "test/mcc_low": 0.05, "test/mcc_high": 0.2, "bayes_cutoff/right_dropped_low": 0.3}
    figures = pd.DataFrame([(name, value, 0.0, -value, *[np.nan] * 3) for name, value in named.items()], columns=compare.DIFFERENCE_COLUMNS)
    none = pd.DataFrame(columns=["image", "change", "a", "b"])
    page = compare.comparison_page(compare.RunComparison("A", "B", None, none, none, figures, []))
    assert "| test/mcc " in page
    assert "mcc_low" not in page
    assert "mcc_high" not in page
    assert "right_dropped_low" in page


def test_images_are_added_removed_relabelled_renamed_or_changed() -> None:
    def manifest(rows: dict[str, str]) -> pd.DataFrame:
        return pd.DataFrame({"image": list(rows), "sha256": list(rows.values()), "label": [image.partition("/")[0] for image in rows]})

    old = manifest({"cat/1": "one", "cat/2": "two", "cat/3": "three", "dog/4": "four", "dog/5": "five", "dog/6": "one"})
    new = manifest({"cat/1": "one", "dog/2": "two", "cat/new name": "three", "dog/4": "FOUR", "dog/7": "seven", "cat/8": "one"})
    assert sorted(compare.changed_data(old, new)) == [
        ("cat/8", "relabelled", "dog", "cat"),
        ("cat/new name", "renamed", "cat/3", "cat/new name"),
        ("dog/2", "relabelled", "cat", "dog"),
        ("dog/4", "other pixels", "", ""),
        ("dog/5", "removed", "dog", ""),
        ("dog/7", "added", "", "dog"),
    ]
