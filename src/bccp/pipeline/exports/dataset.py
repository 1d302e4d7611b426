"""The cleaned data set as the formats read it: one image at a time, with what is known of it."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from PIL import Image

from bccp.core import progress
from bccp.data import tables
from bccp.data.label_files import CleansedLabels
from bccp.pipeline.exports.targets import Sink

_SAME_ENDING = {".jpe": ".jpg", ".jfif": ".jpg"}  # readers of archives know the latter alone


@dataclass(frozen=True)
class Sample:
    """An image that is written.

    Attributes
    ----------
    image : str
        Its id.
    key : str
        Nine digits that no other sample has: its place in the order of the ids.
    ending : str
        The usual ending of its kind of file, in lower case, with the dot.
    label : str
        Its final label.
    about : dict
        ``given_label``, ``p_wrong``, ``suggested_label``, ``p_suggested``, ``action``, ``day`` and ``split``, None where unknown. Where
        the run has softened its labels, all have ``probabilities`` too: by class, or None where no label was judged.
    """

    image: str
    key: str
    ending: str
    label: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """The cleaned data set.

    Attributes
    ----------
    table : DataFrame
        As of :func:`bccp.pipeline.export_dataset.place_files`: every image, with what becomes of it.
    archive : ZipFile
        The original files.
    segregated : Path
        Folder of ``segregated_data``.
    cleansed : CleansedLabels
    shard_bytes : int
        Largest size of a shard, for formats that have any.
    """

    table: pd.DataFrame
    archive: zipfile.ZipFile
    segregated: Path
    cleansed: CleansedLabels
    shard_bytes: int

    @cached_property
    def classes(self) -> list[str]:
        """The K class names, in the order of the model's outputs."""
        return tables.read(self.segregated / "classes.csv")["label"].tolist()

    def copy(self, image: str, sink: Sink) -> None:
        """Write an original file, a part at a time."""
        with self.archive.open(image) as source:
            shutil.copyfileobj(source, sink)

    def samples(self) -> Iterator[Sample]:
        """Go through the images that are written, sorted by id."""
        written = self.table[self.table["file"] != ""].sort_values("image")
        splits = tables.read(self.segregated / "splits.csv").set_index("image")
        places = dict(zip(splits.index, splits[["day", "split"]].itertuples(index=False, name=None), strict=True))
        softened = (self.cleansed.table["action"] == "soften").any()
        rows = {image: row for row, image in enumerate(self.cleansed.table["image"])}
        columns = ["image", "final_label", "given_label", "p_wrong", "suggested_label", "p_suggested", "action"]
        samples = list(written[columns].itertuples(index=False, name=None))
        for number, (image, final, *known) in enumerate(progress.each("image", samples)):
            given, p_wrong, suggested, p_suggested, action = known
            day, split = places.get(image, (None, None))
            about = {
                "given_label": given or None,
                "p_wrong": float(p_wrong) if p_wrong else None,
                "suggested_label": suggested or None,
                "p_suggested": float(p_suggested) if p_suggested else None,
                "action": action,
                "day": day,
                "split": split,
            }
            if softened:
                # through text: the shortest number that is this float32, 0.1 and not 0.10000000149011612
                shares = [float(str(share)) for share in self.cleansed.targets[rows[image]]] if image in rows else None
                about["probabilities"] = dict(zip(self.classes, shares, strict=True)) if shares else None
            yield Sample(image, f"{number:09d}", self._ending(image), final, about)

    def _ending(self, image: str) -> str:
        ending = PurePosixPath(image).suffix.lower()
        if ending not in Image.registered_extensions():
            with self.archive.open(image) as source, Image.open(source) as opened:
                ending = f".{opened.format}".lower()
        return _SAME_ENDING.get(ending, ending)
