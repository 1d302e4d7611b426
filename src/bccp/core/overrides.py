"""Hydra's command line: options in one text, checked before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, Sweep
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException

from bccp.core import config
from bccp.core.errors import BCCPError, MissingExtraError, nearest
from bccp.core.runtime.extras import install_command

_CLOSING = {"[": "]", "{": "}", "(": ")"}

_QUOTED = re.compile(r"""'(?:(?:\\\\)*|.*?[^\\](?:\\\\)*)'|"(?:(?:\\\\)*|.*?[^\\](?:\\\\)*)\"""", re.DOTALL)
"""A text in quotes, as Hydra's grammar has it."""

_BEGINS_VALUE = re.compile(r"(?:^|[=,\[({:])\s*$")
_BEGINS_CALL = re.compile(r"[=,\[({:]\s*\w+\s*$")
"""What stands before a value or an element of one, and before the bracket of a function such as ``choice(``."""

_OPTION = re.compile(r"(?:\+{0,2}|~)(?:hydra/)?[^\W\d][\w$.@-]*=|~[\w.]+(?:\s|$)|--?[A-Za-z][\w-]*(?:=\S*)?(?:\s|$)")
"""How an override or a flag begins."""

EXTRAS = {
    "hydra/launcher": {"joblib": "pipeline", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray", "ray_aws": "ray"},
    "hydra/sweeper": {"optuna": "optuna"},
}
"""Choices of other packages, by group, with the extra of ``pyproject.toml`` that installs each."""


def split_options(text: str) -> list[str]:
    """Split a text at the blanks before each option; quotes stay, as Hydra tells texts from sweeps by them.

    Blanks within quotes, lists, dictionaries and functions part no options, nor do those before what is no option: a path may hold them.

    Parameters
    ----------
    text : str
        As given to ``-P hydra_options="…"``.

    Returns
    -------
    list of str
        Flags (``-m``) first, then overrides: Hydra refuses overrides on both sides of a flag.

    Raises
    ------
    BCCPError
        If a quote or bracket that begins a value is not closed.

    Examples
    --------
    >>> split_options("train.epochs=3 -m data.path=/my photos main.execute_steps='train, test'")
    ['-m', 'train.epochs=3', 'data.path=/my photos', "main.execute_steps='train, test'"]
    """
    closed = _enclosures(text)
    held = [(start, end) for start, end in closed.items() if _begins_value(text, start)]
    for mark in re.finditer(r"[\[{('\"]", text):
        start = mark.start()
        if start not in closed and _begins_value(text, start) and not any(begin < start < end for begin, end in closed.items()):
            raise BCCPError(f"hydra_options: {_CLOSING.get(mark[0], mark[0])!r} is missing at the end of {text[start:]!r}")
    words: list[str] = []
    begin = 0
    for blank in re.finditer(r"\s+|$", text):
        word = text[begin : blank.start()]
        goes_on = "=" in word and word[0] != "-" and blank.end() < len(text) and not _OPTION.match(text, blank.end())
        if not goes_on and not any(start < blank.start() < end for start, end in held):
            words += [word] if word else []
            begin = blank.end()
    return flags_first(words)


def _begins_value(text: str, position: int) -> bool:
    """Return True for a quote or bracket where a value, an element, an interpolation or the arguments of a function begin."""
    before, letter = text[:position], text[position]
    called = _BEGINS_CALL.search(before) if letter == "(" else letter == "{" and before.endswith("$")
    return bool(_BEGINS_VALUE.search(before) or called)


def _enclosures(text: str) -> dict[int, int]:
    """Find what quotes and brackets enclose.

    A quote counts where a value or an element begins (``it's`` holds none), a bracket where another closes it.

    Returns
    -------
    dict of int to int
        The position behind the closing one, by the position of the opening one.
    """
    ends: dict[int, int] = {}
    opened: list[int] = []
    position = 0
    while position < len(text):
        letter = text[position]
        if letter in "'\"" and _BEGINS_VALUE.search(text[:position]) and (quoted := _QUOTED.match(text, position)):
            ends[position] = position = quoted.end()
            continue
        if letter in _CLOSING:
            opened.append(position)
        elif letter in (_CLOSING[text[start]] for start in opened):
            while _CLOSING[text[start := opened.pop()]] != letter:
                pass
            ends[start] = position + 1
        position += 1
    return ends


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


def check_flags(words: Sequence[str], *, by_mlflow: bool = False) -> None:
    """Refuse what Hydra's own parser would answer with its usage, and flags that exclude each other.

    Parameters
    ----------
    words : sequence of str
        Flags first, then overrides.
    by_mlflow : bool
        Whether `mlflow run` may have given them, which makes a flag and a value of each parameter that it does not know.

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
        key, _, value = flag.removeprefix("--").partition("=")
        if flag.startswith("--") and (by_mlflow or key.partition(".")[0] in config.defaults()):
            value = value or next((word for word in words if "=" not in word and not word.startswith("-")), "value")
            option = f"{key if '.' in key else f'section.{key}'}={value}"
            raise WrongFlagError(
                f"there is no option --{key}: write {option} without dashes, and with `mlflow run`, which hands on this one parameter, "
                f'inside hydra_options: -P hydra_options="{option}"'
            )
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
        The same overrides, with quotes round what can only be text: Hydra reads no letters beyond ASCII, and few signs, without.

    Raises
    ------
    BCCPError
        For the first that cannot be used, with the nearest valid name.
    """
    known = config.defaults()
    parser = OverridesParser.create()
    checked = []
    for given in overrides:
        if (shown := given.encode("utf-8", "backslashreplace").decode()) != given:
            raise BCCPError(
                f"the option {shown!r} has bytes that are no UTF-8: give the file or folder another name, or a link that has one"
            )
        text = _quote_texts(given, parser)
        override = _read(text, parser)
        if override is None:
            raise BCCPError(_unreadable(given, parser))
        if override.key_or_group in config.ADDED and not override.is_add() and not override.is_delete():
            raise BCCPError(f"{override.key_or_group} is added to the other options: write +{given.lstrip('+')}")
        if not override.key_or_group.startswith("hydra") and not override.is_add():
            _check_one(override, known)
        checked.append(text)
    return checked


def no_value(word: str) -> str:
    """The sentence for a word that is no option."""
    return (
        f"the option {word!r} has no value: write section.key=value; where it is part of the value before it, put quotes round that whole "
        "option"
    )


def _read(text: str, parser: OverridesParser) -> Override | None:
    try:
        return parser.parse_override(text)
    except HydraException:
        return None


def _unreadable(given: str, parser: OverridesParser) -> str:
    """The sentence for an option that Hydra does not read."""
    head, sign, value = given.partition("=")
    if not sign:
        return no_value(given)
    if _read(f"{head}=", parser) is None:
        return f"unknown key {head!r}" + nearest(
            head, [f"{s}.{k}" for s, keys in config.defaults().items() if isinstance(keys, dict) for k in keys]
        )
    opening = value.strip()[:1]
    if opening in (*_CLOSING, "'", '"') and 0 not in _enclosures(value.strip()):
        return f"the option {given!r} cannot be read: {_CLOSING.get(opening, opening)!r} is missing at its end"
    if opening in ("'", '"'):
        return f"the option {given!r} cannot be read: quotes go round the whole value, {head}={opening}…{opening}"
    return f"the option {given!r} cannot be read: write section.key=value, with quotes round a text"


def _quote_texts(given: str, parser: OverridesParser) -> str:
    """Put quotes round those parts of an override's value that can only be text, because Hydra does not read them or the key takes text."""
    head, sign, value = given.partition("=")
    if not sign or _read(f"{head}=", parser) is None:
        return given
    takes_text = config.takes_text(head.lstrip("+"))

    def is_read(text: str) -> bool:
        override = _read(f"key={text}", parser)
        if override is None or not takes_text:
            return override is not None
        value = override.value()
        values = value.list if isinstance(value, ChoiceSweep) else [value]
        return all(isinstance(one, str | QuotedString | Sweep | None) for one in values)

    def several(text: str) -> str:
        return ",".join(map(element, _split_commas(text)))

    def element(part: str) -> str:
        text = part.strip()
        if not text or text[0] in "'\"" or is_read(text):
            return part
        whole = _enclosures(text)
        if text[0] == "[" and not takes_text and whole.get(0, len(text)) == len(text):
            return f"[{several(text[1:-1])}]" if 0 in whole else part
        if text[0] == "{" and not takes_text and whole.get(0, len(text)) == len(text):
            pairs = [pair.partition(":") for pair in _split_commas(text[1:-1])]
            return (
                "{" + ",".join(f"{key}:{element(one)}" for key, _, one in pairs) + "}" if 0 in whole and all(p[1] for p in pairs) else part
            )
        called = re.match(r"(\w+)\s*\(", text)
        if called and called[1] in parser.functions.functions and whole.get(called.end() - 1) == len(text):
            if called[1] != "choice" and _read(f"key={text}", parser) is not None:  # its arguments are no texts
                return part
            return f"{called[0]}{several(text[called.end() : -1])})"
        return _quote(text)

    if is_read(value):
        return given
    choice = re.fullmatch(r"\s*choice\s*\((.*)\)\s*", value, re.DOTALL)  # whose texts Hydra hands its jobs without quotes
    return f"{head}={several(choice[1] if choice else value)}"


def _split_commas(text: str) -> list[str]:
    """Split a text at the commas outside of quotes and brackets that no backslash escapes."""
    held = _enclosures(text).items()
    commas = [m.start() for m in re.finditer(r"(?<!\\),", text) if not any(start < m.start() < end for start, end in held)]
    return [text[start + 1 : end] for start, end in zip([-1, *commas], [*commas, len(text)], strict=True)]


def _quote(text: str) -> str:
    """Write a text that stands without quotes, with Hydra's escapes perhaps, as one in quotes."""
    plain = re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", text)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + (found[2] and "\\'"), plain) + "'"


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
