"""The search under Optuna: it repeats itself, bears failures, and leaves the options that one run takes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bccp.core import run_summary
from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.core.step_context import Step
from bccp.core.step_graph import SPECS
from bccp.pipeline import hydra_app, runner
from bccp.pipeline.sweeps import optuna_search, resources, sweep


def composed(*overrides: str, hydra: bool = False) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT)):
        return compose(config_name="config", overrides=list(overrides), return_hydra_config=hydra)


@pytest.mark.parametrize(
    "options",
    [
        ["train.learning_rate=1e-05", "train.patience=null", "bayes_cutoff.max_class_ratio=null"],
        [r"tracking.wandb_project='it\'s a \"b c\", [d]'", "data.source=folder", "data.path='a b/${oc.env:HOME}'"],
        ["noisy_labels.noise=[[0.9,0.1],[0.2,0.8]]", "main.execute_steps=[train,test]", "cp_sampling.monday_model.epochs=3"],
        ["+experiments=paper_recipe", "+data_sets=cargo"],
        [],
    ],
)
def test_differences_are_the_options_that_give_the_same_configuration(options: list[str]) -> None:
    wanted = composed(*options)
    found = optuna_search.changed_options(wanted)
    text = " ".join(found)
    words = hydra_app.split_options(text)
    assert words == found
    assert composed(*words) == wanted
    assert not any(word.startswith("+") for word in words)
    assert len(found) >= len(options)


@pytest.fixture
def light_steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Steps that write a line; the best learning rate is 0.003, one above 0.01 is refused. Gives the rates that were trained with."""
    rates: list[float] = []

    def run(step: Step) -> None:
        if step.name == "train":
            rate = step.config.learning_rate
            rates.append(rate)
            if rate > 0.01:
                raise BCCPError(f"the loss is no longer finite: choose a learning_rate below {rate:g}")
            step.log_metrics({"val_accuracy": 1 - abs(math.log10(rate / 0.003)) / 10})
        for name in SPECS[step.name].outputs:
            with step.output(name) as folder:
                (folder / "about.txt").write_text(f"{name} {step.config}")

    monkeypatch.setattr(runner, "load_step", lambda name: SimpleNamespace(run=run))
    return rates


PLAIN = ["main.execute_steps=[fetch_data,preprocessing,segregation,train]", "main.target_day=monday", "noisy_labels.label=ground_truth"]
PLAIN += ["tracking.wandb=disabled"]
HERE = "hydra/launcher=basic"  # in this process, whose steps are light
SPACE = "train.learning_rate=tag(log, interval(0.0003, 0.05))"
OLD_OPTUNA = pytest.mark.filterwarnings("ignore:The ``declarative_base:DeprecationWarning")


def newest(home: Path) -> Path:
    return max((home / "outputs").iterdir(), key=lambda folder: folder.stat().st_mtime)


@OLD_OPTUNA
def test_a_search_is_repeatable_goes_on_past_failures_and_leaves_options_that_one_run_takes(
    home: Path, light_steps: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["-m", HERE, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=5", *PLAIN, "main.random_seed=3", SPACE]
    assert hydra_app.hydra_main(search) == 0
    told, folder, rates = capsys.readouterr(), newest(home), list(light_steps)
    assert len(set(rates)) == 5
    failed = [str(number) for number, rate in enumerate(rates) if rate > 0.01]
    assert failed
    best = min((rate for rate in rates if rate <= 0.01), key=lambda rate: abs(math.log10(rate / 0.003)))
    assert f"5 trials ({len(failed)} failed: {', '.join(failed)}); the best is {rates.index(best)} with train/val_accuracy" in told.out
    for number in failed:
        assert re.search(rf"^\[{number}\] .*failed: the loss is no longer finite", told.out, re.MULTILINE)
    options = (folder / "best.txt").read_text()
    assert f"train.learning_rate={best}" in options.split()
    assert options.strip() in told.out

    light_steps.clear()
    assert hydra_app.hydra_main(search) == 0  # the same trials, whose finished steps are reused
    assert light_steps == [rate for rate in rates if rate > 0.01]
    assert (newest(home) / "best.txt").read_text() == options
    light_steps.clear()
    assert hydra_app.hydra_main([*search, "main.random_seed=2", "hydra.sweeper.n_trials=1"]) == 0
    assert len(light_steps) == 1
    assert light_steps[0] not in rates

    light_steps.clear()
    assert hydra_app.hydra_main([f"--hydra-options={options}"]) == 0
    assert light_steps == []
    single, trial = (json.loads((place / "summary.json").read_text()) for place in (newest(home), folder / str(rates.index(best))))
    assert single["metrics"] == trial["metrics"]
    assert single["config"] == trial["config"]


@OLD_OPTUNA
def test_a_search_that_finds_nothing_is_one_sentence(home: Path, light_steps: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    search = ["-m", HERE, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", *PLAIN, "train.learning_rate=interval(0.02,0.05)"]
    assert hydra_app.hydra_main(search) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: no trial of the search gave train/val_accuracy: see the error of each above")
    assert len(light_steps) == 2


@pytest.mark.parametrize("given", [[], ["main.threads=1"]])
def test_the_best_options_have_threads_only_if_they_were_given(home: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]) -> None:
    monkeypatch.setattr(resources, "default_threads", lambda: 2)
    monkeypatch.setattr(resources, "limit_threads", lambda threads: None)
    search = composed("hydra/sweeper=optuna", "train.epochs=3", *given, hydra=True)
    begun = sweep.begin(search)
    begun.close()
    monkeypatch.setattr(sweep, "begun_sweeps", [begun])
    job = composed(*search.hydra.overrides.task)
    assert job.main.threads == 1
    (begun.folder / "0" / ".hydra").mkdir(parents=True)
    OmegaConf.save(job, begun.folder / "0" / ".hydra" / "config.yaml")
    run_summary.Summary(metrics={optuna_search.METRIC: 0.5}).write(begun.folder / "0")
    optuna_search.conclude_search(begun.folder)
    assert (begun.folder / "best.txt").read_text().split() == [*given, "train.epochs=3"]


def test_an_interval_without_a_search_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hydra_app.hydra_main(["-m", SPACE]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: values between two ends (interval) are for a search")


def test_the_search_that_ships_is_drawn_from_the_seed_of_the_run() -> None:
    found = composed("+experiments=tune", "main.random_seed=7", hydra=True)
    assert set(found.hydra.sweeper.params) == {"bayes_cutoff.threshold", "train.learning_rate"}
    assert (found.bayes_cutoff.cutoff, found.hydra.sweeper.n_trials) == ("threshold", 20)
    optuna_search.Search().on_multirun_start(found)
    optuna_search.search_folders.clear()
    assert (found.hydra.sweeper.sampler.seed, found.hydra.sweeper.direction, found.hydra.sweeper.max_failure_rate) == (7, "maximize", 1)


def test_a_grid_is_no_search() -> None:
    optuna_search.Search().on_multirun_start(composed("+experiments=smoke", hydra=True))
    assert optuna_search.search_folders == []
