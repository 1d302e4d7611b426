"""``config.yaml`` read as text: each key with its default and its comment, without YAML's or Hydra's loaders."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from bccp.core.paths import ROOT

_KEY = re.compile(r"( *)(\w+):(.*)")
_HIDDEN = ("defaults", "hydra")
_WIDTH = 140


@dataclass(frozen=True)
class ConfigEntry:
    """One key of the configuration.

    Attributes
    ----------
    key : str
        ``section.key`` or ``section.key.key``.
    default : str
        As it stands in the file; empty for a key that holds further keys.
    comment : str
        Meaning, choices and unit.
    example : str
        Lines of comment below the key's own.
    """

    key: str
    default: str
    comment: str
    example: str = ""


@cache
def entries() -> tuple[ConfigEntry, ...]:
    """Return the keys of ``config.yaml`` in the order of the file, sections themselves included; Hydra's own sections are left out."""
    found: list[ConfigEntry] = []
    place: list[tuple[int, str]] = []
    for line in (ROOT / "config.yaml").read_text(encoding="utf-8").splitlines():
        left, _, comment = line.partition(" # ")
        if match := _KEY.fullmatch(left):
            indent = len(match[1])
            place = [*((depth, name) for depth, name in place if depth < indent), (indent, match[2])]
            found.append(ConfigEntry(".".join(name for _, name in place), match[3].strip(), comment.strip()))
        elif comment and not left.strip():
            found[-1] = replace(found[-1], example=f"{found[-1].example} {comment}".strip())
    return tuple(entry for entry in found if entry.key.partition(".")[0] not in _HIDDEN)


def sections() -> list[str]:
    """Return the names of the sections, in the order of the file."""
    return [entry.key for entry in entries() if "." not in entry.key]


def described(wanted: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines of a listing: every section, or those that are wanted, with key, default and comment of each key."""
    for section in wanted or sections():
        rows = [entry for entry in entries() if entry.key == section or entry.key.startswith(f"{section}.")]
        yield from ("", f"{section}:" + (f"  # {rows[0].comment}" if rows[0].comment else ""))
        names = ["  " * entry.key.count(".") + entry.key.rpartition(".")[2] for entry in rows[1:]]
        lefts = [f"{name}: {entry.default}".rstrip() for name, entry in zip(names, rows[1:], strict=True)]
        width = max(len(left) for left in lefts if len(left) < _WIDTH // 2)
        for left, entry in zip(lefts, rows[1:], strict=True):
            if not entry.comment:
                yield left
                continue
            first = f"{left:<{width}}  # "
            yield from textwrap.wrap(
                "; ".join(filter(None, [entry.comment, entry.example])),
                _WIDTH,
                initial_indent=first,
                subsequent_indent=" " * width + "    ",
                break_long_words=False,
                break_on_hyphens=False,
            )


def groups() -> Iterator[tuple[str, str]]:
    """Yield each file that ``+group=name`` adds, as ``+group=name``, with the first line of its comment."""
    for group in ("experiments", "data_sets"):
        for path in sorted((ROOT / group).glob("*.yaml")):
            comments = [line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ") and "@" not in line]
            yield f"+{group}={path.stem}", comments[0] if comments else ""


FLAGS = """Hydra's flags (--hydra-help lists all):
  -m, --multirun       a sweep: one job for each combination of the values
  -c, --cfg job        print the composed configuration, and run nothing
  -i, --info           print how it is composed (defaults, searchpath, plugins)
  -cn, --config-name   another file in the place of config.yaml
  -cd, --config-dir    a folder of your own that may bring groups
  -p, --package        with --cfg: one section only"""
"""What of Hydra's flags is of use here."""


def options_text() -> str:
    """Return what can be given: flags, the files that can be added, and every key by section with its default and its comment."""
    added = list(groups())
    width = max(len(name) for name, _ in added)
    return "\n".join(
        [
            FLAGS,
            "",
            "Files of options that can be added:",
            *(f"  {name:<{width}}  {textwrap.shorten(comment, _WIDTH - width, placeholder=' …')}".rstrip() for name, comment in added),
            "",
            "Keys with their defaults, by section, in the order in which the steps run:",
            *described(),
        ]
    )


def help_text() -> str:
    """Return what ``python main.py --help`` shows."""
    return "\n".join(
        [
            "usage: python main.py [-m] [+group=name …] [section.key=value …]",
            "",
            "Run the pipeline, or with -m (--multirun) one job for each combination of values: train.epochs=10,20.",
            "Example: python main.py noisy_labels.user_accuracy=0.6 train.epochs=20",
            "",
            options_text(),
        ]
    )
