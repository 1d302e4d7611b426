"""A home that is moved, renamed or copied: all in it is found where it is now, and the home that it was is left alone."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from bccp.cli.app import call
from bccp.core.digests import folder_digest
from bccp.core.errors import BCCPError
from bccp.core.home import moved_along, scratch
from bccp.pipeline import environments
from bccp.tracking import finished_runs, registry, wandb_sync
from bccp.tracking.backends import create_sqlite, ledger_uri, local_path
from bccp.tracking.store import Ledger
from bccp.tracking.versions import versions_made
from support import earlier_home
from support.earlier_home import FIRST, MODEL
from support.wandb_stand_in import WandbStandIn

NAME = "mövéd home (2)"


@pytest.fixture
def former(home: Path, tmp_path: Path) -> Path:
    """A home with two pipelines, a champion and records for W&B; ``BCCP_HOME`` will be :data:`NAME` beside it."""
    place = tmp_path / "former"
    place.mkdir()
    earlier_home.unpack(place)
    return place / "home"


@pytest.fixture
def moved(former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home elsewhere, and gone from where it was."""
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / NAME))
    return former.rename(tmp_path / NAME)


@pytest.fixture
def copied(former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the home, which is still where it was."""
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / NAME))
    return Path(shutil.copytree(former, tmp_path / NAME, symlinks=True))


def addresses(uri: str) -> list[Path]:
    """Where a store says that experiments, runs and registered models are, as MLflow's own commands read it."""
    client = MlflowClient(uri)
    experiments = client.search_experiments()
    runs = client.search_runs([experiment.experiment_id for experiment in experiments])
    models = client.search_model_versions()
    found = [*(e.artifact_location for e in experiments), *(run.info.artifact_uri for run in runs), *(m.source for m in models)]
    assert len(found) > 20
    return [place for address in found if (place := local_path(address)) is not None]


def publish(ledger: Ledger) -> Path:
    run_id = ledger.start("train")
    with scratch("model") as parent:
        (parent / "model").mkdir()
        (parent / "model" / "weights.bin").write_text("new")
        return ledger.publish(run_id, "model", parent / "model")[1]


def test_all_of_a_moved_home_is_found_in_it_and_its_old_place_stays_empty(moved: Path, former: Path, tmp_path: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    runs = finished_runs.search(ledger, "attributes.status = 'FINISHED'")
    versions = {version for run in runs for version in versions_made(run)}
    assert len(versions) > 10
    assert all(ledger.fetch(version).is_relative_to(moved) for version in versions)
    assert registry.fetch_model(ledger, registry.champion(ledger, MODEL), tmp_path).is_relative_to(moved)
    folders = [run.data.tags["bccp.folder"] for run in runs if "bccp.folder" in run.data.tags]
    assert str(moved / "outputs" / FIRST) in folders
    assert all(Path(folder, "summary.json").is_file() for folder in folders)
    assert publish(ledger).is_relative_to(moved)
    assert all(place.is_relative_to(moved) for place in addresses(ledger.uri))
    assert not former.exists()


def test_commands_answer_on_a_moved_home(moved: Path, former: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = Ledger(ledger_uri(None)[0]).client.search_runs(["1"], f"tags.`bccp.folder` LIKE '%{FIRST}'")[0].info.run_id
    assert call(["report", "--no-open", run_id]) == 0
    assert capsys.readouterr().out == f"report: {moved / 'outputs' / FIRST / 'report.html'}\n"
    assert call(["gc"]) == 0
    said = capsys.readouterr().out
    assert "not known here" not in said
    assert "artifacts of no run" not in said
    images, out = former.parent / "images", tmp_path / "predictions.csv"
    assert call(["predict", "--model", f"models:/{MODEL}@champion", "--images", str(images), "--out", str(out)]) == 0
    assert call(["export-data", "--out", str(tmp_path / "exported"), "--run", FIRST, "--simulated"]) == 0
    assert not former.exists()


def test_a_copied_home_never_touches_the_original(copied: Path, former: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = folder_digest(former)
    ledger = Ledger(ledger_uri(None)[0])
    assert publish(ledger).is_relative_to(copied)
    assert all(place.is_relative_to(copied) for place in addresses(ledger.uri))  # so that `mlflow gc` deletes nothing else
    assert call(["rollback"]) == 0
    assert call(["gc", "--delete"]) == 0
    assert folder_digest(former) == before


@pytest.mark.slow
def test_what_was_recorded_offline_is_uploaded_from_a_moved_home(server: WandbStandIn, moved: Path) -> None:
    made = {entry["digest"][:12] for run in wandb_sync.recorded(moved / "wandb") for entry in run.note["outputs"]}
    assert "runs and" in wandb_sync.sync()
    assert {alias.removeprefix("d-") for artifact in server.artifacts for alias in artifact.aliases} >= made


def test_a_home_whose_database_mlflow_has_made_is_followed_by_its_pipelines(home: Path, tmp_path: Path) -> None:
    (home / "mlflow.db").unlink()
    create_sqlite(f"sqlite:///{home / 'mlflow.db'}", tmp_path / "by mlflow")
    change(home, "UPDATE experiments SET artifact_location = 'file:///by/mlflow/mlruns/0'")
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    old = tmp_path / "old home"
    experiment = client.create_experiment("bccp", artifact_location=(old / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    with pytest.raises(BCCPError, match=rf"keeps its artifacts in {old}/artifacts, which is not there: put that folder back"):
        Ledger(ledger_uri(None)[0])  # it may be another place that somebody has chosen
    client.set_tag(run_id, "bccp.folder", f"{old}/outputs/one")
    ledger = Ledger(ledger_uri(None)[0])
    run: Any = ledger.client.get_run(run_id)
    assert run.info.artifact_uri == f"{(home / 'artifacts').as_uri()}/{run_id}/artifacts"
    assert run.data.tags["bccp.folder"] == f"{home}/outputs/one"
    assert ledger.client.get_experiment("0").artifact_location == "file:///by/mlflow/mlruns/0"


def test_a_store_outside_of_the_home_keeps_its_addresses(home: Path, tmp_path: Path, empty_database: Path) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    shutil.copy(empty_database, elsewhere)
    MlflowClient(f"sqlite:///{elsewhere}").create_experiment("bccp", artifact_location=(tmp_path / "shared").as_uri())
    with pytest.raises(BCCPError, match=r"elsewhere\.db keeps its artifacts in .*/shared, which is not there"):
        Ledger(f"sqlite:///{elsewhere}")
    (tmp_path / "shared").mkdir()
    assert publish(Ledger(f"sqlite:///{elsewhere}")).is_relative_to(tmp_path / "shared")


def test_a_home_is_used_by_one_path_at_a_time(home: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    run_id = ledger.start("train")
    change(home, "UPDATE runs SET artifact_uri = replace(artifact_uri, 'file://', 'file:///mounted')")  # as another process does it
    with scratch("model") as folder, pytest.raises(BCCPError, match="by another path, and so the store keeps artifacts in /mounted/"):
        ledger.publish(run_id, "model", folder)


def test_an_environment_that_was_built_elsewhere_is_built_anew(tmp_path: Path) -> None:
    """Its scripts begin with the place that it was built in."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    mark = tmp_path / environments.WHOLE
    mark.write_text(str(tmp_path))
    assert environments._whole(tmp_path)
    mark.write_text("/elsewhere")
    assert not environments._whole(tmp_path)
    mark.write_text("")  # by an earlier version
    assert environments._whole(tmp_path)
    (tmp_path / "bin" / "activate").write_text("VIRTUAL_ENV=/elsewhere")
    assert not environments._whole(tmp_path)


def test_a_recorded_place_is_looked_for_in_this_home(home: Path) -> None:
    (home / "incoming" / "artifacts").mkdir(parents=True)
    assert moved_along("/old/artifacts/incoming/artifacts") == home / "incoming" / "artifacts"
    assert moved_along("/old/incoming/none") == Path("/old/incoming/none")
    assert moved_along(str(home / "outputs" / "none")) == home / "outputs" / "none"


def change(home: Path, statement: str) -> None:
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute(statement)
    database.close()
