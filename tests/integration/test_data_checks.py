"""Limits of data checks in a pipeline: which step stops, and what is left."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bccp
from bccp.core.errors import BCCPError
from bccp.core.home import home as the_home
from bccp.reporting import data_checks_page
from support.html_page import Page

STEPS = "main.execute_steps=[fetch_data,preprocessing,segregation]"


@pytest.fixture
def options(home: Path, image_folder: Callable[..., Path]) -> list[str]:
    folder = image_folder({"cat": 30, "dog": 20}, size=16)
    quiet = ["preprocessing.image_size=16", "tracking.wandb=disabled", "main.threads=1"]
    return [STEPS, "data.source=folder", f"data.path={folder}", "noisy_labels.source=simulated", *quiet]


def reports() -> list[Path]:
    return sorted(the_home().glob(f"artifacts/*/artifacts/data_checks/{data_checks_page.DATA_CHECKS_PAGE}"))


def test_a_limit_stops_the_step_that_it_is_for_and_leaves_its_report_and_nothing_half_made(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        BCCPError, match=r"check imbalance has found 1\.5, more than preprocessing\.checks\.imbalance=1\.2: the class 'cat'"
    ):
        bccp.run([*options, "preprocessing.checks.imbalance=1.2"])
    (summary,) = the_home().glob("outputs/*/summary.json")
    said = json.loads(summary.read_text())
    assert said["status"] == "failed"
    assert "imbalance" in said["error"]
    assert [step["status"] for step in said["steps"]][:3] == ["ran", "failed", "skipped"]
    (page,) = reports()
    shown = summary.parent / "preprocessing" / data_checks_page.DATA_CHECKS_PAGE  # in the run folder, where people look for it
    assert str(shown) in said["error"]
    assert shown.read_bytes() == page.read_bytes()
    assert "Over the limit: imbalance." in Page(page).text
    assert not list(the_home().rglob("clean_data"))
    assert list((the_home() / "tmp").iterdir()) == []
    with pytest.raises(
        BCCPError, match=r"check drift has found 0\.\d+, more than preprocessing\.checks\.drift=0\.001: Tuesday looks different"
    ):
        bccp.run([*options, "preprocessing.checks.drift=0.001"])
    assert not list(the_home().rglob("segregated_data"))
    shutil.rmtree(the_home() / "outputs")
    capsys.readouterr()
    summary = bccp.run([*options, "preprocessing.checks.drift=0.001", "segregation.corruption=none"])
    assert [step["status"] for step in summary["steps"][:3]] == ["reused", "reused", "ran"]  # the limit of drift is none of preprocessing's
    assert summary["metrics"]["segregation/check_leakage"] == 0
    assert summary["metrics"]["preprocessing/check_imbalance"] == 1.5
    assert re.search(r"segregation: 6 data checks: .*; see /.*data_checks\.html", capsys.readouterr().out)


def test_limits_are_checked_like_other_keys(home: Path) -> None:
    with pytest.raises(BCCPError, match=r"preprocessing\.checks\.dark=2\.0 is out of range: give a number from 0 to 1"):
        bccp.run(["preprocessing.checks.dark=2"])
    with pytest.raises(BCCPError, match=r"unknown key 'preprocessing\.checks\.drfit' \(did you mean 'preprocessing\.checks\.drift'\?\)"):
        bccp.run(["preprocessing.checks.drfit=0.1"])
