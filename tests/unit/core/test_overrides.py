"""Hydra options: how one text becomes words, and how wrong ones are refused."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bccp.core.errors import BCCPError
from bccp.core.overrides import check_overrides, flags_first, split_options
from bccp.pipeline import compose, hydra_app


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a=1   b=2 ", ["a=1", "b=2"]),
        ("a='x y' b=1", ["a='x y'", "b=1"]),
        ('a="x  y"', ['a="x  y"']),
        ("a='train,test'", ["a='train,test'"]),
        ("a=[train, test] b=1", ["a=[train, test]", "b=1"]),
        ("a=[[0.9, 0.1], [0.2, 0.8]]", ["a=[[0.9, 0.1], [0.2, 0.8]]"]),
        ("a=choice(1, 2) -m", ["-m", "a=choice(1, 2)"]),
        (r"a='it\'s here' b=*", [r"a='it\'s here'", "b=*"]),
    ],
)
def test_options_are_split_outside_quotes_and_brackets(text: str, words: list[str]) -> None:
    assert split_options(text) == words


@pytest.mark.parametrize("text", ["a='x", "a=[1,2", 'a="x b=1'])
def test_an_open_quote_or_bracket_is_told(text: str) -> None:
    with pytest.raises(BCCPError, match="missing at the end"):
        split_options(text)


def test_flags_come_first_with_their_values() -> None:
    assert flags_first(["a=1", "-m", "--config-name", "x", "b=2"]) == ["-m", "--config-name", "x", "a=1", "b=2"]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("noisy_labels.user_acuracy=0.6", "did you mean 'noisy_labels.user_accuracy'?"),
        ("mian.target_day=monday", "did you mean 'main.target_day'?"),
        ("user_accuracy=0.6", "unknown key 'user_accuracy'"),
        ("noisy_labels.user_accuracy=0.5,1.9", "noisy_labels.user_accuracy=1.9 is out of range"),
        ("noisy_labels.user_accuracy=interval(0.5,1.9)", "noisy_labels.user_accuracy=1.9 is out of range"),
        ("train.learning_rate=tag(log,interval(0,1))", "train.learning_rate=0.0 is out of range"),
        ("train.learning_rate=interval(0.2,0.1)", "train.learning_rate=interval(0.2,0.1) ends below its start: write interval(0.1,0.2)"),
        ("cp_sampling.type=none,randum", "did you mean 'random'?"),
        ("main.execute_steps=[train,tset]", "did you mean 'test'?"),
        ("main.execute_steps='train,tset'", "did you mean 'test'?"),
        ("train.epochs=[1", "cannot be read"),
        ("~train.epochs", "cannot be deleted"),
        ("experiments=smoke", "experiments is added to the other options: write +experiments=smoke"),
        ("++data_sets=cargo", "data_sets is added to the other options: write +data_sets=cargo"),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: str, sentence: str) -> None:
    with pytest.raises(BCCPError) as refused:
        check_overrides([option])
    assert sentence in str(refused.value)


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


def test_right_options_pass_unchanged() -> None:
    options = [
        "noisy_labels.user_accuracy=0.5,0.9",
        "train.epochs=int(interval(1,9))",
        "main.execute_steps='train,test'",
        "hydra.sweep.dir=/x",
        "+hydra.job.env_set.A=1",
        "+experiments=paper,smoke",
        "+data_sets=cargo",
        "train.model=vit_l_32",
    ]
    assert check_overrides(options) == options


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
