"""Rows of a page on which labels are checked: their choice, their order, and what the page's script is given of each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from bccp.core import progress
from bccp.labels.expert_labels import RANDOM, SUSPECT
from bccp.labels.findings import Finding
from bccp.reporting.embedded_pictures import PICTURE_SIZES, EmbeddedPictures, PictureSize
from bccp.reporting.html import json_text

Row = Mapping[str, Any]

_SAMPLED_ROWS = 24
_PLENTY_BYTES = 50_000
"""Room for a row with which photographs are embedded at their best without an estimate."""

_SLACK = 1.05
"""Of the size that is estimated from the rows that are sampled."""

_MOST_BETWEEN = 4
"""Suspects between two images drawn at random."""

_ROWS_AT_ONCE = 32


def order_rows(rows: pd.DataFrame, finding: Finding) -> pd.DataFrame:
    """Choose the rows that a page should have, the most important ones first.

    Parameters
    ----------
    rows, finding
        As for :func:`bccp.reporting.suspects_page.write_suspects_page`.

    Returns
    -------
    DataFrame
        Images drawn at random, in an order that has nothing to do with their ranks; then, unless the judge is blind, the first
        ceil(upper end · N) ranks and whatever else was chosen as a suspect, by rank; then what was checked before. ``chosen`` is ``random``
        or ``suspect``; of what was checked it stays as it is. ``label`` and ``verdict`` are there, and of what was checked ``verdict`` is
        not empty.
    """
    nothing = pd.Series("", index=rows.index)
    label, verdict = rows.get("label", nothing), rows.get("verdict", nothing)
    verdict = verdict.where((verdict != "") | (label == ""), "label")
    is_random, is_checked = rows["chosen"] == RANDOM, verdict != ""
    upper = finding.at_least if finding.at_most is None else finding.at_most
    n_listed = math.ceil(upper * len(rows) - 1e-9)
    is_suspect = ((rows["rank"] <= n_listed) | (rows["chosen"] == SUSPECT)) & (finding.verdict != "blind")
    importance = is_checked * 2 + ~is_random * 1
    chosen = rows["chosen"].where((is_checked & (rows["chosen"] != "")) | is_random, SUSPECT)
    # whoever stops half-way through the random ones is to have seen some of all ranks
    place = rows["image"].map(_by_chance).where(is_random, rows["rank"].map("{:09d}".format))
    wanted = rows.assign(chosen=chosen, label=label, verdict=verdict, importance=importance, place=place)
    ordered = wanted[is_random | is_suspect | is_checked].sort_values(["importance", "place", "image"])
    return ordered.drop(columns=["importance", "place"]).reset_index(drop=True)


def _by_chance(image: str) -> str:
    return hashlib.sha256(f"order:{image}".encode("utf-8", "surrogateescape")).hexdigest()


class SuspectRows:
    """Rows as the page's script takes them, with the pictures that they need.

    Parameters
    ----------
    records : sequence of mapping
        Of :func:`order_rows`.
    classes : sequence of str
    originals : callable
        As for :class:`EmbeddedPictures`.
    address : callable
        Gives the address of an image's file by its id, relative to the page or whole; empty where it has none.
    room : int
        Bytes that rows and pictures may take.

    Attributes
    ----------
    told : list of dict
        The rows that there is room for, of the first records.
    pictures : EmbeddedPictures
    size : PictureSize
    """

    def __init__(
        self,
        records: Sequence[Row],
        classes: Sequence[str],
        originals: Callable[[str], Image.Image],
        address: Callable[[str], str],
        room: int,
    ) -> None:
        self._originals, self._address = originals, address
        self._class_place = {name: place for place, name in enumerate(classes)}
        self._own = {row["image"] for row in records}
        self.size = self._estimated_size(records, room)
        while not self._take(records, room) and self.size != PICTURE_SIZES[-1]:  # the sample was of smaller pictures than the rest
            self.size = PICTURE_SIZES[PICTURE_SIZES.index(self.size) + 1]

    def _estimated_size(self, records: Sequence[Row], room: int) -> PictureSize:
        """Choose how pictures are embedded, from a sample of rows where there are many."""
        if len(records) * _PLENTY_BYTES <= room:
            return PICTURE_SIZES[0]
        sample = records[:: max(1, len(records) // _SAMPLED_ROWS)]
        for size in PICTURE_SIZES:
            self.size = size
            self._take(sample, None)
            n_bytes = self.pictures.n_bytes() + sum(len(json_text(row)) + 1 for row in self.told)
            if n_bytes / len(sample) * len(records) * _SLACK <= room:
                break
        return self.size

    def _take(self, records: Sequence[Row], room: int | None) -> bool:
        """Take rows from the first one on for as long as there is room, in bytes; False where some are left out."""
        self.told: list[dict[str, Any]] = []
        self.pictures = EmbeddedPictures(self._originals, self.size)
        for start in range(0, len(records), _ROWS_AT_ONCE):
            some = records[start : start + _ROWS_AT_ONCE]
            images = [image for row in some for image in (row["image"], *(near.image for near in neighbours(row)))]
            self.pictures.encode({image: self.size.own if image in self._own else self.size.near for image in images})
            for row in some:
                first = len(self.pictures.data)
                told = self._told(row)
                if room is not None:
                    room -= len(json_text(told)) + 1 + self.pictures.n_bytes(first)
                    if room < 0:
                        self.pictures.forget(first)
                        return False
                self.told.append(told)
            if room is not None:
                progress.show("pictures", start + len(some), len(records))
        return True

    def _told(self, row: Row) -> dict[str, Any]:
        image = row["image"]
        return {
            "image": image,
            "given": self._class_place[row["given_label"]],
            "suggested": self._class_place.get(row.get("suggested_label", ""), -1),
            "pWrong": _number(row.get("p_wrong", "")),
            "pSuggested": _number(row.get("posterior", "")),
            "rank": int(row["rank"]),
            "chosen": row["chosen"],
            "group": row.get("group", ""),
            "user": row.get("user", ""),
            "href": self._address(image),
            "picture": self.pictures.add(image),
            "near": [
                near._asdict() | {"picture": self.pictures.add(near.image), "href": self._address(near.image)} for near in neighbours(row)
            ],
            "answer": [row["verdict"], row["label"]] if row["verdict"] else None,
        }


class Neighbour(NamedTuple):
    """An image to compare a suspect with.

    Attributes
    ----------
    image : str
        Its id.
    label : str
        Its class.
    role : {"suggested", "given", "trusted"}
        What it shows: the suspect's suggested class, its given one, or the nearest trusted image, of whatever class.
    """

    image: str
    label: str
    role: str


def neighbours(row: Row) -> list[Neighbour]:
    """The images that stand beside a suspect: of each class one, or the trusted one where no others are known."""
    given, suggested = row["given_label"], row.get("suggested_label", "")
    found = [Neighbour(row.get("nearest_suggested", ""), suggested, "suggested")] if suggested != given else []
    found = [near for near in (*found, Neighbour(row.get("nearest_given", ""), given, "given")) if near.image]
    trusted = Neighbour(row.get("nearest_trusted", ""), row.get("nearest_trusted_label", ""), "trusted")
    return found or [near for near in (trusted,) if near.image]


def in_reading_order(told: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Order rows as a person meets them: suspects by rank, one drawn at random after every few; what was checked before comes last."""
    rows = list(told)
    fresh = [row for row in rows if row["answer"] is None]
    suspects, drawn = ([row for row in fresh if (row["chosen"] == RANDOM) is kind] for kind in (False, True))
    stride = max(1, min(_MOST_BETWEEN, len(suspects) // max(1, len(drawn))))
    mixed: list[dict[str, Any]] = []
    for start in range(0, max(len(suspects), stride * len(drawn)), stride):
        mixed += suspects[start : start + stride] + drawn[start // stride : start // stride + 1]
    return [*mixed, *(row for row in rows if row["answer"] is not None)]


def _number(text: str) -> float | None:
    return round(float(text), 4) if text else None
