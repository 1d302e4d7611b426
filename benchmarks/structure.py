"""Figures of the package's structure: ``python -m benchmarks.structure [--package FOLDER]``.

``--package`` looks at another checkout's ``src/bccp``, whose imports are not judged, as import-linter judges only what Python finds.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bccp.core import paths
from bccp.core.errors import BCCPError


def fullest_folder(package: Path) -> int:
    """Modules in the folder that has most of them, ``__init__`` aside."""
    return max(Counter(path.parent for path in package.rglob("*.py") if path.name != "__init__.py").values(), default=0)


def _public_names(path: Path) -> set[str]:
    """What a module defines at its top: functions, classes, and names that are given a value."""
    names = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def shared_names(package: Path) -> list[str]:
    """Find the public names that more than one module defines, sorted."""
    modules_of = Counter(name for path in package.rglob("*.py") for name in _public_names(path))
    return sorted(name for name, modules in modules_of.items() if modules > 1)


def parameters_of_fit(package: Path) -> int:
    """Count the parameters of ``fit`` in the module ``training``."""
    for path in package.rglob("training.py"):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == "fit":
                return len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
    raise BCCPError(f"{package} has no training.py with a function fit: give a folder src/bccp")


def broken_contracts(root: Path) -> list[str]:
    """Find the contracts of ``pyproject.toml`` that imports break: the order of the packages, and that there are no circles."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-logo", "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "1000"}  # a contract's name stays on one line
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    broken = [line.removesuffix(" BROKEN") for line in result.stdout.splitlines() if line.endswith(" BROKEN")]
    if result.returncode and not broken:
        raise BCCPError(f"import-linter ended with {result.returncode}: {(result.stdout + result.stderr).strip()}")
    return broken


def main(words: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, help="another checkout's src/bccp")
    other = parser.parse_args(words).package
    package = other or paths.PACKAGE
    shared = shared_names(package)
    rows = {"modules in one folder, at most": str(fullest_folder(package))}
    if other is None:
        broken = broken_contracts(paths.ROOT)
        rows["contracts that imports break (order of the packages, circles)"] = ", ".join([str(len(broken)), *broken])
    rows["parameters of `fit`"] = str(parameters_of_fit(package))
    rows["public names that more than one module defines"] = ": ".join(
        [str(len(shared)), *([", ".join(shared)] if 0 < len(shared) < 10 else [])]
    )
    print("| what | measured |\n|---|---|")
    for what, measured in rows.items():
        print(f"| {what} | {measured} |")


if __name__ == "__main__":
    main()
