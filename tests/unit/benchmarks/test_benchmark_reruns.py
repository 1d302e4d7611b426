"""The replay of the history, on a small one that is made up, and on this checkout's own imports."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.core.step_graph import STEPS
from bccp.pipeline import cache_keys
from benchmarks import reruns

FLAT = {
    "train/run.py": "from bccp import step, train\n",
    "fetch_data/run.py": "from bccp import step\n\n\ndef run():\n    from bccp.fetch_data import fetch\n",
    "src/bccp/__init__.py": "",
    "src/bccp/step.py": "import bccp.masking\n",
    "src/bccp/masking.py": "",
    "src/bccp/train.py": "from bccp.tables import (\n    read,\n)\n\nif TYPE_CHECKING:\n    from bccp import plots\n",
    "src/bccp/tables.py": "",
    "src/bccp/fetch_data.py": "",
    "src/bccp/plots.py": "",
}

MOVED = {
    "train/run.py": "from bccp.models import training_set\nfrom bccp.pipeline import step\n",
    "fetch_data/run.py": "from bccp.pipeline import step\nfrom bccp.data.sources import fetch\n",
    "src/bccp/__init__.py": "",
    "src/bccp/pipeline/step.py": "from bccp.data import checks\n",
    "src/bccp/core/registries.py": "LOSSES = Registry('train.loss', {'gce': Entry('bccp.models.fitting.losses:gce')})\n",
    "src/bccp/models/__init__.py": "",
    "src/bccp/models/training_set.py": "from bccp.core.registries import LOSSES\n",
    "src/bccp/models/fitting/__init__.py": "",
    "src/bccp/models/fitting/losses.py": "",
    "src/bccp/data/sources.py": "",
    "src/bccp/data/checks.py": "",
}


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository whose commits are named by what they change."""

    def git(*words: str) -> None:
        identity = ("-c", "user.name=Nobody", "-c", "user.email=nobody@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    def commit(subject: str, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "-m", subject)

    git("init", "--quiet")
    commit("start", FLAT)
    for name in ("masking", "tables", "plots", "fetch_data"):
        commit(name, {f"src/bccp/{name}.py": FLAT[f"src/bccp/{name}.py"] + "# changed\n"})
    commit("README", {"README.md": "Nothing of the package."})
    for name in FLAT:
        (tmp_path / name).unlink()
    commit("move", MOVED)
    for name in ("models/fitting/losses", "data/checks", "pipeline/step", "models/fitting/__init__"):
        commit(name, {f"src/bccp/{name}.py": MOVED[f"src/bccp/{name}.py"] + "# changed\n"})
    return tmp_path


def subjects(found: list[reruns.Reruns], rule: str) -> list[str]:
    return [at.subject for at in found if at.changed[rule]]


def test_a_commit_counts_where_it_changes_what_a_step_imports_and_under_the_new_rule_where_that_is_science(history: Path) -> None:
    found = reruns.replay(history, commits=100, until="HEAD")
    assert [at.subject for at in found["train"]] == [
        *("models/fitting/__init__", "pipeline/step", "data/checks", "models/fitting/losses", "move"),
        *("fetch_data", "plots", "tables", "masking", "start"),
    ]
    assert subjects(found["train"], "all imports") == [
        *("models/fitting/__init__", "pipeline/step", "data/checks", "models/fitting/losses", "move", "tables", "masking")
    ]
    assert subjects(found["train"], "science only") == ["models/fitting/__init__", "models/fitting/losses", "move", "tables"]
    assert subjects(found["fetch_data"], "all imports") == ["pipeline/step", "data/checks", "move", "fetch_data", "masking"]
    assert subjects(found["fetch_data"], "science only") == ["move", "fetch_data"]
    assert not any(subjects(found["test"], rule) for rule in reruns.RULES)
    assert found["train"][0].changed["science only"] == ["src/bccp/models/fitting/__init__.py"]


def test_the_table_counts_the_last_commits_and_lists_them(
    history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bccp.core.paths.ROOT", history)
    reruns.main(["--commits", "4", "--until", "HEAD~4", "--step", "train", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Of 4 commits")
    assert "| train | 2 | 2 |" in lines
    assert [line.partition(" ")[2] for line in lines if line.endswith((" move", " tables"))] == ["move", "tables"] * 2
    assert lines[-1] == "    src/bccp/tables.py"
    with pytest.raises(BCCPError, match=r"git log: .*gone.*: give --until a revision"):
        reruns.main(["--until", "gone"])


def test_the_new_rule_is_that_of_the_keys(root: Path) -> None:
    files = [*(root / "src" / "bccp").rglob("*.py"), *(root / step / name for step in STEPS for name in ("run.py", "conda.yml"))]
    tree = {path.relative_to(root).as_posix(): str(path) for path in files}
    for step in STEPS:
        found = set(reruns.code(step, tree, lambda path: Path(path).read_text(encoding="utf-8"), "science only"))
        assert found == {*cache_keys.source_digests(root / step / "run.py"), f"{step}/conda.yml"}
