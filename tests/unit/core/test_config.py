"""The configuration: what is accepted, and how what is not is refused."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from bccp.core import config, config_schema, step_graph
from bccp.core.errors import BCCPError
from bccp.core.runtime import device


def composed(root: Path, **changes: Any) -> DictConfig:
    loaded = OmegaConf.load(root / "config.yaml")
    assert isinstance(loaded, DictConfig)
    del loaded["defaults"], loaded["hydra"]
    for key, value in changes.items():
        OmegaConf.update(loaded, key.replace("__", "."), value)
    return loaded


def load(root: Path, **changes: Any) -> config_schema.Config:
    return config.load(composed(root, **changes), base=root)


def test_the_shipped_configuration_is_valid(root: Path) -> None:
    loaded = load(root)
    assert loaded.main.execute_steps == list(step_graph.STEPS)
    assert loaded.bayes_cutoff.model == loaded.train.model


def test_every_key_has_a_comment_or_is_linked_to_another_section(root: Path) -> None:
    lines = [line for line in (root / "config.yaml").read_text().partition("\nhydra:")[0].splitlines() if line.startswith("  ")]
    keys = [line for line in lines if not line.lstrip().startswith("-")]
    assert len(keys) > 60
    bare = [line for line in keys if " # " not in line and "${" not in line and not line.startswith("    ")]
    assert bare == []


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("noisy_labels__user_accuracy", 1.5, "noisy_labels.user_accuracy=1.5 is out of range: give a number from 0 to 1"),
        ("noisy_labels__user_accuracy", "much", "noisy_labels.user_accuracy=much is not accepted: give a number"),
        ("noisy_labels__user_accuracy", float("nan"), "noisy_labels.user_accuracy=nan is out of range"),
        ("preprocessing__image_size", None, "preprocessing.image_size=null is not accepted"),
        ("noisy_labels__noise", "pear", "did you mean 'pair'?"),
        ("noisy_labels__noise", [[1, 0], [0.5, 0.4]], "row 1 of the matrix is [0.5, 0.4]"),
        ("noisy_labels__noise", [[1, 0], [1]], "row 1 of the matrix is [1]"),
        ("noisy_labels__source", "file", "noisy_labels.source=file needs noisy_labels.feedback_file"),
        ("noisy_labels__format", "csv", "noisy_labels.format=csv is unknown: use one of auto, rows, wide, one_hot, label_studio"),
        (
            "noisy_labels__columns",
            {"labels": "x"},
            "noisy_labels.columns={'labels': 'x'} is not accepted: give null, or some of {image: name",
        ),
        ("noisy_labels__columns", {"label": ["ann"]}, "is not accepted"),
        ("data__columns", {"image": True}, "data.columns={'image': True} is not accepted"),
        ("train__epochs", 0, "train.epochs=0 is out of range: give a number from 1 up"),
        ("train__epochs", 2.5, "train.epochs=2.5 is not accepted: give a whole number"),
        ("train__epochs", [3], "train.epochs=[3] is not accepted: give a whole number"),
        ("train__init", "monday", "did you mean 'monday_model'?"),
        ("train__optimizer", "adam_w", "did you mean 'adamw'?"),
        ("bayes_cutoff__schedule", "cosine", "bayes_cutoff.schedule=cosine is unknown: use one of one_cycle, exponential"),
        ("train__subset", {"class": ["ant"]}, "train.subset={'class': ['ant']} is not accepted: give null or {classes: [names]"),
        ("train__subset", {"images_per_class": 0}, "is not accepted: give null or"),
        ("train__subset", {"classes": []}, "is not accepted: give null or"),
        ("train__subset", {}, "is not accepted: give null or"),
        ("train__precision", 64, "train.precision=64 is unknown: use one of float32, bfloat16, float16"),
        ("train__strategy", "ddp", "train.strategy=ddp is unknown: use one of auto, ddp_spawn, ddp_fork"),
        ("train__devices", 0, "train.devices=0 is out of range: give a number from 1 to 1024"),
        ("train__energy_country", "Germany", "train.energy_country=Germany is no ISO code of a country"),
        ("train__schedule", "steps", "did you mean 'step'?"),
        ("train__trainable_blocks", 0, "train.trainable_blocks=0 is out of range: give a number from 1 up"),
        ("bayes_cutoff__decay", 0, "bayes_cutoff.decay=0.0 is out of range: give a number above 0 to 1"),
        ("train__normalization", "halve", "did you mean 'half'?"),
        ("bayes_cutoff__augmentation", "ligth", "did you mean 'light'?"),
        ("train__augmentation", "rotation", "train.augmentation=rotation is unknown: use one of none, generic, light"),
        ("train__augmentation", ["blur", "zom"], "did you mean 'zoom'?"),
        ("train__augmentation", [], "train.augmentation=[] is not accepted: use none"),
        ("train__augmentation", [{"p": 0.5}], "train.augmentation: {'p': 0.5} has no _target_"),
        ("train__augmentation", [{"_target_": "Stains"}], "has no _target_: give it the dotted name of a class"),
        ("train__augmentation", [{"_target_": "no_such_module.Stains"}], "there is no module 'no_such_module' on Python's path"),
        ("train__augment_strength", 0, "train.augment_strength=0.0 is out of range: give a number above 0 to 2"),
        ("train__augment_probability", 1.1, "train.augment_probability=1.1 is out of range: give a number from 0 to 1"),
        ("main__execute_steps", "train,tset", "did you mean 'test'?"),
        ("main__execute_steps", [], "main.execute_steps=[] is not accepted"),
        ("main__env_manager", "virtual", "did you mean 'virtualenv'?"),
        ("main__threads", 0, "main.threads=0 is out of range"),
        ("data__source", "folder", "data.source=folder needs data.path"),
        ("data__sha256", "abc", "data.sha256='abc' is no SHA-256 checksum"),
        ("segregation__test_size", 1, "segregation.test_size=1.0 is out of range: give a number above 0 and below 1"),
        ("bayes_cutoff__cutoff", "percentil", "did you mean 'percentile'?"),
        ("test__registered_model_name", "a/b", "test.registered_model_name='a/b' is not accepted: use a name without slashes"),
        ("test__promote", "force", "test.promote=force needs test.registered_model_name"),
        ("test__promote", "autom", "did you mean 'auto'?"),
        ("test__max_regression", -0.1, "test.max_regression=-0.1 is out of range: give a number from 0 to 1"),
        ("store__url", "mysql://h/d", "store.url='mysql://h/d' is not accepted: use sqlite:////absolute/file.db or postgresql://"),
        ("store__url", "sqlite:///file.db", "store.url='sqlite:///file.db' is no absolute path"),
        ("serve__port", 65536, "serve.port=65536 is out of range: give a number from 0 to 65535"),
        ("serve__deadline", 0, "serve.deadline=0.0 is out of range: give a number above 0 to 3600"),
        ("serve__max_files", 2048, "serve.max_files=2048 is more than serve.max_queue=1024: no such request could pass"),
        ("serve__allowed_hosts", ["a/b"], "serve.allowed_hosts=['a/b'] is not accepted: give a list of host names"),
        ("serve__token_env", "s3cret-token", "is no name of an environment variable: give one, never the secret itself"),
    ],
)
def test_a_wrong_value_is_refused_by_key_with_what_would_do(root: Path, key: str, value: Any, sentence: str) -> None:
    with pytest.raises(BCCPError) as refused:
        load(root, **{key: value})
    assert sentence in str(refused.value)


def test_parts_of_images_are_refused_where_only_features_are_trained_on(root: Path) -> None:
    with pytest.raises(
        BCCPError, match=r"train\.cutmix_alpha exchanges parts of images, and with train\.freeze_backbone=true only features"
    ):
        load(root, train__cutmix_alpha=1, train__freeze_backbone=True)
    load(root, train__cutmix_alpha=1)


@pytest.mark.parametrize(("key", "value"), [("cutoff", "threshold"), ("action", "relabel")])
@pytest.mark.parametrize("method", config_schema.POSTERIOR_FREE_METHODS)
def test_what_needs_a_posterior_is_refused_for_methods_without_one(root: Path, method: str, key: str, value: str) -> None:
    changes = {f"bayes_cutoff__{key}": value}
    with pytest.raises(BCCPError, match="has none"):
        load(root, bayes_cutoff__method=method, **changes)
    load(root, bayes_cutoff__method="label_posterior", **changes)


@pytest.mark.parametrize("method", [name for name in config_schema.POSTERIOR_FREE_METHODS if name != "cleanlab"])
def test_checked_labels_are_not_passed_over_in_silence(root: Path, method: str) -> None:
    with pytest.raises(BCCPError, match=f"audit_file is set, but bayes_cutoff.method={method} learns nothing"):
        load(root, bayes_cutoff__method=method, bayes_cutoff__audit_file="checked.csv")
    load(root, bayes_cutoff__method=method, bayes_cutoff__audit_file="checked.csv", bayes_cutoff__enabled=False)
    load(root, bayes_cutoff__audit_file="checked.csv")
    load(root, bayes_cutoff__audit_file="checked.csv", bayes_cutoff__method="cleanlab")


@pytest.mark.parametrize(
    "changes",
    [
        {"freeze_backbone": True, "trainable_blocks": 2},
        {"class_weights": True, "balanced_sampling": True},
    ],
)
def test_settings_of_training_that_contradict_each_other_are_refused(root: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BCCPError, match=r"leave one of the two out"):
        load(root, **{f"train__{key}": value for key, value in changes.items()})
    for key, value in changes.items():
        load(root, **{f"train__{key}": value})


def test_a_subset_is_read_from_a_command_line_too_and_classes_are_names(root: Path) -> None:
    subset = {"classes": [3, "ant"], "images_per_class": 5}
    for value in (subset, '{"classes": [3, "ant"], "images_per_class": 5}'):
        assert load(root, train__subset=value).train.subset == {"classes": ["3", "ant"], "images_per_class": 5}
    assert load(root, train__subset={"images_per_class": 5}).train.subset == {"images_per_class": 5}


def test_energy_is_measured_only_where_the_package_for_it_is_installed_and_changes_no_key(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_schema, "find_spec", lambda name: None)
    with pytest.raises(BCCPError, match=r"train\.energy_country=DEU needs the package codecarbon: pip install"):
        load(root, train__energy_country="DEU")
    monkeypatch.setattr(config_schema, "find_spec", lambda name: name)
    assert load(root, train__energy_country="DEU").train.relevant() == load(root).train.relevant()


@pytest.mark.parametrize(
    ("here", "changes", "sentence"),
    [
        ("cpu", {"accelerator": "cuda"}, "train.accelerator=cuda is not here: use auto or cpu$"),
        ("cuda", {"accelerator": "mps"}, "train.accelerator=mps is not here: use auto or cpu, or cuda$"),
        (
            "cpu",
            {"precision": "float16"},
            "train.precision=float16 needs a CUDA device, but training would run on cpu: use float32 or bfloat16",
        ),
        ("cuda", {"precision": "float16", "accelerator": "cpu"}, "training would run on cpu"),
        ("cuda", {"precision": "float16", "accelerator": "cuda"}, None),
        ("cuda", {"accelerator": "cpu", "precision": "bfloat16"}, None),
        ("mps", {"accelerator": "mps"}, None),
    ],
)
def test_a_device_or_precision_that_is_not_here_is_refused_at_the_start(
    root: Path, monkeypatch: pytest.MonkeyPatch, here: str, changes: dict[str, Any], sentence: str | None
) -> None:
    monkeypatch.setattr(device, "device_type", lambda: here)
    changes = {f"train__{key}": value for key, value in changes.items()}
    if sentence is None:
        load(root, **changes)
        return
    with pytest.raises(BCCPError, match=sentence):
        load(root, **changes)
    load(root, **changes, main__execute_steps=["fetch_data"])


def test_steps_may_be_a_list_or_a_comma_list_and_come_in_run_order(root: Path) -> None:
    assert load(root, main__execute_steps="test, train").main.execute_steps == ["train", "test"]
    assert load(root, main__execute_steps=["test", "train"]).main.execute_steps == ["train", "test"]


def test_texts_are_never_turned_into_numbers(root: Path) -> None:
    assert load(root, tracking__wandb_project="0012").tracking.wandb_project == "0012"


def test_relative_paths_become_absolute_and_urls_stay(root: Path) -> None:
    assert load(root, data__source="folder", data__path="tests").data.path == str(root / "tests")
    assert load(root, data__source="archive", data__path="https://h/x.zip").data.path == "https://h/x.zip"
    assert load(root, data__source="folder", data__path="~/x").data.path == str(Path("~/x").expanduser())


def test_handles_of_services_are_no_paths(root: Path) -> None:
    assert load(root, data__source="kaggle", data__path="owner/dataset").data.path == "owner/dataset"
    assert load(root, data__source="artifact", data__path="entity/project/name:v1").data.path == "entity/project/name:v1"


def test_every_section_reads_back_what_encode_writes(root: Path) -> None:
    own = ["rotate", {"_target_": "torchvision.transforms.v2.RandomInvert", "p": 0.5}]
    loaded = load(root, noisy_labels__noise=[[0.9, 0.1], [0.2, 0.8]], train__augmentation=own)
    checked = 0
    for step in step_graph.STEPS:
        section = loaded.section(step)
        texts = {f.name: config.encode(getattr(section, f.name)) for f in dataclasses.fields(section)}
        assert config.section(config_schema.section_type(step), texts, step, root) == section
        checked += 1
    assert checked == 8


def test_moot_parameters_are_not_relevant(root: Path) -> None:
    def same(section: str, **changes: Any) -> bool:
        return config_schema.relevant(getattr(load(root), section)) == config_schema.relevant(getattr(load(root, **changes), section))

    assert same("bayes_cutoff", bayes_cutoff__percentile=50)
    for section in ("bayes_cutoff", "train"):
        assert same(section, **{f"{section}__decay": 0.5})  # one cycle knows none
        exponential = {f"{section}__schedule": "exponential"}
        slow, fast = (getattr(load(root, **exponential, **{f"{section}__decay": value}), section) for value in (0.9, 0.5))
        assert config_schema.relevant(slow) != config_schema.relevant(fast)
    plain: dict[str, Any] = {"train__augmentation": "none"}
    one, other = (load(root, **plain, train__augment_strength=value).train for value in (0.5, 2))
    assert config_schema.relevant(one) == config_schema.relevant(other)
    assert not same("train", train__augment_strength=2)
    shipped = load(root).train
    for schedule, knows in (("one_cycle", False), ("cosine", False), ("exponential", False), ("step", True)):
        slow, fast = (dataclasses.replace(shipped, schedule=schedule, decay_epochs=epochs).relevant() for epochs in (3, 4))
        assert (slow != fast) == knows
    for schedule, stops_early in (("one_cycle", False), ("cosine", False), ("exponential", True), ("step", True)):
        hasty, steady = (dataclasses.replace(shipped, schedule=schedule, patience=patience).relevant() for patience in (1, None))
        assert (hasty != steady) == stops_early
    assert same("cp_sampling", bayes_cutoff__decay=0.5)
    assert not same("cp_sampling", bayes_cutoff__decay=0.5, bayes_cutoff__schedule="exponential")
    assert same("train", bayes_cutoff__epochs=3)
    assert not same("train", train__init="monday_model")
    assert not same("bayes_cutoff", bayes_cutoff__passes=5)
    assert same("test", test__max_regression=0.5, bayes_cutoff__epochs=3)  # nothing is registered
    assert not same("cp_sampling", cp_sampling__ratio=0.1)
    assert not same("cp_sampling", bayes_cutoff__epochs=3)
    one, other = (load(root, cp_sampling__type="random", bayes_cutoff__epochs=n).cp_sampling for n in (2, 3))
    assert config_schema.relevant(one) == config_schema.relevant(other)  # random needs no embedding
    none = load(root, cp_sampling__type="none", cp_sampling__ratio=0.1).cp_sampling
    assert config_schema.relevant(none) == config_schema.relevant(load(root, cp_sampling__type="none").cp_sampling)
    matrix: dict[str, Any] = {"noisy_labels__noise": [[0.9, 0.1], [0.2, 0.8]]}
    assert "user_accuracy" not in config_schema.relevant(load(root, **matrix).noisy_labels)
    drawn = load(root, noisy_labels__label="ground_truth", noisy_labels__user_accuracy=0.2).noisy_labels
    assert config_schema.relevant(drawn) == {"label": "ground_truth"}


@pytest.mark.parametrize(
    ("change", "counts_on"),
    [
        ({"segregation__tuesday_fraction": 0.3}, ("tuesday",)),
        ({"segregation__tuesday_images": 9}, ("tuesday",)),
        ({"segregation__corruption": "mosaic"}, ("tuesday",)),
        ({"segregation__monday_images": 9}, ("monday", "tuesday")),
        ({"segregation__test_size": 0.3}, ("monday", "tuesday")),
        ({"segregation__val_size": 0.3}, ("monday", "tuesday")),
        ({"segregation__label_source": "file"}, ("monday", "tuesday")),
        ({"segregation__random_seed": 43}, ("monday", "tuesday")),
        ({"preprocessing__checks__leakage": 0.1}, ("monday", "tuesday")),
        ({"preprocessing__checks__drift": 0.1}, ("monday", "tuesday")),
        ({"preprocessing__checks__dark": 0.1}, ()),  # of images alone: a step before heeds it
    ],
)
def test_what_is_said_of_tuesday_is_relevant_to_the_days_only_where_there_is_one(
    root: Path, change: dict[str, Any], counts_on: tuple[str, ...]
) -> None:
    def heeded(day: str, **changes: Any) -> dict[str, Any]:
        return config_schema.relevant(load(root, main__target_day=day, **changes).segregation)

    different = [day for day in ("monday", "tuesday") if heeded(day) != heeded(day, **change)]
    assert different == list(counts_on)


def test_schema_and_yaml_name_the_same_keys_and_the_same_sections_in_the_same_order(root: Path) -> None:
    loaded = composed(root)
    schema = typing.get_type_hints(config_schema.Config)
    assert list(loaded) == list(schema)
    for name, kind in schema.items():
        assert sorted(loaded[name]) == sorted(f.name for f in dataclasses.fields(kind)), name


@pytest.mark.parametrize(
    ("value", "meant"), [("auto", "auto"), ("file", "file"), ([0, 4095], [0, 4095]), ("[-1000.5,3000]", [-1000.5, 3000])]
)
def test_a_range_is_auto_file_or_two_numbers(root: Path, value: Any, meant: object) -> None:
    assert load(root, **{"preprocessing.range": value}).preprocessing.range == meant


@pytest.mark.parametrize("value", ["type", [0], [0, 1, 2], [5, 5], [9, 1], ["a", "b"], None, [0, True], 4095])
def test_a_range_that_is_none_is_refused(root: Path, value: Any) -> None:
    with pytest.raises(BCCPError, match=r"^preprocessing\.range=.* is not accepted: give auto, file, or two numbers"):
        load(root, **{"preprocessing.range": value})
