"""Number of commits that would run a step again: ``python -m benchmarks.reruns [--commits 175] [--until REVISION] [--step STEP] [--list]``.

The history is replayed: of each commit that changes the package, and of its parent, the code that a step's key would hold is compared under
two rules.

- *all imports*: ``run.py`` and every module of the package that it imports, directly or not;
- *science only*: ``run.py`` and those of :data:`bccp.pipeline.cache_keys.SCIENCE`, reached through each other
  (:func:`bccp.pipeline.cache_keys.source_digests`).

With both go the step's ``conda.yml``. A commit that changes a default or an input runs steps again too; that is not counted, as it is under
either rule. Trees are read from git's objects, nothing is checked out.
"""

from __future__ import annotations

import argparse
import ast
import functools
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bccp.core import paths
from bccp.core.errors import BCCPError
from bccp.core.step_graph import STEPS
from bccp.pipeline.cache_keys import SCIENCE

RULES = ("all imports", "science only")

BEFORE_MOVE = "27da968"
"""The last commit whose keys held all imports."""

FLAT = {
    "data": "archives array_types check_page cleanup corruption cp_sampling data_checks downloads drift duplicates fetch_data galleries "
    "image_statistics images mirror preprocessing samplers segregation tables",
    "models": "architectures augmentation augmented_data batch_picture batches checkpoints determinism distributed energy features "
    "frozen_features history losses mlflow_model models monday_model moving_average range_test schedules served_model starting_point "
    "torchvision_compat train training training_options training_task transforms weights",
    "labels": "annotators audit bayes_cutoff calibration clean feedback judge label_report noisy_labels passes posterior student",
    "evaluation": "cards error_analysis evaluation metrics plots promotion test",
}
"""Modules of science as they were named while all lay in one folder, by the package that they moved to. ``check_page`` counts whole: a part
of it decided, and went to ``data``. What is not listed moved to a package that is no science."""

_PACKAGE_OF = {module: package for package, modules in FLAT.items() for module in modules.split()}

PACKAGE = "src/bccp"

Tree = Mapping[str, str]
"""A commit's files of interest: blob by path."""


class Reruns(NamedTuple):
    """The changed files of a step's code at one commit, by rule; without any, the step would not have run again."""

    commit: str
    subject: str
    changed: Mapping[str, Sequence[str]]


def package_of(path: str) -> str:
    """The package that a module lies in, or moved to; empty for one that no package of science took in.

    Examples
    --------
    >>> package_of("src/bccp/losses/gce.py"), package_of("src/bccp/labels/student.py"), package_of("src/bccp/keys.py")
    ('models', 'labels', '')
    """
    first, *rest = path.removeprefix("src/bccp/").removesuffix(".py").split("/")
    return first if rest and first in SCIENCE else _PACKAGE_OF.get(first, "")


@functools.cache
def _imports(text: str) -> tuple[tuple[str, str], ...]:
    """Module and name of each import from the package, anywhere in a file but for its types' sake."""
    found = []
    todo: list[ast.AST] = [ast.parse(text)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bccp":
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "bccp"]
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            todo += ast.iter_child_nodes(node)
    return tuple(found)


@functools.cache
def _tables(text: str) -> dict[str, list[str]]:
    """The modules that each table of ``registries.py`` names."""
    return {
        node.targets[0].id: re.findall(r"'(bccp[\w.]*):\w+'", ast.unparse(node.value))
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def code(step: str, tree: Tree, read: Callable[[str], str], rule: str) -> dict[str, str]:
    """Find the code that a step's key holds.

    Parameters
    ----------
    step : str
    tree : mapping of str to str
        Blob by path.
    read : callable
        Gives the text of a blob.
    rule : str
        One of :data:`RULES`.

    Returns
    -------
    dict of str to str
        Blob by path.
    """
    science = rule == "science only"
    found = {path: tree[path] for path in (f"{step}/run.py", f"{step}/conda.yml") if path in tree}
    todo = [path for path in found if path.endswith(".py")]
    while todo:
        modules: set[str] = set()
        for base, name in _imports(read(tree[todo.pop()])):
            modules |= {base, f"{base}.{name}"} if name else {base}
            if base.endswith(".registries"):
                modules |= set(_tables(read(tree[f"src/{base.replace('.', '/')}.py"])).get(name, ()))
        # Python runs the packages around a module first
        modules |= {module.rsplit(".", depth)[0] for module in modules for depth in range(1, module.count("."))}
        stems = [f"src/{module.replace('.', '/')}" for module in modules]
        for path in [path for stem in stems for path in (f"{stem}.py", f"{stem}/__init__.py")]:
            if path in tree and path not in found and (package_of(path) or not science):
                found[path] = tree[path]
                todo.append(path)
    return found


def replay(repository: Path, *, commits: int, until: str) -> dict[str, list[Reruns]]:
    """Compare the code of each commit that changes the package with its parent's.

    Parameters
    ----------
    repository : Path
    commits : int
        How many; fewer where the history is shorter.
    until : str
        The last of them.

    Returns
    -------
    dict of str to list of Reruns
        By step, from the last commit on.
    """

    def git(*words: str) -> str:
        result = subprocess.run(["git", "-C", str(repository), *words], check=False, capture_output=True, text=True)
        if result.returncode:
            raise BCCPError(f"git {words[0]}: {result.stderr.strip()}: give --until a revision, in a clone with its whole history")
        return result.stdout

    @functools.cache
    def read(blob: str) -> str:
        return git("cat-file", "blob", blob)

    @functools.cache
    def code_of(commit: str) -> dict[tuple[str, str], dict[str, str]]:
        lines = git("ls-tree", "-r", commit, "--", PACKAGE, *STEPS).splitlines()
        tree = {path: info.split()[2] for info, _, path in (line.partition("\t") for line in lines)}
        return {(step, rule): code(step, tree, read, rule) for step in STEPS for rule in RULES}

    log = git("log", "--first-parent", f"-{commits}", "--format=%h %p\t%s", until, "--", PACKAGE).splitlines()
    found: dict[str, list[Reruns]] = {step: [] for step in STEPS}
    for line in log:
        hashes, _, subject = line.partition("\t")
        commit, *parents = hashes.split()
        after, before = code_of(commit), code_of(parents[0]) if parents else {}
        for step in STEPS:
            changed = {}
            for rule in RULES:
                old, new = before.get((step, rule)), after[step, rule]
                # the commit that adds a step runs it for the first time, not again
                changed[rule] = sorted(path for path in {*old, *new} if old.get(path) != new.get(path)) if old else []
            found[step].append(Reruns(commit, subject, changed))
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Print how many commits would have run each step again, or list those of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=175)
    parser.add_argument("--until", default=BEFORE_MOVE, metavar="REVISION", help=f"the last commit ({BEFORE_MOVE})")
    parser.add_argument("--step", choices=STEPS, help="one step instead of all")
    parser.add_argument("--list", action="store_true", help="the commits too, with the changed files of each rule")
    given = parser.parse_args(words)
    found = replay(paths.ROOT, commits=given.commits, until=given.until)
    steps = [given.step] if given.step else list(STEPS)
    print(f"Of {len(found[steps[0]])} commits that change {PACKAGE}, up to {given.until}, those that would run a step again:\n")
    print(f"| step | {' | '.join(RULES)} |\n|---|{'---|' * len(RULES)}")
    for step in steps:
        print(f"| {step} | {' | '.join(str(sum(bool(at.changed[rule]) for at in found[step])) for rule in RULES)} |")
    for step in steps if given.list else ():
        for rule in RULES:
            print(f"\n{step}, {rule}:\n")
            for commit, subject, changed in found[step]:
                if changed[rule]:
                    print(f"{commit} {subject}\n    {' '.join(changed[rule])}")


if __name__ == "__main__":
    main()
