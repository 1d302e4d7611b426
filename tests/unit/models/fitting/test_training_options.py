"""Options of a training travel whole from the configuration to where they are used."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bccp.core import config, config_schema
from bccp.models import training_set
from bccp.models.fitting import training
from bccp.models.fitting.training_options import TrainingOptions

COMPUTED = {"mirror", "device"}
"""Options that a step works out from its section."""


@pytest.fixture
def section() -> config_schema.Train:
    values = OmegaConf.create({name: value for name, value in config.defaults().items() if name not in ("hydra", "defaults")})
    values.train.update(epochs=7, loss="gce", mirror="auto")
    return config.load(values, base=Path("/nowhere")).train


def test_every_option_is_a_key_of_the_section_train_and_arrives_with_its_value(section: config_schema.Train) -> None:
    found = training_set.options(section, mirror=True, device="cpu")
    names = {item.name for item in dataclasses.fields(TrainingOptions)}
    assert names <= {item.name for item in dataclasses.fields(section)} | {"device"}
    assert {name: getattr(found, name) for name in names - COMPUTED} == {name: getattr(section, name) for name in names - COMPUTED}
    assert (found.mirror, found.device, found.epochs, found.loss) == (True, "cpu", 7, "gce")


def test_images_that_are_augmented_already_are_not_augmented_again(section: config_schema.Train) -> None:
    section.augment_to = 100
    found = training_set.options(section, mirror=True, device="cpu")
    assert (found.augmentation, found.mirror) == ("none", False)


def test_options_cannot_be_changed_on_their_way(section: config_schema.Train) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        training_set.options(section, mirror=True, device="cpu").epochs = 3


def test_a_training_has_few_parameters() -> None:
    assert len(inspect.signature(training.fit).parameters) <= 8


def test_options_are_made_without_torch(root: Path) -> None:
    found = "import bccp.models.fitting.training_options, sys; print(sorted({'torch', 'lightning', 'mlflow'} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(root / "src")}
    assert subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True, env=env).stdout.strip() == "[]"
