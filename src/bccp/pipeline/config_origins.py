"""A composed configuration, with the place that each value comes from (``bccp config``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from bccp.core import config
from bccp.core.errors import BCCPError
from bccp.core.overrides import check_overrides, first_flag
from bccp.core.paths import ROOT
from bccp.core.redaction import redact
from bccp.pipeline import config_text
from bccp.pipeline.compose import compose

_WIDEST = 48


@dataclass(frozen=True)
class TracedValue:
    """One value of a composed configuration.

    Attributes
    ----------
    key : str
        ``section.key``.
    value : Any
        Links resolved; passwords in URLs are left out.
    source : str
        ``config.yaml``, ``follows <key>``, a file that was added, or ``command line``.
    comment : str
        As in ``config.yaml``.
    """

    key: str
    value: Any
    source: str
    comment: str


def traced(words: Sequence[str], section: str | None = None) -> list[TracedValue]:
    """Compose the configuration and trace each value.

    Parameters
    ----------
    words : sequence of str
        Hydra overrides, one value for each key.
    section : str, optional
        Only this one.

    Raises
    ------
    BCCPError
        If an override cannot be used.
    """
    if flag := first_flag(words):
        raise BCCPError(f"one configuration is shown, so {flag} is not accepted: give section.key=value and +group=name only")
    composed = compose(words)
    overrides = OverridesParser.create().parse_overrides(check_overrides(words))
    given = {override.key_or_group for override in overrides}
    added = dict(_added(overrides))
    comments = {entry.key: entry.comment for entry in config_text.entries()}
    chosen = [name for name in config_text.sections() if section in (None, name)]
    raw, resolved = _plain(composed, resolve=False), _plain(composed, resolve=True)
    found = []
    for name in chosen:
        for key, value in config.flatten({name: raw[name]}):
            found.append(TracedValue(key, redact(_select(resolved, key)), _source(key, value, given, added), comments.get(key, "")))
    return found


def listing(values: Iterable[TracedValue]) -> str:
    """Return lines for the user: each value, where it comes from, and its comment."""
    rows = [(value.key, f"{value.key}={config.encode(value.value)}", value.source, value.comment) for value in values]
    left = max(min(len(text), _WIDEST) for _, text, _, _ in rows)
    middle = max(len(source) for _, _, source, _ in rows)
    lines, before = list[str](), ""
    for key, text, source, comment in rows:
        section = key.partition(".")[0]
        lines += [""] if before not in ("", section) else []
        before = section
        lines.append(f"{text:<{left}}  {source:<{middle}}" + (f"  # {comment}" if comment else ""))
    return "\n".join(line.rstrip() for line in lines)


def _source(key: str, value: Any, given: Iterable[str], added: Mapping[str, set[str]]) -> str:
    """Name the last place that has set a key."""
    if any(key == word or key.startswith(f"{word}.") for word in given):
        return "command line"
    for file, keys in reversed(list(added.items())):
        if any(key == name or key.startswith(f"{name}.") for name in keys):
            return file
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        return f"follows {value[2:-1]}"
    return "config.yaml"


def _added(overrides: Iterable[Override]) -> Iterator[tuple[str, set[str]]]:
    """Yield each file that an override adds, with the keys that it sets."""
    for override in overrides:
        group, name = override.key_or_group, override.value()
        path = ROOT / group / f"{name}.yaml"
        if group in config.ADDED and path.is_file():
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            values.pop("hydra", None)
            yield f"{group}/{name}.yaml", {key for key, _ in config.flatten(values)}


def _plain(composed: DictConfig, *, resolve: bool) -> Any:
    return OmegaConf.to_container(composed, resolve=resolve)


def _select(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values
