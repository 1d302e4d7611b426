"""The real `mlflow run`, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SIMULATED = "noisy_labels.source=simulated"
QUICK = "preprocessing.image_size=16 train.epochs=2 bayes_cutoff.epochs=2 bayes_cutoff.passes=3 main.threads=1"
FIRST_FOUR = "main.execute_steps='fetch_data, preprocessing,segregation,noisy_labels'"


@pytest.fixture
def mlflow_run(home: Path, root: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `mlflow run <folder of the checkout, or URL>` from an empty working directory."""
    work = tmp_path / "work"
    work.mkdir()

    def run(project: str, **parameters: str) -> subprocess.CompletedProcess[str]:
        arguments = [word for name, value in parameters.items() for word in ("-P", f"{name}={value}")]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "mlflow",
                "run",
                project if "://" in project else str(root / project),
                "--env-manager=local",
                *arguments,
            ],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def summaries(home: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted((home / "outputs").rglob("summary.json"))]


def test_the_pipeline_runs_and_a_step_runs_alone_on_its_versions(
    mlflow_run: Callable[..., subprocess.CompletedProcess[str]], home: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    images = image_folder({"a b": 24, "c": 24}, name="own images")
    done = mlflow_run(
        ".",
        hydra_options=f"data.source=folder data.path='{images}' {QUICK} {FIRST_FOUR}",
    )
    assert done.returncode == 0, done.stderr
    (summary,) = summaries(home)
    outputs = {name: version for step in summary["steps"] for name, version in step["outputs"].items()}  # type: ignore[attr-defined]
    assert set(outputs) == {"raw_data", "clean_data", "segregated_data", "true_labels", "given_labels"}
    assert "mlflow ui --backend-store-uri" in done.stdout
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["mlflow.db"]  # the command's own

    alone = mlflow_run(
        "bayes_cutoff",
        segregated_data=f"segregated_data:{outputs['segregated_data']}",
        given_labels=f"given_labels:{outputs['given_labels'][:12]}",
        epochs="2",
        passes="3",
    )
    assert alone.returncode == 0, alone.stderr
    assert "bayes_cutoff:" in alone.stdout

    without = mlflow_run("bayes_cutoff", given_labels=f"given_labels:{outputs['given_labels']}")
    assert without.returncode != 0
    assert "error: the step bayes_cutoff needs segregated_data=segregated_data:<digest>: the step segregation makes it" in without.stderr


@pytest.mark.slow
def test_a_sweep_of_two_runs_both_jobs(
    mlflow_run: Callable[..., subprocess.CompletedProcess[str]], home: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    images = image_folder({"a": 24, "b": 24})
    done = mlflow_run(
        ".",
        hydra_options=f"-m data.source=folder data.path={images} {SIMULATED} {QUICK} {FIRST_FOUR} noisy_labels.user_accuracy=0.5,0.9",
    )
    assert done.returncode == 0, done.stderr
    both = summaries(home)
    assert [summary["status"] for summary in both] == ["finished", "finished"]
    assert {summary["config"]["noisy_labels"]["user_accuracy"] for summary in both} == {0.5, 0.9}  # type: ignore[index]
    steps = [summary["steps"] for summary in both]
    statuses = [{step["status"] for step in same} for same in zip(*steps, strict=True)]  # type: ignore[call-overload]
    assert statuses == [{"ran", "reused"}] * 3 + [{"ran"}] + [{"skipped"}] * 4  # whichever job came first
    assert "(2 done, 0 failed, 0 left)" in done.stdout
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["mlflow.db"]


@pytest.mark.slow
def test_a_sweep_over_all_steps_measures_both_jobs_and_is_told_on_a_page(
    mlflow_run: Callable[..., subprocess.CompletedProcess[str]], home: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    images = image_folder({"a b": 24, "c": 24}, name="own images")
    quick = f"{QUICK} bayes_cutoff.refine_epochs=2 tracking.wandb=disabled"
    done = mlflow_run(
        ".",
        hydra_options=f"-m data.source=folder data.path='{images}' {SIMULATED} {quick} noisy_labels.user_accuracy=0.6,0.9",
    )
    assert done.returncode == 0, done.stderr
    both = summaries(home)
    assert [summary["status"] for summary in both] == ["finished", "finished"]
    steps = [summary["steps"] for summary in both]
    statuses = [{step["status"] for step in same} for same in zip(*steps, strict=True)]  # type: ignore[call-overload]
    assert statuses == [{"ran", "reused"}] * 3 + [{"ran"}] * 5
    metrics = [summary["metrics"] for summary in both]
    for name in ("bayes_cutoff/f1", "train/val_accuracy", "test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday"):
        assert all(0 <= figures[name] <= 1 for figures in metrics), name  # type: ignore[index]
    assert metrics[0]["noisy_labels/true_user_accuracy"] < metrics[1]["noisy_labels/true_user_accuracy"]  # type: ignore[index]
    assert "(2 done, 0 failed, 0 left)" in done.stdout
    (page,) = (home / "outputs").glob("*/sweep.html")
    assert f"sweep report: {page}" in done.stdout
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["mlflow.db"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("noisy_labels.user_acuracy=0.6", "unknown key 'noisy_labels.user_acuracy' (did you mean 'noisy_labels.user_accuracy'?)"),
        pytest.param(
            "noisy_labels.user_accuracy=1.5",
            "noisy_labels.user_accuracy=1.5 is out of range: give a number from 0 to 1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_wrong_option_ends_with_one_sentence_and_a_summary(
    mlflow_run: Callable[..., subprocess.CompletedProcess[str]], home: Path, options: str, sentence: str
) -> None:
    done = mlflow_run(".", hydra_options=options)
    assert done.returncode != 0
    assert f"error: {sentence}" in done.stderr
    (summary,) = summaries(home)
    assert summary["status"] == "failed"
    assert sentence in str(summary["error"])


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True])
def test_a_git_url_runs_and_leaves_everything_in_the_home(
    mlflow_run: Callable[..., subprocess.CompletedProcess[str]],
    home: Path,
    checkout: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    remote: bool,
) -> None:
    clone = checkout("clone")
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet", "--initial-branch=main"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *words], check=True)
    url, temporary = f"file://{clone}", tmp_path / "temporary"
    temporary.mkdir()
    if remote:  # MLflow runs what a file URL names where it lies; of another it fetches a clone into a temporary folder
        for name, value in {"COUNT": "1", "KEY_0": f"url.{url}.insteadOf", "VALUE_0": "https://git.example.org/bccp.git"}.items():
            monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
        url = "https://git.example.org/bccp.git"
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    done = mlflow_run(url, hydra_options=f"main.execute_steps=[fetch_data,preprocessing,segregation] {QUICK} tracking.wandb=disabled")
    assert done.returncode == 0, done.stderr
    (summary,) = summaries(home)
    assert summary["status"] == "finished"
    assert f"summary     {home}/outputs/" in done.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{home}/mlflow.db" in done.stdout
    assert {"artifacts", "outputs", "mlflow.db"} <= {path.name for path in home.iterdir()}
    ran_in = next(path.parent for path in temporary.rglob("MLproject") if path.parent.parent == temporary) if remote else clone
    left = subprocess.run(["git", "-C", str(ran_in), "status", "--porcelain", "--ignored"], capture_output=True, text=True, check=True)
    assert left.stdout == ""
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["mlflow.db"]  # the command's own
