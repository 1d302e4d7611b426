"""Hydra's command line: what it cannot compose, groups of one's own, and the folders of a sweep's jobs."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bccp.pipeline import compose, hydra_app


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["train.epochs=1,2"],
            "the option 'train.epochs=1,2' has a comma: -m sweeps over values, a list is written train.epochs=[1,2], a text in quotes",
        ),
        (["train.epochs=range(1,3)"], "the option 'train.epochs=range(1,3)' has several values: -m sweeps over them"),
        (
            ["-m", "hydra/launcher=basic", "hydra.launcher.n_jobs=2", "train.epochs=1,2"],
            "hydra.launcher.n_jobs is no option of the hydra/launcher in use: leave it out, or name the one that has it "
            "(hydra/launcher=joblib, submitit_local, submitit_slurm, ray, ray_aws)",
        ),
        (
            ["-m", "hydra.sweeper.n_trials=2", "train.epochs=1,2"],
            "hydra.sweeper.n_trials is no option of the hydra/sweeper in use: leave it out, or name the one that has it "
            "(hydra/sweeper=optuna)",
        ),
        (["-m", "hydra.job.nam=x"], "unknown key 'hydra.job.nam'"),
        (
            ["-m", "hydra.launcher.n_jobs=abc", "train.epochs=1,2"],
            "the option 'hydra.launcher.n_jobs=abc' is not accepted (Value 'abc' of type 'str' could not be converted to Integer)",
        ),
        (["+train.epochs=3"], "train.epochs is part of the configuration: leave the + out"),
    ],
)
def test_what_hydra_cannot_compose_is_one_sentence(home: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hydra_app.hydra_main(words) == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--multirum", "train.epochs=1,2"], "there is no option --multirum (did you mean '--multirun'?): the flags are --cfg, "),
        (["train.epochs=1", "-x"], "there is no option -x: the flags are --cfg, "),
        (["-m", "--info=all", "train.epochs=1,2"], "--multirun and --info exclude each other, so leave one out: the flags are --cfg, "),
        (["--resolve"], "--resolve is for --cfg, so give --cfg job too: the flags are --cfg, "),
        # as `mlflow run` hands on -P train.epochs=3, and -P epochs=3
        (
            ["--hydra-options=main.cache=false", "--train.epochs", "3"],
            "there is no option --train.epochs: write train.epochs=3 without dashes",
        ),
        (["--hydra-options=main.cache=false", "--epochs", "3"], "there is no option --epochs: write section.epochs=3 without dashes"),
        (["--train.epochs=3"], "there is no option --train.epochs: write train.epochs=3 without dashes"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice: 'jobs'"),
    ],
)
def test_a_flag_that_hydra_has_not_is_one_sentence_with_status_2(
    home: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hydra_app.hydra_main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {sentence}")


def test_a_comma_list_of_steps_needs_no_quotes_in_a_single_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in ("train, test", "'train, test'"):
        assert hydra_app.hydra_main([f"main.execute_steps={steps}", "--cfg", "job"]) == 0
        assert OmegaConf.create(capsys.readouterr().out).main.execute_steps == "train, test"
    assert compose.compose(["main.execute_steps=train,test"]).main.execute_steps == "train,test"  # as bccp.run has it


def test_a_group_that_is_not_there_is_told_with_the_nearest(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hydra_app.hydra_main(["+experiment=smoke"]) == 1
    assert "error: unknown section 'experiment' (did you mean 'experiments'?)" in capsys.readouterr().err


def test_a_folder_of_ones_own_may_bring_groups(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "short.yaml").write_text("# @package _global_\ntrain:\n  epochs: 2\n", encoding="utf-8")
    assert hydra_app.hydra_main(["--config-dir", str(tmp_path / "mine"), "+experiment=short", "--cfg", "job"]) == 0
    assert OmegaConf.create(capsys.readouterr().out).train.epochs == 2


def _folder(pickled: bytes) -> str:
    importlib.import_module("bccp.pipeline.hydra_app")  # as the function of a job does, that a launcher sends to another process
    return str(pickle.loads(pickled).dir)


def test_the_jobs_of_a_sweep_have_one_folder_in_whatever_process_they_run(home: Path) -> None:
    importlib.import_module("bccp.pipeline.hydra_app")
    composed = OmegaConf.create({"dir": "${bccp_home:}/outputs/${bccp_id:}"})  # as in config.yaml, without Hydra's own time
    here = composed.dir
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_folder, [pickle.dumps(composed)]) == here
    assert here.startswith(f"{home}/outputs/")
