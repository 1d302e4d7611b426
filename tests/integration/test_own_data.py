"""Pipelines on a user's own images: nothing is simulated unasked, and what is simulated says so everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import bccp
from bccp.cli.app import call
from bccp.core import config, config_schema
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.pipeline import data_days
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

STEPS = "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels]"
QUIET = [STEPS, "tracking.wandb=disabled", "main.threads=1", "preprocessing.image_size=16"]


def run(folder: Path, *options: str) -> dict[str, dict[str, str]]:
    """The parts of the run's configuration that are resolved, as they stand in its records, which must agree."""
    summary = bccp.run([*QUIET, "data.source=folder", f"data.path={folder}", *options])
    params = Ledger(ledger_uri(None)[0]).client.get_run(parent_of(summary)).data.params
    found = {section: summary["config"][section] for section in ("main", "segregation", "noisy_labels")}
    for section, values in found.items():
        assert {key: str(values[key]) for key in values if f"{section}.{key}" in params and isinstance(values[key], str)} == {
            key: params[f"{section}.{key}"] for key in values if isinstance(values[key], str)
        }
    assert "auto" not in (found["main"]["target_day"], found["noisy_labels"]["source"], found["segregation"]["corruption"])
    return found


def parent_of(summary: dict[str, object]) -> str:
    client = Ledger(ledger_uri(None)[0]).client
    step = client.get_run(summary["steps"][-1]["run_id"] or summary["steps"][3]["run_id"])  # type: ignore[index]
    return str(step.data.tags["mlflow.parentRunId"])


def days_of(found: dict[str, dict[str, str]]) -> tuple[str, str, str]:
    return found["noisy_labels"]["source"], found["main"]["target_day"], found["segregation"]["corruption"]


def test_one_folder_of_images_is_judged_whole_and_stays_as_it_is(
    home: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder({"ant": 12, "bee": 12})
    found = run(folder)
    assert days_of(found) == ("folder", "monday", "none")
    assert found["noisy_labels"]["user_accuracy"] is found["noisy_labels"]["noise"] is None
    said = capsys.readouterr().out
    assert "main.target_day=monday: all labels are judged, and none is trusted" in said
    assert "simulated" not in said
    assert not list(home.glob("artifacts/*/artifacts/segregated_data/corrupted.npy"))

    assert days_of(run(folder, "noisy_labels.label=ground_truth")) == ("folder", "monday", "none")
    known = [len(tables.read(path)) for path in home.glob("artifacts/*/artifacts/true_labels/true_labels.csv")]
    assert sorted(known) == [0, 24]


def test_days_and_a_feedback_file_that_leaves_images_unnamed_make_tuesday_the_target(
    home: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    days = image_folder({"monday/ant": 8, "monday/bee": 8, "tuesday/ant": 6, "tuesday/bee": 6}, name="days")
    assert days_of(run(days)) == ("folder", "tuesday", "none")

    plain = image_folder({"ant": 14, "bee": 14}, name="plain")
    images = sorted(str(path.relative_to(plain)) for path in plain.rglob("*.png"))
    some, whole = tmp_path / "some.csv", tmp_path / "whole.csv"
    some.write_text("image,label\n" + "".join(f"{image},{image[:3]}\n" for image in images[::2]))
    whole.write_text("image,label\n" + "".join(f"{image},{image[:3]}\n" for image in images))
    (plain / "ant" / "notes.txt").write_text("no image, and so not left unnamed")
    options = ["preprocessing.max_rejected_rate=0.2"]
    assert days_of(run(plain, f"noisy_labels.feedback_file={some}", *options)) == ("file", "tuesday", "none")
    assert days_of(run(plain, f"noisy_labels.feedback_file={whole}", *options)) == ("file", "monday", "none")


def test_a_tuesday_of_doubtful_names_is_refused_before_any_image_is_decoded(home: Path, image_folder: Callable[..., Path]) -> None:
    folder = image_folder({"ant": 12, "bee": 12})
    with pytest.raises(BCCPError, match="half of which would be trusted"):
        run(folder, "main.target_day=tuesday")
    assert not list(home.glob("artifacts/*/artifacts/clean_data"))
    with pytest.raises(BCCPError, match=r"noisy_labels\.user_accuracy=0\.6 .*set noisy_labels\.source=simulated"):
        run(folder, "noisy_labels.user_accuracy=0.6")


def test_what_is_simulated_on_own_data_says_so_and_is_not_taken_for_data(
    home: Path, image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder({"ant": 20, "bee": 20})
    quick = ["bayes_cutoff.enabled=false", STEPS.replace("noisy_labels]", "noisy_labels,bayes_cutoff]")]
    summary = bccp.run([*QUIET[1:], *quick, "data.source=folder", f"data.path={folder}", "noisy_labels.source=simulated"])
    said = capsys.readouterr().out
    before, _, after = said.partition("fetch_data: runs")
    assert "simulated: 30% of Tuesday's training labels are drawn wrong on purpose" in before
    assert "Tuesday's images are corrupted on purpose (segregation.corruption=mixed)" in after
    assert (summary["config"]["noisy_labels"]["user_accuracy"], summary["config"]["main"]["target_day"]) == (0.7, "tuesday")

    client = Ledger(ledger_uri(None)[0]).client
    step = client.get_run(summary["steps"][3]["run_id"])
    assert step.data.params["user_accuracy"] == "0.7"
    assert step.data.tags["bccp.simulated"] == "labels,images"
    assert client.get_run(step.data.tags["mlflow.parentRunId"]).data.tags["bccp.simulated"] == "labels,images"
    pages = [Path(summary["folder"]) / "report.html", *home.glob("artifacts/*/artifacts/data_checks/data_checks.html")]
    assert len(pages) == 3
    for page in pages:
        assert "drawn wrong on purpose" in page.read_text(), page

    for command in (["export-data", "--out", str(tmp_path / "out")], ["check-new", "--data", str(folder)]):
        assert call(command) == 1
        assert "whose labels and images were simulated" in capsys.readouterr().err
        assert call([*command, "--simulated"]) == 0
    capsys.readouterr()


def test_a_step_that_is_run_alone_simulates_nothing_and_takes_the_day_of_what_it_reads(
    home: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    clean = {}
    for name, counts in (
        ("plain", {"ant": 12, "bee": 12}),
        ("days", {"monday/ant": 8, "monday/bee": 8, "tuesday/ant": 6, "tuesday/bee": 6}),
    ):
        steps = "main.execute_steps=[fetch_data,preprocessing]"
        summary = bccp.run([*QUIET[1:], steps, "data.source=folder", f"data.path={image_folder(counts, name=name)}"])
        clean[name] = summary["steps"][1]["outputs"]["clean_data"]
    images = tables.read(ledger.fetch(f"clean_data:{clean['plain']}") / "manifest.csv")["image"].tolist()
    files = {}
    for name, named in (("some", images[::2]), ("whole", images)):
        files[name] = tmp_path / f"{name}.csv"
        files[name].write_text("image,label\n" + "".join(f"{image},{image[:3]}\n" for image in named))

    def alone(data: str, **given: str) -> tuple[str, str]:
        texts = {key: config.encode(value) for key, value in segregation_defaults().items()} | given
        section = config.section(config_schema.Segregation, texts, "segregation", tmp_path)
        data_days.resolve_alone("segregation", section, {"clean_data": clean[data]}, ledger)
        return section.label_source, section.target_day

    assert alone("plain") == ("folder", "monday")
    assert alone("days") == ("folder", "tuesday")
    assert alone("plain", feedback_file=str(files["some"])) == ("file", "tuesday")
    assert alone("plain", feedback_file=str(files["whole"])) == ("file", "monday")
    assert alone("plain", label_source="simulated") == ("simulated", "tuesday")
    assert alone("plain", target_day="monday", label_source="simulated") == ("simulated", "monday")


def segregation_defaults() -> dict[str, Any]:
    """The section as ``config.yaml`` has it, links resolved."""
    values = config.defaults()
    del values["defaults"], values["hydra"]
    plain: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    return dict(plain["segregation"])


def test_the_source_of_a_data_set_is_found_by_its_version(home: Path, image_folder: Callable[..., Path]) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    steps = "main.execute_steps=[fetch_data,preprocessing]"
    own = bccp.run([*QUIET[1:], steps, "data.source=folder", f"data.path={image_folder({'ant': 8, 'bee': 8})}"])
    digits = bccp.run(["tracking.wandb=disabled", "main.threads=1", steps])
    found = [finished_runs.data_source_of(summary["steps"][1]["outputs"]["clean_data"], ledger) for summary in (own, digits)]
    assert found == ["folder", "digits"]
    assert finished_runs.data_source_of("0" * 64, ledger) is None
