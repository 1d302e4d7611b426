"""Benchmarks of single settings: variants are run alike, and differences are paired by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bccp
from bccp.core.errors import BCCPError
from benchmarks import inits, pairs, replay, whole


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The options of each run; a run's figures rise with the seed and with what it is given."""
    found: list[list[str]] = []

    def run(options: list[str]) -> dict[str, Any]:
        found.append(options)
        seed = int(next(word for word in options if word.startswith("main.random_seed")).partition("=")[2])
        better = 0.01 * ("train.init='monday_model'" in options) - 0.02 * ("bayes_cutoff.enabled=false" in options)
        return {"metrics": dict.fromkeys({*inits.METRICS, *whole.METRICS}, 0.1 * seed + better)}

    monkeypatch.setattr(bccp, "run", run)
    return found


def test_starts_are_compared_at_equal_steps_and_by_seed(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["inits", "--seeds", "3", "--epochs", "4", "--", "train.batch_size=32"])
    inits.main()
    assert len(asked) == 12
    for of_a_seed in (asked[:4], asked[4:8], asked[8:]):
        assert len({next(word for word in options if word.startswith("main.random_seed")) for options in of_a_seed}) == 1
        champion, *compared = of_a_seed
        assert {"train.subset={images_per_class: 20}", "test.promote=force", "train.batch_size=32"} <= set(champion)
        assert all({"train.epochs=4", "train.patience=null", "train.batch_size=32"} <= set(options) for options in compared)
        assert not any("registered" in word for options in compared for word in options)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Where retraining starts, 3 seeds, 95% intervals"
    assert lines[4].startswith("| 4 epochs from scratch | 0.2000 ± 0.24")
    assert lines[5].startswith("| 4 epochs from monday_model minus 4 epochs from scratch | 0.0100 ± 0.0000")
    assert lines[6].startswith("| 4 epochs from the champion minus 4 epochs from scratch | 0.0000 ± 0.0000")


def test_the_whole_pipeline_is_told_by_what_it_is_ahead_of_its_rivals(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["whole", "--seeds", "2", "--", "train.epochs=3"])
    whole.main()
    assert len(asked) == 8
    assert all("train.epochs=3" in options for options in asked)
    lines = capsys.readouterr().out.splitlines()
    assert lines[5].startswith("| true labels, same replay | 0.1500 ±")
    assert lines[8].startswith("| full pipeline minus true labels, same replay | 0.0000 ±")
    assert lines[10].startswith("| full pipeline minus plain Tuesday | 0.0200 ± 0.0000")


def test_each_sampler_is_compared_with_random_at_its_own_ratio() -> None:
    chosen = replay.variants(["none", "herding"], [0.25, 0.5])
    assert [(variant.name, variant.base) for variant in chosen[3:]] == [
        ("random, ratio 0.5", ""),
        ("none, ratio 0.5", "random, ratio 0.5"),
        ("herding, ratio 0.5", "random, ratio 0.5"),
    ]
    assert chosen[2].overrides == ("cp_sampling.type=herding", "cp_sampling.ratio=0.25")


def test_two_samplers_are_compared_directly_on_seeds_of_ones_own(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--seeds", "21-22", "--types", "random", "diverse", "--against", "diverse", "--ratios", "0.5", "--data", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["replay", *words, "--", "train.epochs=3"])
    replay.main()
    compared = [(21, "diverse"), (21, "random"), (22, "diverse"), (22, "random")]
    assert [options[4:] for options in asked] == [
        [f"main.random_seed={seed}", f"cp_sampling.type={kind}", "cp_sampling.ratio=0.5"] for seed, kind in compared
    ]
    assert all({"data.source=folder", "train.epochs=3", "noisy_labels.source=simulated"} <= set(options) for options in asked)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Replay, 2 seeds, 95% intervals"
    assert lines[5].startswith("| random, ratio 0.5 minus diverse, ratio 0.5 | 0.0000 ±")


def test_the_images_may_be_ones_own(tmp_path: Path) -> None:
    assert pairs.images(None) == []
    assert pairs.images(tmp_path) == ["data.source=folder", f"data.path='{tmp_path}'"]
    with pytest.raises(BCCPError, match="does not exist: give a folder or an archive"):
        pairs.images(tmp_path / "none")
