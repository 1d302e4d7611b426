"""Steps in environments of their own: the whole pipeline from the eight `conda.yml` files, and whose code an isolated step runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow.tracking import MlflowClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bccp
from bccp.core import step_graph
from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.core.runtime.requirements import pins
from bccp.pipeline import environments
from support.uv_stand_in import Tool

QUICK = ["preprocessing.image_size=16", "train.epochs=2", "bayes_cutoff.epochs=2", "bayes_cutoff.refine_epochs=2"]
QUICK += ["main.threads=1", "tracking.wandb=disabled"]
INSTALLED = (
    "import json; from importlib.metadata import distributions as d; print(json.dumps([(i.name, i.version, i.requires) for i in d()]))"
)


OF_ONE_PIPELINE = {"bccp.pipeline", "bccp.pid", "bccp.started", "bccp.work_seconds", "mlflow.parentRunId", "mlflow.runName"}
OF_AN_ENVIRONMENT = {"bccp.key", "bccp.key_parts", "bccp.key_parts.1", "mlflow.project.backend", "mlflow.project.env"}


class Isolated(NamedTuple):
    """What a pipeline in environments of its own leaves."""

    summary: dict[str, Any]
    records: dict[str, Any]
    environments: dict[str, Path]


def pipeline(checkout: Path, home: Path, *options: str, **variables: str) -> tuple[dict[str, Any], str]:
    """Run a checkout's pipeline; its summary and what it said."""
    environment = {**os.environ, "BCCP_HOME": str(home), "MLFLOW_ENV_ROOT": str(home / "envs"), **variables}
    command = [sys.executable, str(checkout / "main.py"), *QUICK, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    newest = max((home / "outputs").rglob("summary.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text()), done.stdout


def records(home: Path) -> dict[str, Any]:
    """By name what MLflow holds of the runs in a home, but for what is any pipeline's own, and for the pipeline's own run."""
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    steps = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len({run.info.run_name for run in steps}) == len(steps)
    return {
        run.data.tags["bccp.step"]: {
            "status": run.info.status,
            "params": run.data.params,
            "metrics": run.data.metrics,
            "tags": {name: value for name, value in run.data.tags.items() if name not in OF_ONE_PIPELINE | OF_AN_ENVIRONMENT},
        }
        for run in steps
    }


class Here(NamedTuple):
    """What the steps leave in one process, in this environment: versions of artifacts, and records."""

    outputs: dict[str, str]
    records: dict[str, Any]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Here:
    home = tmp_path_factory.mktemp("here")
    summary, _ = pipeline(ROOT, home, "main.env_manager=local")
    return Here(outputs(summary), records(home))


def outputs(summary: dict[str, Any]) -> dict[str, str]:
    return {name: version for step in summary["steps"] for name, version in step["outputs"].items()}


@pytest.fixture(scope="module", params=["virtualenv", "uv"])
def isolated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Isolated]:
    """The whole pipeline, in environments that MLflow builds from nothing; they are gigabytes, and deleted afterwards."""
    home = tmp_path_factory.mktemp(request.param)
    variables = {"PATH": os.environ["PATH"]}
    variables["PIP_NO_COMPILE"] = "0"  # pip 23 takes this for "compile nothing": like uv, it leaves that to the first import
    command = {"virtualenv": "pyenv", "uv": "uv"}[request.param]
    if shutil.which(command) is None:
        pytest.skip(f"MLflow's manager {request.param} needs {command}")
    if "PIP_FIND_LINKS" in os.environ:
        variables.setdefault("UV_FIND_LINKS", ",".join(os.environ["PIP_FIND_LINKS"].split()))  # uv reads no setting of pip's
    try:
        summary, _ = pipeline(ROOT, home, f"main.env_manager={request.param}", **variables)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_ENV_ROOT", str(home / "envs"))
            places = {step: environments.environment_folder(ROOT / step, request.param) for step in step_graph.STEPS}
        yield Isolated(summary, records(home), places)
    finally:
        shutil.rmtree(home)


PACKAGES = {"PIL": "pillow", "scipy": "scikit-learn", "sklearn": "scikit-learn", "torch": "torch", "matplotlib": "matplotlib"}
"""Modules that not every step's environment has, and the pinned package that brings each."""

IMPORTING = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
runpy.run_path(sys.argv[1], run_name="step")
"""


@pytest.mark.parametrize("step", ["fetch_data", "preprocessing", "segregation", "noisy_labels"])
def test_a_light_step_starts_without_what_its_environment_lacks(step: str) -> None:
    pinned = {canonicalize_name(name) for name in pins(ROOT / step / "conda.yml")}
    absent = [module for module, package in PACKAGES.items() if package not in pinned]
    assert "torch" in absent
    command = [sys.executable, "-c", IMPORTING, str(ROOT / step / "run.py"), *absent]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.slow
def test_steps_in_environments_of_their_own_make_what_they_make_here(isolated: Isolated, here: Here) -> None:
    assert [step["status"] for step in isolated.summary["steps"]] == ["ran"] * 8
    assert outputs(isolated.summary) == here.outputs
    assert set(step_graph.STEPS) < set(here.records)  # and what the steps share
    assert isolated.records == here.records
    built = {place.name for place in isolated.environments["train"].parent.iterdir() if place.is_dir()}
    assert built == {place.name for place in isolated.environments.values()}
    assert len(built) == 7  # cp_sampling and train require the same


@pytest.mark.slow
def test_the_environment_of_a_step_lacks_what_it_does_not_declare(isolated: Isolated) -> None:
    lacking = {}
    for step, place in isolated.environments.items():
        told = subprocess.run([place / "bin" / "python", "-I", "-c", INSTALLED], capture_output=True, text=True, check=True).stdout
        installed = {canonicalize_name(name): (version, requires or []) for name, version, requires in json.loads(told)}
        pinned = {canonicalize_name(name): version for name, version in pins(ROOT / step / "conda.yml").items()}
        assert {name: installed[name][0].partition("+")[0] for name in pinned} == pinned, step
        declared, todo = set(), [Requirement(f"{name}=={version}") for name, version in pinned.items()]
        while todo:
            wanted = todo.pop()
            name = canonicalize_name(wanted.name)
            key = (name, *sorted(wanted.extras))
            if name not in installed or key in declared:
                continue
            declared |= {key, (name,)}
            required = [Requirement(text) for text in installed[name][1]]
            extras = ["", *wanted.extras]
            todo += [one for one in required if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)]
        assert set(installed) - {key[0] for key in declared} <= {"pip", "setuptools"}, step
        lacking[step] = {"torch", "lightning", "hydra-core", "scikit-learn", "pillow", "gdown", "matplotlib", "cleanlab"} - set(installed)
    assert {step for step in lacking if "hydra-core" not in lacking[step]} == {"bayes_cutoff", "cp_sampling", "train"}
    assert {step for step in lacking if "torch" not in lacking[step]} == {"bayes_cutoff", "cp_sampling", "train", "test"}
    assert {step for step in lacking if "lightning" not in lacking[step]} == {"bayes_cutoff", "cp_sampling", "train", "test"}
    assert {step for step in lacking if "gdown" not in lacking[step]} == {"fetch_data"}


def say(folder: Path, word: str) -> None:
    """Change a checkout's shared code: its steps begin what they say with a word."""
    step = folder / "src" / "bccp" / "pipeline" / "step.py"
    text, count = re.subn(r'emit\(f".*\{self\.name\}: ', f'emit(f"{word} {{self.name}}: ', step.read_text())
    assert count == 1
    step.write_text(text)
    science = folder / "src" / "bccp" / "data" / "sources.py"  # what a step's key has: else it would be reused
    science.write_text(f"{science.read_text()}# {word}\n")


@pytest.mark.slow
def test_an_isolated_step_runs_the_code_of_its_own_checkout_as_it_is_now(
    tool: Tool, home: Path, checkout: Callable[[str], Path], tmp_path: Path
) -> None:
    mine, yours = checkout("mine"), checkout("yours")
    say(mine, "MINE")
    say(yours, "YOURS")
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "sitecustomize.py").write_text("import sys\nif 'run.py' in sys.orig_argv: sys.exit('PYTHONPATH reached the step')\n")
    options = ["main.env_manager=uv", "main.execute_steps=[fetch_data]"]
    path = f"{ROOT / 'src'}:{stray}"  # and another checkout's code in the way
    said = [pipeline(folder, home, *options, PYTHONPATH=path)[1] for folder in (mine, yours)]
    say(mine, "EDITED")
    said.append(pipeline(mine, home, *options, PYTHONPATH=path)[1])
    words = [re.findall(r"^(\S+) fetch_data: 1797 files", text, flags=re.MULTILINE) for text in said]
    assert words == [["MINE"], ["YOURS"], ["EDITED"]]
    assert tool.asked() == ["venv", *["pip", "end"] * 2]  # one build: pip itself, then the step's packages


def test_a_missing_tool_is_told_before_anything_starts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BCCPError, match=r"main\.env_manager=uv needs the command uv on PATH"):
        bccp.run(["main.env_manager=uv"])
    assert not (home / "artifacts").exists()
