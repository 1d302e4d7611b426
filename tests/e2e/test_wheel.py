"""A wheel, installed outside the checkout: label cleaning on few packages, the whole pipeline, and steps in their own environments."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from bccp.core import step_graph
from bccp.core.paths import ROOT
from support.uv_stand_in import Tool

QUICK = ["preprocessing.image_size=16", "train.epochs=1", "bayes_cutoff.epochs=1", "bayes_cutoff.refine_epochs=1"]
QUICK += ["main.threads=1", "tracking.wandb=disabled"]

LABELS = ("test_label_cleaner", "test_posterior", "test_annotators", "test_expert_labels")
"""Tests of what the base installs, which need nothing else."""

CLEANS = """
import sys
class Blocked:  # None in sys.modules would be a module to those that look there
    def find_spec(name, path, target=None):
        if name in {blocked}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked)
import numpy as np
from bccp import LabelCleaner
import bccp.labels.label_cleaner
assert LabelCleaner is bccp.labels.label_cleaner.LabelCleaner
probs = np.repeat(np.eye(3) * 0.88 + 0.04, 10, axis=0)
given = np.repeat(["ant", "bee", "cat"], 10)
given[0] = "cat"
cleaner = LabelCleaner(action="relabel", classes=["ant", "bee", "cat"]).fit(probs, given)
print(np.flatnonzero(cleaner.is_wrong_).tolist(), cleaner.labels_[0], bccp.__file__)
"""

FOLDERS = "from bccp.core import paths; print(paths.PACKAGE); print(paths.ROOT)"

MISSING = """
import sys
sys.modules["mlflow"] = None
from bccp.core.runtime import extras
from bccp.core.exit_codes import exit_status
def work():
    with extras.needed_by("bccp predict"):
        import mlflow
sys.exit(exit_status(work))
"""


def said(command: Sequence[str | Path], folder: Path, *, status: int = 0, **variables: str) -> str:
    """Run a command in a folder, without this checkout on its way; its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the checkout that holds what an earlier build has left."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "shared"))
    stale = copy / "build" / "lib" / "bccp" / "moved_since.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        copy,
    ]
    said(command, folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an environment that sees this one's packages, but for the editable ``bccp``; its Python."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    made = folder / "bin" / "python"
    said([sys.executable, "-m", "pip", "--python", made, "install", "--quiet", "--no-index", "--no-deps", wheel], folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "these.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")  # its own .pth files are not read there
    return made


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder to work in."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_a_wheel_holds_the_package_and_the_projects_files_and_no_tests(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = [path for kind in ("py", "js", "css") for path in (ROOT / "src" / "bccp").rglob(f"*.{kind}")]
    package = {f"bccp/{path.relative_to(ROOT / 'src' / 'bccp').as_posix()}" for path in sources}
    assert {f"bccp/reporting/assets/review.{kind}" for kind in ("js", "css")} <= package
    steps = {f"{step}/{name}" for step in step_graph.STEPS for name in ("MLproject", "conda.yml", "run.py")}
    options = {path.relative_to(ROOT).as_posix() for name in ("dashboards", "data_sets", "experiments") for path in (ROOT / name).iterdir()}
    project = {"MLproject", "conda.yml", "config.yaml", "main.py"} | steps | options
    assert names == package | {"bccp/py.typed"} | {f"bccp/project/{name}" for name in project}
    for name in project:
        assert ZipFile(wheel).read(f"bccp/project/{name}") == (ROOT / name).read_bytes()


def test_the_projects_folder_is_the_packaged_one(python: Path, empty: Path) -> None:
    package, project = map(Path, said([python, "-c", FOLDERS], empty).split())
    assert package.is_relative_to(python.parents[1])
    assert project == package / "project"


def test_labels_are_cleaned_without_the_packages_of_the_pipeline(python: Path, empty: Path) -> None:
    blocked = ["PIL", "alembic", "cleanlab", "cv2", "filelock", "fsspec", "gdown", "hydra", "kagglehub", "lightning", "matplotlib"]
    blocked += ["mlflow", "omegaconf", "requests", "rich", "sqlalchemy", "torch", "torchvision", "wandb", "yaml"]
    wrong, label, file = said([python, "-c", CLEANS.format(blocked=blocked)], empty).split()
    assert (wrong, label) == ("[0]", "ant")
    assert Path(file).is_relative_to(python.parents[1])


def test_a_command_without_the_pipelines_packages_ends_with_the_pip_command(python: Path, empty: Path) -> None:
    told = said([python, "-c", MISSING], empty, status=2)
    assert told == "error: bccp predict needs the package mlflow, which is not installed: pip install 'bccp[pipeline]'\n"


def summary(home: Path) -> dict[str, Any]:
    """What the newest run of a home has left."""
    newest = max((home / "outputs").rglob("summary.json"), key=lambda path: path.stat().st_mtime)
    loaded: dict[str, Any] = json.loads(newest.read_text())
    return loaded


@pytest.mark.slow
def test_the_pipeline_runs_predicts_and_exports_from_a_wheel(python: Path, empty: Path, home: Path) -> None:
    said([python, "-c", f"import bccp; bccp.run({QUICK})"], empty)
    steps = summary(home)["steps"]
    assert [step["status"] for step in steps] == ["ran"] * 8
    main = said([python, "-c", FOLDERS], empty).split()[1] + "/main.py"
    for command in ([python, main], [sys.executable, ROOT / "main.py"]):  # a checkout in the same environment has the same keys
        said([*command, *QUICK], empty)
        assert [step["status"] for step in summary(home)["steps"]] == ["reused"] * 8

    said([python.with_name("bccp"), "export-data", "--out", "cleaned"], empty)
    image = next((empty / "cleaned").rglob("*.png"))
    model = steps[-1]["run_id"]
    said([python.with_name("bccp"), "predict", "--model", model, "--images", image, "--out", "predictions.csv"], empty)
    assert (empty / "predictions.csv").read_text().count("\n") == 2
    said([python.with_name("bccp"), "export-model", "--model", model, "--format", "torchscript", "--out", "model.pt"], empty)
    assert (empty / "model.pt").stat().st_size > 10_000
    assert {path.name for path in empty.iterdir()} == {"cleaned", "predictions.csv", "model.pt", "model.pt.json"}


@pytest.mark.slow
def test_a_step_in_an_environment_of_its_own_finds_the_package_of_a_wheel(python: Path, empty: Path, home: Path, tool: Tool) -> None:
    options = [*QUICK, "main.env_manager=uv", "main.execute_steps=[fetch_data]"]
    said([python, "-c", f"import bccp; bccp.run({options})"], empty)
    assert [step["status"] for step in summary(home)["steps"] if step["name"] == "fetch_data"] == ["ran"]
    assert tool.asked() == ["venv", *["pip", "end"] * 2]
    assert not [*(home / "tmp").iterdir()]


def interpreter(version: str) -> str | None:
    """Find a Python of a minor version that runs, on PATH or among pyenv's; its shims are there for versions that are not chosen too."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = shutil.which("pyenv")
    root = Path(said([pyenv, "root"], Path.cwd()).strip()) if pyenv else Path.home() / ".pyenv"
    candidates += map(str, sorted(root.glob(f"versions/{version}.*/bin/python{version}")))
    for candidate in filter(None, candidates):
        told = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if told.returncode == 0 and told.stdout.startswith(f"Python {version}."):
            return candidate
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_tests_of_labels_pass_on_the_bases_packages_alone_on_other_pythons(version: str, wheel: Path, empty: Path) -> None:
    other = interpreter(version)
    if other is None:
        pytest.skip(f"no Python {version} runs on this machine")
    said([other, "-m", "venv", "environment"], empty)
    python = empty / "environment" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    if subprocess.run([*install, "pytest"], cwd=empty, capture_output=True, check=False).returncode:
        pytest.skip(f"pip of Python {version} reaches no package index")
    said([*install, wheel], empty)
    for name in LABELS:
        shutil.copy(ROOT / "tests" / "unit" / "labels" / f"{name}.py", empty)  # without conftest.py, which the pipeline's tests need
    told = said([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", empty], empty)
    assert re.search(r"^\d{3} passed in", told, flags=re.MULTILINE), told
