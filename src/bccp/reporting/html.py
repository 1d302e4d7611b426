"""Pages (HTML) that are whole by themselves: no other file and no address is needed to look at them, in the light or in the dark."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

_STATUSES = ("finished", "failed", "unfinished", "not started", "ran", "reused", "skipped", "left out", "not reached")


def document(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """Write a page of some parts, which are HTML; empty ones are left out. It may load nothing but the pictures that are within it.

    Parameters
    ----------
    title : str
    parts : iterable of str
    style : str
        Rules (CSS) of this page, beside those that all pages share.

    Returns
    -------
    str
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = f"<meta charset='utf-8'><meta http-equiv='Content-Security-Policy' content=\"{policy}\">"
    head += "<meta name='viewport' content='width=device-width, initial-scale=1'><meta name='color-scheme' content='light dark'>"
    head += f"<title>{escape(title)}</title><style>{_STYLE}{style}</style>"
    body = "\n".join(filter(None, parts))
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body><main>\n{body}\n</main></body></html>\n"


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Figures side by side, each with what it is of."""
    return f"<div class='tiles'>{''.join(f'<div><b>{escape(figure)}</b>{escape(text)}</div>' for figure, text in figures)}</div>"


def table(headings: Iterable[str], lines: Iterable[Sequence[str]]) -> str:
    """A table that a narrow screen scrolls; what became of a job or step is coloured."""
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    rows = "".join(f"<tr>{''.join(_cells(line))}</tr>" for line in lines)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _cells(line: Iterable[str]) -> Iterator[str]:
    for text in line:
        kind = "figure" if re.match(r"-?[\d.,]+%?( ±.*)?$", text) else "long" if len(text) > 40 else ""
        kind = f"is-{text.replace(' ', '-')}" if text in _STATUSES else kind
        yield f"<td class='{kind}'>{escape(text)}</td>" if kind else f"<td>{escape(text)}</td>"


def folded(heading: str, content: str, *, is_open: bool) -> str:
    """A part that opens and closes."""
    return f"<details{' open' if is_open else ''}><summary><h2>{escape(heading)}</h2></summary>{content}</details>"


def trouble(heading: str, content: str) -> str:
    """What went wrong."""
    return f"<section class='trouble'><h2>{escape(heading)}</h2>{content}</section>"


def simulation_banner(sentence: str) -> str:
    """Make the banner of a page on simulated labels or images; empty without a sentence."""
    return f"<p class='simulated' role='note'>{escape(sentence[:1].upper() + sentence[1:])}.</p>" if sentence else ""


def many(n: int, what: str) -> str:
    """A number of things.

    Examples
    --------
    >>> many(1, "seed"), many(1200, "label")
    ('1 seed', '1,200 labels')
    """
    return f"{n:,} {what}" + "s" * (n != 1)


def duration(seconds: float) -> str:
    """A duration, whose numbers stay with their units where a line breaks.

    Examples
    --------
    >>> duration(1726).replace("\\N{NO-BREAK SPACE}", "_"), duration(2.04).replace("\\N{NO-BREAK SPACE}", "_")
    ('28_min 46_s', '2.0_s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}_h {minutes}_min" if hours else f"{minutes}_min {rest}_s" if minutes else f"{seconds:.1f}_s"
    return text.replace("_", "\N{NO-BREAK SPACE}")


def json_text(value: Any) -> str:
    """JSON in ASCII, in which a browser finds no HTML: for an element ``script`` that holds data.

    Examples
    --------
    >>> json_text({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    return json.dumps(value, separators=(",", ":")).translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"})


def percent(value: float) -> str:
    """A share as a figure in a hundred."""
    return f"{100 * value:.1f}"


def shortened(text: str, longest: int) -> str:
    """A text of at most so many letters, without its middle where it is longer."""
    kept = longest - 1
    return text if len(text) <= longest else f"{text[: kept - kept // 3]}…{text[-(kept // 3) :]}"


_STYLE = """
:root {
  --page: #ffffff; --ink: #1f2933; --soft: #66727f; --line: #e4e7eb; --card: #f5f7f9;
  --accent: #d9730d; --bad: #c0392b; --good: #1d7a52; --blue: #2f7fc1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11161c; --ink: #e3e9ef; --soft: #93a1af; --line: #2a333d; --card: #1a2129;
    --accent: #f0954a; --bad: #ff8474; --good: #6fcf9f; --blue: #6cb2ee;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1.25rem; }
h1 span { color: var(--soft); font-weight: 400; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 0.6rem; }
h3 { font-size: 0.95rem; margin: 0 0 0.5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(10rem, 100%), 1fr)); gap: 0.75rem; }
.tiles div { background: var(--card); border-radius: 10px; padding: 0.7rem 0.9rem; color: var(--soft); font-size: 0.85rem; min-width: 0; }
.tiles b { display: block; color: var(--ink); font-size: 1.3rem; line-height: 1.35; font-weight: 600; overflow-wrap: anywhere; }
.swept { margin: 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
.swept b { font-weight: 600; margin-right: 0.4rem; }
.trouble { border-left: 4px solid var(--bad); border-radius: 0 10px 10px 0; background: var(--card); }
.trouble { padding: 0.2rem 1.1rem; margin: 1.5rem 0; overflow-wrap: anywhere; }
.simulated { border: 2px solid var(--accent); border-radius: 10px; padding: 0.5rem 0.9rem; margin: 0 0 1.2rem; overflow-wrap: anywhere; }
.trouble h2 { margin-top: 0.8rem; color: var(--bad); }
.trouble ul { padding-left: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.86rem; min-width: 100%; }
th, td { text-align: left; vertical-align: top; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); padding: 0.38rem 0.9rem 0.38rem 0; }
th { color: var(--soft); font-weight: 500; border-bottom-width: 2px; }
td.figure { font-variant-numeric: tabular-nums; }
td.long { white-space: normal; min-width: 17rem; overflow-wrap: anywhere; }
td.is-finished, td.is-ran { color: var(--good); }
td.is-failed, td.is-unfinished { color: var(--bad); font-weight: 600; }
td.is-not-started, td.is-skipped, td.is-left-out, td.is-not-reached { color: var(--soft); }
figure { margin: 2.2rem 0 0; }
svg { display: block; max-width: 100%; height: auto; }
figcaption, .note, footer { color: var(--soft); font-size: 0.88rem; overflow-wrap: anywhere; }
figcaption { margin-top: 0.4rem; }
details { margin-top: 1.6rem; }
summary { cursor: pointer; }
summary h2 { display: inline; }
code { overflow-wrap: anywhere; font-size: 0.85rem; }
pre { background: var(--card); border-radius: 10px; padding: 0.8rem 1rem; margin: 0.6rem 0; white-space: pre-wrap; }
a { color: inherit; }
footer { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1rem; }
.said { margin: 0 0 1.2rem; max-width: 52rem; overflow-wrap: anywhere; }
.flow { margin: 1.2rem 0; }
.flow .narrow { display: none; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 0.75rem; }
.card { background: var(--card); border-radius: 10px; padding: 0.9rem 1rem; min-width: 0; overflow-wrap: anywhere; }
.card p { margin: 0.5rem 0 0; }
.card svg { width: 100%; max-width: 440px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: 0.75rem; }
.pictures { font-size: 0.78rem; line-height: 1.35; }
.pictures > div { background: var(--card); border-radius: 8px; padding: 0.5rem; min-width: 0; overflow-wrap: anywhere; }
.pictures .pair { display: flex; gap: 0.3rem; }
.pictures img { display: block; flex: 1 1 0; min-width: 0; width: 100%; aspect-ratio: 1; border-radius: 4px; image-rendering: pixelated; }
.pictures img { margin-bottom: 0.35rem; object-fit: contain; background: var(--line); }
.pictures small { color: var(--soft); display: block; }
@media (max-width: 640px) { .flow .broad { display: none; } .flow .narrow { display: block; } }
"""


def save(path: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Parameters
    ----------
    path : Path
        Its folder exists; a file there is replaced.
    text : str
    """
    fresh = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
