"""Sweeps: cores shared out, jobs that fail or are killed, what is told meanwhile, and the same results whatever runs the jobs."""

from __future__ import annotations

import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

import bccp
from bccp.core import paths
from bccp.core.errors import BCCPError
from bccp.core.processes import descendants, lives, process_start
from bccp.core.runtime.threads import default_threads
from bccp.core.step_graph import MAKER
from bccp.data import tables
from bccp.pipeline import hydra_app
from bccp.pipeline.sweeps import jobs, resources, sweep
from bccp.pipeline.sweeps.resources import share
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.pictures import write_images

QUICK = ["preprocessing.image_size=16", "train.epochs=2", "bayes_cutoff.epochs=2", "bayes_cutoff.refine_epochs=2", "main.threads=1"]
QUIET = ["tracking.wandb=disabled"]
FOREIGN = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "WANDB_API_KEY", "BCCP_CONTEXT")
FIRST = "main.execute_steps=[fetch_data]"

two_cores = pytest.mark.skipif(default_threads() < 2, reason="one core runs one job at a time, in the sweep's own process")


class Started:
    """A sweep in a process of its own, and what it says."""

    def __init__(self, place: Path, words: Sequence[str], home: Path | None) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        environment |= {"BCCP_HOME": str(home)} if home else {}
        self._said = [place / "out.txt", place / "err.txt"]
        with self._said[0].open("w") as out, self._said[1].open("w") as err:
            command = [sys.executable, str(paths.ROOT / "main.py"), "-m", *words, *QUIET]
            self.process = subprocess.Popen(command, cwd=place, env=environment, stdout=out, stderr=err, start_new_session=True)

    def out(self) -> str:
        return self._said[0].read_text()

    def err(self) -> str:
        return self._said[1].read_text()


@contextmanager
def started(place: Path, *words: str, home: Path | None = None) -> Iterator[Started]:
    """Start a sweep, which is gone after the block."""
    sweep = Started(place, words, home)
    try:
        yield sweep
    finally:
        sweep.process.kill()
        sweep.process.wait()


def ledger() -> Ledger:
    return Ledger(ledger_uri(None)[0])


def statuses() -> list[str]:
    """Of all runs but a sweep's report, the pipelines' own first."""
    store = ledger()
    runs = [run for run in store.client.search_runs([store.experiment_id]) if "bccp.kind" not in run.data.tags]
    return [run.info.status for run in sorted(runs, key=lambda run: "mlflow.parentRunId" in run.data.tags)]


def newest(home: Path) -> Path:
    """The folder of the newest sweep."""
    return max((path.parent for path in (home / "outputs").glob("*/multirun.yaml")), key=lambda path: path.stat().st_mtime)


def until(condition: Callable[[], bool], seconds: float = 200.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize(
    ("n_cores", "n_jobs", "wanted", "threads", "expected"),
    [
        (16, 60, None, None, (16, 1)),
        (16, 60, None, 3, (5, 3)),
        (16, 60, 4, None, (4, 4)),
        (16, 60, 4, 2, (4, 2)),
        (16, 2, None, None, (2, 8)),
        (16, None, None, None, (16, 1)),
        (2, 60, None, 4, (1, 4)),
        (1, 60, None, None, (1, 1)),
        (4, 2, 3, None, (2, 2)),
    ],
)
def test_jobs_and_their_threads_fit_the_cores(
    n_cores: int, n_jobs: int | None, wanted: int | None, threads: int | None, expected: tuple[int, int]
) -> None:
    assert share(n_cores, n_jobs, wanted, threads) == expected


@pytest.mark.parametrize(("wanted", "threads"), [(5, None), (3, 2)])
def test_more_jobs_at_once_than_cores_are_refused(wanted: int, threads: int | None) -> None:
    with pytest.raises(BCCPError, match=rf"{wanted} jobs at once .* need {wanted * (threads or 1)} cores, and there are 4"):
        share(4, 60, wanted, threads)


def test_what_the_processes_of_a_job_say_goes_to_its_log_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(jobs.PARENT, f"{os.getppid()} {process_start(os.getppid())}")  # as in a launcher's process
    monkeypatch.setattr(jobs, "end_with", lambda _: None)
    with jobs.job(tmp_path / "0"):
        subprocess.run(["sh", "-c", "echo said; echo told >&2"], check=True)
    print("after")
    assert (tmp_path / "0" / jobs.LOG).read_text() == "said\ntold\n"
    assert capfd.readouterr() == ("after\n", "")


def test_what_a_job_says_goes_to_its_log_alone_and_without_passwords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with jobs.job(tmp_path / "3"):
        kept = sys.stdout
        for text in ("train: ru", "ns\n  train: epoch 1\n"):
            print(text, end="")
        print("postgresql://me:passw0rd@host/db", file=sys.stderr)
        print("half", end="")
    print("too late", file=kept)  # as the handler of a library does that was loaded meanwhile
    assert (tmp_path / "3" / jobs.LOG).read_text() == "train: runs\n  train: epoch 1\npostgresql://host/db\nhalf\n"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("choices", "launcher", "environment"),
    [
        ("submitit_slurm", {"cpus_per_task": None}, {}),
        ("ray", {"ray": {"init": {"address": "auto"}, "remote": {}}}, {}),
        ("ray", {"ray": {"init": {"address": None}, "remote": {}}}, {"RAY_ADDRESS": "10.0.0.1:6379"}),
    ],
)
def test_many_machines_do_not_share_a_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, choices: str, launcher: dict[str, Any], environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    about = {"runtime": {"choices": {"hydra/launcher": choices}}, "launcher": launcher}
    composed = OmegaConf.create({"hydra": about, "tracking": {"mlflow_uri": None, "shared_folder": False}})
    with pytest.raises(BCCPError) as refused:
        sweep.begin(composed)
    sentence = f"hydra/launcher={choices} runs jobs on many machines, which cannot share the file sqlite:///{home}/mlflow.db"
    assert str(refused.value).startswith(sentence)
    assert not (home / "outputs").exists()


@contextmanager
def tracking_server(artifacts: str) -> Iterator[str]:
    """The address of what answers like a tracking server that keeps its artifacts in a place."""
    experiment = {"experiment_id": "1", "name": "bccp", "artifact_location": artifacts, "lifecycle_stage": "active"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"experiment": experiment}).encode())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("place", ["file:///srv/mlflow/1", "/srv/mlflow/1"])
def test_many_machines_do_not_look_for_artifacts_in_a_folder_of_one_unless_they_share_it(home: Path, place: str) -> None:
    with tracking_server(place) as uri:
        sentence = f"hydra/launcher=ray runs jobs on many machines, but {uri} keeps its artifacts in /srv/mlflow/1, a folder of one: let a"
        with pytest.raises(BCCPError, match=re.escape(sentence)):
            resources.check_reach("ray", uri, shared_folder=False)
        resources.check_reach("ray", uri, shared_folder=True)
    with tracking_server("mlflow-artifacts:/1") as uri:  # it hands them out
        resources.check_reach("ray", uri, shared_folder=False)


def test_a_launcher_whose_package_is_missing_is_named_with_the_command_that_brings_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Plugins.instance()  # fills the store once
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "ray.yaml", raising=False)
    assert hydra_app.hydra_main(["-m", "hydra/launcher=ray", "train.epochs=1,2"]) == 2
    sentence = "error: hydra/launcher=ray needs a package that is not installed: pip install 'bccp[ray]'\n"
    assert capsys.readouterr().err == sentence
    assert hydra_app.hydra_main(["-m", "hydra/launcher=rai", "train.epochs=1,2"]) == 1
    assert "error: hydra/launcher=rai is unknown (did you mean 'ray'?): use one of basic, joblib, ray," in capsys.readouterr().err


def test_a_sweep_that_wants_too_much_is_refused_before_anything_starts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hydra_app.hydra_main(["-m", "hydra.launcher.n_jobs=1000", "train.epochs=1,2"]) == 1
    sentence = f"1000 jobs at once with main.threads=1 need 1000 cores, and there are {default_threads()}"
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    (path,) = (home / "outputs").glob("**/summary.json")
    assert json.loads(path.read_text())["error"].startswith(sentence)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("hydra.launcher.n_jobs=0", "is no number of jobs: give 1 or more, or leave it out"),
        ("hydra.sweeper.n_jobs=0", "is too few: give 1 or more"),
        ("hydra.sweeper.n_trials=0", "is too few: give 1 or more"),
    ],
)
def test_no_job_and_no_trial_is_refused(home: Path, capsys: pytest.CaptureFixture[str], option: str, sentence: str) -> None:
    assert hydra_app.hydra_main(["-m", "hydra/sweeper=optuna", option, "train.learning_rate=interval(0.1,0.2)"]) == 1
    assert capsys.readouterr().err == f"error: {option} {sentence}\n"


def test_a_stopped_sweep_takes_its_jobs_off_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scancel = tmp_path / "bin" / "scancel"
    scancel.parent.mkdir()
    scancel.write_text(f"#!/bin/sh\necho $* > {tmp_path}/cancelled\n")
    scancel.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scancel.parent}:{os.environ['PATH']}")
    (tmp_path / "sweep" / ".submitit" / "17_0").mkdir(parents=True)
    for launcher in ("submitit_local", "submitit_slurm"):
        assert not (tmp_path / "cancelled").exists()  # a local job's number is that of a process
        sweep.Sweep(tmp_path / "sweep", "", [], 1, launcher, False).end_workers()
    assert (tmp_path / "cancelled").read_text() == "17_0\n"


def job_logs(home: Path) -> list[str]:
    """What each job of the newest sweep has said so far, in the order of their numbers."""
    places = sorted((home / "outputs").glob(f"*/[0-9]*/{jobs.LOG}"), key=lambda path: int(path.parent.name))
    return [place.read_text() for place in places]


@two_cores
def test_jobs_at_once_do_a_step_once_and_the_next_sweep_does_what_has_failed(
    home: Path, image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, missing = image_folder({"ant": 12, "bee": 12}), tmp_path / "missing"
    words = ["data.source=folder", f"data.path={there},{missing}", "preprocessing.image_size=16,24"]
    words.append("main.execute_steps=[fetch_data,preprocessing]")
    bccp.run([*QUIET, "data.source=folder", f"data.path={there}", FIRST])
    store = ledger()
    (fetched,) = store.client.search_runs([store.experiment_id], "tags.`bccp.step` = 'fetch_data'")
    with started(tmp_path, *words) as sweep:
        with store.lock(f"step-{fetched.data.tags['bccp.key'][:16]}", pytest.fail):  # long before a job asks for it
            waits = "  fetch_data: waits for another process that runs it"
            assert until(lambda: [waits in log for log in job_logs(home)].count(True) == 2), sweep.err()
        assert sweep.process.wait(200) == 1
    lines, folder = sweep.out().splitlines(), newest(home)
    assert lines[0] == f"sweep: 4 jobs, 2 at once on 2 cores (hydra/launcher=joblib, main.threads=1); {folder}"
    assert sorted(line.split()[0] for line in lines[1 : lines.index("")]) == ["[0]", "[1]", "[2]", "[3]"]  # one line a job
    assert ["fetch_data: reused" in log for log in job_logs(home)] == [True, True, False, False]
    failed = sorted(
        re.search(r"=(16|24): (failed.*) \(\d done", line)[2] for line in lines if f"data.path={missing} " in line and "done" in line
    )
    assert failed[0] in ("failed as [2]", "failed as [3]")  # the same error once
    assert failed[1].startswith("failed: ")
    assert str(missing) in failed[1]
    assert any(line.endswith("(2 done, 2 failed, 0 left)") for line in lines)
    assert [line.split()[:2] for line in lines if line.startswith("  ") and line.split()[1:2] in (["finished"], ["failed"])] == [
        ["0", "finished"],
        ["1", "finished"],
        ["2", "failed"],
        ["3", "failed"],
    ]
    (last,) = sweep.err().splitlines()
    assert last.startswith(f"error: 2 of 4 jobs failed (2, 3 in {folder}; the first: ")
    assert str(missing) in last
    made = [step["status"] for path in folder.glob("[01]/summary.json") for step in json.loads(path.read_text())["steps"][:2]]
    assert made == ["reused", "ran"] * 2

    shutil.copytree(there, missing)
    next(missing.rglob("*.png")).unlink()
    assert hydra_app.hydra_main(["-m", *words, *QUIET, "hydra/launcher=basic"]) == 0
    assert f"[3] data.path={missing} preprocessing.image_size=24: finished in" in capsys.readouterr().out
    summaries = [json.loads((newest(home) / str(job) / "summary.json").read_text()) for job in range(4)]
    again = [[step["status"] for step in summary["steps"][:2]] for summary in summaries]
    assert again == [["reused", "reused"]] * 2 + [["ran", "ran"], ["reused", "ran"]]


def test_the_command_line_narrows_the_grid_of_an_experiment(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["+experiments=smoke", "cp_sampling.type=none", "cp_sampling.ratio=0.25", "noisy_labels.user_accuracy=0.8,0.9"]
    assert hydra_app.hydra_main(["-m", *words, FIRST, *QUIET, "hydra/launcher=basic"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sweep: 2 jobs, ")
    told = "[1] noisy_labels.user_accuracy=0.9: finished"
    assert any(told in line and line.endswith("(2 done, 0 failed, 0 left)") for line in lines)


@two_cores
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_no_process_and_no_run(home: Path, tmp_path: Path, number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # both jobs ask it for an archive and wait
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = ["data.source=archive", f"data.path={address}/a.zip", f"data.sha256={'a' * 64},{'b' * 64},{'c' * 64}", FIRST]
        with started(tmp_path, *words) as sweep:
            silent.settimeout(200)
            connections = [silent.accept()[0] for _ in range(2)]
            workers = descendants(sweep.process.pid)
            assert len(workers) >= 2
            if number == signal.SIGINT:  # as a terminal does it
                os.killpg(sweep.process.pid, number)
            else:
                sweep.process.send_signal(number)
            assert sweep.process.wait(25) == (-number if number == signal.SIGKILL else 128 + number), sweep.err()
        assert until(lambda: not any(lives(*worker) for worker in workers)), "a process was left"
        for connection in connections:
            connection.close()
    assert statuses() == ["KILLED"] * 4
    if number != signal.SIGKILL:
        assert sweep.err().splitlines()[-1] == f"error: {'interrupted' if number == signal.SIGINT else 'terminated'}"
    assert "Traceback" not in sweep.err()


@pytest.mark.slow
@two_cores
def test_a_worker_that_is_killed_is_told_and_what_is_left_can_be_done(home: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = ["data.source=archive", f"data.path={address}/a.zip", f"data.sha256={'a' * 64},{'b' * 64}", FIRST]
        with started(tmp_path, *words) as sweep:
            silent.settimeout(200)
            connections = [silent.accept()[0] for _ in range(2)]
            store = ledger()
            running = store.client.search_runs([store.experiment_id], "tags.`bccp.step` = 'fetch_data'")
            os.kill(int(running[0].data.tags["bccp.pid"]), signal.SIGKILL)
            assert sweep.process.wait(200) == 1
        for connection in connections:
            connection.close()
    assert sweep.err().splitlines()[-1].startswith("error: 2 of 2 jobs did not end, as joblib gave up (TerminatedWorkerError: A worker")
    assert statuses() == ["KILLED"] * 4


@pytest.mark.slow
def test_a_sweep_registers_its_models_and_promotes_none(home: Path, image_folder: Callable[..., Path]) -> None:
    images = image_folder({"ant": 24, "bee": 24})
    words = [
        *QUIET,
        *QUICK,
        "data.source=folder",
        f"data.path={images}",
        "noisy_labels.source=simulated",
        "noisy_labels.user_accuracy=0.6,0.9",
        "hydra/launcher=basic",
    ]
    assert hydra_app.hydra_main(["-m", *words, "test.registered_model_name=tried", "test.register_simulated=true"]) == 0
    client = ledger().client
    versions = client.search_model_versions("name = 'tried'")
    assert [version.tags["bccp.verdict"] for version in versions] == ["not asked"] * 2
    assert all(version.tags["bccp.verdict_reason"].startswith("a multirun promotes nothing; ") for version in versions)
    assert client.get_registered_model("tried").aliases == {}


class Sweeps:
    """The same sweep in several homes, that of the basic launcher, which nothing disturbs, first."""

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder, self._database = folder, database
        images = write_images(folder / "images", {"ant": 24, "bee": 24})
        self._words = [
            *QUICK,
            "data.source=folder",
            f"data.path={images}",
            "noisy_labels.source=simulated",
            "noisy_labels.user_accuracy=0.6,0.9",
        ]
        begun = time.monotonic()
        self.expected = self.run("basic", "hydra/launcher=basic")
        self._seconds = time.monotonic() - begun

    def run(self, name: str, *more: str) -> tuple[dict[str, Any], str]:
        """What the jobs came to in the home of this name: versions and figures, and the sweep's table but for what it took."""
        home = self._folder / name
        with self._started(home, *more) as sweep:
            assert sweep.process.wait(900) == 0, sweep.err()
        summaries = [json.loads(path.read_text()) for path in sorted(newest(home).glob("*/summary.json"))]
        came_to = {
            str(summary["config"]["noisy_labels"]["user_accuracy"]): (
                {name: version for step in summary["steps"] for name, version in step["outputs"].items()},
                summary["metrics"],
            )
            for summary in summaries
        }
        return came_to, tables.read(newest(home) / "sweep.csv").drop(columns=["seconds", "work_seconds", "steps_reused"]).to_csv()

    def kill(self, name: str, draw: random.Random) -> None:
        """Start the sweep and kill it when some of its steps have begun, and not all."""
        n_steps = draw.randint(1, 10)  # of 13: the jobs share the first three
        with self._started(self._folder / name) as sweep:
            assert until(lambda: self._begun(name) >= n_steps, 900), sweep.err()
            time.sleep(draw.uniform(0, self._seconds / 26))  # half of what a step takes, alone
            assert sweep.process.poll() is None
        assert not (newest(self._folder / name) / "sweep.csv").exists()
        ended = [json.loads(path.read_text())["status"] for path in newest(self._folder / name).glob("*/summary.json")]
        assert ended.count("finished") < 2

    def _begun(self, name: str) -> int:
        """How many steps the sweep's jobs have begun to run, by their logs."""
        logs = (self._folder / name / "outputs").glob(f"*/*/{jobs.LOG}")
        return sum(len(re.findall(r"^\w+: runs$", log.read_text(), re.MULTILINE)) for log in logs)

    def _started(self, home: Path, *more: str) -> AbstractContextManager[Started]:
        if not home.exists():
            home.mkdir()
            shutil.copy(self._database, home / "mlflow.db")
        return started(self._folder, *self._words, *more, home=home)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Sweeps:
    """The sweep that launchers are compared by."""
    made = Sweeps(tmp_path_factory.mktemp("sweeps"), empty_database)
    came_to, table = made.expected
    assert [sorted(outputs) for outputs, _ in came_to.values()] == [sorted(set(MAKER) - {"feedback"})] * 2
    assert all("test/accuracy" in metrics for _, metrics in came_to.values())
    assert table.count("finished") == 2
    return made


@pytest.mark.slow
@two_cores
def test_joblib_makes_what_the_basic_launcher_makes_to_the_bit_even_when_it_is_killed_and_resumes(same: Sweeps) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"random.Random({seed}) draws when it is killed")
    same.kill("joblib", random.Random(seed))
    assert same.run("joblib") == same.expected


@pytest.mark.slow
def test_submitit_makes_what_the_basic_launcher_makes_to_the_bit(same: Sweeps) -> None:
    assert same.run("submitit", "hydra/launcher=submitit_local") == same.expected


@pytest.mark.slow
def test_ray_makes_what_the_basic_launcher_makes_to_the_bit(same: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")  # a busy machine may need more than Ray's half minute
    before = {*Path(tempfile.gettempdir()).iterdir()}
    assert same.run("ray", "hydra/launcher=ray") == same.expected
    assert not [path for path in {*Path(tempfile.gettempdir()).iterdir()} - before if path.name.startswith("ray")]
