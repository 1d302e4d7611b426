"""The files that ship with the configuration: each is valid, and says how to run it."""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins

from bccp.core import config
from bccp.core.overrides import EXTRAS, check_overrides
from bccp.core.paths import ROOT
from bccp.pipeline import hydra_app

FILES = sorted([*(ROOT / "experiments").glob("*.yaml"), *(ROOT / "data_sets").glob("*.yaml")])

JOBS = {
    "labels": 2 * 3 * 5 * 10 * 7,
    "labels_data": 3 * 2 * 3 * 7,
    "paper": 2 * 2 * 4 * 5 * 3,
    "smoke": 2 * 3 * 2,
    "water_bottles": 2 * 20,
}
"""Of each grid: every combination of its axes."""


def composed(*overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT)):
        return compose(config_name="config", overrides=check_overrides(overrides))


def command(path: Path) -> list[str]:
    """The one command in a file's header: ``run`` or ``sweep``, and its overrides."""
    (line,) = re.findall(r"^#.*?\bbccp ((?:run|sweep) .*)$", path.read_text(), re.MULTILINE)
    return shlex.split(line)


def space(path: Path) -> dict[str, Any]:
    """What a file sweeps over."""
    params: dict[str, Any] = yaml.safe_load(path.read_text()).get("hydra", {}).get("sweeper", {}).get("params", {})
    return params


def axes(path: Path) -> dict[str, list[str]]:
    """The choices of each axis of a grid, as overrides."""
    found = {}
    for key, value in space(path).items():
        (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([f"{key}={value}"]), None)
        found[key] = [override for job in batch for override in job]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_command_in_a_files_header_uses_it_and_is_valid_with_every_choice_of_its_grid(path: Path) -> None:
    name, *overrides = command(path)
    assert f"+{path.parent.name}={path.stem}" in overrides
    assert name == ("sweep" if space(path) else "run")
    grid = axes(path) if path.parent.name == "experiments" and path.stem in JOBS else {}
    assert math.prod(len(choices) for choices in grid.values()) == (JOBS[path.stem] if grid else 1)
    check_overrides([choice for choices in grid.values() for choice in choices])
    config.load(composed(*overrides, *(choices[-1] for choices in grid.values())), base=ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_holds_differences_only(path: Path) -> None:
    plain, given = yaml.safe_load((ROOT / "config.yaml").read_text()), yaml.safe_load(path.read_text())
    extra = {"defaults", "hydra"} & set(given)
    keys = [(section, key) for section in set(given) - extra for key in given[section]]
    assert keys or extra
    assert [(section, key) for section, key in keys if given[section][key] == plain[section][key]] == []
    if path.parent.name == "data_sets":  # so it fits every experiment, in whatever order they are named
        assert set(given) == {"data", "noisy_labels"}
        assert given["noisy_labels"] == {"source": "simulated"}


def test_every_file_is_checked_and_every_grid_is_counted() -> None:
    assert len(FILES) == 13
    assert {path.stem for path in FILES if space(path)} == {*JOBS, "tune"}


def test_the_papers_recipe() -> None:
    checked = config.load(composed("+experiments=paper", "+data_sets=bags"), base=ROOT)
    assert (checked.preprocessing.image_size, checked.preprocessing.resize, checked.data.subfolder) == (256, "stretch", "Bag Classes")
    train, judge = checked.train, checked.bayes_cutoff
    assert (train.model, train.weights, train.normalization) == ("mobilenet_v2", "IMAGENET1K_V1", "half")
    assert (train.batch_size, train.epochs, train.optimizer, train.learning_rate) == (64, 15, "adam", 1e-3)
    assert (train.schedule, train.decay, train.patience) == ("exponential", 0.95, None)
    assert (judge.method, judge.cutoff, judge.percentile, judge.action) == ("logit_variance", "percentile", 90, "drop")
    assert (judge.dropout, judge.epochs, judge.passes) == (0.5, 10, 10)
    assert (judge.model, judge.weights, judge.normalization, judge.optimizer) == ("mobilenet_v2", "IMAGENET1K_V1", "half", "adam")
    kaggle = {yaml.safe_load(path.read_text())["data"].get("path") for path in (ROOT / "data_sets").glob("*.yaml")} - {None}
    assert kaggle == {
        "morph1max/definition-of-cargo-transportation",
        "vencerlanz09/plastic-paper-garbage-bag-synthetic-images",
        "nirmalsankalana/sugarcane-leaf-disease-dataset",
    }


def test_the_defaults_of_the_papers_code() -> None:
    checked = config.load(composed("+experiments=bccp_defaults", "+data_sets=cargo"), base=ROOT)
    assert (checked.main.target_day, checked.noisy_labels.label) == ("monday", "ground_truth")
    assert (checked.bayes_cutoff.enabled, checked.cp_sampling.type) == (False, "none")
    assert (checked.train.model, checked.preprocessing.image_size) == ("mobilenet_v2", 256)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["+experiments=papr"], "experiments=papr is unknown (did you mean 'paper'?): use one of bccp_defaults, "),
        (["-m", "+data_sets=cargos", "main.random_seed=1,2"], "data_sets=cargos is unknown (did you mean 'cargo'?): use one of bags, "),
        (["-m", "hydra/sweeper=optuna"], "hydra/sweeper=optuna needs a package that is not installed: pip install 'bccp[optuna]'"),
        (["-m", "+experiments=tune"], "hydra/sweeper=optuna needs a package that is not installed: pip install 'bccp[optuna]'"),
        (["--config-name=confg"], "Cannot find primary config 'confg'"),
    ],
)
def test_a_choice_that_is_not_there_is_one_sentence(
    bare_home: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Plugins.instance()  # now, so that what is taken away stays away
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["sweeper"], "optuna.yaml")
    assert hydra_app.hydra_main(words) == (2 if "package that is not installed" in sentence else 1)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {sentence}")


def test_the_extras_that_errors_name_are_there(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for group in EXTRAS.values() for extra in group.values()} <= set(extras)
