"""The configuration as text, and what Hydra sees of the checkout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from bccp.core import config
from bccp.core.paths import ROOT
from bccp.pipeline import config_source, config_text, hydra_app


def leaves(values: object, place: str = "") -> list[str]:
    if not isinstance(values, dict):
        return [place]
    below = [leaf for key, value in values.items() for leaf in leaves(value, f"{place}.{key}".lstrip("."))]
    return [place, *below] if place else below


def test_the_text_has_every_key_of_the_configuration_with_its_default_and_in_its_order() -> None:
    defaults = config.defaults()
    for hidden in ("defaults", "hydra"):
        defaults.pop(hidden, None)
    assert [entry.key for entry in config_text.entries()] == leaves(defaults)
    for entry in config_text.entries():
        if entry.default:
            written = OmegaConf.to_container(OmegaConf.create(f"value: {entry.default}"), resolve=False)
            assert written == {"value": OmegaConf.select(OmegaConf.create(defaults), entry.key)} or "${" in entry.default, entry.key


def test_a_comment_below_a_key_is_its_example_and_no_part_of_its_meaning() -> None:
    (augmentation,) = [entry for entry in config_text.entries() if entry.key == "train.augmentation"]
    assert augmentation.comment.endswith("in order")
    assert augmentation.example.startswith("[rotate, {_target_: my_module.Stains")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_prints_every_key_by_section_with_its_comment(flag: str, bare_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hydra_app.hydra_main(["train.epochs=3", flag]) == 0
    said = capsys.readouterr().out
    for section in config_text.sections():
        assert f"\n{section}:" in said
    assert re.search(r"^  user_accuracy: null +# P\(given label = true label\) when simulated; null: 0.7$", said, flags=re.MULTILINE)
    assert "+experiments=smoke " in said
    assert "+data_sets=cargo " in said
    assert max(map(len, said.splitlines())) <= 144


def test_hydra_sees_no_folder_of_the_checkout_but_its_groups() -> None:
    config_source.register_source()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT)):
        loader = GlobalHydra.instance().config_loader()
        groups = loader.get_group_options("", ObjectType.GROUP)
        assert set(groups) == {"hydra", *config.ADDED}
        assert "smoke" in loader.get_group_options("experiments")
        assert loader.get_group_options("tests") == []
