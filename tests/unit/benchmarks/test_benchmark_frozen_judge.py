"""The benchmark of the judge on features: its cases, its figures, and its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bccp.core.errors import BCCPError
from benchmarks import frozen_judge
from benchmarks.photographs import Prepared


def test_a_share_of_the_new_labels_is_any_other_class():
    true = np.arange(200) % 4
    case = frozen_judge.with_wrong(true, 4, 0.3, 50, seed=1)
    assert len(case.trusted) == 50
    assert sorted([*case.trusted, *case.new]) == list(range(200))
    assert (case.given != true[case.new]).mean() == pytest.approx(0.3, abs=0.01)
    assert set(case.given) == {0, 1, 2, 3}


def test_images_that_people_answered_for_are_new(tmp_path: Path):
    names = [f"{i}.png" for i in range(10)]
    prepared = Prepared(pd.DataFrame({"image": names}), np.empty(0))
    answers = tmp_path / "answers.csv"
    answers.write_text("image,label\n7.png,b\n2.png,a\n")
    case = frozen_judge.with_feedback(prepared, ["a", "b"], str(answers), 5, seed=0)
    assert case.new.tolist() == [2, 7]
    assert case.given.tolist() == [0, 1]
    assert len(set(case.trusted) & {2, 7}) == 0
    with pytest.raises(BCCPError, match="names 2 of 10 images"):
        frozen_judge.with_feedback(prepared, ["a", "b"], str(answers), 9, seed=0)


def test_a_perfect_posterior_has_perfect_figures():
    true, given = np.array([0, 1, 2] * 20), np.array([0, 1, 1] * 20)
    found = frozen_judge.figures(np.eye(3)[true], given, true, probs=np.eye(3)[true] * 0.9 + 0.1 / 3)
    assert (found["AUROC"], found["F1"], found["right at 0.8"]) == (1, 1, 1)
    assert found["said"] == found["wrong"] == pytest.approx(1 / 3)
    assert found["ECE"] == pytest.approx(0)


def test_the_table_has_a_line_a_judge_and_leaves_out_what_is_unknown():
    runs = {"one": [{"AUROC": 0.9, "F1": float("nan")}, {"AUROC": 0.8}]}
    header, _, line = frozen_judge.table([("some labels", runs)]).splitlines()
    assert header.startswith("| labels | judge | AUROC | AP | F1")
    assert line.startswith("| some labels | one | 0.85")
    assert line.count("| -") >= len(frozen_judge.FIGURES) - 1
