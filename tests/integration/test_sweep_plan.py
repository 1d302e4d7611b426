"""What a sweep would do is told before anything is run, and what it lacks from outside refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.pipeline import hydra_app
from bccp.pipeline.sweeps.plan import plan_sweep


def test_jobs_and_the_different_runs_of_each_step_are_counted(home: Path) -> None:
    made = plan_sweep(["+experiments=smoke"])
    assert made.n_jobs == 12
    assert made.swept["cp_sampling.type"] == ["none", "random", "diverse"]
    # two accuracies; for each none once, the two others with each of two ratios
    assert made.steps == {
        **{"fetch_data": 1, "preprocessing": 1, "segregation": 1, "noisy_labels": 2, "bayes_cutoff": 2},
        **{"cp_sampling": 10, "train": 10, "test": 10},
    }
    assert (made.refused, made.needs) == ([], [])
    assert not (home / "outputs").exists()
    assert (
        plan_sweep(["+experiments=smoke", "cp_sampling.type=none", "train.epochs=1,2,3"]).n_jobs == 12
    )  # the command line goes before the file


def test_steps_that_are_left_out_and_sources_that_differ_count(home: Path, tmp_path: Path) -> None:
    made = plan_sweep(["data.source=folder", f"data.path={tmp_path}/a,{tmp_path}/b", "main.execute_steps=[fetch_data,preprocessing]"])
    assert made.steps == {"fetch_data": 2, "preprocessing": 2}


def test_a_job_that_could_not_run_is_told(home: Path) -> None:
    made = plan_sweep(["bayes_cutoff.method=label_posterior,cleanlab", "bayes_cutoff.action=relabel"])
    assert made.n_jobs == 2
    assert made.steps["bayes_cutoff"] == 1
    (refused,) = made.refused
    assert refused.startswith("bayes_cutoff.action=relabel needs a posterior")


def test_a_search_has_no_number_of_jobs_but_needs_all_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    made = plan_sweep(["train.learning_rate=interval(0.001,0.01)", "tracking.wandb=online"])
    assert made.n_jobs is None
    assert [need.what for need in made.needs] == ["a W&B login"]


def test_what_is_needed_from_outside_is_listed(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("KAGGLE_KEY", raising=False)
    words = ["+data_sets=cargo", "train.model=resnet18", "train.weights=DEFAULT", "noisy_labels.user_accuracy=0.6,0.9"]
    assert call(["sweep", "--plan", "--json", *words]) == 0
    needs = {need["what"]: need for need in json.loads(capsys.readouterr().out)["needs"]}
    assert "private data need" in needs["data from Kaggle, morph1max/definition-of-cargo-transportation"]["note"]
    assert "are downloaded when first used" in needs["the model resnet18 with the weights DEFAULT"]["note"]
    monkeypatch.setenv("KAGGLE_KEY", "k")
    assert call(["sweep", "--plan", *words]) == 0
    assert "cargo-transportation: a key is set\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tracking.wandb=disabled,online"], "tracking.wandb=online needs a key"),
        (["train.model=small_cnn,resnt18"], "model 'resnt18' is unknown"),
        (["train.model=resnet18", "train.weights=null,NONE"], "weights='NONE' is neither a file nor published for resnet18"),
    ],
)
def test_a_sweep_that_lacks_something_is_refused_before_its_first_job(
    words: list[str], sentence: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(hydra_app, "hydra_job", pytest.fail)
    assert hydra_app.hydra_main(["-m", "hydra/launcher=basic", *words]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {sentence}")


def test_flags_are_none_of_a_plan(home: Path) -> None:
    with pytest.raises(BCCPError, match="so -m is not accepted"):
        plan_sweep(["-m", "train.epochs=1,2"])
    assert call(["sweep", "--json", "train.epochs=1,2"]) == 2
