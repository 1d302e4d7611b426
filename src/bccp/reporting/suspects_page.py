"""The page on which a person checks labels: one file of HTML that needs nothing else, with pictures, keys and a file to download.

It lists the images whose labels are most suspect and those drawn at random, each beside the images that it should look like, and makes
``checked.csv`` (``image,label,verdict,chosen,rank``) of the answers: the next run's ``bayes_cutoff.audit_file``.

A page has a limit of bytes. It is kept by lower quality of the pictures first, then by leaving out rows, the least suspect ones first; the
page says so.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.core.run_summary import PAGE, SUSPECTS_PAGE
from bccp.data import tables
from bccp.data.dataset import Days, open_days
from bccp.data.decoding.image_files import MAX_PIXELS, UnreadableImageError, pillow_limits
from bccp.labels.expert_labels import RANDOM
from bccp.labels.findings import Finding
from bccp.reporting import html
from bccp.reporting.embedded_pictures import PICTURE_SIZES, PictureSize, decode_small
from bccp.reporting.review_document import CHECKS_LINK, IMAGES_LINK, LABELS_LINK, REPORT_LINK, Listed, link_address, review_document
from bccp.reporting.suspect_rows import Row, SuspectRows, in_reading_order, order_rows
from bccp.tracking import finished_runs
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

LIMIT_BYTES = 20_000_000
MOST_ROWS = 3_000
"""Images on a page, whatever its limit of bytes: more than a person checks in a day, and few enough for a phone to scroll smoothly."""

_FIRST_ROWS = 6
_LEAST_ROOM = 50_000


@dataclass(frozen=True)
class PageSummary:
    """A page that was written.

    Attributes
    ----------
    path : Path
    n_suspects, n_random, n_checked : int
        Images on it: by their rank, drawn at random, and of both those that were checked before.
    n_left_out : int
        Images that should be on it and are not, for its size.
    n_without_picture : int
        Images on it whose files cannot be read.
    n_bytes : int
    size : PictureSize
    """

    path: Path
    n_suspects: int
    n_random: int
    n_checked: int
    n_left_out: int
    n_without_picture: int
    n_bytes: int
    size: PictureSize


def write_suspects_page(
    path: Path,
    *,
    finding: Finding,
    rows: pd.DataFrame,
    classes: Sequence[str],
    originals: Callable[[str], Image.Image],
    links: Mapping[str, str],
    limit_bytes: int = LIMIT_BYTES,
) -> PageSummary:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
        The file to write; its folder exists.
    finding : Finding
        What the page's first sentence says, and how many ranks are listed.
    rows : DataFrame
        All judged images: ``image, chosen, given_label, rank`` and, as far as they are known, ``p_wrong, suggested_label, posterior`` (of
        the suggestion), ``user``, ``label`` and ``verdict`` (of an answer given before), ``nearest_suggested, nearest_given`` (ids of the
        confident images that it looks most like) or ``nearest_trusted`` with ``nearest_trusted_label``, ``group`` (of near copies) and
        ``file`` (its path, relative to the page). ``rank`` is an integer; all others are text, empty where something is not known.
    classes : sequence of str, length K
    originals : callable
        Gives an image by its id: RGB and upright, its longer side at least that of the first of :data:`PICTURE_SIZES`, or as long as it
        is. Raises ``KeyError``, ``OSError`` or ``ValueError`` where there is none. It is called from several threads.
    links : mapping of str to str
        Where :data:`LABELS_LINK`, :data:`CHECKS_LINK`, :data:`REPORT_LINK` and :data:`IMAGES_LINK` (the folder that images lie in by their
        ids) are, as far as they exist: paths relative to the page, or addresses.
    limit_bytes : int
        At least 100,000 or so: less has no room for images.

    Returns
    -------
    PageSummary

    Raises
    ------
    BCCPError
        If the limit leaves no room for images.
    """
    ordered = order_rows(rows, finding)
    records = _records(ordered)
    checked = [[row["image"], row["label"], row["verdict"], row["chosen"], row["rank"]] for row in records if row["verdict"]]
    listed = _listed(ordered, 0)
    facts: dict[str, Any] = {"key": _key(rows, classes), "classes": list(classes), "rows": [], "pictures": [], "carried": checked}
    room = limit_bytes - len(review_document(finding, listed._replace(left_out=len(records)), links, facts=facts)) - 20 * len(records)
    if room < _LEAST_ROOM:
        raise BCCPError(f"a page of {limit_bytes} bytes has no room for images: {limit_bytes - room + _LEAST_ROOM} are the least")
    taken = SuspectRows(records[:MOST_ROWS], classes, originals, _addresses(rows, links.get(IMAGES_LINK, "")), room)
    n_taken = len(taken.told)
    on_page = {row["image"] for row in taken.told}
    facts["rows"] = shown = in_reading_order(taken.told)
    facts["pictures"] = taken.pictures.sizes
    facts["carried"] = [line for line in checked if line[0] not in on_page]
    listed = _listed(ordered[:n_taken], len(records) - n_taken)
    seen_first = {number for row in shown[:_FIRST_ROWS] for number in (row["picture"], *(near["picture"] for near in row["near"]))} - {-1}
    text = review_document(finding, listed, links, facts=facts, pictures=taken.pictures.data, first=sorted(seen_first))
    html.save(path, text)
    return PageSummary(
        path=path,
        n_suspects=listed.suspects,
        n_random=listed.random,
        n_checked=sum(row["answer"] is not None for row in shown),
        n_left_out=listed.left_out,
        n_without_picture=sum(row["picture"] < 0 for row in shown),
        n_bytes=len(text.encode()),
        size=taken.size,
    )


def pages_for_run(folder: Path, ledger: Ledger, *, into: Path | None = None, record: Mapping[str, Any] | None = None) -> Path | None:
    """Write the page of a finished run, from its artifacts.

    Parameters
    ----------
    folder : Path
        Of the run, which has its ``summary.json``.
    ledger : Ledger
        That has the artifacts.
    into : Path, optional
        The folder to write to, instead of the run's own. A ``labels.csv`` there is linked, and where it has a column ``file``, so are the
        images that lie there.
    record : mapping, optional
        What ``summary.json`` is going to hold, where it is not there yet.

    Returns
    -------
    Path or None
        The page; None for a run that has judged no labels, or none by a probability.
    """
    summary = finished_runs.read_summary(folder / "summary.json", option="RUN") if record is None else record
    versions = {name: version for step in summary["steps"] for name, version in step["outputs"].items()}
    if not {"clean_data", "segregated_data", "cleansed_labels"} <= versions.keys():
        return None
    places = {name: ledger.fetch(qualified(name, versions[name])) for name in ("clean_data", "segregated_data", "cleansed_labels")}
    about = json.loads((places["cleansed_labels"] / "cutoff.json").read_text(encoding="utf-8"))
    if "finding" not in about:
        return None
    target = into or folder
    days = open_days(places["segregated_data"], places["clean_data"])
    try:
        archive = ledger.fetch(qualified("raw_data", versions["raw_data"])) / "images.zip" if "raw_data" in versions else None
    except BCCPError:  # it was cleared away; the pictures that were judged are left
        archive = None
    with open_originals(days, places["clean_data"], archive) as originals:
        made = write_suspects_page(
            target / SUSPECTS_PAGE,
            finding=Finding.from_json(about["finding"]),
            rows=_rows_of_run(places, days, target),
            classes=days.classes,
            originals=originals,
            links=_links(folder, target, summary["config"], days.splits.index[:1].tolist()),
        )
    return made.path


def _rows_of_run(places: Mapping[str, Path], days: Days, target: Path) -> pd.DataFrame:
    """The run's report on labels, with what is known beside it of each image."""
    report = tables.read(places["cleansed_labels"] / "label_report.csv", dtypes={"rank": int})
    neighbours = places["cleansed_labels"] / "neighbours.csv"
    if neighbours.exists():
        report = report.merge(tables.read(neighbours), on="image", how="left").fillna(
            {"nearest_suggested": "", "nearest_given": "", "group": ""}
        )
    else:
        manifest = tables.read(places["clean_data"] / "manifest.csv").set_index("image")
        copies = manifest["phash"].where(manifest["phash"] != "", manifest["sha256"])
        report = report.assign(group=copies.reindex(report["image"]).to_numpy())
    trusted = days.splits["label"].reindex(report["nearest_trusted"]).fillna("")
    report = report.assign(nearest_trusted_label=trusted.to_numpy())
    if (target / LABELS_LINK).exists():
        listed = tables.read(target / LABELS_LINK)
        if "file" in listed:
            report = report.merge(listed[["image", "file"]], on="image", how="left").fillna({"file": ""})
    return report


def _links(folder: Path, target: Path, config: Mapping[str, Any], images: Sequence[str]) -> dict[str, str]:
    """Links to what lies there."""
    links = {name: name for name in (LABELS_LINK, CHECKS_LINK) if (target / name).exists()}
    if (folder / PAGE).exists():
        links[REPORT_LINK] = PAGE if target == folder else (folder / PAGE).resolve().as_uri()
    data = config.get("data") or {}
    source = Path(str(data.get("path") or "")).expanduser()
    if data.get("source") == "folder" and source.is_absolute() and all((source / image).is_file() for image in images):
        links[IMAGES_LINK] = source.as_uri()
    return links


@contextmanager
def open_originals(days: Days, clean: Path, archive: Path | None) -> Iterator[Callable[[str], Image.Image]]:
    """Give what opens an image for its picture: its file, or, where that has gone or was corrupted for a trial, what was judged."""
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    longest_px = PICTURE_SIZES[0].own
    with pillow_limits(report.get("max_pixels", MAX_PIXELS)):
        if archive is None:
            yield lambda image: Image.fromarray(days.view([image])[0])
            return
        with zipfile.ZipFile(archive) as packed:

            def opened(image: str) -> Image.Image:
                if days.splits.at[image, "corruption"]:
                    return Image.fromarray(days.view([image])[0])
                try:
                    return decode_small(packed.read(image), longest_px, report.get("range"))
                except (UnreadableImageError, zipfile.BadZipFile) as error:
                    raise ValueError(str(error)) from error

            yield opened


def _addresses(rows: pd.DataFrame, folder: str) -> Callable[[str], str]:
    """Give what finds an image's file: beside the page, or else in the folder that images lie in by their ids."""
    files = dict(zip(rows["image"], rows["file"], strict=True)) if "file" in rows else {}
    place = link_address(folder.rstrip("/"))

    def address(image: str) -> str:
        file = files.get(image, "")
        return quote(file) if file else f"{place}/{quote(image)}" if place else ""

    return address


def _listed(ordered: pd.DataFrame, n_left_out: int) -> Listed:
    n_random = int((ordered["chosen"] == RANDOM).sum())
    return Listed(len(ordered) - n_random, n_random, n_left_out)


def _records(table: pd.DataFrame) -> list[Row]:
    names = [str(name) for name in table.columns]
    return [dict(zip(names, values, strict=True)) for values in table.itertuples(index=False, name=None)]


def _key(rows: pd.DataFrame, classes: Sequence[str]) -> str:
    """Digest of images and given labels, under which a browser keeps answers: a later judgement of the same labels finds them."""
    given = sorted(zip(rows["image"], rows["given_label"], strict=True))
    return hashlib.sha256(json.dumps([list(classes), given]).encode()).hexdigest()[:32]
