"""Resolution of ``auto`` by the sizes of the images: for a pipeline once ``raw_data`` is there, and for a step that is run alone.

The median of the images' shorter sides is read from their headers once for each version of ``raw_data``, and kept as the artifact
``image_sizes``, which steps do not read and W&B does not get.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bccp.core import automatic_models, config_schema, logs
from bccp.core.config_schema import AUTO
from bccp.core.home import scratch
from bccp.core.step_context import Context
from bccp.data import tables
from bccp.pipeline import cache_keys
from bccp.pipeline.step import shared_artifact
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

NAME = "image_sizes"
"""Of the artifact, and of the runs that make it."""


def resolve(config: config_schema.Config, raw_data: str, ledger: Ledger, context: Context | None = None) -> str:
    """Resolve what is still ``auto`` by the sizes of the images, in place.

    Parameters
    ----------
    config : Config
    raw_data : str
        Version of the artifact.
    ledger : Ledger
    context : Context, optional
        Of the pipeline's run, which is tagged with the artifact that holds the sizes. None: nothing is kept that is not there already.

    Returns
    -------
    str
        A sentence that says what was chosen; empty where no image can be read, which the step preprocessing tells.
    """
    waited = automatic_models.waiting(config)
    shorter_side = median_shorter_side(raw_data, ledger, context)
    automatic_models.resolve(config, shorter_side or 0.0, torchvision_input_size)
    return automatic_models.sentence(config, waited, shorter_side) if shorter_side else ""


def median_shorter_side(raw_data: str, ledger: Ledger, context: Context | None = None) -> float | None:
    """Median over the images of a version of ``raw_data`` of their shorter side, in px; None where none can be read.

    Arguments as for :func:`resolve`.
    """
    from bccp.data import image_sizes  # reads image files, which not every step's environment can

    archive = ledger.fetch(qualified("raw_data", raw_data)) / "images.zip"
    parts = {"shared": NAME, "parameters": {"raw_data": raw_data}, **cache_keys.code_parts(image_sizes.__name__, ("pillow", "pi-heif"))}
    compute = functools.partial(image_sizes.write, archive)
    if context is not None and context.parent_run_id is not None:
        kept = shared_artifact(NAME, parts, compute, ledger=ledger, context=context, reader=context.parent_run_id, emit=logs.emit)
        return image_sizes.median_shorter_side(kept)
    if found := ledger.find(NAME, cache_keys.parts_key(parts)):
        return image_sizes.median_shorter_side(ledger.fetch(f"{NAME}:{found.outputs[NAME]}"))
    return _median(archive)


def resolve_by_archive(config: config_schema.Config, archive: Path) -> None:
    """Resolve what is still ``auto``, in place, by the images in a zip file that is no version of ``raw_data``."""
    automatic_models.resolve(config, _median(archive) or 0.0, torchvision_input_size)


def _median(archive: Path) -> float | None:
    from bccp.data import image_sizes

    with scratch(NAME) as folder:
        image_sizes.write(archive, folder)
        return image_sizes.median_shorter_side(folder)


def torchvision_input_size(model: str, weights: str | None) -> automatic_models.InputSize:
    """Sides that published weights of a model of torchvision are for; those of its default weights for a local file."""
    from bccp.models.classifier import check_names  # torch takes seconds to import
    from bccp.models.weights import input_sides

    return automatic_models.InputSize(*input_sides(model, check_names(model, weights)))


def resolve_alone(section: Any, inputs: Mapping[str, str], ledger: Ledger) -> None:
    """Resolve ``auto`` in the section of a step that is run alone, in place: by the sizes that the manifest of ``clean_data`` has.

    Parameters
    ----------
    section : dataclass
        Of the step. That of ``preprocessing`` names no model: the images get the size for the one that ``train.model=auto`` stands for.
    inputs : mapping of str to str
        Version of each input artifact, by name.
    ledger : Ledger
    """
    if isinstance(section, config_schema.Preprocessing):
        side = median_shorter_side(inputs["raw_data"], ledger) or 0.0
        automatic_models.resolve_size(section, automatic_models.choose_model(AUTO, AUTO, side), None, side)
        return
    manifest = tables.read(ledger.fetch(qualified("clean_data", inputs["clean_data"])) / "manifest.csv")
    side = float(manifest[["width", "height"]].astype(int).min(axis=1).median())
    for recipe in (section, getattr(section, "monday_model", None)):
        if isinstance(recipe, config_schema.Recipe):
            automatic_models.resolve_recipe(recipe, side)
    if isinstance(section, config_schema.BayesCutoff):
        automatic_models.resolve_judge(section, side)
