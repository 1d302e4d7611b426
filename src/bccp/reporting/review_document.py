"""The document on which labels are checked: HTML around ``assets/review.js`` and ``assets/review.css``, which are in it as they are."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import quote

from bccp.labels.findings import Finding, finding_sentence
from bccp.reporting.glossary import ON_SUSPECTS, glossary
from bccp.reporting.html import json_text, many

REPORT_LINK, LABELS_LINK, IMAGES_LINK, CHECKS_LINK = "report", "labels.csv", "images", "checks.html"
"""Names of the links of a page; of images, it is the folder that they lie in by their ids."""

_HARMLESS = ("http://", "https://", "file://")


class Listed(NamedTuple):
    """Numbers of images.

    Attributes
    ----------
    suspects, random, left_out : int
        Images to check by their rank and drawn at random, and those of both that the page has no room for.
    """

    suspects: int
    random: int
    left_out: int


def review_document(
    finding: Finding,
    listed: Listed,
    links: Mapping[str, str],
    *,
    facts: Mapping[str, Any],
    pictures: Sequence[str] = (),
    first: Iterable[int] = (),
) -> str:
    """Make the page.

    A browser may run the one script, apply the one style and show pictures that are within the page; nothing else, and from nowhere else.

    Parameters
    ----------
    finding : Finding
    listed : Listed
    links : mapping of str to str
        Addresses by :data:`LABELS_LINK`, :data:`CHECKS_LINK` and :data:`REPORT_LINK`.
    facts : mapping
        What the script reads: ``key, classes, rows, pictures, carried``.
    pictures : sequence of str
        WebP in base64.
    first : iterable of int
        Numbers of the pictures that stand before the script, so that they are seen while the rest is read.

    Returns
    -------
    str
    """
    style, script = (files("bccp.reporting").joinpath("assets", f"review.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:; base-uri 'none'"
    blocks = {number: f'<script type="text/plain" id="picture-{number}">{data}</script>\n' for number, data in enumerate(pictures)}
    early = [blocks.pop(number) for number in first]
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}; form-action \'none\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
        f'<meta name="referrer" content="no-referrer"><title>Labels to check</title><style>{style}</style></head><body>\n',
        _header(finding, listed, links),
        _BAR,
        f"<main>\n{_controls(listed)}",
        '<ol id="cards" aria-label="Images to check"></ol><p id="nothing" class="note" hidden>No image fits this choice.</p>\n',
        "<noscript><p>This page shows its images by JavaScript, which is off here.</p></noscript></main>\n",
        f'{_footer()}<script type="application/json" id="facts">{json_text(facts)}</script>\n',
        *early,
        f"<script>{script}</script>\n",
        *blocks.values(),
        "</body></html>\n",
    ]
    return "".join(parts)


def link_address(place: str) -> str:
    """Address of a link: a path relative to the page, in which no letter has a meaning, unless it is one of a harmless scheme.

    Examples
    --------
    >>> link_address("a b.csv"), link_address("javascript:alert(1)")
    ('a%20b.csv', 'javascript%3Aalert%281%29')
    """
    return place if place.startswith(_HARMLESS) else quote(place)


def _digest(text: str) -> str:
    """Name an inline script or style for the content policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _header(finding: Finding, listed: Listed, links: Mapping[str, str]) -> str:
    said = finding_sentence(finding)
    parts = [f"<header><h1>{escape(said[:1].upper() + said[1:])}.</h1>", f"<p>{escape(' '.join(_introduction(finding, listed)))}</p>\n"]
    if listed.left_out:
        left = f"To stay within its size this page leaves out {many(listed.left_out, 'image')}, the least suspect ones"
        parts.append(f'<p class="said-once">{left}{"; labels.csv lists them all" if LABELS_LINK in links else ""}.</p>\n')
    shown = [(LABELS_LINK, "All labels (labels.csv)"), (CHECKS_LINK, "What else this folder hides"), (REPORT_LINK, "Report")]
    anchors = [f'<a href="{escape(link_address(links[name]))}">{words}</a>' for name, words in shown if name in links]
    return "".join([*parts, f'<nav aria-label="Files">{" ".join(anchors)}</nav>' if anchors else "", "</header>\n"])


def _introduction(finding: Finding, listed: Listed) -> list[str]:
    """Sentences on what is on the page and what to do with it."""
    lines = []
    suspects = f"{many(listed.suspects, 'suspect')}, the most suspect first" if listed.suspects else ""
    drawn = f"{many(listed.random, 'image')} drawn at random, by which the share of wrong labels is known" if listed.random else ""
    if suspects or drawn:
        lines.append(f"Of {many(finding.n_images, 'image')} this page lists {', and '.join(filter(None, (suspects, drawn)))}.")
    else:
        lines.append("There is no label to check.")
    none = f" ({finding.n_no_class:,} of them not of any class)" if finding.n_no_class else ""
    so_far = [f"{finding.n_audited:,} checked{none}"] if finding.n_audited else []
    so_far += [f"{finding.n_unsure:,} unsure"] if finding.n_unsure else []
    if so_far:
        lines.append(f"So far: {', '.join(so_far)}.")
    how = "Answer by buttons, select boxes or keys, download checked.csv, and give it to the next run as its audit file"
    return [*lines, f"{how} (bccp clean PATH --audit checked.csv)."]


def _footer() -> str:
    return f"<footer>{glossary(ON_SUSPECTS)}<p>{_KEPT}</p></footer>\n"


def _controls(listed: Listed) -> str:
    button = f'<button type="button" id="only-random">Check the {many(listed.random, "random image")}</button>' if listed.random else ""
    return _CONTROLS.replace("<!-- random -->", button)


_BAR = """<section class="bar" aria-label="Progress"><div class="row">
<p id="progress-text"></p><progress id="progress" value="0" max="1" aria-label="Images checked"></progress>
<button type="button" id="undo" disabled>Undo <kbd aria-hidden="true">z</kbd></button>
<button type="button" id="download" class="main">Download checked.csv</button>
</div><p id="spoken" class="unseen" role="status" aria-live="polite"></p></section>
"""

_CONTROLS = """<p id="unkept" class="said-once" hidden>This browser keeps no answers: download checked.csv before you close the page.</p>
<div class="filters">
<label>Images<select id="filter-kind"><option value="all">all</option><option value="suspect">suspects</option>
<option value="random">drawn at random</option></select></label>
<label>State<select id="filter-state"><option value="all">checked or not</option><option value="open">not checked</option>
<option value="checked">checked</option></select></label>
<label class="wide">Given label \N{RIGHTWARDS ARROW} suggested
<select id="filter-pair"><option value="all">all pairs</option></select></label>
<!-- random -->
</div>
<details><summary>Keys</summary><label><input type="checkbox" id="keys-on" checked> A key answers and goes on to the next image</label>
<ul id="legend"></ul>
<p id="more-classes" class="note" hidden>Further classes have no key: choose them in an image's select box.</p></details>
"""

_KEPT = "Answers stay in this browser until they are downloaded; nothing is sent anywhere."
