"""The meaning of ``auto``: nothing is simulated on a user's own data unless that is asked for, and no doubtful label becomes trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from bccp.core import automatic, config, config_schema
from bccp.core.errors import BCCPError


def load(root: Path, **changes: Any) -> config_schema.Config:
    loaded = OmegaConf.load(root / "config.yaml")
    assert isinstance(loaded, DictConfig)
    del loaded["defaults"], loaded["hydra"]
    for key, value in changes.items():
        OmegaConf.update(loaded, key.replace("__", "."), value)
    return config.load(loaded, base=root)


def own(root: Path, **changes: Any) -> config_schema.Config:
    return load(root, data__source="folder", data__path=str(root), **changes)


def resolved(checked: config_schema.Config, *, has_days: bool = False, rest_is_trusted: bool = False) -> tuple[str, str, str]:
    automatic.resolve_days(checked, has_days=has_days, rest_is_trusted=rest_is_trusted)
    assert not automatic.waiting_for_days(checked)
    days = {getattr(checked, name).target_day for name in automatic.DAY_SECTIONS}
    assert len(days) == 1
    assert checked.segregation.label_source == checked.noisy_labels.source
    return checked.noisy_labels.source, days.pop(), checked.segregation.corruption


def test_the_built_in_digits_are_simulated(root: Path) -> None:
    checked = load(root)
    assert not automatic.unresolved(checked)
    assert (checked.noisy_labels.source, checked.noisy_labels.user_accuracy, checked.noisy_labels.noise) == ("simulated", 0.7, "uniform")
    assert (checked.main.target_day, checked.train.target_day, checked.segregation.corruption) == ("tuesday", "tuesday", "mixed")
    assert load(root, noisy_labels__feedback_file="/f.csv").noisy_labels.source == "file"


@pytest.mark.parametrize(
    ("changes", "data", "expected"),
    [
        ({}, {}, ("folder", "monday", "none")),
        ({}, {"has_days": True}, ("folder", "tuesday", "none")),
        ({"noisy_labels__feedback_file": "/f.csv"}, {"rest_is_trusted": True}, ("file", "tuesday", "none")),
        ({"noisy_labels__feedback_file": "/f.csv"}, {}, ("file", "monday", "none")),
        ({"noisy_labels__label": "ground_truth"}, {}, ("folder", "monday", "none")),
        ({"noisy_labels__label": "ground_truth", "main__target_day": "tuesday"}, {}, ("folder", "tuesday", "none")),
        ({"noisy_labels__source": "simulated"}, {}, ("simulated", "tuesday", "mixed")),
        ({"noisy_labels__source": "simulated"}, {"has_days": True}, ("simulated", "tuesday", "none")),
        ({"noisy_labels__source": "simulated", "main__target_day": "monday"}, {}, ("simulated", "monday", "mixed")),
        ({"noisy_labels__source": "simulated", "segregation__corruption": "none"}, {}, ("simulated", "tuesday", "none")),
        ({"main__target_day": "monday"}, {"has_days": True}, ("folder", "monday", "none")),
    ],
)
def test_own_data_is_judged_as_it_is(root: Path, changes: dict[str, Any], data: dict[str, bool], expected: tuple[str, str, str]) -> None:
    assert resolved(own(root, **changes), **data) == expected


def test_a_tuesday_cut_from_doubtful_folders_would_leave_the_rest_trusted_and_is_refused(root: Path) -> None:
    with pytest.raises(BCCPError, match=r"^main\.target_day=tuesday .*half of which would be trusted: set main\.target_day=monday"):
        resolved(own(root, main__target_day="tuesday"))
    assert resolved(own(root, main__target_day="tuesday"), has_days=True) == ("folder", "tuesday", "none")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noisy_labels.user_accuracy", 0.6),
        ("noisy_labels.noise", "pair"),
        ("noisy_labels.noise", [[0.9, 0.1], [0.2, 0.8]]),
        ("segregation.corruption", "mosaic"),
    ],
)
def test_options_of_a_simulation_are_refused_where_nothing_is_simulated(root: Path, key: str, value: Any) -> None:
    option = {key.replace(".", "__"): value}
    for changes in ({}, {"noisy_labels__feedback_file": "/f.csv"}, {"noisy_labels__label": "ground_truth"}):
        with pytest.raises(BCCPError, match=rf"^{key}=.*noisy_labels\.source=simulated") as refused:
            automatic.refuse_idle_simulation(own(root, **option, **changes))
        assert "\n" not in str(refused.value)
    automatic.refuse_idle_simulation(own(root, **option, noisy_labels__source="simulated"))
    automatic.refuse_idle_simulation(own(root, segregation__corruption="none"))
    automatic.refuse_idle_simulation(load(root, **option))


def test_a_model_that_learnt_from_simulated_labels_of_own_data_is_registered_only_on_request(root: Path) -> None:
    named = {"test__registered_model_name": "bccp", "noisy_labels__source": "simulated"}
    with pytest.raises(BCCPError, match=r"test\.register_simulated=true$"):
        automatic.refuse_registration(own(root, **named))
    automatic.refuse_registration(own(root, **named, test__register_simulated=True))
    automatic.refuse_registration(own(root, **named, main__execute_steps=["train"]))
    automatic.refuse_registration(own(root, **named | {"noisy_labels__source": "folder"}))
    automatic.refuse_registration(load(root, **named))


@pytest.mark.parametrize(
    ("settings", "parts", "sentence"),
    [
        ({}, (), ""),
        ({"noisy_labels": {"source": "folder"}, "segregation": {"corruption": "none", "target_day": "monday"}}, (), ""),
        (
            {"noisy_labels": {"source": "simulated", "user_accuracy": 0.7, "noise": "uniform"}, "segregation": {"target_day": "tuesday"}},
            ("labels",),
            "simulated: 30% of Tuesday's training labels are drawn wrong on purpose (uniform; noisy_labels.source=simulated)",
        ),
        (
            {
                "noisy_labels": {"source": "simulated", "label": "ground_truth"},
                "segregation": {"target_day": "tuesday", "corruption": "mosaic"},
            },
            ("images",),
            "simulated: Tuesday's images are corrupted on purpose (segregation.corruption=mosaic)",
        ),
        (
            {
                "noisy_labels": {"source": "simulated", "user_accuracy": "0.955", "noise": [[1, 0], [0, 1]]},
                "segregation": {"target_day": "tuesday", "corruption": "mixed"},
            },
            ("labels", "images"),
            "simulated: Tuesday's training labels are drawn wrong on purpose (by a matrix; noisy_labels.source=simulated), and Tuesday's "
            "images are corrupted on purpose (segregation.corruption=mixed)",
        ),
        ({"noisy_labels": {"source": "simulated"}, "segregation": {"target_day": "monday", "corruption": "mixed"}}, ("labels",), None),
    ],
)
def test_one_sentence_says_what_is_simulated(settings: dict[str, Any], parts: tuple[str, ...], sentence: str | None) -> None:
    assert automatic.simulated_parts(settings) == parts
    assert sentence is None or automatic.simulation_sentence(settings) == sentence
