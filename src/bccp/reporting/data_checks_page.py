"""The page on data checks: one file of HTML that needs nothing else, beside the findings as tables.

``data_checks.html``, ``data_checks.csv`` (``check, value, limit, verdict, said``) and ``flagged_images.csv`` (``image, check``).
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data import checks, drift, tables
from bccp.data.array_types import Images
from bccp.data.checks import DayChecks, Finding, ImageChecks
from bccp.data.drift import SURE, Drift
from bccp.data.image_statistics import BLURRED, MOST_PIXELS
from bccp.reporting import html

DATA_CHECKS_PAGE, FINDINGS_TABLE, FLAGGED = "data_checks.html", "data_checks.csv", "flagged_images.csv"

_MOST_PICTURES, MOST_CLASSES = 8, 40
"""Pictures shown of a check or a day, and classes that get a bar."""

_THUMBNAIL_PX = 64


def write_page(folder: Path, title: str, findings: Sequence[Finding], parts: Iterable[str], *, simulation: str = "") -> None:
    """Write page and tables.

    Parameters
    ----------
    folder : Path
        It exists.
    title : str
    findings : sequence of Finding
    parts : iterable of str
        What the page shows below the findings: HTML.
    simulation : str
        What is simulated, in one sentence; empty where nothing is.
    """
    tables.write(checks.findings_table(findings), folder / FINDINGS_TABLE)
    tables.write(checks.flagged(findings), folder / FLAGGED)
    shown = [f"<h1>{escape(title)}</h1>", html.simulation_banner(simulation), _verdict(findings), _findings(findings), *parts, _FOOTER]
    (folder / DATA_CHECKS_PAGE).write_text(html.document(title, shown, style=_STYLE), encoding="utf-8")


def write_images(place: Path, clean: Path, found: ImageChecks, *, simulation: str = "") -> None:
    """Write the page on images by themselves.

    Parameters
    ----------
    place : Path
        The folder to write to; it exists.
    clean : Path
        A folder of ``clean_data``.
    found : ImageChecks
    simulation : str
        As for :func:`write_page`.
    """
    n_images = int(np.load(clean / "images.npy", mmap_mode="r").shape[0])
    write_page(place, f"Data checks: {n_images} images", found.findings, parts_of_images(clean, found), simulation=simulation)


def parts_of_images(clean: Path, found: ImageChecks) -> list[str]:
    """Make the parts of the page on images by themselves."""
    manifest = tables.read(clean / "manifest.csv", dtypes=checks.MANIFEST_DTYPES)
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    images = np.load(clean / "images.npy", mmap_mode="r")
    return [examples(found.findings, manifest, images), classes(report["classes"]), spreads(found.quality), files(report)]


def write_days(place: Path, found: DayChecks, *, seed: int, simulation: str = "") -> None:
    """Write the page on Tuesday against Monday, and on what is held out.

    Parameters
    ----------
    place : Path
        The folder to write to; it exists.
    found : DayChecks
    seed : int
        Chooses the images that are shown.
    simulation : str
        As for :func:`write_page`.
    """
    parts: list[str] = []
    if found.views:
        names = (found.views[0][0], found.views[1][0])
        parts = [changes_table(found.drift, names), side_by_side(found.views, np.random.default_rng(seed))]
    title = "Data checks: new images (Tuesday) against trusted images (Monday)" if parts else "Data checks: splits"
    write_page(place, title, found.findings, parts, simulation=simulation)


def classes(counts: Mapping[str, int]) -> str:
    """Bars: images of each class, the largest first."""
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered if len(ordered) <= MOST_CLASSES else [*ordered[: MOST_CLASSES // 2], *ordered[-MOST_CLASSES // 2 :]]
    more = f", the {MOST_CLASSES // 2} largest and smallest" if len(shown) < len(ordered) else ""
    return f"<h2>Classes</h2><p class='note'>Images of each of {len(ordered)} classes{more}.</p>" + _bars(
        (name, n / ordered[0][1], str(n)) for name, n in shown
    )


def files(report: Mapping[str, Any]) -> str:
    """Formats and sizes, as :func:`bccp.data.preprocessing.describe` has counted them."""
    sizes = [(f"{side} in px", " / ".join(f"{s[k]:g}" for k in ("min", "median", "max"))) for side, s in report["size_px"].items() if s]
    rows = [("images", str(report["images"])), ("files that cannot be used", str(report["rejected"]))]
    rows += [(f"  {reason}", str(n)) for reason, n in report["rejected_by_reason"].items()]
    rows += [("without a label", str(report["unlabelled"]))] if report["unlabelled"] else []
    rows += [(f"{side} (least / median / most)", text) for side, text in sizes]
    rows += [(f"format and mode: {kind}", str(n)) for kind, n in report["formats"].items()]
    return "<h2>Files</h2>" + _table(("", ""), rows)


def spreads(told: pd.DataFrame) -> str:
    """How brightness and sharpness are spread over the images."""
    drawn = [("brightness, 0 to 255", told["brightness"], 0.0, 255.0), ("sharpness", told["sharpness"], 0.0, 3.0)]
    drawings = []
    for name, values, low, high in drawn:
        counts, _ = np.histogram(np.clip(values, low, high), bins=40, range=(low, high))
        top = max(int(counts.max()), 1)
        heights = [80 * int(n) / top for n in counts]
        bars = "".join(f"<rect x='{8 * i}' y='{80 - h:.1f}' width='7' height='{h:.1f}'/>" for i, h in enumerate(heights))
        caption = f"{name}; median {values.median():.3g}"
        drawing = f"<svg viewBox='0 0 320 81' role='img'><title>{caption}</title>{bars}</svg>"
        drawings.append(f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>")
    note = f"A picture counts as blurred below a sharpness of {BLURRED}, at the size that a model sees."
    return f"<h2>Brightness and sharpness</h2><div class='pair'>{''.join(drawings)}</div><p class='note'>{note}</p>"


def examples(findings: Sequence[Finding], manifest: pd.DataFrame, images: Images) -> str:
    """The first images that each check has named."""
    row = dict(zip(manifest["image"], manifest["row"].astype(int), strict=True))
    parts = []
    for found in findings:
        shown = [image for image in found.images if image in row][:_MOST_PICTURES]
        if shown:
            more = f", {len(shown)} of {len(found.images)}" if len(found.images) > len(shown) else ""
            parts.append(f"<h3>{escape(found.check)}{more}</h3>{_strip(images, [row[image] for image in shown], shown)}")
    return "<h2>Such as these</h2>" + "".join(parts) if parts else ""


def changes_table(found: Drift | None, names: tuple[str, str]) -> str:
    """Bars: what looks different in the new images, in standard deviations."""
    if found is None:
        return ""
    widest = max(2.0, *(abs(value) for value in found.changes.values()))
    lines = []
    for name, value in found.changes.items():
        width = 50 * abs(value) / widest
        left = 50 if value > 0 else 50 - width
        bar = f"<i class='both'><b style='left:{left:.1f}%;width:{width:.1f}%'></b></i>"
        lines.append(f"<li><span>{escape(name)}</span>{bar}<span>{value:+.2f}</span></li>")
    how = f"energy distance {found.distance:.3f}, p = {found.p_value:.3f} by exchanging images at random"
    new = names[1][:1].upper() + names[1][1:]
    note = f"{new} minus {names[0]}, in standard deviations; {found.n_new} against {found.n_known} images; {how}."
    return f"<h2>What looks different</h2><p class='note'>{escape(note)}</p><ul class='bars'>{''.join(lines)}</ul>"


def side_by_side(sides: Sequence[tuple[str, Images]], rng: np.random.Generator) -> str:
    """Some images of each side, drawn at random."""
    parts = []
    for name, images in sides:
        drawn = drift.draw_sample(images.shape[0], _MOST_PICTURES, rng=rng).tolist()
        parts.append(f"<h3>{escape(name)}</h3>{_strip(images, drawn, [name] * len(drawn))}")
    return f"<h2>Some of each</h2>{''.join(parts)}"


def _verdict(findings: Sequence[Finding]) -> str:
    over = [found.check for found in findings if found.verdict == "over"]
    if over:
        return f"<p class='verdict bad'>Over the limit: {escape(', '.join(over))}.</p>"
    n_limits = sum(found.limit is not None for found in findings)
    said = f"Within all limits ({n_limits} set)." if n_limits else "No limits are set: nothing here stops the pipeline."
    return f"<p class='verdict'>{said}</p>"


def _findings(findings: Sequence[Finding]) -> str:
    rows = [(f.check, _figure(f), "" if f.limit is None else f"{f.limit:g}", f.verdict, f.said[:1].upper() + f.said[1:]) for f in findings]
    return _table(("check", "value", "limit", "verdict", "what was found"), rows).replace("<table>", "<table class='found'>")


def _figure(found: Finding) -> str:
    return "" if np.isnan(found.value) else f"{found.value:.3g}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<thead><tr>{''.join(f'<th>{escape(text)}</th>' for text in headings)}</tr></thead>" if any(headings) else ""
    lines = []
    for row in rows:
        kinds = ("over" if text == "over" else "long" if len(text) > 30 else "" for text in row)
        cells = (f"<td class='{kind}'>" if kind else "<td>" for kind in kinds)
        lines.append(f"<tr>{''.join(f'{cell}{escape(text)}</td>' for cell, text in zip(cells, row, strict=True))}</tr>")
    return f"<div class='wide'><table>{head}<tbody>{''.join(lines)}</tbody></table></div>"


def _bars(lines: Iterable[tuple[str, float, str]]) -> str:
    drawn = (
        f"<li><span>{escape(name)}</span><i><b style='width:{100 * share:.1f}%'></b></i><span>{escape(text)}</span></li>"
        for name, share, text in lines
    )
    return f"<ul class='bars'>{''.join(drawn)}</ul>"


def _strip(images: Images, positions: Sequence[int], names: Sequence[str]) -> str:
    shown = (
        f"<img src='{_data(images[np.array([position])][0])}' alt='{escape(name, quote=True)}' title='{escape(name, quote=True)}'>"
        for position, name in zip(positions, names, strict=True)
    )
    return f"<div class='strip'>{''.join(shown)}</div>"


def _data(pixels: npt.NDArray[np.uint8]) -> str:
    """A picture (S, S, 3), made smaller where it is large, as the address of a PNG that is its own content."""
    step = max(1, pixels.shape[0] // _THUMBNAIL_PX)
    small = pixels[::step, ::step]
    height, width = small.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), small.reshape(height, -1)], axis=1)  # 0: a line without a filter
    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", about), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        png += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return "data:image/png;base64," + base64.b64encode(png).decode()


_FOOTER = (
    f"<footer>Dark, bright: {MOST_PIXELS:.0%} of a picture's pixels. Drift counts where p is at most {SURE}. Limits: "
    f"<code>preprocessing.checks</code>. The same as tables: {FINDINGS_TABLE} and {FLAGGED}, beside this page.</footer>"
)

_STYLE = """
:root { --bar: #1f6fb4; }
@media (prefers-color-scheme: dark) { :root { --bar: #6fb1ea; } }
h3 { font-weight: 500; color: var(--soft); margin: 0.9rem 0 0.3rem; }
.verdict { background: var(--card); border-left: 4px solid var(--good); border-radius: 0 10px 10px 0; padding: 0.7rem 1.1rem; }
.verdict.bad { border-color: var(--bad); color: var(--bad); font-weight: 600; }
td.over { color: var(--bad); font-weight: 600; }
.bars { list-style: none; margin: 0; padding: 0; font-size: 0.86rem; }
.bars { display: grid; grid-template-columns: fit-content(11rem) 1fr max-content; gap: 0.1rem 0.8rem; align-items: center; }
.bars li { display: contents; }
.bars span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-variant-numeric: tabular-nums; }
.bars i { position: relative; display: block; height: 0.7rem; background: var(--card); border-radius: 3px; }
.bars b { display: block; height: 100%; background: var(--bar); border-radius: 3px; }
.bars i.both b { position: absolute; top: 0; }
.bars i.both { background: linear-gradient(var(--soft), var(--soft)) center / 1px 100% no-repeat var(--card); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem 2rem; }
figure { margin: 0; }
svg { width: 100%; fill: var(--bar); border-bottom: 1px solid var(--line); }
.strip { display: flex; flex-wrap: wrap; gap: 0.5rem; }
.strip img { width: 88px; height: 88px; border-radius: 6px; image-rendering: pixelated; background: var(--card); }
@media (max-width: 640px) {  /* a finding's words stand below its figures */
  .found thead { display: none; }
  .found tr { display: flex; flex-wrap: wrap; gap: 0 0.9rem; border-bottom: 1px solid var(--line); padding: 0.4rem 0; }
  .found td { border: 0; padding: 0; }
  .found td:empty { display: none; }
  .found td:first-child { font-weight: 600; }
  .found td:last-child { flex-basis: 100%; white-space: normal; min-width: 0; }
}
"""
"""Beside the style that all pages share."""
