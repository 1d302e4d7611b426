"""`bccp gc`: what is old, has no name and nobody needs goes when asked to; all else stays, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from bccp.cli.app import call
from bccp.core import step_graph
from bccp.core.processes import process_start
from bccp.core.step_context import Context
from bccp.core.step_graph import SPECS
from bccp.pipeline import garbage_collection
from bccp.pipeline.environments import WHOLE
from bccp.pipeline.explain import explain
from bccp.pipeline.step import RunningStep
from bccp.tracking import tags
from bccp.tracking.wandb_run import NoMirror
from support.stub_steps import FETCH, FEW, Stubs, all_runs, grow_old, ledger, plan, run


@pytest.fixture
def stubs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    return Stubs(monkeypatch)


def clean(*arguments: str) -> None:
    assert call(["gc", "--delete", *arguments]) == 0


def reusable(*options: str) -> list[str]:
    """The steps that would be reused under a configuration."""
    store, made, names = ledger(), plan(*options), []
    for name in made.needed(made.asked):
        found = store.find(name, made.key(name, store)[0])
        if found is not None and set(SPECS[name].inputs) <= set(made.versions):
            made.versions |= found.outputs
            names.append(name)
    return names


def files(home: Path) -> list[str]:
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() and "mlflow.db" not in path.name)


def test_what_is_old_is_shown_and_goes_only_when_asked(stubs: Stubs, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(FEW)
    for name in ("benchmarks/labels/digits.json", "thesis/notes.txt", "artifacts/strange/file", "serving/store.db"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("mine")
    assert call(["gc"]) == 0
    assert "can go" in capsys.readouterr().out
    (home / "checkpoints").mkdir()
    (home / "checkpoints" / "train-0.pt").write_text("of a training that nobody has started again")
    grow_old(home, 40)
    before = files(home)
    assert call(["gc"]) == 0
    shown = capsys.readouterr().out
    assert files(home) == before
    assert len(all_runs(ledger())) == 5
    rows = [line.split() for line in shown.splitlines()]
    assert [row[2] for row in rows if row[:2] == ["store:", "runs"]] == ["5"]
    assert [row[-3] for row in rows if row[:2] == ["artifacts:", "raw_data"]] == ["1"]
    assert [row[-1] for row in rows if row[:2] == ["benchmarks'", "results"]] == ["B"]
    assert [row[-1] for row in rows if row[:4] == ["records", "of", "the", "service"]] == ["B"]
    assert "bccp gc --delete deletes what can go" in shown
    assert "bccp gc --keep" in shown

    clean()
    assert "deleted: 5 runs" in capsys.readouterr().out
    assert all_runs(ledger()) == []
    assert not Path(summary["folder"]).exists()
    left = [name for name in files(home) if not name.endswith(".lock")]
    assert left == ["artifacts/strange/file", "benchmarks/labels/digits.json", "serving/store.db", "thesis/notes.txt"]
    assert list((home / "artifacts").iterdir()) == [home / "artifacts" / "strange"]
    assert reusable(FEW) == []


def test_what_a_recent_run_has_reused_stays_for_as_long_as_that_run(stubs: Stubs, home: Path) -> None:
    old = run(FEW)
    grow_old(home, 40)
    new = run(FEW)
    assert stubs.took() == list(step_graph.STEPS[:4])
    clean()
    assert {r.info.run_id for r in all_runs(ledger())} == set(new["runs"].values())
    assert set(old["runs"].values()) - set(new["runs"].values()) == {old["runs"]["pipeline"]}
    assert reusable(FEW) == list(step_graph.STEPS[:4])
    grow_old(home, 29)
    clean()
    assert len(all_runs(ledger())) == 5
    clean("--keep-days", "28")
    assert all_runs(ledger()) == []


def test_what_a_recent_step_has_read_stays_and_its_like_do_not(stubs: Stubs, home: Path) -> None:
    run(FEW)
    grow_old(home, 40)
    new, other = "noisy_labels.user_accuracy=0.6", "noisy_labels.user_accuracy=0.7"
    run("main.execute_steps=[noisy_labels]", new)
    clean()
    assert reusable(FEW, new) == list(step_graph.STEPS[:4])
    assert reusable(FEW, other) == list(step_graph.STEPS[:3])


def test_work_shared_by_steps_stays_for_as_long_as_a_step_that_asked_for_it(home: Path) -> None:
    store = ledger()

    def ask(pipeline: str) -> str:
        """A step of a pipeline asks for shared work; the step's run."""
        parent = store.start(pipeline)
        context = Context(store.uri, "disabled", None, "bccp", True, pipeline, 1, parent_run_id=parent)
        step = RunningStep("cp_sampling", None, {}, context, store, store.start("cp_sampling", parent=parent), NoMirror())
        step.shared("student", {}, lambda folder: (folder / "x").touch())
        for run_id in (step.run_id, parent):
            store.end(run_id, "FINISHED")
        return step.run_id

    def students() -> list[str]:
        return [run.info.run_id for run in all_runs(store) if "bccp.output.student" in run.data.tags]

    ask("computes it")
    (student,) = students()
    grow_old(home, 40)
    ask("finds it")
    clean()
    assert students() == [student]
    assert len(all_runs(store)) == 3  # the newer pipeline, its step, and what the older one has left it
    grow_old(home, 40)
    clean()
    assert all_runs(store) == []


def test_a_run_that_is_named_stays_with_all_that_it_needs(stubs: Stubs, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = run("train.epochs=9")
    named = run("train.epochs=7", "main.execute_steps=[train]")
    client = ledger().client
    client.create_registered_model("bottles")
    client.create_model_version("bottles", source="somewhere", run_id=other["runs"]["train"])
    folder = Path(named["folder"])
    for several in (home, folder.parent, "/", "~"):
        assert call(["gc", "--keep", str(several)]) == 1
        assert f"error: KEEP={several} is no run in" in capsys.readouterr().err
    for one in (folder / "summary.json", folder, folder.name, named["runs"]["pipeline"]):
        assert call(["gc", "--keep", str(one)]) == 0
        assert "1 run(s) have the tag bccp.keep" in capsys.readouterr().out
    grow_old(home, 400)
    clean()
    assert reusable("train.epochs=7") == list(step_graph.STEPS[:7])
    assert reusable("train.epochs=9") == list(step_graph.STEPS[:7])  # not its test
    assert Path(named["folder"]).is_dir()
    assert not Path(other["folder"]).exists()


def test_a_sweep_that_is_named_stays_with_its_jobs_and_a_job_without_the_others(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ledger()
    for sweep in ("one", "two"):
        for job in range(2):
            place = home / "outputs" / sweep / str(job)
            store.end(store.start("a job", tags={"bccp.pipeline": f"{sweep}-{job}", "bccp.folder": str(place)}), "FINISHED")
    assert call(["gc", "--keep", "0"]) == 1
    for named, n_runs in {"one": 2, str(home / "outputs" / "two" / "1"): 1}.items():
        assert call(["gc", "--keep", named]) == 0
        assert f"{n_runs} run(s) have the tag" in capsys.readouterr().out
    kept = {run.data.tags["bccp.pipeline"] for run in all_runs(store) if tags.KEEP_TAG in run.data.tags}
    assert kept == {"one-0", "one-1", "two-1"}


def test_what_a_running_pipeline_uses_stays_also_when_it_begins_meanwhile(stubs: Stubs, home: Path) -> None:
    old = run()
    grow_old(home, 40)
    store = ledger()
    found = garbage_collection.survey(store, keep_days=30)
    assert len(found.spare_runs) == 9
    running = store.start("a pipeline that begins now")
    store.tag(running, {"bccp.reused.noisy_labels": old["runs"]["noisy_labels"]})
    alone = store.start("a step alone")
    store.tag(alone, {"bccp.input.true_labels": old["steps"][2]["outputs"]["true_labels"]})
    key = store.client.get_run(old["runs"]["train"]).data.tags["bccp.key"]
    with FileLock(home / "locks" / f"step-{key[:16]}.lock"):  # another process looks for it
        n_runs, _ = garbage_collection.delete(store, found)
    assert n_runs == 9 - 5
    left = {r.info.run_name.partition("-20")[0] for r in all_runs(store)} - {"a pipeline that begins now", "a step alone"}
    assert left == {"fetch_data", "preprocessing", "segregation", "noisy_labels", "train"}
    for name in left:
        for artifact, version in next(step["outputs"] for step in old["steps"] if step["name"] == name).items():
            ledger().fetch(f"{artifact}:{version}")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize(
    "when", [pytest.param("before the first file", marks=pytest.mark.slow), "amid the files", "before the store forgets"]
)
def test_a_deletion_that_is_killed_leaves_nothing_that_is_reused_and_the_next_ends_it(
    stubs: Stubs, home: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(FEW)
    grow_old(home, 40)
    remove, calls = garbage_collection.remove_paths, []

    def killed(paths: Any) -> None:
        calls.append(paths)
        if when == "before the first file" or len(calls) == 4:
            raise Killed
        remove(paths)

    with monkeypatch.context() as patch:
        if when == "before the store forgets":
            store_type = type(ledger().client._tracking_client.store)
            patch.setattr(store_type, "_hard_delete_run", lambda *_: (_ for _ in ()).throw(Killed))
        else:
            patch.setattr(garbage_collection, "remove_paths", killed)
        with pytest.raises(Killed):
            call(["gc", "--delete"])
    store = ledger()
    assert all_runs(store) == []
    (explained,) = explain("fetch_data", plan(), store)
    assert explained.reason == "fetch_data would run: it has never finished here"
    clean()
    assert [name for name in files(home) if not name.endswith(".lock")] == []
    assert garbage_collection.ledger_runs(ledger(), deleted=True) == []


def test_runs_that_others_made_and_what_they_deleted_stay(stubs: Stubs, home: Path) -> None:
    store = ledger()
    client = store.client
    theirs = client.create_experiment("somebody's", artifact_location=(home / "artifacts" / "theirs").as_uri())
    foreign = client.create_run(theirs, run_name="foreign").info.run_id
    client.set_terminated(foreign)
    gone = client.create_experiment("deleted by hand")
    client.create_run(gone)
    client.delete_experiment(gone)
    mine = run(FETCH)["runs"]["fetch_data"]
    client.delete_run(mine)
    grow_old(home, 40)
    clean()
    assert [r.info.run_id for r in all_runs(store)] == [foreign]
    assert client.get_experiment(gone).lifecycle_stage == "deleted"
    assert garbage_collection.ledger_runs(store, deleted=True) == []


def test_a_store_that_others_may_use_is_not_touched_and_that_is_said(
    stubs: Stubs, home: Path, tmp_path: Path, empty_database: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(FETCH)
    grow_old(home, 40)
    elsewhere = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'elsewhere.db')}"
    monkeypatch.setattr(garbage_collection, "ledger_uri", lambda _: (elsewhere, None))
    clean()
    said = capsys.readouterr().out
    assert f"not touched: runs and artifacts of {elsewhere}" in said
    assert "deleted: 0 runs" in said
    assert reusable(FETCH) == ["fetch_data"]
    assert len(list((home / "outputs").iterdir())) == 1  # it finished, in a store that this one knows nothing of


def test_a_pipeline_that_only_reused_is_told_of_as_long_as_wandb_does_not_have_it(
    stubs: Stubs, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(FETCH)
    run(FETCH, "tracking.wandb=offline")
    grow_old(home, 40)
    assert call(["gc"]) == 0
    assert "1 runs that can go are not on W&B: bccp wandb sync uploads them\n" in capsys.readouterr().out


def note(home: Path, name: str, **changed: Any) -> Path:
    """A record of W&B's beside which a step has noted what W&B lacks."""
    folder = home / "wandb" / name
    folder.mkdir(parents=True)
    about = {"run": "r", "step": "train", "started": time.time() - 40 * 86_400, "exit_code": 0, "inputs": [], "outputs": []}
    about |= {"host": socket.gethostname(), "process": [1, "0"]}
    (folder / "bccp.json").write_text(json.dumps(about | changed))
    return folder


def test_files_beside_the_runs_go_when_they_were_not_used_for_long(stubs: Stubs, home: Path) -> None:
    kept_run = run(FETCH)
    version = kept_run["steps"][0]["outputs"]["raw_data"]
    places = {}
    for name in ("old", "new", "held"):
        slot = hashlib.sha256(f"url http://x/{name}".encode()).hexdigest()[:32]
        places[f"download {name}"] = home / "data" / slot
        places[f"environment {name}"] = home / "envs" / f"mlflow-{name}"
    places |= {
        "kaggle": home / "data" / "kaggle",
        "strange environment": home / "envs" / "strange",
        "weights": home / "cache" / "torch",
        "copy": home / "cache" / "artifacts" / f"model-{'a' * 64}",
        "needed copy": home / "cache" / "artifacts" / f"raw_data-{version}",
        "copy for W&B": home / "cache" / "artifacts" / f"model-{'b' * 64}",
        "staged": home / "wandb" / "data",
        "uploaded": home / "wandb" / "run-1-a",
    }
    for place in places.values():
        place.mkdir(parents=True)
        (place / "file").write_text("x" * 100)
    kaggle = hashlib.sha256(b"kaggle").hexdigest()[:32]
    for slot in (kaggle, *(places[f"download {name}"].name for name in ("old", "new", "held"))):
        (home / "data" / f"{slot}.lock").touch()
    for name in ("old", "new", "held"):
        (home / "envs" / f"mlflow-{name}" / WHOLE).touch()
        (home / "envs" / f"mlflow-{name}.lock").touch()
    (home / "locks" / "old.lock").touch()
    going_on = [os.getpid(), process_start(os.getpid())]
    places["W&B: failed"] = note(home, "offline-run-1-b")
    places["W&B: goes on"] = note(home, "offline-run-1-c", exit_code=None, process=going_on, started=time.time() - 41 * 86_400)
    used = {"name": "model", "digest": "b" * 64, "folder": str(places["copy for W&B"])}
    places["W&B: of a store elsewhere"] = note(home, "offline-run-1-d", outputs=[used])
    grow_old(home, 40)
    for name in ("download new", "environment new"):
        path = places[name] / WHOLE if name.startswith("env") else places[name].with_suffix(".lock")
        os.utime(path)
    store = ledger()
    store.tag(kept_run["runs"]["pipeline"], {tags.KEEP_TAG: "the one in the paper"})
    held = [FileLock(place.with_name(f"{place.name}.lock")) for name, place in places.items() if name.endswith("held")]
    for lock in held:
        lock.acquire()
    clean()
    for lock in held:
        lock.release()
    gone = {name for name, place in places.items() if not place.exists() or not list(place.iterdir())}
    assert gone == {"download old", "kaggle", "environment old", "copy", "uploaded", "W&B: failed"}
    assert not (home / "locks" / "old.lock").exists()
    assert reusable(FETCH) == ["fetch_data"]


def test_environments_stay_while_anything_runs(stubs: Stubs, home: Path) -> None:
    environment = home / "envs" / "mlflow-a"
    environment.mkdir(parents=True)
    grow_old(home, 40)
    store = ledger()
    running = store.start("a pipeline")
    clean()
    assert environment.exists()
    store.end(running, "FINISHED")
    clean()
    assert not environment.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--keep-days", "0"], "invalid value for '--keep-days': 0 is not in the range"),
        (["--keep-days", "100000"], "invalid value for '--keep-days': 100000 is not in the range"),
        (["--keep", "nothing"], "KEEP=nothing is no run in"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(
    home: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["gc", *arguments]) in (1, 2)
    assert f"error: {sentence}" in capsys.readouterr().err.splitlines()[-1]


def test_it_waits_for_no_upload(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(home / "wandb-sync.lock"):
        assert call(["gc", "--delete"]) == 1
        assert call(["gc"]) == 0
    assert "another process uploads to W&B from this home" in capsys.readouterr().err
