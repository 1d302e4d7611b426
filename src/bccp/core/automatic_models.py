"""The model and the size of the images under ``auto``: small images get a small network from scratch, larger ones a pretrained backbone.

What decides is the median over the images of their shorter side: 8 px for the built-in digits, whose options are resolved when the
configuration is loaded; for all other data it is known once it has been fetched. An explicit value stands, and the others are chosen to go
with it. ``docs/photographs.md`` has the rules in a table.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from bccp.core.config_schema import AUTO, FEATURE_METHODS
from bccp.core.errors import BCCPError
from bccp.core.registries import BACKBONES

if TYPE_CHECKING:
    from bccp.core.config_schema import BayesCutoff, Config, Preprocessing, Recipe

BUILT_IN_PX = 8.0
"""The median shorter side of these images."""

RECIPES = ("train", "bayes_cutoff", "cp_sampling.monday_model", "train.monday_model", "test.monday_model")
"""The sections with a model, weights for it, a backbone to freeze and a head."""

_LINKED = {
    "bayes_cutoff": "train",
    "cp_sampling.monday_model": "bayes_cutoff",
    "train.monday_model": "cp_sampling.monday_model",
    "test.monday_model": "cp_sampling.monday_model",
}
"""The section of :data:`RECIPES` that ``config.yaml`` links another one to."""

PRETRAINED, PRETRAINED_PX = "efficientnet_lite0", 224
"""The backbone that larger images get, and the side of its input in px."""

SMALL_PX, ENLARGED_PX = 28, 48
"""Up to the first median shorter side a small network is trained from scratch; above the second it is given images of 64 px and not 32."""

JUDGE_OPTIONS = {"folds": {"features": 5, "network": 3}, "rounds": {"features": 0, "network": 1}}
"""Options of ``bayes_cutoff`` that go with its judge, with what ``auto`` is for each."""

JUDGE_KEYS = ("refine", "judge", *JUDGE_OPTIONS)
"""Options of ``bayes_cutoff`` that wait for the days of the data and, by way of the model, for its images."""

STEPWISE = {"loss": "cross_entropy", "mixup_alpha": 0, "find_learning_rate": False}
"""Options that nobody changes but for a head that learns step by step, with the values that ask for nothing."""

_STEP_PX = 32
"""The sides that are chosen are multiples of it."""


class InputSize(NamedTuple):
    """Sides of the square images that pretrained weights are for, in px.

    Attributes
    ----------
    own : int
        As they were evaluated.
    least : int
        Smaller ones they cannot take.
    """

    own: int
    least: int


def choose_model(model: str, weights: str | None, shorter_side: float | None) -> str:
    """Resolve the ``model`` of a recipe.

    Parameters
    ----------
    model : str
        A name, which stays, or ``auto``.
    weights : str or None
        As configured. None asks for a network that is trained from scratch, ``DEFAULT`` for the pretrained backbone whatever the images.
    shorter_side : float or None
        Median over the images of their shorter side, in px; None: not known yet.

    Returns
    -------
    str
        Still ``auto`` where the images decide.

    Examples
    --------
    >>> choose_model("auto", "auto", 8), choose_model("auto", "auto", 213), choose_model("auto", None, 213)
    ('small_cnn', 'efficientnet_lite0', 'resnet_small')
    """
    if model != AUTO:
        return model
    if weights == "DEFAULT":
        return PRETRAINED
    if shorter_side is None:
        return AUTO
    if shorter_side <= SMALL_PX:
        return "small_cnn"
    return "resnet_small" if weights is None else PRETRAINED


def choose_weights(model: str, weights: str | None, *, from_scratch: bool = True) -> str | None:
    """Resolve the ``weights`` of a recipe: those published for our own architectures, as torchvision's would have to be downloaded.

    Parameters
    ----------
    model : str
        Resolved, or ``auto``.
    weights : str or None
        As configured.
    from_scratch : bool, default True
        No other model is the start of the training (``train.init``).

    Returns
    -------
    str or None
        Still ``auto`` where the model is.
    """
    if weights != AUTO or model == AUTO:
        return weights
    entry = BACKBONES.entries.get(model)
    return "DEFAULT" if entry is not None and entry.published and from_scratch else None


def choose_freezing(weights: str | None, freeze: Any, *, may_freeze: bool = True) -> Any:
    """Resolve the ``freeze_backbone`` of a recipe: true under published weights, which a name stands for and no file.

    Parameters
    ----------
    weights : str or None
        That the backbone begins with, directly or through the model that training starts from.
    freeze : bool or "auto"
        As configured.
    may_freeze : bool, default True
        Nothing else that is configured needs a backbone that learns.

    Returns
    -------
    bool or "auto"
        Still ``auto`` where the weights are.
    """
    if freeze != AUTO or weights == AUTO:
        return freeze
    return may_freeze and weights is not None and not Path(weights).exists()


def choose_head(head: str, freeze: Any, *, stepwise: bool = False) -> str:
    """Resolve the ``head`` of a recipe.

    Parameters
    ----------
    head : str
        As configured.
    freeze : bool or "auto"
        Whether the backbone is frozen.
    stepwise : bool, default False
        Something is configured that only a head that learns step by step can do.

    Returns
    -------
    str
        Still ``auto`` where ``freeze`` is.

    Examples
    --------
    >>> choose_head("auto", True), choose_head("auto", True, stepwise=True), choose_head("auto", False)
    ('logistic_regression', 'sgd', 'sgd')
    """
    if head != AUTO or freeze == AUTO:
        return head
    return "logistic_regression" if freeze and not stepwise else "sgd"


def choose_image_size(
    model: str, weights: str | None, shorter_side: float, input_size: Callable[[str, str | None], InputSize] | None = None
) -> int:
    """Resolve ``preprocessing.image_size``.

    Parameters
    ----------
    model, weights
        Of ``train``, resolved.
    shorter_side : float
        Median over the images of their shorter side, in px.
    input_size : callable, optional
        Gives the sides that published weights of a model of torchvision are for. Default: 224 px each.

    Returns
    -------
    int
        32 for small images. For larger ones and pretrained weights their own side, but not above the median shorter side, rounded up to a
        multiple of 32: what is enlarged takes room and tells nothing more. For a network that is trained from scratch 64 px, or 32 where
        the median is at most 48.

    Examples
    --------
    >>> [choose_image_size("efficientnet_lite0", "DEFAULT", side) for side in (28, 32, 213, 3024)]
    [32, 32, 224, 224]
    >>> [choose_image_size("resnet_small", None, side) for side in (28, 48, 213)]
    [32, 32, 64]
    """
    if shorter_side <= SMALL_PX:
        return _STEP_PX
    rounded = _STEP_PX * -int(-shorter_side // _STEP_PX)
    if model == PRETRAINED:
        return min(PRETRAINED_PX, rounded)
    if model in BACKBONES or weights is None:
        return 2 * _STEP_PX if shorter_side > ENLARGED_PX else _STEP_PX
    side = input_size(model, weights) if input_size else InputSize(PRETRAINED_PX, 1)
    return max(side.least, min(side.own, rounded))


def choose_resize(shorter_side: float) -> str:
    """Resolve ``preprocessing.resize``: small images are stretched, larger ones keep their shape between borders.

    On photographs ``pad`` was better than ``stretch`` and ``crop`` (RESULTS.md, "How photographs are made square").
    """
    return "stretch" if shorter_side <= SMALL_PX else "pad"


def choose_refine(section: Any) -> str:
    """Resolve ``bayes_cutoff.refine``: still ``auto`` where it is not known yet whether the backbone is frozen, or Monday trusted."""
    if section.refine != AUTO:
        return str(section.refine)
    if section.freeze_backbone is False or section.target_day == "monday" or section.method != "label_posterior":
        return "student"
    if getattr(section, "judge", AUTO) == "network":  # records of earlier versions have none
        return "student"
    return AUTO if AUTO in (section.freeze_backbone, section.target_day) else "stack"


def choose_judge(section: Any, shorter_side: float | None) -> str:
    """Resolve ``bayes_cutoff.judge``.

    Parameters
    ----------
    section : BayesCutoff
        With a ``refine`` that is resolved as far as it can be.
    shorter_side : float or None
        As for :func:`choose_model`.

    Returns
    -------
    str
        ``features`` where there are some: a frozen backbone's, and where nothing is trusted also small images' own pixels. ``network``
        where one is named that learns as a whole, or a method is about its passes. Still ``auto`` where it is not known yet whether Monday
        is trusted, the backbone frozen, or the images are small.
    """
    if section.judge != AUTO:
        return str(section.judge)
    if section.method not in FEATURE_METHODS or not section.enabled or section.label == "ground_truth":
        return "network"
    if section.target_day == "monday":
        if section.freeze_backbone is False and shorter_side is not None:
            return "features" if shorter_side <= SMALL_PX else "network"
        return "features" if section.freeze_backbone is True else AUTO
    if AUTO in (section.target_day, section.refine):
        return AUTO
    return "features" if section.refine == "stack" else "network"


def resolve_judge(section: BayesCutoff, shorter_side: float | None = None) -> None:
    """Resolve ``refine``, ``judge``, ``folds`` and ``rounds`` of the section ``bayes_cutoff`` in place, as far as they can be.

    Parameters
    ----------
    section : BayesCutoff
    shorter_side : float, optional
        As for :func:`choose_model`.

    Raises
    ------
    BCCPError
        If judges of features were asked for, and it has turned out that there are none.
    """
    section.refine = choose_refine(section)
    section.judge = choose_judge(section, shorter_side)
    chosen: Any = section
    for key, values in JUDGE_OPTIONS.items():
        if getattr(chosen, key) == AUTO and section.judge != AUTO:
            setattr(chosen, key, values[section.judge])
    if not section.enabled or section.label == "ground_truth":
        return
    section.refuse_stack()
    trusted = section.target_day == "tuesday"
    large = shorter_side is not None and shorter_side > SMALL_PX
    if section.judge == "features" and section.freeze_backbone is False and (large or trusted) and section.target_day != AUTO:
        beside = "beside trusted images" if trusted else "of images of this size"
        raise BCCPError(
            f"bayes_cutoff.judge=features {beside} looks at the features of a frozen backbone, and bayes_cutoff.freeze_backbone is false: "
            "set it to true, or bayes_cutoff.judge=network"
        )


def resolve_recipe(recipe: Recipe, shorter_side: float | None) -> None:
    """Resolve model, weights, freezing and head of a section in place, as far as they can be; ``shorter_side`` as for :func:`choose_model`.

    What is chosen here goes by the section alone: a judge of another architecture than ``train`` has weights of its own.
    """
    from_scratch = getattr(recipe, "init", "scratch") == "scratch"
    may_freeze = getattr(recipe, "trainable_blocks", None) is None and not getattr(recipe, "cutmix_alpha", 0)
    recipe.model = choose_model(recipe.model, recipe.weights, shorter_side)
    begins_with = choose_weights(recipe.model, recipe.weights if from_scratch else recipe.weights or AUTO)
    recipe.weights = choose_weights(recipe.model, recipe.weights, from_scratch=from_scratch)
    recipe.freeze_backbone = choose_freezing(begins_with, recipe.freeze_backbone, may_freeze=may_freeze)
    if hasattr(recipe, "head"):  # records of earlier versions have none
        recipe.head = choose_head(recipe.head, recipe.freeze_backbone, stepwise=bool(_stepwise_option(recipe)))


def check_head(name: str, recipe: Recipe) -> None:
    """Refuse a logistic regression that the rest of its section rules out; what is yet to be resolved is not looked at.

    Parameters
    ----------
    name : str
        What the section is called in messages.
    recipe : Recipe

    Raises
    ------
    BCCPError
        If the backbone learns too, or something is asked for that only a head that learns step by step can do.
    """
    if recipe.head != "logistic_regression" or recipe.freeze_backbone not in (True, False):
        return
    if not recipe.freeze_backbone:
        raise BCCPError(
            f"{name}.head=logistic_regression is fitted to the features of a frozen backbone: set {name}.freeze_backbone=true, or leave "
            f"{name}.head=auto"
        )
    if asked := _stepwise_option(recipe):
        raise BCCPError(
            f"{name}.{asked} needs a head that learns step by step, and {name}.head=logistic_regression is fitted at once: leave one of "
            "the two out"
        )


def _stepwise_option(recipe: Recipe) -> str:
    """The first of :data:`STEPWISE` that asks for something, such as ``loss=gce``; empty where none does."""
    asked = {key: getattr(recipe, key, neutral) for key, neutral in STEPWISE.items()}
    return next((f"{key}={str(value).lower()}" for key, value in asked.items() if value != STEPWISE[key]), "")


def resolve_size(
    section: Preprocessing,
    model: str,
    weights: str | None,
    shorter_side: float | None,
    input_size: Callable[[str, str | None], InputSize] | None = None,
) -> None:
    """Resolve the size and shape of the images in the section ``preprocessing`` in place; arguments as for :func:`choose_image_size`."""
    if shorter_side is None:
        return
    if section.image_size == AUTO:  # type: ignore[comparison-overlap]
        section.image_size = choose_image_size(model, weights, shorter_side, input_size)
    if section.resize == AUTO:
        section.resize = choose_resize(shorter_side)


def resolve(config: Config, shorter_side: float | None, input_size: Callable[[str, str | None], InputSize] | None = None) -> None:
    """Replace each ``auto`` of the models and of the images' size, in place: all where the images are known, else what goes without them.

    Parameters
    ----------
    config : Config
    shorter_side : float or None
        Median over the images of their shorter side, in px; None: not known yet.
    input_size : callable, optional
        As for :func:`choose_image_size`.

    Raises
    ------
    BCCPError
        If weights are named that are published for one model, and the model is ``auto``; or from :func:`check_head`.
    """
    for name in RECIPES:
        recipe = operator.attrgetter(name)(config)
        if recipe.model == AUTO and recipe.weights not in (None, AUTO, "DEFAULT") and not Path(recipe.weights).exists():
            raise BCCPError(
                f"{name}.weights={recipe.weights} is no file here, and as a name of published weights it belongs to one model, while "
                f"{name}.model=auto goes by the images: set {name}.model too, or {name}.weights=auto"
            )
        resolve_recipe(recipe, shorter_side)
        check_head(name, recipe)
    resolve_judge(config.bayes_cutoff, shorter_side)
    resolve_size(config.preprocessing, config.train.model, config.train.weights, shorter_side, input_size)


def waiting(config: Config) -> set[str]:
    """The keys that :func:`resolve` has yet to resolve, such as ``train.model`` or ``cp_sampling.monday_model.weights``."""
    sections = ("preprocessing", "bayes_cutoff", "cp_sampling", "train", "test")
    return {f"{name}.{key}" for name in sections for key in waiting_in(getattr(config, name))}


def waiting_in(section: Any) -> set[str]:
    """The same of one section, such as ``model`` or ``monday_model.weights``."""
    own = {item.name for item in dataclasses.fields(section) if item.metadata.get("auto") and getattr(section, item.name) == AUTO}
    own -= JUDGE_OPTIONS.keys()  # they wait for the judge
    own |= {"judge"} if getattr(section, "judge", "") == AUTO and _goes_by_size(section) else set()
    recipe = getattr(section, "monday_model", None)
    return own | ({f"monday_model.{key}" for key in waiting_in(recipe)} if dataclasses.is_dataclass(recipe) else set())


def _goes_by_size(section: BayesCutoff) -> bool:
    """Return True where it is known that the sizes of the images alone decide on the judge, and not by way of the model."""
    return section.target_day == "monday" and section.freeze_backbone is False and choose_judge(section, None) == AUTO


def sentence(config: Config, waited: Collection[str], shorter_side: float) -> str:
    """Say in one sentence what the sizes of the images have decided, and how it is decided otherwise.

    Parameters
    ----------
    config : Config
        Resolved.
    waited : collection of str
        What :func:`waiting` gave before.
    shorter_side : float
        Median over the images of their shorter side, in px.

    Returns
    -------
    str
        Empty where neither ``train.model`` nor the images' size had been left open.
    """
    train, chosen = config.train, []
    if "train.model" in waited:
        learns = "only its head learns" if train.freeze_backbone else "all of it learns"
        start = "pretrained" if choose_freezing(train.weights, AUTO) else f"starting from {train.weights or train.init}"
        scratch = train.weights is None and train.init == "scratch"
        chosen.append(f"train.model={train.model} ({'trained from scratch' if scratch else f'{start}, {learns}'})")
    chosen += [f"{key}={operator.attrgetter(key)(config)}" for key in ("preprocessing.image_size", "preprocessing.resize") if key in waited]
    if not chosen:
        return ""
    size = f"{shorter_side:g} px or {'less' if shorter_side <= SMALL_PX else 'more'}"
    otherwise = "any of these options" if len(chosen) > 1 else "this option"
    return f"half of the images have a shorter side of {size}, so {', '.join(chosen)}: give {otherwise} to choose otherwise"


def implied(config: Mapping[str, Any], *, built_in: bool) -> dict[str, Any]:
    """Values of ``train``'s recipe and of the images' size that a configuration can leave to ``auto``, whatever its images.

    Parameters
    ----------
    config : mapping
        Sections by name, each a mapping, as ``summary.json`` holds them; may lack any.
    built_in : bool
        The images are known to be the built-in digits.

    Returns
    -------
    dict of str to object
        By ``section.key``. Left out together, and with them what is linked to them, they are resolved to these values again.
    """
    recipes = {name: _selected(config, name) for name in RECIPES}
    size = _selected(config, "preprocessing")
    if not {"model", "weights", "freeze_backbone"} <= recipes["train"].keys() or not {"image_size", "resize"} <= size.keys():
        return {}  # of an earlier version, or some sections only
    shorter_side = BUILT_IN_PX if built_in else None
    found: dict[str, Any] = {}
    keys = ("train.head", "train.freeze_backbone", "train.weights", "train.model", "preprocessing.image_size", "preprocessing.resize")
    for key in keys if "head" in recipes["train"] else keys[1:]:
        name, _, option = key.rpartition(".")
        if _resolves_to(recipes, size, {*found, key}, shorter_side):
            found[key] = (recipes | {"preprocessing": size})[name][option]
    return found


def implied_judge(config: Mapping[str, Any], *, built_in: bool) -> dict[str, Any]:
    """Values of ``bayes_cutoff.refine``, ``judge``, ``folds`` and ``rounds`` that ``auto`` stands for, by key.

    Parameters
    ----------
    config, built_in
        As for :func:`implied`.

    Returns
    -------
    dict of str to object
        Without what was not known yet, what small images have decided, and what earlier versions had not.
    """
    section = _selected(config, "bayes_cutoff")
    if not {"refine", "freeze_backbone", "target_day", "method"} <= section.keys():
        return {}
    refine = choose_refine(SimpleNamespace(**{**section, "judge": AUTO, "refine": AUTO}))
    found = {} if refine == AUTO else {"bayes_cutoff.refine": refine}
    if "judge" not in section:
        return found
    judge = choose_judge(SimpleNamespace(**{**section, "judge": AUTO}), BUILT_IN_PX if built_in else None)
    found |= {} if judge == AUTO else {"bayes_cutoff.judge": judge}
    return found | {f"bayes_cutoff.{key}": values[section["judge"]] for key, values in JUDGE_OPTIONS.items() if section["judge"] in values}


def _resolves_to(recipes: Mapping[str, Mapping[str, Any]], size: Mapping[str, Any], left: set[str], shorter_side: float | None) -> bool:
    """Return True where sections are resolved as they are though the keys ``left`` are auto, and with them what is linked to them."""
    given: dict[str, dict[str, Any]] = {}
    for name, section in recipes.items():
        linked = _LINKED.get(name)
        given[name] = {
            option: AUTO
            if f"{name}.{option}" in left
            else given[linked].get(option)
            if linked and value == recipes[linked].get(option)
            else value
            for option, value in section.items()
        }
    made: dict[str, Any] = {name: SimpleNamespace(**options) for name, options in given.items() if options}
    squares: Any = SimpleNamespace(**{option: AUTO if f"preprocessing.{option}" in left else value for option, value in size.items()})
    for recipe in made.values():
        resolve_recipe(recipe, shorter_side)
    resolve_size(squares, made["train"].model, made["train"].weights, shorter_side)
    return vars(squares) == dict(size) and all(vars(recipe) == dict(recipes[name]) for name, recipe in made.items())


def _selected(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section by its dotted name; empty where there is none."""
    for part in name.split("."):
        found = config.get(part)
        config = found if isinstance(found, Mapping) else {}
    return config
