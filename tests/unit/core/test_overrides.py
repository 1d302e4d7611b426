"""Hydra options: how one text becomes words, and how wrong ones are refused."""

from __future__ import annotations

import pytest

from bccp.core.errors import BCCPError
from bccp.core.overrides import check_overrides, flags_first, split_options


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
