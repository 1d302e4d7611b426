"""Hydra's command line: options in one text, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException

from bccp.core import config
from bccp.core.errors import BCCPError, MissingExtraError, nearest
from bccp.core.runtime.extras import install_command

_CLOSING = {"[": "]", "{": "}", "(": ")"}

EXTRAS = {
    "hydra/launcher": {"joblib": "pipeline", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray", "ray_aws": "ray"},
    "hydra/sweeper": {"optuna": "optuna"},
}
"""Choices of other packages, by group, with the extra of ``pyproject.toml`` that installs each."""


def split_options(text: str) -> list[str]:
    """Split options at white space outside quotes and brackets; quotes stay, as Hydra tells texts from sweeps by them.

    Parameters
    ----------
    text : str
        As given to ``-P hydra_options="…"``.

    Returns
    -------
    list of str
        Flags (``-m``) first, then overrides: Hydra refuses overrides on both sides of a flag.

    Examples
    --------
    >>> split_options("train.epochs=3 -m main.execute_steps='train, test'")
    ['-m', 'train.epochs=3', "main.execute_steps='train, test'"]
    """
    words, word, quote, brackets = [], "", "", ""
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[position - 1] != "\\" else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _CLOSING:
            brackets += _CLOSING[letter]
        elif brackets and letter == brackets[-1]:
            brackets = brackets[:-1]
        elif letter.isspace() and not brackets:
            words += [word] if word else []
            word = ""
            continue
        word += letter
    if quote or brackets:
        raise BCCPError(f"hydra_options: {(quote or brackets[-1])!r} is missing at the end of {word!r}")
    words += [word] if word else []
    return flags_first(words)


def flags_first(words: Sequence[str]) -> list[str]:
    """Put ``-m`` and other flags before the overrides; a flag's separate value (``--config-name x``) stays behind it."""
    flags, overrides, takes_value = [], [], False
    for word in words:
        if takes_value or word.startswith("-"):
            flags.append(word)
            takes_value = not takes_value and word in _VALUE_FLAGS
        else:
            overrides.append(word)
    return flags + overrides


def first_flag(words: Sequence[str]) -> str | None:
    """Return the first of the words that is a flag; None where all are overrides."""
    return next((word for word in words if word.startswith("-")), None)


def quote_step_list(word: str) -> str:
    """Put quotes round the comma list of steps that a single run is given, which Hydra would take for values to sweep over.

    Examples
    --------
    >>> quote_step_list("main.execute_steps=train, test"), quote_step_list("train.epochs=1,2")
    ("main.execute_steps='train, test'", 'train.epochs=1,2')
    """
    return re.sub(r"^(main\.execute_steps=)(\w+(\s*,\s*\w+)+)$", r"\1'\2'", word)


_VALUE_FLAGS = frozenset(
    {
        "--config-name",
        "-cn",
        "--config-path",
        "-cp",
        "--config-dir",
        "-cd",
        "--cfg",
        "-c",
        "--package",
        "-p",
        "--experimental-rerun",
        "--info",
        "-i",
    }
)


class WrongFlagError(BCCPError):
    """A flag that Hydra does not have, or one without its value."""

    exit_status = 2


def check_flags(words: Sequence[str]) -> None:
    """Refuse what Hydra's own parser would answer with its usage, and flags that exclude each other.

    Parameters
    ----------
    words : sequence of str
        Flags first, then overrides.

    Raises
    ------
    WrongFlagError
    """
    parser = get_args_parser()
    known = sorted(set(re.findall(r"--[\w-]+", parser.format_usage())))

    def refuse(message: str) -> NoReturn:
        raise WrongFlagError(f"{message}: the flags are {', '.join(known)}")

    parser.error = refuse  # type: ignore[method-assign]
    given, unknown = parser.parse_known_args([word for word in words if word != "--version"])
    if flag := first_flag(unknown):
        refuse(f"there is no option {flag}{nearest(flag, known)}")
    modes = {"--run": given.run, "--multirun": given.multirun, "--cfg": given.cfg, "--info": given.info}
    chosen = [name for name, value in modes.items() if value]
    if len(chosen) > 1 and not given.help and not given.hydra_help:
        refuse(f"{' and '.join(chosen)} exclude each other, so leave one out")
    if given.resolve and not given.cfg and not given.help:
        refuse("--resolve is for --cfg, so give --cfg job too")


def check_overrides(overrides: Sequence[str]) -> list[str]:
    """Refuse unknown keys and values by name before a job is composed; each choice of a sweep is checked.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides, no flags.

    Returns
    -------
    list of str
        The same overrides.

    Raises
    ------
    BCCPError
        For the first that cannot be used, with the nearest valid name.
    """
    known = config.defaults()
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise BCCPError(
                f"the option {text!r} cannot be read: write section.key=value, with quotes round a value that holds blanks"
            ) from error
        if override.key_or_group in config.ADDED and not override.is_add() and not override.is_delete():
            raise BCCPError(f"{override.key_or_group} is added to the other options: write +{text.lstrip('+')}")
        if not override.key_or_group.startswith("hydra") and not override.is_add():
            _check_one(override, known)
    return list(overrides)


def not_there(error: MissingConfigException) -> BCCPError:
    """The error for a choice such as ``+experiments=…`` or ``hydra/sweeper=…`` that Hydra has not found."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    extras = EXTRAS.get(group, {})
    if name in extras:
        return MissingExtraError(f"{group}={name} needs a package that is not installed: {install_command(extras[name])}")
    if not error.options:
        return BCCPError(str(error).splitlines()[0])
    options = sorted({*error.options, *extras})
    return BCCPError(f"{group}={name} is unknown{nearest(name, options)}: use one of {', '.join(options)}")


def not_composed(error: ConfigCompositionException) -> str:
    """The sentence for options that Hydra cannot make a configuration of."""
    said = str(error).splitlines()[0]
    option = said.partition("'")[2].rpartition("'")[0]
    key, _, value = option.partition("=")
    group = "/".join(key.split(".")[:2])
    if said.startswith("Ambiguous value"):
        return f"the option {option!r} has a comma: -m sweeps over values, a list is written {key}=[{value}], a text in quotes"
    if "requires --multirun" in said:
        return f"the option {option!r} has several values: -m sweeps over them"
    if said.startswith("Could not override"):
        if group not in EXTRAS:
            return f"unknown key {key!r}"
        those = f"{group}={', '.join(EXTRAS[group])}"
        return f"{key} is no option of the {group} in use: leave it out, or name the one that has it ({those})"
    if said.startswith("Could not append"):
        return f"{option} is part of the configuration: leave the + out"
    if said.startswith("Error merging override"):
        return f"the option {said.removeprefix('Error merging override ')!r} is not accepted ({str(error.__cause__).splitlines()[0]})"
    return f"the options cannot be used ({said})"


def _check_one(override: Override, known: Any) -> None:
    key = override.key_or_group
    node: Any = known
    for depth, name in enumerate(key.split(".")):
        if not isinstance(node, dict) or name not in node:
            place = ".".join(key.split(".")[:depth])
            names = [f"{place}.{n}" if place else n for n in node if n not in ("defaults", "hydra")] if isinstance(node, dict) else []
            everywhere = [f"{s}.{k}" for s, keys in known.items() if isinstance(keys, dict) for k in keys]
            raise BCCPError(f"unknown key {key!r}" + (nearest(key, names) or nearest(key, everywhere)) + _listing(place, names))
        node = node[name]
    if override.is_delete():
        raise BCCPError(f"{key} cannot be deleted: give it a value")
    value = override.value()
    if isinstance(value, IntervalSweep):
        start, end = value.start, value.end
        if start is not None and end is not None and start > end:
            raise BCCPError(f"{key}=interval({start},{end}) ends below its start: write interval({end},{start})")
        choices: Iterable[Any] = [value.start, value.end]
    else:
        choices = override.sweep_iterator() if override.is_sweep_override() else [value]
    for choice in choices:
        config.check_choice(key, choice)


def _listing(place: str, names: Sequence[str]) -> str:
    short = [name.rpartition(".")[2] for name in names]
    return f"; {'the sections' if not place else f'the keys of {place}'} are {', '.join(short)}" if short else ""
