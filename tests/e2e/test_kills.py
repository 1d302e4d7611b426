"""Each step stopped at a random moment: no process and no run stays, and the next run makes what an undisturbed one makes.

`make test-slow` stops each step six times and `make torture` 20 times; one of the rounds records in W&B, offline.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bccp.core import step_graph
from bccp.core.processes import descendants, lives
from bccp.pipeline import hydra_app
from bccp.pipeline.runner import PipelineRunner
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

ROUNDS = int(os.environ.get("BCCP_KILL_ROUNDS", "5"))
QUICK = ["preprocessing.image_size=16", "train.epochs=2", "bayes_cutoff.epochs=2", "bayes_cutoff.refine_epochs=2", "main.threads=1"]
NO_WANDB = ["tracking.wandb=disabled"]  # its first run in a process costs two seconds
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

Server = Any  # multiprocessing's context that forks processes with everything imported


def pipeline(home: str, said: str, words: list[str]) -> None:
    """What a process of these tests does: the command line, with its output in a file."""
    os.environ["BCCP_HOME"] = home
    for number in (1, 2):  # the steps' processes inherit them
        os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), number)
    os._exit(hydra_app.hydra_main(words))


def isolated_pipeline(home: str, said: str, words: list[str]) -> None:
    """The same with each step as an MLflow project, in a process of its own, though in this environment."""
    begin = PipelineRunner.__init__

    def isolated(self: PipelineRunner, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self.isolated = True

    PipelineRunner.__init__ = isolated  # type: ignore[method-assign]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    pipeline(home, said, words)


@pytest.fixture(scope="module")
def server() -> Server:
    """Importing torch and friends anew would cost each of many processes three seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "bccp.pipeline.hydra_app",
            "bccp.models.fitting.training",
            "mlflow.store.tracking.sqlalchemy_store",
            "wandb",
            "lightning",
            "sklearn.metrics",
        ]
    )
    return context


@pytest.fixture
def start(home: Path, image_folder: Callable[..., Path], server: Server) -> Iterator[Callable[[Path, list[str]], tuple[Any, Path]]]:
    """Start the pipeline in a home; gives the process and the file with what it says."""
    words = [*QUICK, "data.source=folder", "noisy_labels.source=simulated", f"data.path={image_folder({'ant': 24, 'bee': 24})}"]
    processes = []

    def start(place: Path, more: list[str]) -> tuple[Any, Path]:
        said = place / f"said-{len(processes)}.txt"
        said.touch()
        process = server.Process(target=pipeline, args=(str(place), str(said), words + more))
        process.start()
        processes.append(process)
        return process, said

    yield start
    for process in processes:
        process.kill()
        process.join()


def summary(place: Path) -> dict[str, Any]:
    """The newest summary of a home."""
    path = max((place / "outputs").rglob("summary.json"), key=lambda path: path.stat().st_mtime)
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def statuses(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statuses of all runs of a home."""
    monkeypatch.setenv("BCCP_HOME", str(place))
    ledger = Ledger(ledger_uri(None)[0])
    return [run.info.status for run in ledger.client.search_runs([ledger.experiment_id])]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait for a condition; whether it came true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.slow
def test_two_pipelines_at_once_in_one_home_do_each_step_once(
    home: Path, start: Callable[[Path, list[str]], tuple[Any, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [start(home, [*NO_WANDB, "main.execute_steps=[fetch_data,preprocessing,segregation]"]) for _ in range(2)]
    for process, said in both:
        process.join()
        assert process.exitcode == 0, said.read_text()
    first, second = (json.loads(path.read_text())["steps"][:3] for path in (home / "outputs").rglob("summary.json"))
    assert [{one["status"], other["status"]} for one, other in zip(first, second, strict=True)] == [{"ran", "reused"}] * 3
    assert [step["outputs"] for step in first] == [step["outputs"] for step in second]
    assert statuses(home, monkeypatch) == ["FINISHED"] * 6  # of two pipelines, three steps, and the sizes of the images


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_step_in_a_process_of_its_own_does_not_outlive_the_orchestrator(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the step asks it for an archive and waits
        words = ["data.source=archive", f"data.path=http://127.0.0.1:{silent.getsockname()[1]}/a.zip", f"data.sha256={'0' * 64}"]
        said = home / "said.txt"
        said.touch()
        process = server.Process(target=isolated_pipeline, args=(str(home), str(said), words + NO_WANDB))
        process.start()
        silent.settimeout(60)
        connection, _ = silent.accept()
        children = descendants(process.pid)
        os.kill(process.pid, number)
        process.join(60)
        if number == signal.SIGTERM:
            assert not any(lives(*child) for child in children)
        assert process.exitcode in (-number, 128 + number), said.read_text()
        assert len(children) >= 1
        assert until(lambda: not any(lives(*child) for child in children), 20)
        connection.close()
    monkeypatch.setenv("BCCP_HOME", str(home))
    ledger = Ledger(ledger_uri(None)[0])
    runs = {run.info.run_name.partition("-20")[0]: run.info.status for run in ledger.client.search_runs([ledger.experiment_id])}
    assert runs.pop("fetch_data") == "KILLED"  # the step itself has said so
    assert list(runs.values()) == ["RUNNING" if number == signal.SIGKILL else "KILLED"]
    assert ledger.close_orphaned_runs() == (number == signal.SIGKILL)


@pytest.mark.slow
def test_what_mlflow_run_has_started_ends_when_that_command_is_killed(home: Path, root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = f"data.source=archive data.path=http://127.0.0.1:{silent.getsockname()[1]}/a.zip data.sha256={'0' * 64} {NO_WANDB[0]}"
        command = [sys.executable, "-m", "mlflow", "run", str(root), "--env-manager=local", "-P", f"hydra_options={options}"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ledger = Ledger(ledger_uri(None)[0])
        environment = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": ledger.uri, "MLFLOW_EXPERIMENT_NAME": "bccp"}  # as `make run`
        with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
            silent.settimeout(120)
            connection, _ = silent.accept()
            children = descendants(process.pid)
            process.kill()
        assert len(children) >= 1
        assert until(lambda: not any(lives(*child) for child in children), 30)
        connection.close()
    runs = ledger.client.search_runs([ledger.experiment_id])
    assert [run.info.status for run in runs] == ["KILLED"] * 2


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_where_it_was_and_makes_the_same_model(
    home: Path, start: Callable[[Path, list[str]], tuple[Any, Path]], tmp_path: Path
) -> None:
    steps = "main.execute_steps=[fetch_data,preprocessing,segregation,train]"
    words, undisturbed = (
        [*NO_WANDB, steps, "noisy_labels.label=ground_truth", "train.epochs=80", "train.patience=null"],
        tmp_path / "undisturbed",
    )
    shutil.copytree(home, undisturbed)
    process, said = start(undisturbed, words)
    process.join()
    assert process.exitcode == 0, said.read_text()

    process, said = start(home, words)
    assert until(lambda: list((home / "checkpoints").glob("train-*.pt")), 300)
    process.kill()
    process.join()
    assert "epoch 80 of 80" not in said.read_text()

    process, said = start(home, words)
    process.join()
    assert process.exitcode == 0, said.read_text()
    (gone_on,) = re.findall(r"goes on after epoch (\d+) of 80", said.read_text())
    assert 1 <= int(gone_on) < 80
    assert summary(home)["steps"][6]["outputs"] == summary(undisturbed)["steps"][6]["outputs"] != {}
    assert list((home / "checkpoints").iterdir()) == list((undisturbed / "checkpoints").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(ROUNDS + 1))
def test_whatever_is_stopped_in_a_step_the_next_run_makes_what_an_undisturbed_one_makes(
    home: Path, start: Callable[[Path, list[str]], tuple[Any, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    undisturbed, more = tmp_path / "undisturbed", [] if turn == 1 else NO_WANDB
    shutil.copytree(home, undisturbed)
    process, said = start(undisturbed, more)
    process.join()
    assert process.exitcode == 0, said.read_text()
    expected = {step["name"]: step for step in summary(undisturbed)["steps"]}

    draw = random.Random(turn)
    for step in step_graph.STEPS:
        process, said = start(home, more)
        until(lambda said=said, step=step, process=process: f"{step}: runs" in said.read_text() or not process.is_alive())
        time.sleep(draw.uniform(0, expected[step]["seconds"]))
        children, number = descendants(process.pid), draw.choice(SIGNALS)
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:  # it was quicker than the undisturbed one
            process.join()
            assert process.exitcode == 0, said.read_text()
            continue
        process.join(60)
        assert process.exitcode in (-number, 128 + number), said.read_text()
        assert until(lambda children=children: not any(lives(*child) for child in children)), f"{step} left a process"
        if number != signal.SIGKILL:
            assert "RUNNING" not in statuses(home, monkeypatch), f"{step} left a run after signal {number}"
            assert summary(home)["status"] == "failed"
            assert "Traceback" not in said.read_text()

    process, said = start(home, more)
    process.join()
    assert process.exitcode == 0, said.read_text()
    assert {step["name"]: step["outputs"] for step in summary(home)["steps"]} == {name: step["outputs"] for name, step in expected.items()}
    assert {"RUNNING", "KILLED"} & set(statuses(home, monkeypatch)) == {"KILLED"}
    assert not list((home / "tmp").iterdir())
