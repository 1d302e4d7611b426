"""What a home that an earlier commit has written (:mod:`earlier_home`) is still good for: every command answers on it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import pandas as pd
import pytest
import yaml

from bccp.cli.app import call
from bccp.data import tables
from bccp.pipeline import export_dataset
from bccp.reporting import compare, run_report
from bccp.tracking import registry, wandb_sync
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.versions import versions_made
from support import earlier_home
from support.earlier_home import FIRST, MODEL, SECOND
from support.wandb_stand_in import WandbStandIn

LOAD = """
import json, sys
from pathlib import Path
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import bccp
answers = model.predict(pd.DataFrame({"image": [Path(file).read_bytes() for file in sys.argv[2:]]}))
print(json.dumps([bccp.__file__, answers["class"].tolist()]))
"""


@pytest.fixture
def options(home: Path, tmp_path: Path) -> list[str]:
    """The options that the home's pipelines had; the home is this test's ``BCCP_HOME``."""
    return earlier_home.unpack(tmp_path)


@pytest.fixture
def ledger(options: list[str]) -> Ledger:
    return Ledger(ledger_uri(None)[0])


def champions_answers(home: Path) -> pd.Series[str]:
    """The champion's answer on each Monday image that it was tested on, as its test has recorded it."""
    summary = json.loads((home / "outputs" / SECOND / "summary.json").read_text(encoding="utf-8"))
    (test,) = (step["run_id"] for step in summary["steps"] if step["name"] == "test")
    tested = tables.read(home / "artifacts" / test / "artifacts" / "evaluation" / "predictions.csv")
    answers = tested[tested["day"] == "monday"].set_index("image")["predicted_label"]  # Tuesday's were corrupted first
    assert len(answers) == 5
    return answers


def test_each_artifact_is_there_under_its_version(ledger: Ledger) -> None:
    runs = ledger.client.search_runs([experiment.experiment_id for experiment in ledger.client.search_experiments()])
    versions = {version for run in runs for version in versions_made(run)}
    assert {version.partition(":")[0] for version in versions} >= {"raw_data", "segregated_data", "monday_model", "model", "evaluation"}
    for version in versions:
        assert any(ledger.fetch(version).iterdir())


def test_a_registered_model_loads_in_a_process_of_its_own_with_the_code_that_it_brings(home: Path, tmp_path: Path, ledger: Ledger) -> None:
    expected = champions_answers(home)
    files = [str(tmp_path / "images" / image) for image in expected.index]
    command = [sys.executable, "-c", LOAD, f"models:/{MODEL}@champion", *files]
    environment = os.environ | {"MLFLOW_TRACKING_URI": ledger.uri, "PYTHONPATH": ""}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    code, answers = json.loads(said.stdout)
    assert Path(code).is_relative_to(home / "artifacts")
    assert answers == expected.tolist()


def test_a_registered_model_loads_in_a_process_that_has_todays_code(home: Path, tmp_path: Path, ledger: Ledger) -> None:
    """What MLflow calls is looked up in the package that is imported already, whatever code the model brings."""
    expected = champions_answers(home)
    packed = Path(unquote(urlparse(registry.find_version(ledger, f"models:/{MODEL}@champion", option="MODEL").source).path))
    about = yaml.safe_load((packed / "MLmodel").read_text(encoding="utf-8"))["flavors"]["python_function"]
    model = importlib.import_module(about["loader_module"])._load_pyfunc(str(packed / about["data"]))
    answers = model.predict(pd.DataFrame({"image": [(tmp_path / "images" / image).read_bytes() for image in expected.index]}))
    assert answers["class"].tolist() == expected.tolist()


def test_predict_answers_with_a_registered_model_and_with_a_pipelines(home: Path, tmp_path: Path, ledger: Ledger) -> None:
    expected = champions_answers(home)
    for number, model in enumerate((f"models:/{MODEL}@champion", registry.champion(ledger, MODEL).run_id)):
        out = tmp_path / f"{number}.csv"
        assert call(["predict", "--model", model, "--images", str(tmp_path / "images"), "--out", str(out)]) == 0
        answers = tables.read(out)
        assert len(answers) == 48
        assert answers.set_index(answers.columns[0]).loc[expected.index, "class"].tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch would rather have torch.export than TorchScript
def test_a_registered_model_is_exported(tmp_path: Path, ledger: Ledger) -> None:
    out = tmp_path / "model.pt"
    assert call(["export-model", "--model", f"models:/{MODEL}/1", "--format", "torchscript", "--out", str(out)]) == 0
    assert json.loads((tmp_path / "model.pt.json").read_text(encoding="utf-8"))["class_names"] == ["0", "1", "2"]


def test_a_rollback_makes_the_champion_before_the_champion_again(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(registry.champion(ledger, MODEL).version) == "2"
    assert call(["rollback"]) == 0
    assert "models:/bccp@champion is version 1 again" in capsys.readouterr().out
    assert str(registry.champion(ledger, MODEL).version) == "1"


def test_the_report_is_made_again(home: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = home / "outputs" / FIRST / run_report.PAGE
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert call(["report", "--no-open", FIRST]) == 0
    assert capsys.readouterr().out == f"report: {page}\n"
    again = page.read_text(encoding="utf-8")
    parts, parts_again = (re.findall("<h2>(.*?)</h2>", text) for text in (before, again))
    assert len(parts) == 12  # some of them are read from the artifacts
    assert set(parts) <= set(parts_again)
    assert before.count("50.0%") == again.count("50.0%") > 0


def test_the_pipelines_are_compared(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compare", FIRST, SECOND, "--out", str(tmp_path / "compared")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"noisy_labels\.user_accuracy\W+0\.6\W+0\.9", said)
    assert "Artifacts of other versions: given_labels, cleansed_labels, model, evaluation." in said
    assert len(tables.read(tmp_path / "compared" / compare.IMAGES).query("change == 'given label'")) == 5
    assert "test/accuracy" in said


def test_the_cleansed_data_are_exported(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export-data", "--out", str(tmp_path / "exported"), "--run", FIRST]
    assert call(words) == 1
    assert "whose labels and images were simulated" in capsys.readouterr().err  # as own data was in those days
    assert call([*words, "--simulated"]) == 0
    assert " of 48 images in 3 class folders" in capsys.readouterr().out
    assert len(tables.read(tmp_path / "exported" / export_dataset.LIST)) == 48


def test_new_images_are_checked_against_a_pipelines(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--", "preprocessing.image_size=8", "preprocessing.checks.known=0.5"]
    assert call(["check-new", "--data", str(tmp_path / "images"), "--reference", FIRST, "--simulated", *options]) == 1
    said = capsys.readouterr()
    assert re.search(rf"compared with .*{FIRST}", said.out)
    assert re.search(r"known +over", said.out)
    assert "the data check known has found 1" in said.err


def test_why_knows_what_has_run(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A step is explained that no home has run so: what a key covers may have changed since, and nothing be reused any more."""
    assert call(["why", "segregation", *options, "segregation.tuesday_fraction=0.4"]) == 0
    said = capsys.readouterr().out
    assert "what differs from the nearest finished run" in said
    assert "has never finished here" not in said


def test_the_home_is_looked_through_and_nothing_in_it_is_unknown(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["gc"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"W&B: records not uploaded +15 ", said)
    assert "not known here" not in said
    assert "artifacts of no run" not in said


def test_what_was_recorded_offline_is_uploaded(server: WandbStandIn, options: list[str]) -> None:
    assert re.fullmatch(r"W&B: 1\d runs and \d+ input edges uploaded", wandb_sync.sync())
    assert {run.group for run in server.runs.values()} == {FIRST, SECOND}
    assert sum(run.job_type == "train" for run in server.runs.values()) == 2
    # W&B's own records name the files where they lay when they were made: only what another run has read is uploaded from here
    assert {"clean_data", "segregated_data", "given_labels", "model"} <= {artifact.name for artifact in server.artifacts}
