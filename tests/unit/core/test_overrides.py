"""Hydra options: how one text becomes words, and how wrong ones are refused."""

from __future__ import annotations

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

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
        (r"a='ends\\' b=1", [r"a='ends\\'", "b=1"]),
        ("a=/it's b=/that's -m", ["-m", "a=/it's", "b=/that's"]),
        ("a=/my photos (1)/of  b c=3", ["a=/my photos (1)/of  b", "c=3"]),
        ("a=/x(1 b=2)", ["a=/x(1", "b=2)"]),
        ("main.execute_steps=train, test +experiments=smoke ~a", ["main.execute_steps=train, test", "+experiments=smoke", "~a"]),
        ("a=sort(3,1, reverse=true) b=${oc.env:A,'x b=y'}", ["a=sort(3,1, reverse=true)", "b=${oc.env:A,'x b=y'}"]),
        ("--config-name x a=1", ["--config-name", "x", "a=1"]),
        ("a=/b - c -old/x --cfg job", ["--cfg", "job", "a=/b - c -old/x"]),
        ("a=1\n  hydra/launcher=basic hydra.job.name=x", ["a=1", "hydra/launcher=basic", "hydra.job.name=x"]),
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
        ("train.epochs=[1", "cannot be read: ']' is missing at its end"),
        ("data.path='/x", 'cannot be read: "\'" is missing at its end'),
        ("data.path='/a b'/c", "cannot be read: quotes go round the whole value, data.path='…'"),
        ("b/c", "the option 'b/c' has no value: write section.key=value; where it is part of the value before it, put quotes round"),
        ("data.päth=/x", "unknown key 'data.päth' (did you mean 'data.path'?)"),
        ("data.path=/\udcff", r"has bytes that are no UTF-8: give the file or folder another name"),
        ("train.epochs=3ö", "train.epochs=3ö is not accepted: give a whole number"),
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


@pytest.mark.parametrize(
    "text",
    [
        *("/t/Größe", "photos(1)", "/t/photos (1)/x", "epoch=9-step=90.ckpt", "a&b", "~/photos", "a;b", "#1", "it's", "{a}", "{a: 1}"),
        *(
            "[old]",
            "[old]/x",
            "/t/[a,b]",
            "x(1,2)",
            "(1",
            "a!b^c<d>`e",
            'the "old" ones',
            "é\\'",
            "写真",
            "a\nb",
            "2024_01",
            "1e5",
            "true",
        ),
        *("choice(1", "--x", "@a", "50%", "a b"),
    ],
)
def test_a_text_is_taken_as_it_stands(text: str) -> None:
    for key in ("data.path", "train.weights", "cp_sampling.monday_model.weights"):
        assert values(f"{key}={text}") == [text]
    assert values(f"data.path={text}", sweep=f",{text}") == [text, text]


def values(option: str, *, sweep: str = "") -> list[object]:
    """What Hydra makes of an option that was checked, one value a job."""
    (word,) = check_overrides([option + sweep])
    assert check_overrides([word]) == [word]  # where it is checked once more
    read = OverridesParser.create().parse_override(word)
    words = BasicSweeper.split_arguments([read], None)[0] if read.is_sweep_override() else [[word]]
    return [OverridesParser.create().parse_override(job).value() for (job,) in words]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("data.path=null", [None]),
        ("data.path=", [""]),
        ("data.path='a,b'", ["a,b"]),
        (r"data.path=a\,b", ["a,b"]),
        (r"data.path=ö\,b,c", ["ö,b", "c"]),
        ("data.path=ö\\", ["ö\\"]),
        (r"data.path=Größe\ \(1\)", ["Größe (1)"]),  # as Hydra reads the same without the letters beyond ASCII
        ("data.path=${oc.env:HOME}/Größe", ["${oc.env:HOME}/Größe"]),
        ("data.path=${oc.env:A,'x y'}", ["${oc.env:A,'x y'}"]),
        ("data.path=/a&b,'c,d',null", ["/a&b", "c,d", None]),
        ("data.path=choice(a&b, 'c d', 2024_01)", ["a&b", "c d", "2024_01"]),
        ("train.model=sort(b,a)", ["a", "b"]),
        ("train.epochs=1_000,2", [1000, 2]),
        ("train.learning_rate=range(1,3)", [1, 2]),
        (
            "train.subset={classes: [Käfer & Co, 'b,c', d], images_per_class: 3}",
            [{"classes": ["Käfer & Co", "b,c", "d"], "images_per_class": 3}],
        ),
        ("+hydra.job.env_set={A: ö}", [{"A": "ö"}]),
        ("noisy_labels.noise=[[0.9,0.1],[0.2,0.8]]", [[[0.9, 0.1], [0.2, 0.8]]]),
    ],
)
def test_all_else_means_what_it_meant(option: str, expected: list[object]) -> None:
    assert values(option) == expected
