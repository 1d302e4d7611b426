"""Finished steps are reused: when, what is said of it, and what it costs. The steps are stubs; their keys are the real ones."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest

import bccp
from bccp.core import step_graph
from bccp.core.errors import BCCPError
from bccp.core.home import checkpoint_path
from bccp.core.step_context import Context, Step
from bccp.pipeline.step import RunningStep
from bccp.tracking import store
from bccp.tracking.wandb_run import NoMirror
from support.stub_steps import FETCH, FEW, QUIET, Stubs, all_runs, ledger, plan, run
from support.uv_stand_in import Tool


@pytest.fixture
def stubs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    return Stubs(monkeypatch)


def statuses(summary: dict[str, Any]) -> list[str]:
    return [step["status"] for step in summary["steps"]]


def test_a_reused_step_is_told_in_one_line_in_the_summary_and_in_mlflow(stubs: Stubs, capsys: pytest.CaptureFixture[str]) -> None:
    first = run()
    assert stubs.took() == list(step_graph.STEPS)
    capsys.readouterr()
    again = run("train.epochs=7")
    assert stubs.took() == ["train", "test"]
    assert statuses(again) == ["reused"] * 6 + ["ran"] * 2
    lines = capsys.readouterr().out.splitlines()
    written = json.loads((Path(again["folder"]) / "summary.json").read_text())
    noted = ledger().client.get_run(again["runs"]["pipeline"]).data.tags
    for before, now in zip(first["steps"][:6], written["steps"], strict=False):
        name, own = before["name"], before["run_id"]
        assert lines.count(f"{name}: reused (run {own[:8]} has the same key)") == 1
        assert (now["status"], now["reason"], now["work_seconds"]) == ("reused", f"run {own[:8]} has the same key", 0)
        assert (now["run_id"], now["outputs"]) == (own, before["outputs"])
        assert noted[f"bccp.reused.{name}"] == own
    made = ledger().client.get_run(again["runs"]["train"]).data.tags  # the lineage leads to what was reused
    assert made["bccp.input.cleansed_labels"] == first["steps"][4]["outputs"]["cleansed_labels"]
    assert "bccp.reused.train" not in noted


def test_after_an_error_the_same_command_resumes_at_the_step_that_failed(stubs: Stubs, home: Path) -> None:
    stubs.failing = "segregation"
    with pytest.raises(RuntimeError, match="segregation breaks"):
        run(FEW)
    assert stubs.took() == ["fetch_data", "preprocessing"]
    (path,) = (home / "outputs").glob("*/summary.json")
    seconds = [step["seconds"] > 0 for step in json.loads(path.read_text())["steps"]]
    assert seconds == [True] * 3 + [False] * 5  # also of the one that failed
    stubs.failing = None
    assert statuses(run(FEW)) == ["reused"] * 2 + ["ran"] * 2 + ["skipped"] * 4
    assert stubs.took() == ["segregation", "noisy_labels"]


def test_a_start_that_is_not_in_the_registry_is_told_before_any_step_runs(stubs: Stubs) -> None:
    with pytest.raises(BCCPError, match=r"train\.init=models:/nope@champion is not in the registry"):
        run("train.init=models:/nope@champion")
    assert stubs.took() == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["noisy_labels.source=file", "noisy_labels.feedback_file=none.csv"], r"the feedback file .*none\.csv cannot be read"),
        (["bayes_cutoff.audit_file=none.csv"], r"the audit file .*none\.csv cannot be read"),
        (["bayes_cutoff.audit_file=odd.csv"], r"the audit file .*odd\.csv has no column that names images"),
        (["train.model=resnet_smal"], r"model 'resnet_smal' is unknown.*did you mean 'resnet_small'"),
        (["train.model=resnet18", "train.weights=DEFOULT"], r"weights='DEFOULT' is neither a file nor published for resnet18"),
        (["bayes_cutoff.weights=w.pt"], r"bayes_cutoff\.weights=w\.pt is no file here"),
        (["cp_sampling.embedding=mobilenet"], r"cp_sampling\.embedding='mobilenet' is neither a file nor a torchvision model"),
    ],
)
def test_what_a_late_step_would_refuse_is_told_before_any_step_runs(
    stubs: Stubs, given: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.csv").write_text("when;where\nmonday;here\n")
    with pytest.raises(BCCPError, match=told):
        run(*given)
    assert stubs.took() == []


def test_looking_ahead_imports_nothing_heavy_where_all_names_are_our_own() -> None:
    script = """
import sys
from pathlib import Path
from bccp.core import config
from bccp.core.step_graph import STEPS
from bccp.pipeline import preflight
from bccp.pipeline.compose import compose
preflight.check(config.load(compose(["train.model=resnet_small"]), base=Path()), STEPS, isolated=False)
print(sorted({"torch", "lightning", "torchvision"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_labels_are_judged_without_what_only_training_and_networks_of_others_need() -> None:
    script = """
import sys
from bccp.labels import label_report, label_scoring
print(sorted({"lightning", "torchvision", "torch._dynamo", "scipy.stats", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_only_what_the_asked_steps_will_use_is_looked_at_beforehand(stubs: Stubs) -> None:
    run(FEW, "train.model=resnet_smal", "bayes_cutoff.audit_file=none.csv")
    run("main.execute_steps=[bayes_cutoff,cp_sampling]", "cp_sampling.type=random", "cp_sampling.embedding=mobilenet")
    assert stubs.took() == [*step_graph.STEPS[:6]]


@pytest.mark.parametrize("remote", [False, True])
def test_a_tampered_output_is_noticed_and_made_again_for_good(
    stubs: Stubs, home: Path, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if remote:  # what is downloaded is kept as a copy
        monkeypatch.setattr(store, "local_path", lambda uri: None)
    first = run(FEW)
    stubs.took()
    tampered = list(home.rglob("given_labels*/given.json"))
    assert len(tampered) == 1 + remote
    for file in tampered:
        file.write_text("tampered")
    again = run(FEW)
    assert stubs.took() == ["noisy_labels"]
    assert again["steps"][3]["outputs"] == first["steps"][3]["outputs"]
    assert statuses(run(FEW))[:4] == ["reused"] * 4
    assert "tampered" not in (ledger().fetch(f"given_labels:{first['steps'][3]['outputs']['given_labels']}") / "given.json").read_text()


def test_of_a_remote_store_a_copy_that_was_changed_is_fetched_again(stubs: Stubs, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "local_path", lambda uri: None)
    run(FETCH)
    (copy,) = (home / "cache" / "artifacts").glob("raw_data-*/given.json")
    before = copy.read_text()
    copy.write_text("tampered")
    assert statuses(run(FETCH))[0] == "reused"
    assert copy.read_text() == before


def test_without_the_cache_every_step_runs_again_and_what_is_left_out_is_still_found(stubs: Stubs) -> None:
    run(FEW)
    stubs.took()
    again = run(FEW, "main.cache=false")
    assert stubs.took() == list(step_graph.STEPS[:4])
    part = run("main.cache=false", "main.execute_steps=[noisy_labels]")
    assert stubs.took() == ["noisy_labels"]
    noted = ledger().client.get_run(part["runs"]["pipeline"]).data.tags
    left_out = {name: value for name, value in noted.items() if name.startswith("bccp.left_out.")}
    assert left_out == {f"bccp.left_out.{step}": again["runs"][step] for step in step_graph.STEPS[:3]}
    assert part["steps"][3]["outputs"] == again["steps"][3]["outputs"]


@pytest.mark.parametrize("cache", [True, False])
def test_what_a_stopped_step_has_kept_is_there_for_the_next_attempt_that_may_use_it_and_gone_when_it_has_finished(
    stubs: Stubs, home: Path, cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = plan().key("fetch_data", ledger())
    kept, found, work = checkpoint_path("fetch_data", key), [], stubs.work
    kept.parent.mkdir()
    kept.write_text("half of it")
    monkeypatch.setattr(stubs, "work", lambda step: found.append((step.checkpoint == kept, step.checkpoint.exists())) or work(step))
    run(FETCH, f"main.cache={cache}")
    assert found == [(cache, cache)]
    assert kept.exists() != cache


@pytest.mark.parametrize(("cache", "n_computed"), [(True, 1), (False, 2)])
def test_shared_work_is_done_once_and_without_the_cache_once_a_pipeline(home: Path, cache: bool, n_computed: int) -> None:
    computed = []

    def compute(folder: Path) -> None:
        computed.append(folder)
        (folder / "x").write_text("features")

    for pipeline in ("one", "two"):
        store = ledger()
        parent = store.start(pipeline)
        context = Context(store.uri, "disabled", None, "bccp", True, pipeline, 1, parent_run_id=parent, cache=cache)
        for name in ("bayes_cutoff", "cp_sampling"):
            step = RunningStep(name, None, {}, context, store, store.start(name, parent=parent), NoMirror())
            assert (step.shared("student", {"a": 1}, compute) / "x").read_text() == "features"
            (made,) = {tags["bccp.output.student"] for run in all_runs(store) if "bccp.output.student" in (tags := run.data.tags)}
            assert store.client.get_run(step.run_id).data.tags["bccp.input.student"] == made  # whoever computed it
    assert len(computed) == n_computed


def test_without_the_cache_nobody_waits_for_work_that_is_not_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Path] = []

    def share(pipeline: str) -> None:
        store = ledger()
        parent = store.start(pipeline)
        context = Context(store.uri, "disabled", None, "bccp", True, pipeline, 1, parent_run_id=parent, cache=False)
        step = RunningStep("train", None, {}, context, store, store.start("train", parent=parent), NoMirror())

        def compute(folder: Path) -> None:
            (folder / "x").write_text("features")
            kept.append(step.checkpoint)
            if pipeline == "one":
                share("two")  # while the first is at it

        step.shared("student", {"a": 1}, compute)

    monkeypatch.setattr(store.FileLock, "acquire", _at_once(store.FileLock.acquire))
    share("one")
    assert len(set(kept)) == 2


def _at_once(acquire: Callable[..., Any]) -> Callable[..., Any]:
    """Locks that fail where they would wait for ever."""
    return lambda lock, **how: acquire(lock, **(how | {"timeout": 5} if how.get("blocking", True) else how))


def test_without_the_cache_no_step_waits_for_anothers_run(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended, work = [], [], stubs.work

    def run_another(step: Step) -> None:
        begun.append(step)
        if len(begun) == 1:
            ended.append(run(FETCH, "main.cache=false"))
        work(step)

    monkeypatch.setattr(stubs, "work", run_another)
    monkeypatch.setattr(store.FileLock, "acquire", _at_once(store.FileLock.acquire))
    run(FETCH, "main.cache=false")
    assert ended[0]["status"] == "finished"


def test_of_two_pipelines_that_need_a_step_at_once_one_runs_it_and_the_other_waits_and_says_so(
    stubs: Stubs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), time.monotonic() + 60
    run_at_once = stubs.work

    def run_when_told(step: Step) -> None:
        begun.set()
        assert go_on.wait(60)
        run_at_once(step)

    monkeypatch.setattr(stubs, "work", run_when_told)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bccp.run, [*QUIET, FETCH])
        assert begun.wait(60)
        second, said = pool.submit(bccp.run, [*QUIET, FETCH]), ""
        while "waits" not in said and time.monotonic() < ended:
            time.sleep(0.05)
            said += capsys.readouterr().out
        go_on.set()
        assert [statuses(pipeline.result())[0] for pipeline in (first, second)] == ["ran", "reused"]
    assert said.splitlines()[-1] == "  fetch_data: waits for another process that runs it"
    assert stubs.took() == ["fetch_data"]


def test_a_reused_step_starts_no_process_where_steps_have_environments_of_their_own(
    stubs: Stubs, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv, store = "main.env_manager=uv", ledger()
    made, parent = plan(uv), store.start("another pipeline")
    for name in step_graph.STEPS:  # as the steps' own processes would leave it
        key, parts = made.key(name, store)
        assert "installed" not in parts
        run_id = store.start(name, parent=parent, tags={"bccp.step": name})
        step = RunningStep(name, made.config.section(name), made.inputs(name), None, store, run_id, NoMirror())  # type: ignore[arg-type]
        stubs.work(step)
        store.tag(run_id, {"bccp.key": key, "bccp.key_parts": json.dumps(parts)})
        store.end(run_id, "FINISHED")
        made.versions |= step.outputs
    monkeypatch.setattr(mlflow.projects, "run", lambda *_, **__: pytest.fail("a step was started"))
    assert statuses(run(uv)) == ["reused"] * 8


def test_a_fully_reused_pipeline_imports_neither_torch_nor_lightning_nor_wandb(stubs: Stubs, home: Path) -> None:
    run()
    script = f"""
import sys
from bccp.pipeline.hydra_app import hydra_main
assert hydra_main({["main.threads=1"]!r}) == 0
print(sorted({{"torch", "lightning", "torchvision", "wandb"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("reused (run ") == 8
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(all_runs(ledger())) == 10
