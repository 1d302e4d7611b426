"""Extras: which of them installs a missing package, and the sentence that says so."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bccp.core.errors import BCCPError
from bccp.core.exit_codes import exit_status
from bccp.core.runtime import extras

REQUIRES = ["click<9,>=8.1", 'bccp[pipeline]; extra == "onnx"', 'mlflow<4,>=3.17; extra == "pipeline"', 'PyYAML<7; extra == "pipeline"']
REQUIRES += ['onnx<2; extra == "onnx"', "moto[s3]<6; extra == 'dev'", 'PyYAML<7; extra == "dev"']


@pytest.fixture(autouse=True)
def requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata as a build writes it."""
    monkeypatch.setattr(metadata, "requires", lambda name: {"bccp": REQUIRES}[name])


def test_a_package_is_named_with_the_first_extra_that_installs_it() -> None:
    assert extras.packages() == {"mlflow": "pipeline", "pyyaml": "pipeline", "onnx": "onnx", "moto": "dev"}


def test_without_metadata_no_package_belongs_to_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert extras.packages() == {}


@pytest.mark.parametrize(
    ("module", "package", "extra"), [("mlflow.pyfunc", "mlflow", "pipeline"), ("yaml", "pyyaml", "pipeline"), ("onnx", "onnx", "onnx")]
)
def test_a_command_without_its_extra_ends_with_status_2_and_the_pip_command(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module.partition(".")[0]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})

    def work() -> None:
        with extras.needed_by("bccp predict"):
            __import__(module)

    assert exit_status(work) == 2
    sentence = f"error: bccp predict needs the package {package}, which is not installed: pip install 'bccp[{extra}]'\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("module", ["nowhere", "bccp.nowhere", "click.nowhere"])
def test_a_missing_module_of_no_extra_is_a_fault(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=module), extras.needed_by("bccp predict"):
        __import__(module)


def test_any_other_mistake_ends_with_status_1() -> None:
    def work() -> None:
        raise BCCPError("no")

    assert exit_status(work) == 1


def test_every_package_that_the_code_imports_is_required_by_the_name_that_installs_it(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    required = {canonicalize_name(Requirement(text).name) for texts in [project["dependencies"], *optional.values()] for text in texts}
    imported = set()
    for path in [*(root / "src").rglob("*.py"), *root.glob("*/run.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            imported |= {name.partition(".")[0] for name in names} - {""}
    foreign = imported - sys.stdlib_module_names - {"bccp"}
    assert {"PIL", "cv2", "hydra", "sklearn", "wandb_workspaces", "yaml"} < foreign
    assert {extras.distribution(module) for module in foreign} <= required
