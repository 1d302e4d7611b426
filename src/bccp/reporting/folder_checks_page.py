"""The page on what else a folder hides, for whoever cleans it: one file of HTML that needs nothing else.

A verdict in words for each check of :mod:`bccp.data.folder_checks`, and pictures of what was found: images of no class, cues that give a
class away, copies, and pictures that are dark, bright, blurred and the like.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.core.run_summary import PAGE, SUSPECTS_PAGE
from bccp.data.dataset import open_days
from bccp.data.folder_checks import FARTHEST, FOLDER_CHECKS, FolderCheck, FolderChecks
from bccp.reporting import html
from bccp.reporting.embedded_pictures import encode_picture
from bccp.reporting.review_document import CHECKS_LINK, LABELS_LINK
from bccp.reporting.suspects_page import open_originals
from bccp.tracking import finished_runs
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

FOLDER_CHECKS_PAGE = CHECKS_LINK

MOST_PICTURES, MOST_GROUPS, MOST_OF_GROUP = 12, 12, 4
"""Pictures of a check, groups of copies or cues, and pictures of such a group."""

_LONGEST_PX, _QUALITY = 184, 70
_NAME = 42

HEADINGS = {
    "outliers": "Images of no class",
    "cues": "Cues that give a class away",
    "contradictions": "Copies with labels that differ",
    "copies": "Equal pictures",
    "near_copies": "Nearly equal pictures",
    "dark": "Dark pictures",
    "bright": "Bright pictures",
    "flat": "Pictures of one colour",
    "blurred": "Blurred pictures",
    "tiny": "Tiny pictures",
    "long": "Long pictures",
}
"""Of each check, in the order of the page."""

_OF_COPIES = (
    "A model looks better than it is where it is tested on copies of what it was trained on. The judge of labels keeps them together."
)

_ADVICE = {
    "outliers": "They may be of another subject, broken, or only unusual: leave out what is of no class.",
    "cues": "A model would learn the cue in place of what the pictures show, and fail where it is missing. It may belong to the class, or "
    "come from how its pictures were taken, stored or found.",
    "contradictions": "One of the labels is wrong, unless a picture shows both.",
    "copies": _OF_COPIES,
    "near_copies": _OF_COPIES,
}


def write_folder_checks_page(
    path: Path, found: FolderChecks, originals: Callable[[str], Image.Image], *, links: Mapping[str, str] | None = None
) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    path : Path
        The file to write; its folder exists.
    found : FolderChecks
    originals : callable
        Gives an image by its id: RGB and upright. Raises ``KeyError``, ``OSError`` or ``ValueError`` where there is none.
    links : mapping of str to str, optional
        Words and addresses of what lies beside the page.
    """
    order = {check: n for n, check in enumerate(HEADINGS)}
    checks = sorted(found.checks, key=lambda one: order[one.check])
    anchors = [f"<a href='{escape(place, quote=True)}'>{escape(words)}</a>" for words, place in (links or {}).items()]
    parts = [
        "<h1>What else this folder hides</h1>",
        f"<p class='verdict'>{escape(_first_sentence(found))}</p>",
        f"<nav>{' · '.join(anchors)}</nav>" if anchors else "",
        _verdicts(checks),
        *(_section(one, found.images, originals) for one in checks),
        _FOOTER,
    ]
    html.save(path, html.document("What else this folder hides", parts, style=_STYLE))


def folder_checks_for_run(folder: Path, ledger: Ledger, *, into: Path | None = None) -> Path | None:
    """Write the page of a finished run, from its artifacts.

    Parameters
    ----------
    folder : Path
        Of the run, which has its ``summary.json``.
    ledger : Ledger
        That has the artifacts.
    into : Path, optional
        The folder to write to, instead of the run's own.

    Returns
    -------
    Path or None
        The page; None for a run without these checks.
    """
    summary = finished_runs.read_summary(folder / "summary.json", option="RUN")
    versions = {name: version for step in summary["steps"] for name, version in step["outputs"].items()}
    if not {"clean_data", "segregated_data", "cleansed_labels"} <= versions.keys():
        return None
    clean, segregated, cleansed = (ledger.fetch(qualified(n, versions[n])) for n in ("clean_data", "segregated_data", "cleansed_labels"))
    if not (cleansed / FOLDER_CHECKS).exists():
        return None
    try:
        archive = ledger.fetch(qualified("raw_data", versions["raw_data"])) / "images.zip" if "raw_data" in versions else None
    except BCCPError:  # it was cleared away; the pictures that were judged are left
        archive = None
    target = into or folder
    is_listed = "finding" in json.loads((cleansed / "cutoff.json").read_text(encoding="utf-8"))  # the other page is there, or will be
    links = {"All labels (labels.csv)": LABELS_LINK, "Report": PAGE}
    with open_originals(open_days(segregated, clean), clean, archive) as originals:
        beside = {"Labels to check": SUSPECTS_PAGE} if is_listed else {}
        beside |= {words: name for words, name in links.items() if (target / name).exists()}
        write_folder_checks_page(target / FOLDER_CHECKS_PAGE, FolderChecks.read(cleansed), originals, links=beside)
    return target / FOLDER_CHECKS_PAGE


def _first_sentence(found: FolderChecks) -> str:
    troubles = [HEADINGS[one.check].lower() for one in found.checks if one.found]
    looked = f"{html.many(found.n_images, 'image')}, {found.n_pictures:,} of them different."
    return f"{looked} Found: {', '.join(troubles)}." if troubles else f"{looked} Nothing was found beside the labels."


def _verdicts(checks: Sequence[FolderCheck]) -> str:
    lines = []
    for one in checks:
        said = escape(one.verdict[:1].upper() + one.verdict[1:])
        name = f"<a href='#{one.check}'>{HEADINGS[one.check]}</a>" if one.found else HEADINGS[one.check]
        lines.append(f"<li class='{'some' if one.found else 'none'}'><b>{name}</b><span>{said}.</span></li>")
    return f"<ul class='verdicts'>{''.join(lines)}</ul>"


def _section(check: FolderCheck, images: pd.DataFrame, originals: Callable[[str], Image.Image]) -> str:
    """Pictures of what a check has found; of outliers the farthest where none stands out."""
    far = images[images["check"] == FARTHEST]
    if not check.found:
        if check.check != "outliers" or far.empty:
            return ""
        note = "None of them is farther from all others than chance allows; these are the farthest, to see for yourself."
        return f"<h2>The farthest images</h2><p class='note'>{note}</p>{_pictures(_rows(far), originals)}"
    rows = images[images["check"] == check.check]
    if check.check == "cues":
        shown = "".join(_cue(n, words, images, originals) for n, words in enumerate(check.cues[:MOST_GROUPS], 1))
        n_shown, n_all = min(MOST_GROUPS, check.found), check.found
    elif check.check in ("contradictions", "copies", "near_copies"):
        groups = [list(members) for _, members in groupby(_rows(rows[rows["group"] <= MOST_GROUPS]), key=lambda row: row["group"])]
        shown = f"<div class='groups'>{''.join(_group(members, originals) for members in groups)}</div>"
        n_shown, n_all = len(groups), check.found
    else:
        shown = _pictures(_rows(rows.head(MOST_PICTURES)), originals)
        n_shown, n_all = min(MOST_PICTURES, len(rows)), len(rows)
    more = f" These are {n_shown} of {n_all:,}; folder_checks.csv lists them all." if n_shown < n_all else ""
    verdict = "" if check.check == "cues" else f"{check.verdict[:1].upper()}{check.verdict[1:]}."
    said = escape(f"{verdict} {_ADVICE.get(check.check, '')}".strip())
    return f"<h2 id='{check.check}'>{HEADINGS[check.check]}</h2><p class='note'>{said}{more}</p>{shown}"


def _cue(number: int, words: str, images: pd.DataFrame, originals: Callable[[str], Image.Image]) -> str:
    """A cue in words, and pictures that show it: of the class, and of the others."""
    sides = []
    for check, heading in (("cues", "of the class"), ("cues_others", "others")):
        rows = images[(images["check"] == check) & (images["group"] == number)]
        sides.append(f"<div><h4>{heading}</h4>{_pictures(_rows(rows), originals)}</div>")
    return f"<h3>{escape(words[:1].upper() + words[1:])}</h3><div class='sides'>{''.join(sides)}</div>"


def _group(members: Sequence[Mapping[str, Any]], originals: Callable[[str], Image.Image]) -> str:
    more = f"<p class='note'>and {len(members) - MOST_OF_GROUP} more</p>" if len(members) > MOST_OF_GROUP else ""
    return f"<div class='group'>{_pictures(members[:MOST_OF_GROUP], originals)}{more}</div>"


def _pictures(rows: Sequence[Mapping[str, Any]], originals: Callable[[str], Image.Image]) -> str:
    return f"<div class='pictures'>{''.join(_picture(row, originals) for row in rows)}</div>"


def _picture(row: Mapping[str, Any], originals: Callable[[str], Image.Image]) -> str:
    name = escape(row["image"], quote=True)
    try:
        data, (width, height) = encode_picture(originals(row["image"]), _LONGEST_PX, _QUALITY)
        source = f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
        shown = f"<img src='{source}' alt='{name}' width='{width}' height='{height}' loading='lazy'>"
    except (KeyError, OSError, ValueError):
        shown = "<p class='note'>no picture</p>"
    about = f"<small>{escape(row['label'])}{_value(row)}</small>"
    return f"<div title='{name}'>{shown}{escape(html.shortened(row['image'], _NAME))}{about}</div>"


def _value(row: Mapping[str, Any]) -> str:
    """The value by which an image was found, in words; empty where its check has none that helps."""
    value = row["value"]
    if row["check"] in ("outliers", FARTHEST):
        return f"; expected by chance: {float(value):.2g}"
    return f"; {escape(value)}" if value and row["check"].startswith("cues") else ""


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(map(str, table.columns), values, strict=True)) for values in table.itertuples(index=False, name=None)]


_FOOTER = (
    "<footer>“Expected by chance” are the images of such a folder that chance would bring as far from all others. A cue is measured on "
    "held-out images, each picture once; “pairs” are one picture of the class and another. The same as tables: folder_checks.csv and "
    "folder_checks.json.</footer>"
)

_STYLE = """
.verdict { background: var(--card); border-left: 4px solid var(--accent); border-radius: 0 10px 10px 0; padding: 0.7rem 1.1rem; }
nav { font-size: 0.9rem; margin-bottom: 1rem; }
h3 { font-weight: 500; margin: 1.2rem 0 0.5rem; overflow-wrap: anywhere; }
h4 { font-weight: 500; font-size: 0.85rem; color: var(--soft); margin: 0 0 0.35rem; }
.verdicts { list-style: none; margin: 0; padding: 0; font-size: 0.9rem; }
.verdicts li { display: grid; grid-template-columns: 15rem 1fr; gap: 0.1rem 1rem; border-bottom: 1px solid var(--line); padding: 0.4rem 0; }
.verdicts b { font-weight: 600; }
.verdicts span { min-width: 0; overflow-wrap: anywhere; }
.verdicts .none, .verdicts .none b { color: var(--soft); font-weight: 400; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem; }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(17.5rem, 1fr)); gap: 0.9rem; }
.group { border: 1px solid var(--line); border-radius: 10px; padding: 0.4rem; min-width: 0; }
.groups .pictures { grid-template-columns: 1fr 1fr; }
.pictures img { height: auto; }
@media (max-width: 640px) {
  .verdicts li { grid-template-columns: 1fr; }
  .sides { grid-template-columns: 1fr; }
  .pictures { grid-template-columns: 1fr 1fr; }
}
"""
"""Beside the style that all pages share."""
