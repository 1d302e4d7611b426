"""The figures of the package's structure, on a small package that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from benchmarks import structure

CONTRACT = """
[tool.importlinter]
root_packages = ["bccp"]

[[tool.importlinter.contracts]]
name = "A package imports only what stands below it, which is a long sentence, and longer than a line of a terminal is"
type = "layers"
layers = ["bccp.pipeline", "bccp.models"]
"""

FILES = {
    "pyproject.toml": CONTRACT,
    "src/bccp/__init__.py": "",
    "src/bccp/pipeline/__init__.py": "",
    "src/bccp/pipeline/step.py": "TABLE: dict = {}\n\n\ndef write(path): ...\n",
    "src/bccp/models/__init__.py": "",
    "src/bccp/models/training.py": "def fit(model, data, *, seed=1): ...\n\n\nclass Data:\n    def write(self): ...\n",
    "src/bccp/models/weights.py": "_hidden = TABLE = 3\n\n\ndef fit(): ...\n",
    "src/bccp/models/losses.py": "_hidden = 4\n",
}


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """A checkout with a package of few modules."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_modules_parameters_and_names_are_counted(made_up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structure.main(["--package", str(made_up / "src" / "bccp")])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| modules in one folder, at most | 3 |",
        "| parameters of `fit` | 3 |",
        "| public names that more than one module defines | 2: TABLE, fit |",
    ]


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"has no training\.py with a function fit: give a folder src/bccp"):
        structure.main(["--package", str(tmp_path)])


def test_a_contract_that_an_import_breaks_is_named(made_up: Path) -> None:
    assert structure.broken_contracts(made_up) == []
    (made_up / "src/bccp/models/weights.py").write_text("from bccp.pipeline import step\n")
    (broken,) = structure.broken_contracts(made_up)
    assert broken.startswith("A package imports only what stands below it")
    (made_up / "pyproject.toml").write_text("")
    with pytest.raises(BCCPError, match="import-linter ended with 1"):
        structure.broken_contracts(made_up)
