"""Resolution of ``auto`` by the days that fetched data has: for a pipeline once ``raw_data`` is there, and for a step that is run alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bccp.core import automatic, config_schema
from bccp.core.step_graph import SPECS
from bccp.data import layout, tables
from bccp.data.label_tables.in_data import own_labels
from bccp.labels import feedback
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified


def resolve(config: config_schema.Config, raw: Path) -> None:
    """Resolve what is still ``auto`` by the days of the data, in place.

    Parameters
    ----------
    config : Config
    raw : Path
        Folder of ``raw_data``.

    Raises
    ------
    BCCPError
        If the feedback file cannot be used, or Tuesday is to be cut from doubtful labels (:func:`bccp.core.automatic.resolve_days`).
    """
    from bccp.data.decoding import image_files  # decodes images, which not every step's environment can

    images = tables.read(raw / "files.csv")["image"].tolist()
    with zipfile.ZipFile(raw / "images.zip") as archive:

        def is_image(image: str) -> bool:
            return image_files.is_image(archive.read(image))

        found = layout.recognize(images, config.data.layout)
        labels = {image: place.label for image in images if (place := found.place(image)) and place.label}
        # a single folder is no set of classes: what lies in it has no label of its own
        may_be_trusted = not found.days and len(found.classes) > 1 and config.segregation.label_source == "file"
        trusted = may_be_trusted and any(map(is_image, _unnamed(images, labels, config.segregation)))
    automatic.resolve_days(config, has_days=bool(found.days), rest_is_trusted=trusted)


def _unnamed(images: Sequence[str], labels: Mapping[str, str], section: config_schema.Segregation) -> list[str]:
    """The images with a label of their own (``labels``, by image) that the feedback file of a section does not name."""
    said = feedback.sort_out(feedback.read_configured(section), images=images, classes=set(labels.values()))
    return [image for image in labels if image not in said.named]


def resolve_alone(name: str, section: Any, inputs: Mapping[str, str], ledger: Ledger) -> None:
    """Resolve ``auto`` in the section of a step that is run alone, in place; nothing is simulated unless the section asks for it.

    Parameters
    ----------
    name : str
        The step.
    section : dataclass
        Its section.
    inputs : mapping of str to str
        Version of each input artifact, by name. The target day is that of ``segregated_data``, or for ``segregation`` itself what the days
        of ``clean_data`` decide.
    ledger : Ledger
    """
    if isinstance(section, config_schema.NoisyLabels):
        automatic.resolve_labels(section)
    if isinstance(section, config_schema.Segregation):
        automatic.resolve_labels_of_days(section)
    if getattr(section, "target_day", None) != "auto":
        return
    if name == "segregation":
        clean = ledger.fetch(qualified("clean_data", inputs["clean_data"]))
        section.target_day = _day_of_manifest(section, tables.read(clean / "manifest.csv"), clean)
    elif "segregated_data" in SPECS[name].all_inputs:
        about = ledger.fetch(qualified("segregated_data", inputs["segregated_data"])) / "clean_data.json"
        section.target_day = json.loads(about.read_text(encoding="utf-8"))["target_day"]


def _day_of_manifest(section: config_schema.Segregation, manifest: pd.DataFrame, clean: Path) -> str:
    if section.label_source == "simulated" or (manifest["day"] != "").any():
        return "tuesday"
    images, labels = manifest["image"].tolist(), own_labels(manifest, clean).tolist()
    labelled = {image: label for image, label in zip(images, labels, strict=True) if label}
    trusted = labelled and section.label_source == "file" and section.feedback_file and _unnamed(images, labelled, section)
    return "tuesday" if trusted else "monday"
