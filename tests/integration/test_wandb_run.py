"""The mirror in W&B, with the real wandb against the stand-in for its server."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import bccp
from bccp.cli.app import call
from bccp.core import config, config_schema, step_graph
from bccp.core.errors import BCCPError
from bccp.core.step_context import Context, Step
from bccp.core.step_graph import SPECS
from bccp.pipeline import hydra_app, runner
from bccp.pipeline.step_runner import command_line as step_command_line
from bccp.pipeline.step_runner import locate
from bccp.tracking import wandb_client, wandb_run, wandb_sync
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.wandb_artifacts import alias
from bccp.tracking.wandb_run import NOTE
from support.dashboard import dashboard_names
from support.wandb_stand_in import KEY, WandbStandIn

INTO = {(artifact, "into", step) for step, spec in SPECS.items() for artifact in spec.all_inputs}
LINEAGE = INTO | {(step, "made", artifact) for step, spec in SPECS.items() for artifact in spec.all_outputs}
"""The edges of the whole graph, from raw_data to evaluation."""

TWO = "main.execute_steps=[fetch_data,preprocessing]"
TWO_STEPS = {("fetch_data", "made", "raw_data"), ("raw_data", "into", "preprocessing"), ("preprocessing", "made", "clean_data")}
ADOPTED = TWO_STEPS - {("fetch_data", "made", "raw_data")} | {("upload", "made", "raw_data"), ("raw_data", "into", "reused")}
"""The same where the first step ran without W&B."""


@pytest.fixture
def light_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps that read what the real ones read, write a file with a line about it, and show a picture."""
    picture = tmp_path / "faces.png"
    Image.radial_gradient("L").save(picture)

    def run(step: Step) -> None:
        read = [(step.input(name) / "about.txt").read_text() for name in step.inputs]
        for name in SPECS[step.name].all_outputs:
            with step.output(name) as folder:
                (folder / "about.txt").write_text(f"{name}, made from {read}, holds the pixels 0xFACE")
        step.log_metrics({"accuracy": 0.5})
        step.log_picture(picture, pixels=True)
        if step.name == "train":
            step.log_history([{"loss": 0.9}, {"loss": 0.4}])

    monkeypatch.setattr(runner, "load_step", lambda name: SimpleNamespace(run=run))


def notes(home: Path) -> list[Path]:
    return sorted(note for note in (home / "wandb").glob(f"*/{NOTE}") if not note.parent.is_symlink())


def versions(server: WandbStandIn) -> list[str]:
    return [f"{artifact.name}:v{artifact.number}" for artifact in server.artifacts]


def test_every_step_is_a_run_and_the_lineage_goes_from_raw_data_to_evaluation(server: WandbStandIn, home: Path, light_steps: None) -> None:
    summary = bccp.run(["train.epochs=7"])
    group = Path(summary["folder"]).name
    assert [run.job_type for run in server.runs.values()] == [*step_graph.STEPS, "pipeline_report"]
    assert {(run.entity, run.project, run.group, run.state) for run in server.runs.values()} == {("me", "bccp", group, "finished")}
    assert server.edges() == LINEAGE
    for name, version in [output for step in summary["steps"] for output in step["outputs"].items()]:
        artifact = server.find(f"{name}:{alias(version)}")
        assert artifact is not None
        assert artifact.type == name
        assert version in artifact.metadata
        assert list(server.files(artifact)) == ["about.txt"]
    train = next(run for run in server.runs.values() if run.job_type == "train")
    assert train.values["epochs"] == 7
    assert train.values["bccp.mlflow_run"] == summary["steps"][6]["run_id"]
    assert [row for row in train.history if "train/epoch" in row] == [
        {"train/epoch": 1, "train/epoch_loss": 0.9},
        {"train/epoch": 2, "train/epoch_loss": 0.4},
    ]
    assert [metric.get("1") or metric["2"] for metric in train.metrics] == ["train/epoch", "train/epoch_*"]
    assert train.metrics[1]["5"] == 1  # the number of its step metric
    assert train.summary["train/accuracy"] == 0.5
    assert notes(home) == []  # W&B has everything


@pytest.mark.slow
def test_a_sweep_is_one_group_whose_pipelines_can_be_told_apart_online_and_synced(
    server: WandbStandIn, home: Path, light_steps: None
) -> None:
    sweep = ["-m", "hydra/launcher=basic", TWO, "preprocessing.image_size=16,24"]
    for mode in ("online", "offline"):
        assert hydra_app.hydra_main([*sweep, f"tracking.wandb={mode}", "main.cache=false"]) == 0
    wandb_sync.sync()
    groups = sorted({str(run.group) for run in server.runs.values()})
    assert groups == sorted(path.name for path in (home / "outputs").iterdir())
    for group in groups:
        runs = [run for run in server.runs.values() if run.group == group and run.job_type != "sweep_report"]
        told = [(run.name, run.values["bccp.pipeline"], run.values["pipeline"]["preprocessing"]["image_size"]) for run in runs]
        jobs = [(f"{group}-0", 16), (f"{group}-1", 24)]
        assert sorted(told) == sorted((f"{step}-{name}", name, size) for step in ("fetch_data", "preprocessing") for name, size in jobs)
        assert not any("tracking" in run.values["pipeline"] for run in runs)  # where the ledger is concerns nobody there
    ledger = Ledger(ledger_uri(None)[0])
    parents = ledger.client.search_runs([ledger.experiment_id], "tags.`bccp.folder` LIKE '%'")
    assert {run.data.tags["bccp.pipeline"] for run in parents} == {f"{group}-{job}" for group in groups for job in (0, 1)}


def test_the_same_content_again_is_the_same_version(server: WandbStandIn, light_steps: None) -> None:
    bccp.run([TWO])
    again = bccp.run([TWO, "main.cache=false"])
    assert [step["status"] for step in again["steps"]][:2] == ["ran", "ran"]
    assert versions(server) == ["raw_data:v0", "clean_data:v0"]
    assert len(server.runs) == 4
    assert [[a.name for a in run.logged] for run in server.runs.values()] == [["raw_data"], ["clean_data"]] * 2


def test_an_input_that_wandb_does_not_have_is_uploaded(server: WandbStandIn, light_steps: None) -> None:
    bccp.run(["main.execute_steps=[fetch_data]", "tracking.wandb=disabled"])
    assert server.calls == []
    summary = bccp.run([TWO])
    assert [step["status"] for step in summary["steps"]][:2] == ["reused", "ran"]
    assert server.edges() == ADOPTED
    assert {run.state for run in server.runs.values()} == {"finished"}


def test_a_reused_step_is_in_the_lineage_of_the_steps_that_run(server: WandbStandIn, light_steps: None) -> None:
    bccp.run([TWO])
    again = bccp.run([TWO, "preprocessing.image_size=24"])
    assert [step["status"] for step in again["steps"]][:2] == ["reused", "ran"]
    made, *read = server.runs.values()
    assert [made.job_type, *(run.job_type for run in read)] == ["fetch_data", "preprocessing", "preprocessing", "reused"]
    assert [run.used for run in read] == [made.logged] * 3


@pytest.mark.slow
def test_a_pipeline_that_only_reuses_is_a_run_with_its_lineage_online_and_synced(
    server: WandbStandIn, home: Path, light_steps: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first = bccp.run(["train.epochs=7"])
    made = {artifact: artifact.made_by.id for artifact in server.artifacts}
    train = next(run for run in server.runs.values() if run.job_type == "train")
    for mode in ("online", "offline"):
        n_calls = len(server.calls)
        again = bccp.run(["train.epochs=7", f"tracking.wandb={mode}"])
        assert {step["status"] for step in again["steps"]} == {"reused"}
        if mode == "offline":
            assert len(server.calls) == n_calls
            assert call(["wandb", "sync"]) == 0
            assert "W&B: 1 runs and 10 input edges uploaded\n" in capsys.readouterr().out
        assert notes(home) == []
        *_, told = server.runs.values()
        assert (told.job_type, told.group, told.state) == ("reused", Path(again["folder"]).name, "finished")
        versions = [f"{name}:{alias(version)}" for step in first["steps"] for name, version in step["outputs"].items()]
        assert set(told.used) == {server.find(version) for version in versions} == set(made)
        assert {name: told.summary[name] for name in ("train/accuracy", "test/accuracy")} == {"train/accuracy": 0.5, "test/accuracy": 0.5}
        assert not any("epoch" in name for name in told.summary)
        assert told.values["pipeline"] == train.values["pipeline"]  # by which they are compared
    assert {artifact: artifact.made_by.id for artifact in server.artifacts} == made
    before = state(server)
    assert wandb_sync.sync() == f"W&B: no run recorded in {home} is left to upload"
    assert state(server) == before


@pytest.mark.slow
def test_what_was_reused_while_the_server_was_silent_is_told_by_the_sync(
    server: WandbStandIn, home: Path, light_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bccp.run([TWO])
    server.dead = True
    assert bccp.run([TWO, "tracking.init_timeout=1"])["status"] == "finished"
    bccp.run([TWO, "tracking.wandb=offline"])
    assert [run.job_type for run in server.runs.values()] == ["fetch_data", "preprocessing"]
    server.dead = False
    file = next((home / "artifacts").rglob("clean_data/about.txt"))
    text = file.read_text()
    file.write_text("tampered")
    with pytest.raises(BCCPError, match=r"1 of 2 runs are not on W&B: the artifact clean_data:\w+ in .* was changed"):
        wandb_sync.sync()
    file.write_text(text)
    assert wandb_sync.sync() == "W&B: 1 runs and 2 input edges uploaded"
    assert [run.job_type for run in server.runs.values()] == ["fetch_data", "preprocessing", "reused", "reused"]
    assert server.edges() == TWO_STEPS | {("raw_data", "into", "reused"), ("clean_data", "into", "reused")}


def test_a_ledger_elsewhere_is_named_to_the_sync_by_the_option_that_the_run_had(
    server: WandbStandIn, home: Path, light_steps: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = f"tracking.mlflow_uri=sqlite:///{shutil.copy(home / 'mlflow.db', tmp_path / 'elsewhere.db')}"
    bccp.run([TWO, elsewhere])
    bccp.run([TWO, elsewhere, "tracking.wandb=offline"])
    (home / "mlflow.db").unlink()
    assert call(["wandb", "sync", ""]) == 0
    assert f"W&B: no run recorded in {home} is left to upload\n" in capsys.readouterr().out
    assert not (home / "mlflow.db").exists()
    assert call(["wandb", "sync", elsewhere]) == 0
    assert "W&B: 1 runs and 2 input edges uploaded\n" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["dead", "500", "another key"])
def test_a_server_that_does_not_answer_costs_one_warning_and_the_run_goes_on_offline(
    server: WandbStandIn, home: Path, light_steps: None, fault: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "another key":
        monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    server.dead, server.status = fault == "dead", 500 if fault == "500" else None
    before = time.monotonic()
    summary = bccp.run([TWO, "tracking.init_timeout=1"])
    assert summary["status"] == "finished"
    assert time.monotonic() - before < 60
    told = capfd.readouterr()
    assert told.out.count("warning:") == 1
    assert "not on W&B" in told.out
    assert "warning" not in told.err.lower()
    assert [note.parent.name.split("-")[0] for note in notes(home)] == ["offline", "offline"]
    assert server.runs == {}


def test_a_server_that_dies_in_the_middle_costs_one_warning_and_the_run_goes_on_offline(
    server: WandbStandIn, home: Path, light_steps: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def die(call: str) -> None:
        server.dead = server.dead or call == "CreateArtifact"

    server.on_call = die
    summary = bccp.run([TWO, "tracking.finish_timeout=1"])
    assert summary["status"] == "finished"
    told = capfd.readouterr()
    assert told.out.count("warning:") == 1
    assert "warning" not in told.err.lower()
    assert [note.parent.name.split("-")[0] for note in notes(home)] == ["offline", "run"]
    assert server.edges() == set()
    server.on_call, server.dead = None, False
    assert wandb_sync.sync() == "W&B: 2 runs and 1 input edges uploaded"
    assert server.edges() == TWO_STEPS
    assert [(run.job_type, run.state) for run in server.runs.values()] == [("fetch_data", "finished"), ("preprocessing", "finished")]
    assert [run.history[0] for run in server.runs.values()] == [{"fetch_data/accuracy": 0.5}, {"preprocessing/accuracy": 0.5}]
    assert all(run.values["bccp.key"] and len(run.metrics) == 2 for run in server.runs.values())


def test_a_slow_server_is_waited_for(server: WandbStandIn, home: Path, light_steps: None, capfd: pytest.CaptureFixture[str]) -> None:
    server.delay_seconds = 0.05
    bccp.run([TWO])
    assert server.edges() == TWO_STEPS
    assert "warning" not in "".join(capfd.readouterr()).lower()


@pytest.mark.parametrize("upload_images", [True, False])
def test_upload_images_false_keeps_every_pixel_at_home(
    server: WandbStandIn, image_folder: Callable[..., Path], upload_images: bool
) -> None:
    images = image_folder({"a": 12, "b": 12})
    steps = "main.execute_steps=[fetch_data,preprocessing,segregation]"
    bccp.run(
        [
            steps,
            "data.source=folder",
            "noisy_labels.source=simulated",
            f"data.path={images}",
            "preprocessing.image_size=16",
            f"tracking.upload_images={upload_images}",
        ]
    )
    files = [path.read_bytes() for path in images.rglob("*.png")]
    pixels = [Image.open(path).tobytes() for path in images.rglob("*.png")]
    for parts in (files, pixels):
        assert any(part in body for part in parts for body in server.bodies) is upload_images
    assert any(b"\x89PNG" in body for body in server.bodies) is upload_images
    for name in ("raw_data", "clean_data", "segregated_data"):
        artifact = server.find(name)
        assert artifact is not None
        assert (list(server.files(artifact)) == ["version.txt"]) is not upload_images
    truth = server.find("true_labels")
    assert truth is not None
    assert "true_labels.csv" in server.files(truth)
    assert ("segregation", "made", "segregated_data") in server.edges()


def test_upload_images_false_keeps_pictures_of_images_at_home(server: WandbStandIn, light_steps: None) -> None:
    bccp.run([TWO, "tracking.upload_images=false"])
    assert server.edges() == TWO_STEPS
    for trace in (b"0xFACE", b"\x89PNG", b"faces"):
        assert not any(trace in body for body in server.bodies)


@pytest.mark.parametrize("upload_images", [True, False])
def test_a_table_has_bounded_rows_and_small_thumbnails_or_none_and_is_written_in_the_home_only(
    server: WandbStandIn, home: Path, tmp_path: Path, upload_images: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setattr(tempfile, "tempdir", None)
    mirror = wandb_run.WandbMirror(
        mode="online",
        to=config_schema.Tracking(
            mlflow_uri=None,
            shared_folder=False,
            wandb="online",
            wandb_entity=None,
            wandb_project="bccp",
            upload_images=upload_images,
            init_timeout=30,
            finish_timeout=30,
        ),
        group="tests",
        name="test-tests",
        step="test",
        config={},
        home=home,
    )
    pictures = np.random.default_rng(0).integers(0, 256, (200, 120, 300, 3), dtype=np.uint8)
    mirror.log_table("errors", [{"image": f"{k}.png", "label": "bee"} for k in range(200)], iter(pictures))
    mirror.log_table("none", [], iter(()))
    assert list(elsewhere.rglob("*")) == []  # not even while wandb's own process runs
    mirror.finish(0)
    assert tempfile.gettempdir() == str(elsewhere)
    assert list((home / "tmp").iterdir()) == list((home / "wandb" / "tmp").rglob("*.table.json")) == []
    (run,) = server.runs.values()
    (table,) = (json.loads(body) for name, body in run.files.items() if "errors" in name and name.endswith(".table.json"))
    assert table["columns"] == ["picture", "image", "label"][not upload_images :]
    assert [row[-2:] for row in table["data"]] == [[f"{k}.png", "bee"] for k in range(wandb_run.MOST_ROWS)]
    shown = [body for body in server.bodies if body.startswith(b"\x89PNG")]
    assert len(shown) == (wandb_run.MOST_ROWS if upload_images else 0)
    assert all(max(Image.open(io.BytesIO(body)).size) == wandb_run.THUMBNAIL_PX for body in shown)


@pytest.mark.slow
@pytest.mark.parametrize("upload_images", [True, False])
def test_the_real_steps_online(server: WandbStandIn, image_folder: Callable[..., Path], upload_images: bool) -> None:
    images = image_folder({"ant": 40, "bee": 30, "cat": 30})
    quick = ["preprocessing.image_size=16", "train.epochs=2", "bayes_cutoff.epochs=2", "bayes_cutoff.passes=3", "main.threads=1"]
    bccp.run(
        [*quick, "data.source=folder", "noisy_labels.source=simulated", f"data.path={images}", f"tracking.upload_images={upload_images}"]
    )
    tables = {artifact.name for artifact in server.artifacts if artifact.type == "run_table"}
    simulated = {edge for edge in LINEAGE if "feedback" not in edge}  # without a file of users' votes
    assert {edge for edge in server.edges() if edge[2] not in tables} == simulated
    assert {run.state for run in server.runs.values()} == {"finished"}
    logged = {key for run in server.runs.values() for row in run.history for key in row}
    summaries = {key for run in server.runs.values() for key in run.summary}
    assert dashboard_names("logged") <= logged
    assert dashboard_names("summary") <= summaries
    test = next(run for run in server.runs.values() if run.job_type == "test")
    for key in dashboard_names("config"):
        assert OmegaConf.select(OmegaConf.create(test.values), key) is not None, key
    shown = {name.split("/")[-1] for run in server.runs.values() for name in run.files}
    for picture in ("confusion_matrix", "threshold_curves", "training_curves", "errors", "most_suspect_labels"):
        assert any(name.startswith(picture) for name in shown), picture
    assert any(name.startswith("worst_suspects") for name in shown) is upload_images
    files = [path.read_bytes() for path in images.rglob("*.png")]
    pixels = [Image.open(path).tobytes() for path in images.rglob("*.png")]
    for parts in (files, pixels):
        assert any(part in body for part in parts for body in server.bodies) is upload_images
    pictures = [body for body in server.bodies if body.startswith(b"\x89PNG")]
    assert any(max(Image.open(io.BytesIO(body)).size) <= wandb_run.THUMBNAIL_PX for body in pictures) is upload_images


def test_a_password_in_the_address_of_the_data_is_recorded_nowhere(
    server: WandbStandIn, home: Path, light_steps: None, capfd: pytest.CaptureFixture[str]
) -> None:
    address = "https://me:passw0rd@127.0.0.1:1/images.zip?token=t0ken"
    data = ["data.source=archive", f"data.path='{address}'", f"data.sha256={'0' * 64}"]
    bccp.run(["main.execute_steps=[fetch_data]", "main.target_day=monday", *data])
    (run,) = server.runs.values()
    assert run.values["path"] == "https://127.0.0.1:1/images.zip"
    told = "".join(capfd.readouterr()).encode()
    for place in [*(path.read_bytes() for path in home.rglob("*") if path.is_file()), *server.bodies, told]:
        assert b"passw0rd" not in place
        assert b"t0ken" not in place


def test_disabled_writes_no_file(home: Path, light_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    bccp.run([TWO, "tracking.wandb=disabled"])
    assert not (home / "wandb").exists()
    assert not list(home.rglob("*wandb*"))


def state(server: WandbStandIn) -> tuple[object, ...]:
    """All that a user sees of it."""
    runs = [(run.id, run.state, run.group, run.values, run.history, run.summary, run.files) for run in server.runs.values()]
    return runs, versions(server), [artifact.aliases for artifact in server.artifacts], server.edges()


def test_what_was_recorded_offline_is_synced_with_its_lineage_and_syncing_again_changes_nothing(
    server: WandbStandIn, home: Path, light_steps: None
) -> None:
    summary = bccp.run(["tracking.wandb=offline"])
    assert server.calls == []
    assert len(notes(home)) == 9  # the eight steps', and the report's
    assert wandb_sync.sync() == "W&B: 9 runs and 23 input edges uploaded"
    assert server.edges() == LINEAGE
    assert sorted(str(run.job_type) for run in server.runs.values()) == sorted([*step_graph.STEPS, "pipeline_report"])
    assert {(run.group, run.state) for run in server.runs.values()} == {(Path(summary["folder"]).name, "finished")}
    for name, version in [output for step in summary["steps"] for output in step["outputs"].items()]:
        assert server.find(f"{name}:{alias(version)}") is not None
    train = next(run for run in server.runs.values() if run.job_type == "train")
    assert [row["train/epoch_loss"] for row in train.history if "train/epoch" in row] == [0.9, 0.4]
    before = state(server)
    assert wandb_sync.sync() == f"W&B: no run recorded in {home} is left to upload"
    assert state(server) == before
    assert notes(home) == []


@pytest.mark.slow
def test_a_run_that_was_killed_before_anything_was_on_the_disk_does_not_block_the_sync(
    server: WandbStandIn, home: Path, root: Path
) -> None:
    process = subprocess.Popen([sys.executable, str(root / "main.py"), "bayes_cutoff.epochs=500"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("bayes_cutoff: runs"):
            break
    while not notes(home):  # the step's own record; those of the steps before are done with
        time.sleep(0.1)
    process.kill()
    process.wait()
    process.stdout.close()
    assert wandb_sync.sync() == "W&B: 0 runs and 0 input edges uploaded; 1 that were killed left nothing to upload"
    assert notes(home) == []
    states = {str(run.job_type): run.state for run in server.runs.values()}
    assert [state for step, state in states.items() if step != "bayes_cutoff"] == ["finished"] * 4
    assert states["bayes_cutoff"] != "finished"


@pytest.mark.slow
def test_a_sync_that_a_dying_server_ends_is_ended_by_the_next(
    server: WandbStandIn, home: Path, light_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bccp.run([TWO, "tracking.wandb=offline", "tracking.upload_images=false"])

    def die(call: str) -> None:
        server.status = server.status or (500 if call == "UseArtifact" else None)

    server.on_call = die
    monkeypatch.setattr(wandb_client, "ANSWER_SECONDS", 1)
    with pytest.raises(BCCPError, match=r"1 of 2 runs are not on W&B"):
        wandb_sync.sync()
    assert server.edges() == TWO_STEPS - {("raw_data", "into", "preprocessing")}
    assert len(notes(home)) == 1
    server.on_call = server.status = None
    assert wandb_sync.sync() == "W&B: 1 runs and 1 input edges uploaded"
    assert server.edges() == TWO_STEPS
    assert len(server.runs) == 2
    assert not any(trace in body for body in server.bodies for trace in (b"0xFACE", b"\x89PNG"))


@pytest.mark.slow
def test_an_input_from_before_wandb_is_uploaded_by_the_sync(server: WandbStandIn, light_steps: None) -> None:
    bccp.run(["main.execute_steps=[fetch_data]", "tracking.wandb=disabled"])
    bccp.run([TWO, "tracking.wandb=offline"])
    wandb_sync.sync()
    assert server.edges() == ADOPTED


def test_a_sync_needs_an_account_and_a_server_and_leaves_runs_alone_that_go_on(
    server: WandbStandIn, home: Path, light_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bccp.run(["main.execute_steps=[fetch_data]", "tracking.wandb=offline"])
    (note,) = notes(home)
    server.dead = True
    monkeypatch.setattr(wandb_client, "ANSWER_SECONDS", 1)
    with pytest.raises(BCCPError, match="W&B does not answer"):
        wandb_sync.sync()
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(BCCPError, match="uploading to W&B needs an account"):
        wandb_sync.sync()
    said = json.loads(note.read_text())
    note.write_text(json.dumps(said | {"exit_code": None}))
    assert wandb_sync.sync() == f"W&B: no run recorded in {home} is left to upload; 1 that still go on are left for later"
    assert wandb_sync.recorded(home / "wandb")[0].going_on  # this process
    note.write_text(json.dumps(said | {"exit_code": None, "process": [os.getpid(), "1"]}))  # its id is another's by now
    assert not wandb_sync.recorded(home / "wandb")[0].going_on  # was killed
    note.write_text(json.dumps(said | {"exit_code": None, "process": [2**22 + 1, "1"], "host": "another"}))
    assert wandb_sync.recorded(home / "wandb")[0].going_on  # nobody can tell from here


@pytest.mark.slow
def test_a_step_alone_finds_its_inputs_on_wandb_where_the_home_is_empty(
    server: WandbStandIn,
    image_folder: Callable[..., Path],
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = image_folder({"a": 12, "b": 12})
    first_four = "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels]"
    summary = bccp.run(
        [first_four, "data.source=folder", "noisy_labels.source=simulated", f"data.path={images}", "preprocessing.image_size=16"]
    )
    made = {name: version for step in summary["steps"] for name, version in step["outputs"].items()}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(empty_database, elsewhere / "mlflow.db")
    monkeypatch.setenv("BCCP_HOME", str(elsewhere))
    spelled = f"me/bccp/segregated_data:{alias(made['segregated_data'])}"
    ledger = Ledger(ledger_uri(None)[0])
    offline = Context(ledger.uri, "offline", None, "bccp", True, "tests", 1)
    with pytest.raises(BCCPError, match=rf"no artifact {spelled} is in sqlite.*; W&B is asked for it where there is a key"):
        locate(spelled, offline, ledger)
    with pytest.raises(BCCPError, match=r"me/bccp/model:d-0123456789ab cannot be downloaded from W&B \(.* not found"):
        locate("me/bccp/model:d-0123456789ab", replace(offline, wandb="online"), ledger)
    inputs = {"segregated_data": spelled, "true_labels": f"true_labels:{made['true_labels']}"}  # the latter from the default project
    parameters = inputs | {name: config.encode(value) for name, value in summary["config"]["noisy_labels"].items()}
    monkeypatch.setattr(sys, "argv", ["run.py", *(f"--{name}={value}" for name, value in parameters.items())])
    step_command_line(runner.load_step("noisy_labels").run)
    copies = sorted(path.name for path in (elsewhere / "cache" / "artifacts").iterdir())
    assert copies == [f"{name}-{made[name]}" for name in ("clean_data", "segregated_data", "true_labels")]
    run = list(server.runs.values())[-1]
    assert str(run.group).startswith("alone-")
    assert {artifact.name for artifact in run.used} == {"clean_data", "segregated_data", "true_labels"}
    assert [artifact.name for artifact in run.logged] == ["given_labels"]
    assert versions(server).count("given_labels:v0") == len([v for v in versions(server) if v.startswith("given")])  # the same labels again


@contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """A port, and the first bytes of each connection to it."""
    heard: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(200))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("upload_images", [True, False])
def test_nothing_is_written_outside_the_home_nor_told_to_others_and_no_key_is_recorded(
    server: WandbStandIn, home: Path, tmp_path: Path, root: Path, upload_images: bool
) -> None:
    places = {name: tmp_path / name for name in ("user", "temporary", "work")}
    for place in places.values():
        place.mkdir()
    with listening() as (port, heard):
        proxy = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")} | {
            "HOME": str(places["user"]),
            "TMPDIR": str(places["temporary"]),
            "HTTPS_PROXY": proxy,
            "HTTP_PROXY": proxy,
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, str(root / "main.py"), TWO, f"tracking.upload_images={upload_images}"],
            cwd=places["work"],
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert server.edges() == TWO_STEPS
    assert heard == []
    assert not [call for call in server.calls if "otel" in call or "telemetry" in call.lower()]
    assert [path for place in places.values() for path in place.rglob("*")] == []
    assert (home / "wandb").is_dir()
    assert [path for place in ("tmp", "wandb/tmp") for path in (home / place).iterdir()] == []
    recorded = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    for place in [*recorded, *server.bodies, done.stdout, done.stderr]:
        assert KEY.encode() not in place
    about = [run for run in server.runs.values() if run.host or run.program]
    assert about == []  # what tells of this machine
