"""The schema of ``config.yaml``: types, ranges and choices. Values stand in the YAML file only.

One dataclass per section. A section knows which of its parameters matter (``relevant``), so that a run whose moot parameters differ has the
same key.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
import re
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from bccp.core import registries, user_code
from bccp.core.errors import BCCPError, nearest
from bccp.core.runtime.extras import install_command
from bccp.core.step_graph import STEPS

NOISES = ("uniform", "pair", "confusions")
"""Simulated noises that have a name."""

USER_ACCURACY, NOISE = 0.7, "uniform"
"""What a simulation draws wrong labels with unless ``noisy_labels.user_accuracy`` and ``.noise`` say otherwise."""

TARGET_DAYS = ("auto", "monday", "tuesday")

LABEL_SOURCES = ("auto", "simulated", "file", "folder")

AUTO = "auto"
"""The value of an option that :mod:`bccp.core.automatic` chooses a value for; no step sees it."""


IMAGE_CHECKS = (
    "imbalance", "dark", "bright", "flat", "blurred", "tiny", "long", "enlarged", "copies", "near_copies", "contradictions",
)  # fmt: skip
"""Checks of ``preprocessing.checks`` that concern images by themselves; the others concern days, and are made by ``segregation``."""


POSTERIOR_FREE_METHODS = ("logit_variance", "predictive_entropy", "mutual_information", "cleanlab")
"""Methods of the cut-off that give no probability that a label is wrong."""


TABLE_FORMATS = ("auto", "rows", "wide", "one_hot", "label_studio")
"""How a table of labels may be laid out: see ``bccp.data.label_tables.reading``."""


STEPWISE = (
    "epochs", "refine_epochs", "learning_rate", "find_learning_rate", "optimizer", "schedule", "decay", "decay_epochs", "patience",
    "batch_size", "augmentation", "augment_probability", "augment_strength", "mixup_alpha", "cutmix_alpha", "ema_decay", "loss", "devices",
    "strategy",
)  # fmt: skip
"""Options of a training step by step, which a head that is fitted at once does not heed."""


AUGMENTATIONS = (
    "none",
    "generic",
    "light",
    "strong",
    "randaugment",
    "rotate",
    "zoom",
    "clip",
    "brightness",
    "contrast",
    "perspective",
    "blur",
)
"""Augmentations that have a name: see ``bccp.models.transforms``."""


def _choice(*names: str) -> Any:
    return field(metadata={"choices": names})


def _entry(registry: registries.Registry[Any]) -> Any:
    """A name of an extension point, or of a user's own code."""
    return field(metadata={"choices": tuple(registry), "registry": registry})


def _number(low: float, high: float = float("inf"), *, above: bool = False, below: bool = False, auto: bool = False) -> Any:
    """A number from ``low`` to ``high``; ``above``/``below`` leave the ends out, ``auto`` lets :data:`AUTO` in until it is resolved."""
    return field(metadata={"range": (low, high, above, below), "auto": auto})


def _path(*, auto: bool = False, **only_where: tuple[str, ...]) -> Any:
    """Text that may name a file or folder: made absolute, and in a key stands for what it holds.

    ``only_where`` names another field of the section and the values of it under which the text is a path; ``auto`` as for a number.
    """
    return field(metadata={"path": True, "only_where": only_where, "auto": auto})


def _or_auto(**metadata: Any) -> Any:
    """A value of the field's type, or :data:`AUTO` until it is resolved."""
    return field(metadata={**metadata, "auto": True})


@dataclass(kw_only=True)
class Main:
    """What is run, and on what."""

    execute_steps: Any
    target_day: str = _choice(*TARGET_DAYS)
    random_seed: int = _number(0, 2**32 - 1)
    env_manager: str = _choice("auto", "local", "virtualenv", "uv", "conda")
    cache: bool = field()
    threads: int | None = _number(1, 4096)
    require_promotion: bool = field()

    def check(self) -> None:
        """Turn ``execute_steps`` into a list, and refuse unknown steps."""
        self.execute_steps = parse_step_list(self.execute_steps)


@dataclass(kw_only=True)
class Tracking:
    """Where runs are recorded."""

    mlflow_uri: str | None
    shared_folder: bool = field()
    wandb: str = _choice("auto", "online", "offline", "disabled")
    wandb_entity: str | None = field()
    wandb_project: str = field()
    upload_images: bool = field()
    init_timeout: float = _number(1, 3600)
    finish_timeout: float = _number(1, 86400)

    def check(self) -> None:
        """Refuse names that W&B does not take."""
        for key, name in (("wandb_entity", self.wandb_entity), ("wandb_project", self.wandb_project)):
            if self.wandb != "disabled" and name is not None and not re.fullmatch(r"[^/\\#?%:]{1,128}", name):
                raise BCCPError(f"tracking.{key}={name!r} is not accepted: use a name of 1 to 128 characters without / \\ # ? % :")


@dataclass(kw_only=True)
class Data:
    """``fetch_data``: where the images come from."""

    source: str = _entry(registries.SOURCES)
    path: str | None = _path(source=("folder", "archive"))
    trusted: str | None = _path()
    subfolder: str | None = field()
    layout: str = _choice("auto", "classes", "subfolders", "monday")
    table: str | None = field()
    columns: Any = field()
    sha256: str | None = field()
    refresh: bool = field()
    max_bytes: int = _number(1)
    zip_encoding: str | None = field()

    def check(self) -> None:
        """Refuse a source without its place, a checksum that is none and columns that are none."""
        self.columns = parse_columns(self.columns, "data.columns")
        entry = registries.SOURCES.entries.get(self.source)
        if entry is not None and entry.needs_path and not self.path:
            raise BCCPError(f"data.source={self.source} needs data.path: say where the images are")
        if self.trusted is not None and entry is not None and not entry.needs_path:
            raise BCCPError(f"data.trusted is for images of your own, and data.source={self.source} has none beside it: leave it out")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise BCCPError(f"data.sha256={self.sha256!r} is no SHA-256 checksum: give 64 hexadecimal digits")
        if self.zip_encoding is not None:
            self.zip_encoding = parse_encoding(self.zip_encoding)

    def relevant(self) -> dict[str, Any]:
        """``path`` counts as what it holds (see ``bccp.data.sources.source_fingerprint``)."""
        trusted = {"trusted": True} if self.trusted else {}  # what it holds is a part of the fingerprint
        return {
            "source": self.source,
            "subfolder": self.subfolder,
            "max_bytes": self.max_bytes,
            "zip_encoding": self.zip_encoding,
        } | trusted


@dataclass(kw_only=True)
class Checks:
    """The most that the data checks (:mod:`bccp.data.checks`) may find; None: it is reported, and stops nothing."""

    imbalance: float | None = _number(1)
    dark: float | None = _number(0, 1)
    bright: float | None = _number(0, 1)
    flat: float | None = _number(0, 1)
    blurred: float | None = _number(0, 1)
    tiny: float | None = _number(0, 1)
    long: float | None = _number(0, 1)
    enlarged: float | None = _number(0, 1)
    copies: float | None = _number(0, 1)
    near_copies: float | None = _number(0, 1)
    contradictions: float | None = _number(0, 1)
    known: float | None = _number(0, 1)
    new_formats: float | None = _number(0, 1)
    new_sizes: float | None = _number(0, 1)
    class_shift: float | None = _number(0, 1)
    leakage: float | None = _number(0, 1)
    drift: float | None = _number(0, 1)

    def of_images(self) -> dict[str, float | None]:
        """The limits that ``preprocessing`` heeds."""
        return {name: getattr(self, name) for name in IMAGE_CHECKS}

    def of_days(self) -> dict[str, float | None]:
        """The limits that ``segregation`` heeds."""
        return _without(_flat(self), set(IMAGE_CHECKS))


@dataclass(kw_only=True)
class Preprocessing:
    """``preprocessing``: from image files to one array."""

    layout: str = _choice("auto", "classes", "subfolders", "monday")
    table: str | None = field()
    columns: Any = field()
    label_source: str = _choice(*LABEL_SOURCES)
    image_size: int = _number(4, 4096, auto=True)
    resize: str = _or_auto(choices=("stretch", "pad", "crop"))
    cleanup: Any = field()
    range: Any = field()
    max_rejected_rate: float = _number(0, 1)
    allow_lost_classes: bool = field()
    max_pixels: int = _number(1)
    near_copy_tolerance: float | None = _number(0, 255)
    checks: Checks = field()

    def relevant(self) -> dict[str, Any]:
        """A limit counts for the step that heeds it, where labels come from decides on a refusal only; what is installed may read HEIC."""
        heic = {"heic": True} if find_spec("pi_heif") else {}
        return _without(_flat(self), {"label_source"}) | {"checks": self.checks.of_images()} | heic

    def check(self) -> None:
        """Refuse a clean-up, a range and columns that are none of the known, and write their parameters out."""
        self.cleanup = parse_cleanup(self.cleanup)
        self.columns = parse_columns(self.columns, "preprocessing.columns")
        self.range = parse_range(self.range)


@dataclass(kw_only=True)
class Segregation:
    """``segregation``: days and splits."""

    target_day: str = _choice(*TARGET_DAYS)
    split: str = _choice("auto", "given", "own")
    split_file: str | None = _path()
    tuesday_fraction: float = _number(0, 1, above=True, below=True)
    test_size: float = _number(0, 1, above=True, below=True)
    val_size: float = _number(0, 1, above=True, below=True)
    monday_images: int | None = _number(1)
    tuesday_images: int | None = _number(1)
    corruption: str = _choice("auto", "mixed", "random_boxes", "mosaic", "random_lines", "none")
    label: str = _choice("user_feedback", "ground_truth")
    label_source: str = _choice(*LABEL_SOURCES)
    feedback_file: str | None = _path()
    feedback_format: str = field()
    feedback_columns: Any = field()
    checks: Checks = field()
    random_seed: int = _number(0, 2**32 - 1)

    def check(self) -> None:
        """Refuse a split file that is not to be used, and columns that are none."""
        # both are linked to keys of noisy_labels, a section that is checked later, and by which users know them
        self.feedback_columns = parse_columns(self.feedback_columns, "noisy_labels.columns")
        if self.feedback_format not in TABLE_FORMATS:
            known = ", ".join(TABLE_FORMATS)
            sentence = f"noisy_labels.format={self.feedback_format} is unknown: use one of {known}"
            raise BCCPError(sentence + nearest(self.feedback_format, TABLE_FORMATS))
        if self.split_file and self.split == "own":
            raise BCCPError(
                "segregation.split_file is set, but segregation.split=own cuts anew: use segregation.split=given, or leave the file out"
            )

    def relevant(self) -> dict[str, Any]:
        """Leave out Tuesday's parameters where all images are Monday, and ``label`` where the folders are the truth anyhow."""
        moot = {"tuesday_fraction", "tuesday_images", "corruption"} if self.target_day == "monday" else set()
        moot |= {"label"} if self.label_source == "simulated" or (self.label_source == "file" and self.target_day == "tuesday") else set()
        moot |= set() if self.label_source == "file" else {"feedback_format", "feedback_columns"}
        return _without(_flat(self), moot) | {"checks": self.checks.of_days()}


@dataclass(kw_only=True)
class NoisyLabels:
    """``noisy_labels``: the labels that the target day comes with."""

    label: str = _choice("user_feedback", "ground_truth")
    source: str = _choice(*LABEL_SOURCES)
    user_accuracy: float | None = _number(0, 1)
    noise: Any = field()
    feedback_file: str | None = _path()
    format: str = _choice(*TABLE_FORMATS)
    columns: Any = field()
    random_seed: int = _number(0, 2**32 - 1)

    def check(self) -> None:
        """Refuse what contradicts itself, and a noise matrix that is none; fill in what a simulation draws with."""
        self.noise = parse_noise(self.noise)
        self.columns = parse_columns(self.columns, "noisy_labels.columns")
        if self.source == "file" and not self.feedback_file:
            raise BCCPError("noisy_labels.source=file needs noisy_labels.feedback_file: a CSV file with the columns image,label[,user]")
        if self.feedback_file and self.source not in ("auto", "file"):
            raise BCCPError(
                f"noisy_labels.feedback_file is set but noisy_labels.source={self.source}: set noisy_labels.source=file to use it"
            )
        if self.source == "simulated":
            self.user_accuracy = USER_ACCURACY if self.user_accuracy is None else self.user_accuracy
            self.noise = NOISE if self.noise is None else self.noise

    def relevant(self) -> dict[str, Any]:
        """Only a simulation depends on the seed, the accuracy and the noise."""
        if self.label == "ground_truth":
            return {"label": self.label}
        if self.source != "simulated":
            return {"source": self.source, "random_seed": self.random_seed}  # the votes are an input
        accuracy = {} if isinstance(self.noise, list) else {"user_accuracy": self.user_accuracy}
        return {"source": self.source, "noise": self.noise, "random_seed": self.random_seed} | accuracy


@dataclass(kw_only=True)
class Recipe:
    """How a classifier is built and trained: the keys that ``train``, the judge and ``monday_model`` share."""

    model: str = _or_auto()
    weights: str | None = _path(auto=True)
    freeze_backbone: bool = _or_auto()
    head: str = _or_auto(choices=("logistic_regression", "sgd"))
    normalization: str = _choice("auto", "half")
    epochs: int = _number(1)
    learning_rate: float = _number(0, above=True)
    optimizer: str = _choice("adamw", "adam")
    schedule: str = _choice("one_cycle", "exponential")
    decay: float = _number(0, 1, above=True)
    batch_size: int = _number(2)
    augmentation: str = _choice(*AUGMENTATIONS)
    mirror: str = _choice("never", "auto", "always")
    mixup_alpha: float = _number(0, 100)
    ema_decay: float = _number(0, 1, below=True)
    dropout: float = _number(0, 1, below=True)
    random_seed: int = _number(0, 2**32 - 1)


@dataclass(kw_only=True)
class MondayModel(Recipe):
    """The recipe of ``monday_model``, the classifier that is trained on trusted images alone."""

    def relevant(self) -> dict[str, Any]:
        """Without a decay that the schedule does not use, and what no step of an optimiser heeds."""
        moot = set[str]() if self.schedule == "exponential" else {"decay"}
        return _without(_flat(self), moot | _moot_at_once(self))


_TRAINED_JUDGE = {
    "passes", "folds", "rounds", "refine_epochs", "epochs", "learning_rate", "optimizer", "schedule", "decay", "batch_size", "augmentation",
    "mirror", "mixup_alpha", "ema_decay", "dropout", "head",
}  # fmt: skip
"""Options of ``bayes_cutoff`` that say how a judge is trained and asked, of which ``refine=stack`` needs none."""

FEATURE_METHODS = ("label_posterior", "cleanlab")
"""Methods of ``bayes_cutoff`` that convex judges of features will do for; the others are about the passes of a network."""


@dataclass(kw_only=True)
class BayesCutoff(Recipe):
    """``bayes_cutoff``: which given labels are wrong."""

    enabled: bool = field()
    method: str = _choice("label_posterior", *POSTERIOR_FREE_METHODS)
    judge: str = _choice(AUTO, "features", "network")
    cutoff: str = _choice("auto", "percentile", "threshold")
    percentile: float = _number(0, 100)
    threshold: float = _number(0, 1)
    action: str = _choice("soft", "relabel", "drop")
    passes: int = _number(1, 10_000)
    folds: int = _number(2, 100, auto=True)
    audit_file: str | None = _path()
    max_class_ratio: float | None = _number(1)
    rounds: int = _number(0, 100, auto=True)
    refine: str = _choice(AUTO, "stack", "student", "cross_fit")
    refine_epochs: int = _number(1)
    label: str = _choice("user_feedback", "ground_truth")
    target_day: str = _choice(*TARGET_DAYS)

    def check(self) -> None:
        """Refuse what a method without a posterior cannot do, and judges of features without features, or beside another judge."""
        if not self.enabled or self.label == "ground_truth":
            return
        self.refuse_stack()
        if self.judge == "features" and self.method not in FEATURE_METHODS:
            raise BCCPError(
                f"bayes_cutoff.method={self.method} is about the passes of a network, and bayes_cutoff.judge=features trains none: use "
                "bayes_cutoff.judge=network, or leave it out"
            )
        if self.method not in POSTERIOR_FREE_METHODS:
            return
        for key, value in (("cutoff", "threshold"), ("action", "relabel")):
            if getattr(self, key) == value:
                raise BCCPError(
                    f"bayes_cutoff.{key}={value} needs a posterior, and bayes_cutoff.method={self.method} has none: "
                    "use bayes_cutoff.method=label_posterior"
                )
        if self.audit_file and self.method != "cleanlab":
            raise BCCPError(
                f"bayes_cutoff.audit_file is set, but bayes_cutoff.method={self.method} learns nothing from checked labels: "
                "use bayes_cutoff.method=label_posterior or cleanlab, or bayes_cutoff.audit_file=null"
            )

    def relevant(self) -> dict[str, Any]:
        """Labels that pass through depend on nothing; an unused cut-off value does not matter."""
        if not self.enabled or self.label == "ground_truth":
            return {"enabled": False}
        moot = {"enabled", "label"} | ({"percentile", "threshold"} - {self.cutoff})
        if self.method in POSTERIOR_FREE_METHODS and self.method != "cleanlab":
            moot -= {"percentile"}
        if self.schedule != "exponential":
            moot |= {"decay"}
        moot |= _moot_at_once(self)
        if self.target_day == "tuesday":
            moot |= {"judge"}  # refine says which
        if self.refine == "stack":
            moot |= _TRAINED_JUDGE
        elif self.judges_features_alone():
            moot |= (_TRAINED_JUDGE - {"folds"}) | {"refine", "max_class_ratio"}
            moot |= set() if self.freeze_backbone else {"model", "weights", "normalization"}  # pixels are looked at
        return _without(_flat(self), moot)

    def judges_features_alone(self) -> bool:
        """Return True where nothing is trusted, and convex judges of features (or pixels) do without a network."""
        return self.judge == "features" and self.target_day == "monday"

    def refuse_stack(self) -> None:
        """Refuse ``refine=stack`` where it is known that there are no features of a frozen backbone, no trusted images or no posterior, or
        that a network is to judge.
        """
        if self.refine != "stack":
            return
        if self.judge == "network":
            raise BCCPError(
                "bayes_cutoff.judge=network trains a network, and bayes_cutoff.refine=stack judges without: leave one of the two out"
            )
        wanted = {"freeze_backbone": (False, "true"), "target_day": ("monday", "tuesday")}
        for key, (refused, needed) in wanted.items():
            if getattr(self, key) == refused:
                raise BCCPError(
                    f"bayes_cutoff.refine=stack judges by a frozen backbone's features beside trusted images, and bayes_cutoff.{key} is "
                    f"{str(refused).lower()}: set it to {needed}, or bayes_cutoff.refine=auto"
                )
        if self.method != "label_posterior":
            raise BCCPError(
                f"bayes_cutoff.refine=stack is a label posterior, and bayes_cutoff.method={self.method} is another judge: leave one of the "
                "two out"
            )

    def monday_model(self) -> MondayModel:
        """The recipe of the judge."""
        return MondayModel(**{f.name: getattr(self, f.name) for f in dataclasses.fields(MondayModel)})


@dataclass(kw_only=True)
class CpSampling:
    """``cp_sampling``: which trusted images are replayed."""

    type: str = _entry(registries.SAMPLERS)
    ratio: float = _number(0, 1)
    embedding: str = _path()
    target_day: str = _choice(*TARGET_DAYS)
    monday_model: MondayModel = field()
    random_seed: int = _number(0, 2**32 - 1)

    def relevant(self) -> dict[str, Any]:
        """Some types ignore everything, some the embedding; a user's own may heed all."""
        entry = registries.SAMPLERS.entries.get(self.type, registries.SamplerEntry("", needs_embeddings=True))
        if self.type == "none" or self.target_day == "monday":
            return {"type": "none"}
        if not entry.uses_ratio:
            return {"type": self.type}
        parameters = {"type": self.type, "ratio": self.ratio, "random_seed": self.random_seed}
        if not entry.needs_embeddings:
            return parameters
        if self.embedding != "monday_model":
            return parameters | {"embedding": self.embedding}
        return parameters | {"embedding": "monday_model", "monday_model": self.monday_model.relevant()}


@dataclass(kw_only=True)
class Train(Recipe):
    """``train``: the new model."""

    init: str = field()
    trainable_blocks: int | None = _number(1)
    find_learning_rate: bool = field()
    schedule: str = _choice("one_cycle", "cosine", "step", "exponential")
    decay_epochs: int = _number(1)
    augmentation: Any = field()
    augment_probability: float = _number(0, 1)
    augment_strength: float = _number(0, 2, above=True)
    augment_to: int | None = _number(2)
    cutmix_alpha: float = _number(0, 100)
    loss: str = _entry(registries.LOSSES)
    class_weights: bool = field()
    balanced_sampling: bool = field()
    patience: int | None = _number(1)
    subset: Any = field()
    energy_country: str | None = field()
    precision: str = _choice("float32", "bfloat16", "float16")
    accelerator: str = _choice("auto", "cpu", "cuda", "mps")
    devices: int = _number(1, 1024)
    strategy: str = _choice("auto", "ddp_spawn", "ddp_fork")
    target_day: str = _choice(*TARGET_DAYS)
    monday_model: MondayModel = field()

    def check(self) -> None:
        """Refuse a start and an augmentation that are none of the known, and what contradicts itself."""
        self.augmentation = parse_augmentation(self.augmentation)
        self.subset = parse_subset(self.subset)
        if self.energy_country is not None and not re.fullmatch(r"[A-Z]{3}", self.energy_country):
            raise BCCPError(f"train.energy_country={self.energy_country} is no ISO code of a country: give three capitals, such as DEU")
        if self.energy_country is not None and find_spec("codecarbon") is None:
            raise BCCPError(
                f"train.energy_country={self.energy_country} needs the package codecarbon: {install_command('energy')} with "
                "main.env_manager=local, or set train.energy_country=null"
            )
        if self.init not in ("scratch", "monday_model") and not re.fullmatch(r"models:/[^/@]+(@|/)[^/@]+", self.init):
            raise BCCPError(
                f"train.init={self.init!r} is not accepted: use scratch, monday_model or models:/name@alias"
                + nearest(self.init, ["scratch", "monday_model"])
            )
        if self.augment_to and self.augmentation == "none":
            raise BCCPError(f"train.augment_to={self.augment_to} needs something to augment with: set train.augmentation")
        if self.augment_to and (self.mixup_alpha or self.cutmix_alpha):
            raise BCCPError(
                f"train.augment_to={self.augment_to} trains on augmented images without augmenting them further: set "
                "train.mixup_alpha=0 and train.cutmix_alpha=0"
            )
        if self.cutmix_alpha and self.freeze_backbone is True:  # and not auto, which gives way
            raise BCCPError(
                "train.cutmix_alpha exchanges parts of images, and with train.freeze_backbone=true only features of whole ones are "
                "trained on: use train.mixup_alpha, or train.freeze_backbone=false"
            )
        if self.freeze_backbone is True and self.trainable_blocks is not None:
            raise BCCPError(
                f"train.trainable_blocks={self.trainable_blocks} lets blocks of the backbone learn, and train.freeze_backbone=true none: "
                "leave one of the two out"
            )
        if self.class_weights and self.balanced_sampling:
            raise BCCPError(
                "train.class_weights=true and train.balanced_sampling=true would balance the classes twice: leave one of the two out"
            )

    def relevant(self) -> dict[str, Any]:
        """The recipe of ``monday_model`` counts only where retraining starts from it; decay and patience where the schedule uses them."""
        moot = {"monday_model", "energy_country", "accelerator"}  # the key has the device that it means
        moot |= {"learning_rate"} if self.find_learning_rate else set()
        moot |= {"step": set[str](), "exponential": {"decay_epochs"}}.get(self.schedule, {"decay", "decay_epochs", "patience"})
        moot |= {"strategy"} if self.devices == 1 else set()
        if self.augmentation == "none":
            moot |= {"augment_probability", "augment_strength"}
        if self.augment_to:  # each copy is augmented
            moot |= {"augment_probability"}
        moot |= _moot_at_once(self) - ({"augmentation", "augment_strength"} if self.augment_to else set())
        parameters = _without(_flat(self), moot)
        return parameters | ({"monday_model": self.monday_model.relevant()} if self.init == "monday_model" else {})


@dataclass(kw_only=True)
class Test:
    """``test``: how good the model is."""

    __test__ = False  # not a test for pytest to collect

    registered_model_name: str | None
    promote: str = _choice("auto", "force", "never")
    max_regression: float = _number(0, 1)
    min_verified: int = _number(1)
    audit_file: str | None = _path()
    monday_model: MondayModel = field()
    batch_size: int = _number(1)
    top_k: int = _number(1)
    bootstrap: int = _number(0, 1_000_000)
    metrics: Any = field()
    register_simulated: bool = field()
    random_seed: int = _number(0, 2**32 - 1)

    def check(self) -> None:
        """Refuse a name that MLflow does not take, before anything is trained, and a promotion of nothing."""
        self.metrics = parse_metrics(self.metrics)
        name = self.registered_model_name
        if name is not None and not re.fullmatch(r"[^/:'\"@%]+", name):
            raise BCCPError(f"test.registered_model_name={name!r} is not accepted: use a name without slashes, colons, quotes, @ and %")
        if name is None and self.promote == "force":
            raise BCCPError("test.promote=force needs test.registered_model_name: say under which name the model is registered")

    def relevant(self) -> dict[str, Any]:
        """Of a model that is not registered nothing is compared."""
        parameters = _without(_flat(self), {"monday_model", "register_simulated"})
        if self.registered_model_name is None:
            return _without(parameters, {"promote", "max_regression", "min_verified"})
        return parameters | {"monday_model": self.monday_model.relevant()}


@dataclass(kw_only=True)
class Store:
    """Where the service keeps predictions, feedback and images."""

    url: str | None
    images: str | None = _path()

    def check(self) -> None:
        """Refuse databases that are neither SQLite by an absolute path nor PostgreSQL."""
        if self.url is None:
            return
        if not re.match(r"(postgresql(\+\w+)?|sqlite)://", self.url):
            raise BCCPError(f"store.url={self.url!r} is not accepted: use sqlite:////absolute/file.db or postgresql://user@host/database")
        if self.url.startswith("sqlite://") and not re.match(r"sqlite:////[^?]", self.url):
            raise BCCPError(f"store.url={self.url!r} is no absolute path: write sqlite:/// and an absolute path")


@dataclass(kw_only=True)
class Serve:
    """``bccp serve``: the service and its limits."""

    model: str
    host: str = field()
    port: int = _number(0, 65535)
    allowed_hosts: Any = field()
    max_batch: int = _number(1, 4096)
    max_queue: int = _number(1, 1_000_000)
    deadline: float = _number(0, 3600, above=True)
    max_bytes: int = _number(1)
    max_bytes_in_flight: int = _number(1)
    max_pixels: int = _number(1)
    max_pixels_in_flight: int = _number(1)
    max_files: int = _number(1, 4096)
    reload_every: float = _number(0.1, 86400)
    token_env: str = field()
    review_token_env: str = field()
    user_key_env: str = field()
    votes_per_minute: int = _number(1)
    keep_images: str = _choice("all", "feedback", "none")
    keep_days: float | None = _number(0, above=True)
    image_root: str | None = _path()

    def check(self) -> None:
        """Refuse limits that contradict each other, and lists that are none."""
        if isinstance(self.allowed_hosts, str):
            self.allowed_hosts = [name.strip() for name in self.allowed_hosts.split(",") if name.strip()]
        hosts = self.allowed_hosts
        if not isinstance(hosts, list) or not all(isinstance(name, str) and re.fullmatch(r"[\w.:\[\]-]+", name) for name in hosts):
            raise BCCPError(f"serve.allowed_hosts={hosts!r} is not accepted: give a list of host names, such as [bccp.example.org]")
        for least, most in (("max_bytes", "max_bytes_in_flight"), ("max_pixels", "max_pixels_in_flight"), ("max_files", "max_queue")):
            if getattr(self, least) > getattr(self, most):
                raise BCCPError(
                    f"serve.{least}={getattr(self, least)} is more than serve.{most}={getattr(self, most)}: no such request could pass, "
                    f"so raise serve.{most}"
                )
        for key in ("token_env", "review_token_env", "user_key_env"):
            if not re.fullmatch(r"[A-Za-z_]\w*", getattr(self, key)):
                raise BCCPError(
                    f"serve.{key}={getattr(self, key)!r} is no name of an environment variable: give one, never the secret itself"
                )


@dataclass(kw_only=True)
class Config:
    """The whole configuration."""

    main: Main
    tracking: Tracking
    data: Data
    preprocessing: Preprocessing
    segregation: Segregation
    noisy_labels: NoisyLabels
    bayes_cutoff: BayesCutoff
    cp_sampling: CpSampling
    train: Train
    test: Test
    store: Store
    serve: Serve

    def section(self, step: str) -> Any:
        """The section of a step: it bears the step's name, but for ``data`` (``fetch_data``)."""
        return getattr(self, section_name(step))


Section = Data | Preprocessing | Segregation | NoisyLabels | BayesCutoff | CpSampling | Train | Test
"""The section of any step."""


def section_name(step: str) -> str:
    """The name of a step's section in ``config.yaml``."""
    return "data" if step == "fetch_data" else step


def section_type(step: str) -> type[Any]:
    """The dataclass of a step's section."""
    kind: type[Any] = typing.get_type_hints(Config)[section_name(step)]
    return kind


def relevant(section: Any) -> dict[str, Any]:
    """The parameters of a section that can change what its step makes."""
    return typing.cast("dict[str, Any]", section.relevant() if hasattr(section, "relevant") else _flat(section))


def parse_step_list(value: Any) -> list[str]:
    """A list of steps, or a comma list as a string, in run order."""
    if isinstance(value, str):
        value = [name.strip() for name in value.strip().strip("[]").split(",")]
    if not isinstance(value, list) or not value or not all(value):
        raise BCCPError(f"main.execute_steps={value!r} is not accepted: give a list of steps among {', '.join(STEPS)}")
    for name in value:
        if name not in STEPS:
            raise BCCPError(f"main.execute_steps names the unknown step {name!r}: use {', '.join(STEPS)}" + nearest(str(name), STEPS))
    return [name for name in STEPS if name in value]


def parse_noise(value: Any) -> str | list[list[float]] | None:
    """The name of a noise, or a row-stochastic matrix; None: the default once labels are simulated."""
    if value is None or value in ("null", "None"):
        return None
    if isinstance(value, str):
        if value.startswith("["):
            value = json.loads(value)
        elif value in NOISES:
            return value
    if not isinstance(value, list):
        raise BCCPError(f"noisy_labels.noise={value} is unknown: use {', '.join(NOISES)} or a KxK matrix" + nearest(str(value), NOISES))
    for position, row in enumerate(value):
        is_row = isinstance(row, list) and len(row) == len(value) and all(isinstance(p, int | float) and p >= 0 for p in row)
        if not is_row or abs(sum(row) - 1) > 1e-6:
            raise BCCPError(
                f"noisy_labels.noise: row {position} of the matrix is {row}; each of the {len(value)} rows needs "
                f"{len(value)} numbers from 0 up with the sum 1"
            )
    return value


def parse_columns(value: Any, key: str) -> dict[str, Any] | None:
    """Check the meaning of a table's columns: ``image``, ``label`` (several: one an annotator), ``user`` (None: no such column)."""
    if value is None or value in ("null", "None"):
        return None
    wanted = f"{key}={value} is not accepted: give null, or some of {{image: name, label: name or [names], user: name or null}}"
    if not isinstance(value, Mapping) or not value or set(value) - {"image", "label", "user"}:
        raise BCCPError(wanted)
    labels = value["label"] if isinstance(value.get("label"), list) else [value.get("label", "")]
    names = [value.get("image", ""), *labels]
    if len(set(labels)) < len(labels) or labels == [] or any(isinstance(name, bool) or not isinstance(name, str | int) for name in names):
        raise BCCPError(wanted)
    if isinstance(value.get("label"), list) and len(labels) < 2:
        raise BCCPError(wanted)
    if isinstance(value.get("user", ""), bool) or not isinstance(value.get("user", ""), str | int | None):
        raise BCCPError(wanted)
    texts = {name: [str(n) for n in said] if isinstance(said, list) else said for name, said in value.items()}
    return {name: said if isinstance(said, list | None) else str(said) for name, said in texts.items()}


def own_names(step: str, section: Any) -> list[tuple[str, str]]:
    """The dotted names of a user's own code in a step's section, but for augmentations: each with the key that it stands under."""
    found: list[tuple[str, str]] = []
    for key in ("source", "cleanup", "type", "loss", "metrics"):
        value = getattr(section, key, None)
        for part in value if isinstance(value, list) else [value]:
            names: list[Any] = list(part) if isinstance(part, Mapping) else [part]
            found += [(f"{section_name(step)}.{key}", name) for name in names if user_code.is_dotted_name(name)]
    return found


def parse_encoding(name: str) -> str:
    """The name of a code page that Python decodes text in, in Python's spelling."""
    try:
        return codecs.lookup(name).name if b"a".decode(name) == "a" else ""
    except (LookupError, UnicodeError, ValueError) as error:
        known = ("cp932", "gbk", "big5", "cp949", "cp866", "cp1251", "cp1252", "cp850", "cp437", "utf-8")
        raise BCCPError(
            f"data.zip_encoding={name} is no code page that Python knows: use one such as {', '.join(known)}" + nearest(name, known)
        ) from error


def parse_metrics(value: Any) -> list[str]:
    """A list of dotted names."""
    if not isinstance(value, list) or not all(map(user_code.is_dotted_name, value)):
        raise BCCPError(f"test.metrics={value} is not accepted: give a list of the dotted names of your functions, such as [my_module.f]")
    for name in value:
        user_code.source_location(name, "test.metrics")
    return value


def parse_cleanup(value: Any) -> list[dict[str, dict[str, Any]]]:
    """A list of names, or of names with parameters, with all parameters."""
    known = registries.FILTERS.entries
    if not isinstance(value, list):
        raise BCCPError(f"preprocessing.cleanup={value} is not accepted: give a list of {', '.join(known)}, such as [median_filter]")
    steps = []
    for part in value:
        name, given = next(iter(part.items())) if isinstance(part, Mapping) and len(part) == 1 else (part, {})
        if user_code.is_dotted_name(name) and isinstance(given or {}, Mapping):
            registries.FILTERS.check(name)
            steps.append({name: dict(given or {})})
            continue
        if not isinstance(name, str) or name not in known or not isinstance(given or {}, Mapping):
            raise BCCPError(
                f"preprocessing.cleanup: {part} is unknown: use {', '.join(known)}, as in [median_filter, {{erosion: {{size: 5}}}}]"
                + nearest(str(name), known)
            )
        parameters = {key: default for key, (default, _) in known[name].parameters.items()} | dict(given or {})
        for key, number in parameters.items():
            if key not in known[name].parameters:
                raise BCCPError(f"unknown key 'preprocessing.cleanup.{name}.{key}': {name} has {', '.join(known[name].parameters)}")
            allowed = known[name].parameters[key][1]
            if not isinstance(number, int) or isinstance(number, bool) or number not in allowed:
                kind = "an odd" if allowed.step == 2 else "a whole"
                raise BCCPError(
                    f"preprocessing.cleanup.{name}.{key}={number} is out of range: give {kind} number from {allowed[0]} to {allowed[-1]}"
                )
        steps.append({name: parameters})
    return steps


def parse_range(value: Any) -> str | list[float]:
    """``auto``, ``file``, or two numbers."""
    if isinstance(value, str) and value in ("auto", "file"):
        return value
    numbers = [end for end in value if type(end) in (int, float) and math.isfinite(end)] if isinstance(value, list) else []
    if len(numbers) != 2 or numbers != value or numbers[0] >= numbers[1]:
        raise BCCPError(f"preprocessing.range={value} is not accepted: give auto, file, or two numbers, the lower one first: [0,4095]")
    return numbers


def parse_augmentation(value: Any) -> str | list[Any]:
    """The name of an augmentation, or a list of names and of what Hydra is to make."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Mapping) and isinstance(value, list):
            target = part.get("_target_")
            if not isinstance(target, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target):
                raise BCCPError(f"train.augmentation: {part} has no _target_: give it the dotted name of a class, as in my_module.MyClass")
            user_code.source_location(target)
        elif part not in AUGMENTATIONS:
            raise BCCPError(
                f"train.augmentation={value} is unknown: use one of {', '.join(AUGMENTATIONS)}, or a list of them and of _target_ objects"
                + nearest(str(part), AUGMENTATIONS)
            )
    if not value:
        raise BCCPError("train.augmentation=[] is not accepted: use none where images are to stay as they are")
    return typing.cast("str | list[Any]", value)


def parse_subset(value: Any) -> dict[str, Any] | None:
    """Which training images are taken: ``classes`` and ``images_per_class``, or one of them."""
    if value is None or value in ("null", "None"):
        return None
    given = dict(value) if isinstance(value, dict) else {}
    classes, number = given.pop("classes", None), given.pop("images_per_class", None)
    known = isinstance(value, dict) and not given and (classes is not None or number is not None)
    if not known or not isinstance(classes, list | None) or classes == [] or not (number is None or (type(number) is int and number > 0)):
        raise BCCPError(f"train.subset={value} is not accepted: give null or {{classes: [names], images_per_class: a whole number}}")
    made: dict[str, Any] = {} if classes is None else {"classes": [unicodedata.normalize("NFC", str(name)) for name in classes]}
    return made if number is None else made | {"images_per_class": number}


def _moot_at_once(recipe: Recipe) -> set[str]:
    """The options of a training step by step, where the head is fitted at once."""
    return set(STEPWISE) if recipe.head == "logistic_regression" else set()


def _flat(section: Any) -> dict[str, Any]:
    return dataclasses.asdict(section)


def _without(parameters: dict[str, Any], moot: set[str]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in moot}
