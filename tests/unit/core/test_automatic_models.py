"""What `auto` is for the model and the size of the images: by the images, and by whatever else is given."""

from __future__ import annotations

import dataclasses
import operator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bccp.core import automatic, automatic_models, config, config_schema, provenance
from bccp.core.automatic_models import InputSize
from bccp.core.errors import BCCPError

SMALL = {"model": "small_cnn", "weights": None, "freeze_backbone": False}
PRETRAINED = {"model": "efficientnet_lite0", "weights": "DEFAULT", "freeze_backbone": True}
SCRATCH = {"model": "resnet_small", "weights": None, "freeze_backbone": False}


def load(root: Path, *, source: str = "folder", **changes: Any) -> config_schema.Config:
    loaded = OmegaConf.create(config.defaults())
    del loaded["defaults"], loaded["hydra"]
    for key, value in ({"data.source": source, "data.path": str(root)} | changes).items():
        OmegaConf.update(loaded, key, value)
    return config.load(loaded, base=root)


def recipe(section: Any) -> dict[str, Any]:
    return {key: getattr(section, key) for key in ("model", "weights", "freeze_backbone")}


def resolved(root: Path, shorter_side: float, **changes: Any) -> tuple[dict[str, Any], int, str]:
    """What becomes of ``train`` and of the images."""
    checked = load(root, **changes)
    automatic_models.resolve(
        checked, shorter_side, lambda model, weights: InputSize(384, 384) if model == "vit_b_16" else InputSize(299, 75)
    )
    assert not automatic_models.waiting(checked)
    for name in ("bayes_cutoff", "cp_sampling", "train", "test"):
        text = dataclasses.asdict(getattr(checked, name))
        assert "auto" not in [text[key] for key in ("model", "weights", "freeze_backbone", "head") if key in text]
    return recipe(checked.train), checked.preprocessing.image_size, checked.preprocessing.resize


@pytest.mark.parametrize(
    ("shorter_side", "expected"),
    [
        (8, (SMALL, 32, "stretch")),
        (28, (SMALL, 32, "stretch")),
        (28.5, (PRETRAINED, 32, "pad")),
        (32, (PRETRAINED, 32, "pad")),
        (33, (PRETRAINED, 64, "pad")),
        (213, (PRETRAINED, 224, "pad")),
        (3024, (PRETRAINED, 224, "pad")),
    ],
)
def test_small_images_get_a_small_network_and_larger_ones_the_pretrained_backbone(
    root: Path, shorter_side: float, expected: tuple[dict[str, Any], int, str]
) -> None:
    assert resolved(root, shorter_side) == expected


def test_the_digits_are_resolved_at_once_and_as_they_always_were(root: Path) -> None:
    checked = load(root, source="digits")
    assert not automatic.unresolved(checked)
    assert (checked.preprocessing.image_size, checked.preprocessing.resize) == (32, "stretch")
    for section in (checked.train, checked.bayes_cutoff, checked.cp_sampling.monday_model, checked.train.monday_model):
        assert recipe(section) == SMALL


def test_of_other_data_what_the_images_do_not_decide_is_resolved_at_once(root: Path) -> None:
    all_of_it = automatic_models.waiting(load(root))
    assert len(all_of_it) == 22
    assert {"train.model", "test.monday_model.weights", "preprocessing.resize"} <= all_of_it
    given = load(root, **{"train.model": "resnet_small"})
    assert automatic_models.waiting(given) == {"preprocessing.image_size", "preprocessing.resize"}
    assert recipe(given.bayes_cutoff) == SCRATCH
    assert not automatic_models.waiting(
        load(root, **{"train.model": "resnet_small", "preprocessing.image_size": 48, "preprocessing.resize": "crop"})
    )


@pytest.mark.parametrize(
    ("changes", "small", "large"),
    [
        ({"train.model": "small_cnn"}, (SMALL, 32), (SMALL, 64)),
        ({"train.model": "resnet_small"}, (SCRATCH, 32), (SCRATCH, 64)),
        ({"train.model": "efficientnet_lite0"}, (PRETRAINED, 32), (PRETRAINED, 224)),
        # weights of torchvision are not downloaded unasked
        ({"train.model": "resnet18"}, (SMALL | {"model": "resnet18"}, 32), (SMALL | {"model": "resnet18"}, 64)),
        (
            {"train.model": "resnet18", "train.weights": "IMAGENET1K_V1"},
            ({"model": "resnet18", "weights": "IMAGENET1K_V1", "freeze_backbone": True}, 32),
            ({"model": "resnet18", "weights": "IMAGENET1K_V1", "freeze_backbone": True}, 299),
        ),
        ({"train.weights": None}, (SMALL, 32), (SCRATCH, 64)),
        ({"train.weights": "DEFAULT"}, (PRETRAINED, 32), (PRETRAINED, 224)),
        ({"train.freeze_backbone": False}, (SMALL, 32), (PRETRAINED | {"freeze_backbone": False}, 224)),
        ({"train.freeze_backbone": True}, (SMALL | {"freeze_backbone": True}, 32), (PRETRAINED, 224)),
        ({"train.trainable_blocks": 2}, (SMALL, 32), (PRETRAINED | {"freeze_backbone": False}, 224)),
        ({"train.cutmix_alpha": 1.0}, (SMALL, 32), (PRETRAINED | {"freeze_backbone": False}, 224)),
        ({"train.init": "monday_model"}, (SMALL, 32), (PRETRAINED | {"weights": None}, 224)),
        ({"preprocessing.image_size": 96}, (SMALL, 96), (PRETRAINED, 96)),
        ({"train.model": "small_cnn", "preprocessing.image_size": 16}, (SMALL, 16), (SMALL, 16)),
        ({"bayes_cutoff.model": "small_cnn"}, (SMALL, 32), (PRETRAINED, 224)),
    ],
)
def test_an_explicit_value_stands_and_the_others_go_with_it(
    root: Path, changes: dict[str, Any], small: tuple[dict[str, Any], int], large: tuple[dict[str, Any], int]
) -> None:
    assert resolved(root, 28, **changes)[:2] == small
    assert resolved(root, 1000, **changes)[:2] == large
    assert resolved(root, 1000, **changes, **{"preprocessing.resize": "crop"})[2] == "crop"


def test_a_file_of_weights_is_for_the_model_that_is_chosen_and_learns_on(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "mine.pt"
    weights.touch()
    given = {"train.weights": str(weights)}
    assert resolved(root, 28, **given)[0] == SMALL | {"weights": str(weights)}
    assert resolved(root, 1000, **given)[0] == {"model": "efficientnet_lite0", "weights": str(weights), "freeze_backbone": False}
    with pytest.raises(BCCPError, match=r"^train\.weights=IMAGENET1K_V1 is no file here.*: set train\.model too, or train\.weights=auto$"):
        load(root, **{"train.weights": "IMAGENET1K_V1"})


def test_a_judge_of_another_architecture_has_weights_of_its_own(root: Path) -> None:
    checked = load(root, **{"bayes_cutoff.model": "small_cnn", "cp_sampling.monday_model.freeze_backbone": False})
    automatic_models.resolve(checked, 1000)
    assert (recipe(checked.train), recipe(checked.bayes_cutoff)) == (PRETRAINED, SMALL)
    assert recipe(checked.cp_sampling.monday_model) == SMALL
    judge_only = load(
        root, **{"train.model": "resnet_small", "bayes_cutoff.model": "efficientnet_lite0", "train.init": "models:/m@champion"}
    )
    automatic_models.resolve(judge_only, 1000)
    assert (recipe(judge_only.train), recipe(judge_only.bayes_cutoff)) == (SCRATCH, PRETRAINED)
    assert judge_only.preprocessing.image_size == 64  # the model that is to be used decides


def test_weights_get_images_of_their_own_size_but_hardly_enlarged_ones(root: Path) -> None:
    given = {"train.model": "inception_v3", "train.weights": "DEFAULT"}
    assert [resolved(root, side, **given)[1] for side in (28, 32, 100, 2000)] == [32, 75, 128, 299]
    fixed = given | {"train.model": "vit_b_16"}
    assert [resolved(root, side, **fixed)[1] for side in (32, 2000)] == [384, 384]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("preprocessing.image_size", "big", "preprocessing.image_size=big is not accepted: give a whole number or auto"),
        ("preprocessing.image_size", 2, "preprocessing.image_size=2 is out of range"),
        ("preprocessing.resize", "auot", "is unknown: use one of stretch, pad, crop, auto .did you mean 'auto'"),
        ("train.freeze_backbone", "some", "freeze_backbone=some is not accepted: give true or false or auto"),
        ("train.dropout", "auto", "train.dropout=auto is not accepted: give a number"),
    ],
)
def test_auto_is_taken_where_it_means_something(root: Path, key: str, value: Any, sentence: str) -> None:
    with pytest.raises(BCCPError, match=sentence):
        load(root, **{key: value})
    if key != "train.dropout":
        load(root, **{key: "auto"})
        config.check_choice(key, "auto")


def test_one_sentence_says_what_was_chosen_by_what(root: Path) -> None:
    checked = load(root)
    waited = automatic_models.waiting(checked)
    automatic_models.resolve(checked, 3024)
    assert automatic_models.sentence(checked, waited, 3024) == (
        "half of the images have a shorter side of 3024 px or more, so train.model=efficientnet_lite0 (pretrained, only its head learns), "
        "preprocessing.image_size=224, preprocessing.resize=pad: give any of these options to choose otherwise"
    )
    started = load(root, **{"train.init": "monday_model", "preprocessing.image_size": 96, "preprocessing.resize": "crop"})
    waited = automatic_models.waiting(started)
    automatic_models.resolve(started, 213)
    assert automatic_models.sentence(started, waited, 213) == (
        "half of the images have a shorter side of 213 px or more, so train.model=efficientnet_lite0 (starting from monday_model, only its "
        "head learns): give this option to choose otherwise"
    )
    file = str(root / "config.yaml")
    started = load(root, **{"train.weights": file, "preprocessing.image_size": 96, "preprocessing.resize": "crop"})
    waited = automatic_models.waiting(started)
    automatic_models.resolve(started, 16)
    assert f"so train.model=small_cnn (starting from {file}, all of it learns): give" in automatic_models.sentence(started, waited, 16)
    given = load(root, **{"train.model": "resnet_small", "preprocessing.resize": "crop"})
    waited = automatic_models.waiting(given)
    automatic_models.resolve(given, 28)
    assert automatic_models.sentence(given, waited, 28) == (
        "half of the images have a shorter side of 28 px or less, so preprocessing.image_size=32: give this option to choose otherwise"
    )


CHANGES: list[dict[str, Any]] = [
    {},
    {"train.model": "resnet_small"},
    {"train.weights": None},
    {"train.freeze_backbone": False},
    {"train.init": "monday_model"},
    {"bayes_cutoff.model": "small_cnn"},
    {"bayes_cutoff.model": "efficientnet_lite0", "bayes_cutoff.weights": None},
    {"bayes_cutoff.model": "resnet18", "bayes_cutoff.weights": "DEFAULT"},
    {"cp_sampling.monday_model.freeze_backbone": False, "preprocessing.resize": "crop"},
]


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize(("source", "shorter_side"), [("digits", 8.0), ("folder", 28.0), ("folder", 500.0)])
def test_the_options_that_repeat_a_run_resolve_to_the_same_configuration_whatever_the_images(
    root: Path, changes: dict[str, Any], source: str, shorter_side: float
) -> None:
    checked = load(root, source=source, **changes)
    automatic_models.resolve(checked, shorter_side)
    options = {one.key: one.value for one in provenance.differences(dataclasses.asdict(checked)) if not one.key.startswith("data.")}
    again = load(root, source=source, **options)
    automatic_models.resolve(again, 8.0 if source == "digits" else 60.0)
    automatic.set_target_day(checked, "monday")
    automatic.set_target_day(again, "monday")
    assert dataclasses.asdict(again) == dataclasses.asdict(checked)
    if source == "digits":
        assert set(options) <= set(changes) | {"bayes_cutoff.weights", "bayes_cutoff.freeze_backbone", "bayes_cutoff.head", "train.weights"}
    elif not changes:
        assert set(options) == {"preprocessing.image_size", "preprocessing.resize", "train.model"}


FROZEN = {"train__freeze_backbone": True}
AT_ONCE = {**FROZEN, "train__head": "logistic_regression"}


def of_digits(root: Path, **changes: Any) -> config_schema.Config:
    return load(root, source="digits", **{key.replace("__", "."): value for key, value in changes.items()})


def heads(checked: config_schema.Config) -> list[str]:
    return [operator.attrgetter(name)(checked).head for name in automatic_models.RECIPES]


def test_the_head_of_a_frozen_backbone_is_fitted_at_once_and_all_others_learn_step_by_step(root: Path) -> None:
    assert set(heads(of_digits(root))) == {"sgd"}
    assert set(heads(of_digits(root, **FROZEN))) == {"logistic_regression"}
    assert set(heads(of_digits(root, **FROZEN, train__head="sgd"))) == {"sgd"}
    only_train = of_digits(root, **FROZEN, bayes_cutoff__freeze_backbone=False)
    assert heads(only_train) == ["logistic_regression", "sgd", "sgd", "sgd", "sgd"]
    waiting = of_digits(root, **FROZEN).train
    waiting.head, waiting.model, waiting.weights, waiting.freeze_backbone = ("auto",) * 4
    automatic_models.resolve_recipe(waiting, None)
    assert waiting.head == "auto"


@pytest.mark.parametrize("asked", [{"loss": "gce"}, {"mixup_alpha": 0.2}, {"find_learning_rate": True}], ids=str)
def test_what_only_steps_can_do_is_done_and_not_passed_over(root: Path, asked: dict[str, Any]) -> None:
    changes = {f"train__{key}": value for key, value in asked.items()}
    found = of_digits(root, **FROZEN, **changes)
    assert (found.train.head, found.bayes_cutoff.head) == ("sgd", "logistic_regression")
    with pytest.raises(BCCPError, match=rf"train\.{next(iter(asked))}=\S+ needs a head that learns step by step, and train\.head=logistic"):
        of_digits(root, **AT_ONCE, **changes)


def test_the_papers_recipe_keeps_its_steps_on_a_frozen_backbone(root: Path) -> None:
    loaded = OmegaConf.merge(
        OmegaConf.create(config.defaults()), OmegaConf.load(root / "experiments" / "paper_recipe.yaml"), {"data": {"source": "digits"}}
    )
    del loaded["defaults"], loaded["hydra"]
    found = config.load(loaded, base=root)
    assert (found.train.freeze_backbone, found.train.epochs) == (True, 15)
    assert set(heads(found)) == {"sgd"}


def test_a_logistic_regression_needs_a_frozen_backbone(root: Path) -> None:
    with pytest.raises(
        BCCPError, match=r"train\.head=logistic_regression is fitted to the features of a frozen backbone: set train\.freeze"
    ):
        of_digits(root, train__head="logistic_regression")
    with pytest.raises(BCCPError, match=r"^bayes_cutoff\.head=logistic_regression is fitted .* set bayes_cutoff\.freeze_backbone=true"):
        of_digits(root, **AT_ONCE, bayes_cutoff__freeze_backbone=False)
    of_digits(root, **AT_ONCE)


def test_options_of_steps_are_in_no_key_of_a_head_that_is_fitted_at_once(root: Path) -> None:
    of_steps: dict[str, Any] = {
        "epochs": 7,
        "learning_rate": 0.1,
        "batch_size": 8,
        "optimizer": "adam",
        "augmentation": "none",
        "ema_decay": 0.5,
    }

    def parameters(**changes: Any) -> list[dict[str, Any]]:
        checked = of_digits(root, **FROZEN, **changes)
        return [config_schema.relevant(getattr(checked, step)) for step in ("bayes_cutoff", "cp_sampling", "train")]

    plain = parameters()
    for key, value in of_steps.items():
        assert parameters(**{f"train__{key}": value, f"bayes_cutoff__{key}": value}) == plain
        assert parameters(**{f"train__{key}": value}, train__head="sgd") != parameters(train__head="sgd")
    for key, value in {"class_weights": True, "mirror": "always", "dropout": 0.7, "random_seed": 5}.items():
        assert parameters(**{f"train__{key}": value})[2] != plain[2]
    copied = [parameters(train__augment_to=900, train__augmentation=name)[2] for name in ("rotate", "zoom")]
    assert copied[0] != copied[1]
    assert all(config_schema.relevant(of_digits(root).train) != one for one in plain)


@pytest.mark.parametrize(
    ("day", "shorter_side", "changes", "expected"),
    [
        ("tuesday", 213, {}, "stack"),
        ("monday", 213, {}, "student"),
        ("tuesday", 8, {}, "student"),
        ("tuesday", 213, {"train.freeze_backbone": False}, "student"),
        ("tuesday", 213, {"bayes_cutoff.method": "cleanlab"}, "student"),
        ("tuesday", 213, {"bayes_cutoff.refine": "cross_fit"}, "cross_fit"),
    ],
)
def test_a_frozen_backbone_beside_trusted_images_is_judged_by_a_stack(
    root: Path, day: str, shorter_side: float, changes: dict[str, Any], expected: str
) -> None:
    by_images_last, by_days_last = (load(root, **changes) for _ in range(2))
    automatic.set_target_day(by_images_last, day)
    automatic_models.resolve(by_images_last, shorter_side)
    automatic_models.resolve(by_days_last, shorter_side)
    automatic.resolve_days(by_days_last, has_days=day == "tuesday", rest_is_trusted=False)
    for checked in (by_images_last, by_days_last):
        assert checked.bayes_cutoff.refine == expected
        assert "bayes_cutoff.refine" not in automatic.unresolved(checked)
        implied = automatic.implied(dataclasses.asdict(checked))
        assert (implied["bayes_cutoff.refine"] == expected) == ("bayes_cutoff.refine" not in changes)


@pytest.mark.parametrize(
    ("day", "shorter_side", "changes", "expected"),
    [
        ("monday", 213, {}, ("features", 5, 0)),
        ("monday", 8, {}, ("features", 5, 0)),
        ("monday", 213, {"bayes_cutoff.method": "cleanlab"}, ("features", 5, 0)),
        ("monday", 213, {"bayes_cutoff.method": "mutual_information"}, ("network", 3, 1)),
        ("monday", 213, {"train.model": "resnet_small"}, ("network", 3, 1)),
        ("monday", 28, {"train.model": "resnet_small"}, ("features", 5, 0)),
        ("monday", 213, {"bayes_cutoff.judge": "network", "bayes_cutoff.folds": 7}, ("network", 7, 1)),
        ("monday", 213, {"noisy_labels.label": "ground_truth"}, ("network", 3, 1)),
        ("tuesday", 8, {}, ("network", 3, 1)),
        ("tuesday", 213, {}, ("features", 5, 0)),
        ("tuesday", 213, {"bayes_cutoff.refine": "cross_fit"}, ("network", 3, 1)),
        ("tuesday", 213, {"bayes_cutoff.judge": "network"}, ("network", 3, 1)),
    ],
)
def test_features_judge_where_nothing_is_trusted_and_no_network_is_named(
    root: Path, day: str, shorter_side: float, changes: dict[str, Any], expected: tuple[str, int, int]
) -> None:
    checked = load(root, **changes)
    automatic.resolve_days(checked, has_days=day == "tuesday", rest_is_trusted=False)
    automatic_models.resolve(checked, shorter_side)
    assert not automatic.unresolved(checked)
    section = checked.bayes_cutoff
    assert (section.judge, section.folds, section.rounds) == expected
    command = {one.key: one.value for one in provenance.differences(dataclasses.asdict(checked))}
    again = load(root, **{key: value for key, value in command.items() if not key.startswith("data.")})
    automatic.resolve_days(again, has_days=day == "tuesday", rest_is_trusted=False)
    automatic_models.resolve(again, shorter_side)
    assert again.bayes_cutoff == section, "the command of a report repeats the judge"


def test_the_line_about_the_judge_says_what_it_looks_at_or_trains(root: Path) -> None:
    def said(shorter_side: float, **changes: Any) -> str:
        checked = load(root, **{"main.target_day": "monday"} | changes)
        automatic_models.resolve(checked, shorter_side)
        return automatic.judge_sentence(checked)

    assert "judge=features: no label is trusted, so 5 held-out folds judge one another by the features of efficientnet_lite0" in said(213)
    assert "by the pixels of these small images" in said(8)
    assert "resnet_small is trained on 3 held-out folds" in said(213, **{"train.model": "resnet_small"})
    assert not said(213, **{"noisy_labels.label": "ground_truth"})


def test_only_a_network_of_ones_own_makes_the_judge_wait_for_the_images(root: Path) -> None:
    given = {"train.model": "resnet_small", "preprocessing.image_size": 48, "preprocessing.resize": "crop"}
    checked = load(root, **given)
    automatic.resolve_days(checked, has_days=False, rest_is_trusted=False)
    assert automatic_models.waiting(checked) == {"bayes_cutoff.judge"}
    automatic_models.resolve(checked, 213)
    assert not automatic.unresolved(checked)
    of_days = load(root, **given)
    automatic.resolve_days(of_days, has_days=True, rest_is_trusted=False)
    assert not automatic.unresolved(of_days)


@pytest.mark.parametrize("option", ["passes", "epochs", "rounds", "refine", "max_class_ratio", "dropout"])
def test_no_option_of_a_network_is_in_the_key_of_a_judge_of_features(root: Path, option: str) -> None:
    def key(**changes: Any) -> dict[str, Any]:
        checked = load(root, **{"main.target_day": "monday"} | changes)
        automatic_models.resolve(checked, 213)
        return config_schema.relevant(checked.bayes_cutoff)

    other = {"refine": "cross_fit", "max_class_ratio": None, "dropout": 0.1}.get(option, 7)
    assert key() == key(**{f"bayes_cutoff.{option}": other})
    by_network = {"bayes_cutoff.judge": "network", "bayes_cutoff.head": "sgd"}
    assert key(**by_network) != key(**by_network, **{f"bayes_cutoff.{option}": other})
    assert key() != key(**{"bayes_cutoff.folds": 7})
    assert key() != key(**by_network)


def test_the_model_is_not_in_the_key_of_a_judge_of_pixels(root: Path) -> None:
    def key(model: str) -> dict[str, Any]:
        checked = load(root, **{"main.target_day": "monday", "bayes_cutoff.model": model})
        automatic_models.resolve(checked, 8)
        return config_schema.relevant(checked.bayes_cutoff)

    assert key("small_cnn") == key("resnet_small") != key("efficientnet_lite0")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.freeze_backbone": False}, "of images of this size looks at the features of a frozen backbone"),
        ({"train.freeze_backbone": False, "main.target_day": "tuesday", "noisy_labels.source": "simulated"}, "beside trusted images looks"),
        ({"bayes_cutoff.method": "logit_variance"}, "logit_variance is about the passes of a network"),
    ],
)
def test_judges_of_features_without_any_are_refused(root: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BCCPError, match=said):
        automatic_models.resolve(load(root, **{"bayes_cutoff.judge": "features", "main.target_day": "monday"} | changes), 213)


def test_a_network_as_judge_beside_a_stack_is_refused(root: Path) -> None:
    with pytest.raises(BCCPError, match=r"bayes_cutoff.judge=network trains a network, and bayes_cutoff.refine=stack judges without"):
        load(root, **{"bayes_cutoff.judge": "network", "bayes_cutoff.refine": "stack"})


def test_what_waits_for_days_and_images_is_unresolved_until_both_are_known(root: Path) -> None:
    checked = load(root)
    assert checked.bayes_cutoff.refine == "auto"
    assert "bayes_cutoff.refine" in automatic.unresolved(checked)
    automatic_models.resolve(checked, 213)
    assert checked.bayes_cutoff.refine == "auto"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.freeze_backbone": False}, "bayes_cutoff.freeze_backbone is false: set it to true"),
        ({"main.target_day": "monday"}, "bayes_cutoff.target_day is monday: set it to tuesday"),
        ({"bayes_cutoff.method": "cleanlab"}, "bayes_cutoff.method=cleanlab is another judge"),
    ],
)
def test_a_stack_without_what_it_needs_is_refused(root: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BCCPError, match=said):
        automatic_models.resolve(load(root, **{"bayes_cutoff.refine": "stack"} | changes), 213)
