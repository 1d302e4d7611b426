"""A step's key: what its result depends on, and nothing else.

The key is the SHA-256 of a canonical JSON of its parts: the source of the modules that the step imports (transitively), its environment
file, the installed versions of its pinned packages (where it runs in the caller's environment), its parameters (a path counts as what it
holds), dtype, device type, and the versions of its inputs. The seed is one of the parameters. The number of threads is not in it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bccp.core import config_schema, paths, registries
from bccp.core.digests import file_digest, folder_digest
from bccp.core.runtime import device
from bccp.core.runtime.requirements import installed_version, pins

_DIGITS = 16
"""Hex digits of a file's digest in a key's parts, so that those of 50 files fit into a tag; only changes by chance are to be noticed."""

_IMPORT = re.compile(r"^\s*(?:from\s+(bccp[\w.]*)\s+import\s*(\([^)]*\)|.*)|import\s+(bccp[\w.]*))", re.MULTILINE)

_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
"""What no process imports."""

_LONGEST_VALUE = 100
"""Characters of a parameter's value in a key's parts."""


def step_key(
    step: str, section: Any, inputs: Mapping[str, str], *, isolated: bool, resolved: Mapping[str, str] | None = None
) -> tuple[str, dict[str, Any]]:
    """The key of a step under a configuration.

    Parameters
    ----------
    step : str
        One of ``config.STEPS``.
    section : dataclass
        Its section of the configuration.
    inputs : mapping of str to str
        Version of each input artifact, by name.
    isolated : bool
        Whether the step runs in an environment of its own, which its environment file then describes wholly.
    resolved : mapping of str to str, optional
        Parameters that name something elsewhere (a source, a registered model), with the version that they mean now.

    Returns
    -------
    key : str
        64 hex digits.
    parts : dict
        What it was made of.
    """
    parameters = {name: _by_content(section, name, value) for name, value in config_schema.relevant(section).items()}
    parameters |= resolved or {}
    environment = paths.ROOT / step / "conda.yml"
    parts: dict[str, Any] = {
        "step": step,
        "code": _code(paths.ROOT / step / "run.py"),
        "environment": file_digest(environment),
        "parameters": parameters,
        "inputs": dict(inputs),
    }
    if not isolated:
        parts["installed"] = _versions(pins(environment))
    if "torch" in pins(environment):
        parts |= {"dtype": _dtypes(), "device": device.device_type()}
    if step == "train":
        parts["dtype"]["training"], parts["device"] = section.precision, device.training_device(section)
    return parts_key(parts), parts


def parts_key(parts: Mapping[str, Any]) -> str:
    """The key of given parts: SHA-256 of their canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between the parts of two keys, as ``name: old -> new``, longest values shortened."""
    found = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {_short(before)} -> {_short(after)}")
    return found


def source_digest(run_file: Path) -> str:
    """SHA-256 over what :func:`source_digests` gives."""
    return hashlib.sha256(json.dumps(source_digests(run_file), sort_keys=True).encode()).hexdigest()


@functools.cache
def source_digests(run_file: Path) -> dict[str, str]:
    """SHA-256, by path, of a step's ``run.py`` and every module of this package that it imports, directly or not, anywhere in a file but
    for its types' sake.
    """
    seen: dict[str, str] = {}
    todo = [run_file]
    while todo:
        path = todo.pop()
        name = paths.name_of(path)
        if name not in seen:
            seen[name] = file_digest(path)
            todo += _imported_files(path)
    return seen


def _code(file: Path) -> dict[str, str]:
    return {name: digest[:_DIGITS] for name, digest in sorted(source_digests(file).items())}


@functools.cache
def _imported_files(path: Path) -> list[Path]:
    """The files of this package that a file imports, told by its text: to parse 50 files takes half a second of each start."""
    files: list[Path] = []
    for base, imported, alone in _IMPORT.findall(_TYPES.sub("", path.read_text(encoding="utf-8"))):
        words = re.findall(r"\w+", imported)
        names = [alone] if alone else [base, *(f"{base}.{name}" for name in words)]
        if base == "bccp.core.registries":  # its tables name modules that are imported when an entry is looked up
            tables = [getattr(registries, word, None) for word in words]
            names += [module for table in tables if isinstance(table, registries.Registry) for module in table.modules()]
        for name in names:
            stem = paths.PACKAGE.joinpath(*name.split(".")[1:])
            packages = [stem, *(folder for folder in stem.parents if paths.PACKAGE in folder.parents)]  # Python runs these too
            files += [f for f in (stem.with_suffix(".py"), *(folder / "__init__.py" for folder in packages)) if f.is_file()]
    return files


def _dtypes() -> dict[str, str]:
    """What learns is float32, but where ``train.precision`` says otherwise; what is frozen may be less."""
    return {"training": "float32", "frozen": device.features_dtype(device.device_type())}


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: installed_version(name) or "missing" for name in packages}


def shared_parts(name: str) -> dict[str, Any]:
    """What work shared by steps depends on beside its parameters: its module ``bccp.<name>``, torch's versions, dtype and device."""
    return {
        "code": _code(paths.PACKAGE / f"{name}.py"),
        # a frozen backbone is not trained, and the step test, which shares its features, has no lightning
        "installed": _versions(("numpy", "torch", "torchvision") + (("lightning",) if name != "frozen_features" else ())),
        "dtype": _dtypes(),
        "device": device.device_type(),
    }


def started_by() -> str:
    """What started this process: ``virtualenv``, ``uv`` or ``conda`` (an environment that MLflow made), else ``local``."""
    prefix = Path(sys.prefix)
    if prefix.name.startswith("mlflow-"):
        settings = prefix / "pyvenv.cfg"
        if settings.is_file():
            return "uv" if re.search(r"^uv\s*=", settings.read_text(encoding="utf-8"), flags=re.MULTILINE) else "virtualenv"
        if os.environ.get("CONDA_PREFIX") == sys.prefix:
            return "conda"
    return "local"


def _by_content(section: Any, name: str, value: Any) -> Any:
    """A path parameter as the digest of what it names; a long value as its digest."""
    item = next((f for f in dataclasses.fields(section) if f.name == name), None)
    if item is not None and item.metadata.get("path") and isinstance(value, str) and Path(value).exists():
        return f"sha256:{folder_digest(Path(value)) if Path(value).is_dir() else file_digest(Path(value))}"
    if isinstance(value, dict) and dataclasses.is_dataclass(getattr(section, name)):
        return {key: _by_content(getattr(section, name), key, v) for key, v in value.items()}
    text = json.dumps(value)
    return value if len(text) <= _LONGEST_VALUE else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:24] + "…"
