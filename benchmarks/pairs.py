"""Variants of the whole pipeline beside one another, paired by seed: what the benchmarks of single settings share."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import bccp
from bccp.core.errors import BCCPError
from bccp.core.run_summary import Summary
from benchmarks.measures import interval, read_seeds

Results = dict[str, dict[str, list[float]]]
"""Of each variant, by its name, each metric's values, one a seed."""


class Variant(NamedTuple):
    """One way to run the pipeline.

    Attributes
    ----------
    name : str
    overrides : tuple of str
    base : str
        The variant whose figures are taken off its own; empty: none, its own figures are told.
    """

    name: str
    overrides: tuple[str, ...]
    base: str = ""


def add_arguments(parser: argparse.ArgumentParser, *, seeds: int) -> None:
    """What these benchmarks have in common; ``seeds``: how many unless told otherwise."""
    about = f"a number (3: 1 to 3) or a range (4-6), instead of {seeds}"
    parser.add_argument("--seeds", type=read_seeds, default=range(1, seeds + 1), help=about)
    parser.add_argument("--data", type=Path, help="folder or archive with a folder a class, instead of digits")
    parser.add_argument("options", nargs="*", help="Hydra options for all, after --")


def images(data: Path | None) -> list[str]:
    """The options that name the images: a folder or an archive with a folder a class; None: digits."""
    if data is None:
        return []
    path = data.expanduser().resolve()
    if not path.exists():
        raise BCCPError(f"--data {data} does not exist: give a folder or an archive")
    return [f"data.source={'folder' if path.is_dir() else 'archive'}", f"data.path='{path}'"]


def with_label_source(options: Sequence[str]) -> list[str]:
    """Add ``noisy_labels.source=simulated`` to Hydra options that name no source of labels, as a study of noise wants it."""
    named = any(option.startswith(("noisy_labels.source=", "noisy_labels.feedback_file=")) for option in options)
    return [*options] if named else [*options, "noisy_labels.source=simulated"]


def measure(
    variants: Sequence[Variant], metrics: Sequence[str], seeds: Sequence[int], options: Sequence[str], *, first: Sequence[str] | None = None
) -> Results:
    """Run each variant once a seed, and before them ``first``, which they build on.

    Finished steps are reused, also those of a benchmark that was stopped.
    """
    found: Results = {variant.name: {metric: [] for metric in metrics} for variant in variants}
    for seed in seeds:
        own = [*options, f"main.random_seed={seed}"]
        if first is not None:
            _run([*own, *first])
        for number, variant in enumerate(variants, 1):
            print(f"seed {seed} of {seeds[0]} to {seeds[-1]}, {number}/{len(variants)}: {variant.name}", file=sys.stderr, flush=True)
            summary = _run([*own, *variant.overrides])
            for metric, values in found[variant.name].items():
                values.append(summary["metrics"][metric])
    return found


def _run(overrides: Sequence[str]) -> Summary:
    with contextlib.redirect_stdout(io.StringIO()):
        return bccp.run(overrides)


def report(title: str, variants: Sequence[Variant], found: Results) -> str:
    """The table as markdown: means, or mean differences from the base, with 95% intervals (Student's t)."""
    metrics = list(next(iter(found.values())))
    seeds = len(next(iter(found.values()))[metrics[0]])
    lines = [f"{title}, {seeds} seeds, 95% intervals", "", f"| | {' | '.join(metrics)} |", "|---|" + "---|" * len(metrics)]
    for name, _, base in variants:
        own = found[name]
        if base:
            own = {m: [mine - other for mine, other in zip(own[m], found[base][m], strict=True)] for m in metrics}
        lines.append(f"| {name}{f' minus {base}' if base else ''} | {' | '.join(interval(own[m]) for m in metrics)} |")
    return "\n".join(lines)
