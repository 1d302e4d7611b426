"""The command line ``bccp``: how it answers, completes, fails and ends. What its commands do is tested beside their modules."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from bccp.cli.app import COMMANDS, WANDB_COMMANDS, bccp, call
from bccp.core import config, step_graph
from bccp.core.errors import BCCPError, MissingExtraError
from bccp.core.paths import ROOT
from bccp.core.run_summary import StepRecord, Summary
from bccp.pipeline import hydra_app
from bccp.tracking import finished_runs
from support import stub_steps

EVERY = [[name] for name in COMMANDS if name != "wandb"] + [["wandb", name] for name in WANDB_COMMANDS]
HEAVY = ("mlflow", "pandas", "torch", "hydra", "sklearn", "matplotlib")


def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "bccp", *words]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_each_command_says_what_it_does_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call([*words, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: bccp {' '.join(words)}")
    assert f"Example:\n    bccp {' '.join(words)}" in said
    options = re.findall(r"^  (--[\w-]+)(.*)", said, flags=re.MULTILINE)
    assert all(help_text.strip() for _, help_text in options if _ != "--model")


def test_help_of_every_command_loads_nothing_heavy_and_makes_no_home(tmp_path: Path) -> None:
    script = f"""
import sys
from bccp.cli.app import call
for words in {[[], *EVERY, ["wandb"]]!r}:
    assert call([*words, "--help"]) == 0, words
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "BCCP_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert not (tmp_path / "home").exists()


def test_help_lists_every_command_and_how_to_complete_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--help"]) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^  ([a-z][a-z-]*)  ", said, flags=re.MULTILINE) == list(COMMANDS)
    assert "_BCCP_COMPLETE=bash_source bccp" in said
    assert said.count("...") == 1  # of the usage line; no sentence is cut


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["comapre"], "bccp has no command 'comapre' (did you mean 'compare'?): use one of run, clean, sweep, step"),
        (["wandb", "snyc"], "bccp wandb has no command 'snyc' (did you mean 'sync'?): use one of sync, dashboard"),
        (["gc", "--delet"], "bccp gc has no option --delet (did you mean '--delete'?): see bccp gc --help"),
        (["gc", "--keep-days", "x"], "invalid value for '--keep-days': 'x' is not a valid integer"),
        (["compare", "a"], "missing argument 'B': see bccp compare --help"),
        (["why", "trian"], "unknown step 'trian' (did you mean 'train'?): the steps are fetch_data"),
        (["why", "--jsn", "train"], "bccp why has no option --jsn (did you mean '--json'?): see bccp why --help"),
        (["step", "tset"], "unknown step 'tset' (did you mean 'test'?)"),
        (["config", "trian"], "unknown section 'trian' (did you mean 'train'?): the sections are main, tracking"),
    ],
)
def test_a_wrong_call_is_one_sentence_with_status_2(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"error: {sentence}")


def test_a_missing_extra_ends_with_status_2_and_any_other_error_with_1(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(
        "bccp.tracking.wandb_dashboard.save_dashboard", lambda *_: (_ for _ in ()).throw(MissingExtraError("pip install it"))
    )
    assert call(["wandb", "dashboard", "me/bccp"]) == 2
    monkeypatch.setattr("bccp.tracking.wandb_dashboard.save_dashboard", lambda *_: (_ for _ in ()).throw(BCCPError("no such project")))
    assert call(["wandb", "dashboard", "me/bccp"]) == 1


@pytest.mark.parametrize("words", [["why", "train"], ["run"], ["gc"], ["config"]], ids=" ".join)
def test_a_command_without_its_extra_ends_with_the_pip_command_and_status_2(words: list[str], home: Path) -> None:
    script = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "omegaconf":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from bccp.cli.app import call
sys.exit(call({words!r}))
"""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=False)
    sentence = f"error: bccp {words[0]} needs the package omegaconf, which is not installed: pip install 'bccp[pipeline]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence)


@pytest.mark.parametrize("words", [["report"], ["sweep-report"], ["export-data", "--out", "new", "--run"], ["check-new", "--data"]])
@pytest.mark.parametrize(("name", "said"), [("x" * 10_000, f"the name {'x' * 60}… is too long for a file"), ("a\nb", "=a b ")])
def test_a_name_that_no_file_has_is_refused_in_one_line(
    words: list[str], name: str, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([*words, name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize(("number", "status", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_a_command_with_its_status_and_without_scratch(
    number: int, status: int, said: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bccp.pipeline.mlproject_files.write_all", lambda: os.kill(os.getpid(), number))
    assert call(["mlproject"]) == status
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {said}"


def test_hydras_words_go_on_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(hydra_app, "hydra_main", lambda words: given.append(words) or 0)
    for words in (
        ["run", "-m", "train.epochs=1,2", "--config-dir", "mine"],
        ["run", "--", "-cn", "x"],
        ["run", "a=1", "--help"],
        ["sweep", "+experiments=smoke"],
        ["step", "train", "-c", "job", "train.epochs=3"],
    ):
        assert call(words) == 0
    assert given == [
        ["-m", "train.epochs=1,2", "--config-dir", "mine"],
        ["-cn", "x"],
        ["a=1", "--help"],
        ["-m", "+experiments=smoke"],
        ["main.execute_steps=[train]", "-c", "job", "train.epochs=3"],
    ]


def test_run_in_a_process_of_its_own_ends_as_main_does(home: Path) -> None:
    done = started("run", "train.epoch=3")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == ["error: unknown key 'train.epoch' (did you mean 'train.epochs'?); the keys of train are " + keys()]


def keys() -> str:
    return ", ".join(config.defaults()["train"])


def test_what_can_be_completed_is(home: Path) -> None:
    (home / "outputs" / "2026-01-01_00-00-00-abcdef").mkdir(parents=True)

    def completed(*words: str, begun: str = "") -> list[str]:
        return [item.value for item in ShellComplete(bccp, {}, "bccp", "_BCCP_COMPLETE").get_completions(list(words), begun)]

    assert completed(begun="sw") == ["sweep", "sweep-report"]
    assert completed("why", begun="t") == ["train", "test"]
    assert completed("config", begun="tra")[:2] == ["tracking", "train"]
    assert "train.epochs=" in completed("run", begun="train.")
    assert "+experiments=smoke" in completed("sweep", begun="+exp")
    assert completed("report", begun="2026")[0] == "2026-01-01_00-00-00-abcdef"
    assert completed("export-data", "--run", begun="2026")[0] == "2026-01-01_00-00-00-abcdef"


def test_config_says_where_each_value_comes_from(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["config", "train", "--json", "--", "+experiments=paper_recipe", "train.epochs=20", "main.random_seed=7"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert all(key.startswith("train.") for key in rows)
    assert (rows["train.epochs"]["value"], rows["train.epochs"]["source"]) == (20, "command line")
    assert rows["train.model"]["source"] == "experiments/paper_recipe.yaml"
    assert (rows["train.random_seed"]["value"], rows["train.random_seed"]["source"]) == (7, "follows main.random_seed")
    assert rows["train.dropout"]["source"] == "config.yaml"
    assert rows["train.dropout"]["comment"] == "before the last linear layer"
    assert call(["config", "tracking.mlflow_uri=postgresql://me:passw0rd@host/db"]) == 0
    said = capsys.readouterr().out
    assert "passw0rd" not in said
    assert re.search(r"^train\.epochs=30 +config\.yaml +# ", said, flags=re.MULTILINE)
    assert call(["config", "-m"]) == 1


def test_json_is_the_only_thing_on_stdout(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///nowhere")  # which is noted
    for words in (["why", "train"], ["gc"], ["config", "data"]):
        assert call([*words, "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)
        if words != ["config", "data"]:
            assert "is not used" in err


def test_ui_opens_the_page_of_the_store_and_names_a_server(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    became: list[tuple[list[str], str]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, surroundings: became.append((command, surroundings["MLFLOW_BACKEND_STORE_URI"])))
    assert call(["ui", "--port", "5001"]) == 0
    ((command, uri),) = became
    assert command[1:] == ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", "5001"]
    assert uri == f"sqlite:///{home / 'mlflow.db'}"
    assert (home / "mlflow.db").exists()
    assert "http://127.0.0.1:5001" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:passw0rd@example.org")
    assert call(["ui"]) == 0
    assert len(became) == 1
    assert capsys.readouterr().out == "runs are recorded on a tracking server: https://example.org\n"


@pytest.mark.parametrize(
    ("verdict", "status", "words", "expected"),
    [
        ("promoted", "ran", ["--require-promotion"], 0),
        ("forced", "ran", ["main.require_promotion=true"], 0),
        ("held", "ran", ["train.epochs=1", "--require-promotion"], 3),
        ("promoted", "reused", ["--require-promotion"], 3),
        ("rejected", "ran", [], 0),
    ],
)
def test_a_run_that_promotes_nothing_ends_with_3_where_a_promotion_is_required(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    status: str,
    words: list[str],
    expected: int,
) -> None:
    def run(composed: Any, folder: Path) -> Summary:
        steps = [StepRecord(name, status) for name in step_graph.STEPS]
        found = {"verdict": verdict, "reason": "24 images", "model": "models:/mine/2"}
        return Summary("finished", steps=steps, config={"tracking": {"mlflow_uri": None}}, promotion=found)

    monkeypatch.setattr(hydra_app, "run_composed", run)
    assert call(["run", *words, "test.registered_model_name=mine"]) == expected
    said = capsys.readouterr().err
    assert (said == "") is (expected == 0)
    if verdict == "held":
        assert said == "error: nothing was promoted, as main.require_promotion asks for: held: 24 images\n"


def test_a_promotion_is_required_only_where_there_can_be_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["test.registered_model_name=mine", "test.promote=never"], ["test.registered_model_name=mine", stub_steps.FEW]):
        assert call(["run", "--require-promotion", *words]) == 1
        assert "error: main.require_promotion needs a model that can be promoted" in capsys.readouterr().err


@pytest.fixture
def finished(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A run of stand-ins: its id and its folder."""
    stub_steps.Stubs(monkeypatch)
    summary = stub_steps.run(stub_steps.FEW)
    return summary["runs"]["pipeline"], Path(summary["folder"])


def test_a_run_is_found_by_whatever_names_it(finished: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run_id, place = finished
    for named in ("", run_id, run_id[:6], place.name, place.name[-6:], str(place), str(place / "summary.json")):
        assert finished_runs.folder(named, option="RUN") == place
        assert call(["report", named, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["report"] == str(place / "report.html")
    for named in (run_id, run_id[:6], place.name, place.name[-6:], str(place), str(place / "summary.json")):
        assert call(["gc", "--keep", named]) == 0
        assert "1 run(s) have the tag" in capsys.readouterr().out
        assert call(["compare", named, run_id, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["settings"] == []
        assert call(["predict", "--model", named, "--images", str(place)]) == 1
        assert "has made no model" in capsys.readouterr().err


def test_runs_have_one_name_in_mlflow_and_in_the_outputs(finished: tuple[str, Path], home: Path) -> None:
    run_id, place = finished
    store = stub_steps.ledger()
    names = [run.info.run_name for run in stub_steps.all_runs(store)]
    assert sorted(names) == sorted([place.name, *(f"{step}-{place.name}" for step in step_graph.STEPS[:4])])
    assert store.start("another name", run_id=run_id) == run_id  # as `mlflow run` has made one, with a name of its own
    assert store.client.get_run(run_id).info.run_name == "another name"


def test_the_job_of_a_sweep_is_found_by_its_name(finished: tuple[str, Path], home: Path) -> None:
    _, place = finished
    job = home / "outputs" / "2026-01-31_12-00-00-ab12cd" / "3"
    place.rename(home / "moved")
    job.parent.mkdir()
    (home / "moved").rename(job)
    assert finished_runs.folder("2026-01-31_12-00-00-ab12cd-3", option="RUN") == job
    assert finished_runs.folder("2026-01-31_12-00-00-ab12cd/3", option="RUN") == job
