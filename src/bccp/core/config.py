"""Loading of the configuration: checks a composed ``config.yaml`` against the schema, and turns texts into typed values."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, OmegaConf, StringNode, ValueNode
from omegaconf.errors import OmegaConfBaseException, ValidationError

from bccp.core import automatic, paths
from bccp.core.config_schema import (
    AUTO,
    Config,
    parse_augmentation,
    parse_cleanup,
    parse_columns,
    parse_metrics,
    parse_noise,
    parse_range,
    parse_step_list,
)
from bccp.core.errors import BCCPError, nearest
from bccp.core.runtime.device import training_device

ADDED = ("experiments", "data_sets")
"""Groups that are no part of ``config.yaml``: ``+experiments=smoke``."""


def defaults() -> dict[str, Any]:
    """``config.yaml`` by section, as it stands: links unresolved, Hydra's own sections among the others."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 20 times as fast as the other one, but not everywhere
    values: dict[str, Any] = loader((paths.ROOT / "config.yaml").read_text(encoding="utf-8")).get_single_data()
    return values


def load(composed: DictConfig, *, base: Path) -> Config:
    """Check a composed configuration against the schema.

    Parameters
    ----------
    composed : DictConfig
        ``config.yaml`` with its overrides.
    base : Path
        The folder that relative paths are relative to.

    Returns
    -------
    Config
        Typed, with every path absolute.

    Raises
    ------
    BCCPError
        For the first value that has the wrong type, or is out of range, unknown or contradicts another.
    """
    values = _resolved(composed)
    schema = typing.get_type_hints(Config)
    for name in values:
        if name not in schema:
            raise BCCPError(f"unknown section {name!r}" + nearest(str(name), (*schema, *ADDED)))
    sections = {name: section(kind, values.get(name) or {}, name, base) for name, kind in schema.items()}
    config = Config(**sections)
    automatic.resolve_sources(config)
    _check_together(config)
    return config


def load_section(composed: DictConfig, name: str, *, base: Path) -> Any:
    """Check one section of a composed configuration, where the others do not count.

    Parameters
    ----------
    composed : DictConfig
        ``config.yaml`` with its overrides.
    name : str
        Of a field of :class:`Config`.
    base : Path
        The folder that relative paths are relative to.

    Returns
    -------
    object of the section's dataclass

    Raises
    ------
    BCCPError
        As of :func:`load`.
    """
    return section(typing.get_type_hints(Config)[name], _resolved(composed).get(name) or {}, name, base)


def _check_together(config: Config) -> None:
    doubtful = not automatic.folders_are_truth(config.segregation)
    if config.data.source == automatic.BUILT_IN and config.main.target_day == "tuesday" and doubtful:
        raise BCCPError(
            "noisy_labels.source=folder takes the folder names of your own images for doubtful labels: "
            "set data.source and data.path, or noisy_labels.source=simulated"
        )
    unpromotable = config.test.registered_model_name is None or config.test.promote == "never"
    if config.main.require_promotion and (unpromotable or "test" not in config.main.execute_steps):
        raise BCCPError(
            "main.require_promotion needs a model that can be promoted: set test.registered_model_name, and neither leave the step test "
            "out nor set test.promote=never"
        )
    if "train" in config.main.execute_steps:  # before hours are spent on the steps before it
        training_device(config.train)


def section(kind: type[Any], values: Mapping[str, Any], name: str, base: Path) -> Any:
    """Make one section from plain values or from the texts of a command line.

    Parameters
    ----------
    kind : type
        The section's dataclass.
    values : mapping
        A value for each of its fields.
    name : str
        What the section is called in messages.
    base : Path
        The folder that relative paths are relative to.

    Returns
    -------
    object of type ``kind``
    """
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise BCCPError(f"unknown key '{name}.{key}'" + nearest(str(key), hints))
    made = {}
    for item in dataclasses.fields(kind):
        key, hint = f"{name}.{item.name}", hints[item.name]
        if item.name not in values:
            raise BCCPError(f"{key} is missing: give it a value")
        value = values[item.name]
        if dataclasses.is_dataclass(hint):
            value = json.loads(value) if isinstance(value, str) else value
            made[item.name] = section(typing.cast("type[Any]", hint), value, key, base)
            continue
        value = _checked(value, hint, item.metadata, key)
        is_path = item.metadata.get("path") and all(values.get(k) in v for k, v in item.metadata["only_where"].items())
        is_path = is_path and not (item.metadata.get("auto") and value == AUTO)
        if value is not None and is_path:
            value = absolute(value, base, key=key)
        made[item.name] = value
    result = kind(**made)
    if hasattr(result, "check"):
        result.check()
    return result


def check_choice(key: str, value: Any) -> None:
    """Check one override's value, as before a sweep starts.

    Parameters
    ----------
    key : str
        ``section.key``.
    value : object
        The value it would take.

    Raises
    ------
    BCCPError
        If the value does not fit.
    """
    name, _, rest = key.partition(".")
    kind = typing.get_type_hints(Config)[name]
    item = next((f for f in dataclasses.fields(kind) if f.name == rest), None)
    if item is None:
        return  # a whole section or a nested key: judged when the job is composed
    if key == "main.execute_steps":
        parse_step_list(value)
    elif key == "noisy_labels.noise":
        parse_noise(value)
    elif key == "train.augmentation" and "${" not in str(value):
        parse_augmentation(value)
    elif key == "preprocessing.cleanup":
        parse_cleanup(value)
    elif rest == "columns" and "${" not in str(value):
        parse_columns(value, key)
    elif key == "preprocessing.range":
        parse_range(value)
    elif key == "test.metrics":
        parse_metrics(value)
    elif not dataclasses.is_dataclass(typing.get_type_hints(kind)[rest]) and "${" not in str(value):
        _checked(value, typing.get_type_hints(kind)[rest], item.metadata, key)


def takes_text(key: str) -> bool:
    """Return True for a key, as ``section.key``, that takes text (or null) and nothing else."""
    hint: Any = Config
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return {*(typing.get_args(hint) or (hint,))} - {type(None)} == {str}


def encode(value: Any) -> str:
    """Write a value as a command line's text; :func:`section` reads it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value)
    return str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a nested mapping, as ``section.key``, with their values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def absolute(text: str, base: Path, *, key: str = "") -> str:
    """Make a path absolute; what is no path (a URL, a name, an id) stays.

    Text is taken for a path where it exists, or has a path separator and no ``://``.
    """
    if "://" in text or text.startswith("models:/"):
        return text
    path = paths.expanded(text, option=key)
    path = path if path.is_absolute() else base / path
    looks_like_path = "/" in text or text.startswith("~")
    return str(path.resolve()) if looks_like_path or path.exists() else text


def _resolved(composed: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise BCCPError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    return typing.cast("dict[str, Any]", plain)


_NODES: dict[type, Callable[..., ValueNode]] = {int: IntegerNode, float: FloatNode, bool: BooleanNode, str: StringNode}


def _checked(value: Any, hint: Any, metadata: Mapping[str, Any], key: str) -> Any:
    """A field's value with its type; ``auto`` stays where the field knows it, whatever its type."""
    may_wait = metadata.get("auto", False)
    if may_wait and value == AUTO:
        return value
    typed = _typed(value, hint, key, more=f" or {AUTO}" if may_wait else "")
    _check_value(typed, metadata, key)
    return typed


def _typed(value: Any, hint: Any, key: str, *, more: str = "") -> Any:
    """Convert to the field's type as OmegaConf does, which never turns the text ``0012`` into a number for a text field."""
    if hint is Any:
        return json.loads(value) if isinstance(value, str) and value.startswith(("[", "{")) else value
    optional = type(None) in typing.get_args(hint)
    if value is None or (isinstance(value, str) and value in ("null", "None")):
        if optional:
            return None
        raise BCCPError(f"{key}=null is not accepted: give {_kind_name(hint)}{more}")
    kind = next(k for k in (typing.get_args(hint) or (hint,)) if k is not type(None))
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        raise BCCPError(f"{key}={value} is not accepted: give {_kind_name(hint)}{more}")
    try:
        return _NODES[kind](value, is_optional=False)._value()
    except ValidationError as error:
        raise BCCPError(f"{key}={value} is not accepted: give {_kind_name(hint)}{more}") from error


def _kind_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return " or ".join(names[kind] for kind in (typing.get_args(hint) or (hint,)))


def _check_value(value: Any, metadata: Mapping[str, Any], key: str) -> None:
    if "registry" in metadata:
        metadata["registry"].check(value)
        return
    choices = metadata.get("choices")
    if choices and value is not None and value not in choices:
        known = (*choices, AUTO) if metadata.get("auto") else choices
        raise BCCPError(f"{key}={value} is unknown: use one of {', '.join(known)}" + nearest(str(value), known))
    if value is None or "range" not in metadata:
        return
    low, high, above, below = metadata["range"]
    if not (low < value if above else low <= value) or not (value < high if below else value <= high):
        bound = f"{'above' if above else 'from'} {low:g}" + (f" {'and below' if below else 'to'} {high:g}" if high < float("inf") else "")
        raise BCCPError(f"{key}={value} is out of range: give a number {bound}" + ("" if above or high < float("inf") else " up"))
