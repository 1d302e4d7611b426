"""A step's key: what its result depends on, and nothing else.

The key is the SHA-256 of a canonical JSON of its parts: the source of its ``run.py`` and of the modules that this imports, directly or not,
from the packages of :data:`SCIENCE`; its environment file; the installed versions of its pinned packages (where it runs in the caller's
environment); its parameters (a path counts as what it holds); dtype, device type, and the versions of its inputs. The seed is one of the
parameters. The number of threads is not in it.

What runs the steps (logs, the store, the command line, the pages) changes no result, so it is in no key. Where it does after all, such as a
digest that is computed in another way, :data:`RUNTIME_VERSION` is raised by hand.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bccp.core import config_schema, paths, registries
from bccp.core.digests import file_digest, folder_digest
from bccp.core.runtime import device
from bccp.core.runtime.requirements import installed_version, pins

SCIENCE = ("data", "models", "labels", "evaluation")
"""The packages whose code decides what a step makes. What they take from other packages is frozen by a test."""

RUNTIME_VERSION = 1
"""To be raised with a change outside of :data:`SCIENCE` that changes what any step makes: then every step runs again."""

_DIGITS = 16
"""Hex digits of a file's digest in a key's parts: only changes by chance are to be noticed."""

_IMPORT = re.compile(r"^\s*(?:from\s+(bccp[\w.]*)\s+import\s*(\([^)]*\)|.*)|import\s+(bccp[\w.]*))", re.MULTILINE)

_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
"""What no process imports."""

_LONGEST_VALUE = 100
"""Characters of a parameter's value in a key's parts."""

_LONGEST_SHOWN = 40


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
        "runtime": RUNTIME_VERSION,
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


def key_differences(step: str, old: Mapping[str, Any], new: Mapping[str, Any], *, with_inputs: bool = True) -> list[str]:
    """Say in lines what differs between the parts of two keys of a step.

    Parameters
    ----------
    step : str
        One of ``STEPS``.
    old, new : mapping
        Parts from :func:`step_key`.
    with_inputs : bool
        Compare the versions of the inputs too; false where they are not known yet.

    Returns
    -------
    list of str
        Such as ``train.epochs 30 → 20``, ``src/bccp/models/weights.py changed``, ``input clean_data 68c2cd11d20d → 6d4fe82fc910``; long
        values are shortened.

    Examples
    --------
    >>> key_differences("train", {"parameters": {"epochs": 30}, "device": "cpu"}, {"parameters": {"epochs": 20}, "device": "cuda"})
    ['train.epochs 30 → 20', 'device cpu → cuda']
    """
    found = _changes(old.get("parameters", {}), new.get("parameters", {}), f"{config_schema.section_name(step)}.")
    earlier = "code" in old and "runtime" not in old  # it names all modules, by names that are not used any more
    if earlier:
        found.append("the code was an earlier version's")
    else:
        found += [f"{name} {_change(before, after)}" for name, before, after in _differing(old.get("code", {}), new.get("code", {}))]
    if old.get("environment") != new.get("environment"):
        found.append(f"{step}/conda.yml changed")
    found += _changes(old.get("installed", {}), new.get("installed", {}), "")
    if with_inputs:
        found += _changes(old.get("inputs", {}), new.get("inputs", {}), "input ", shown=_short_version)
    named = {"step", "parameters", "code", "environment", "installed", "inputs"} | ({"runtime"} if earlier else set())
    before, after = ({name: value for name, value in parts.items() if name not in named} for parts in (old, new))
    return found + _changes(before, after, "")


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str, *, shown: Callable[[Any], str] | None = None) -> list[str]:
    """The values that differ, those of nested mappings by themselves."""
    found = []
    for name, before, after in _differing(old, new):
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _changes(before, after, f"{prefix}{name}.", shown=shown)
        else:
            found.append(f"{prefix}{name} {(shown or _short)(before)} → {(shown or _short)(after)}")
    return found


def _change(before: str | None, after: str | None) -> str:
    return "is new" if before is None else "is not used any more" if after is None else "changed"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value and not re.search(r"\s", value) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 16] + "…"


def _short_version(version: str | None) -> str:
    name, colon, digest = (version or "none").rpartition(":")
    return f"{name}{colon}{digest[:12]}"


@functools.cache
def source_digests(file: Path) -> dict[str, str]:
    """Digest a file and all that it imports of :data:`SCIENCE`.

    Parameters
    ----------
    file : Path
        A step's ``run.py``, or a module.

    Returns
    -------
    dict of str to str
        SHA-256 by path (:func:`bccp.core.paths.name_of`), of the file itself and of every module of :data:`SCIENCE` that it imports,
        directly or through others of them, anywhere in a file but for its types' sake.
    """
    seen: dict[Path, str] = {}
    todo = [file]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen[path] = file_digest(path)
            todo += [imported for imported in imported_files(path) if imported not in seen and is_science(imported)]
    return {paths.name_of(path): digest for path, digest in seen.items()}


def is_science(file: Path) -> bool:
    """Return True for a module of :data:`SCIENCE`."""
    return file.relative_to(paths.PACKAGE).parts[0] in SCIENCE


def _code(file: Path) -> dict[str, str]:
    return {name: digest[:_DIGITS] for name, digest in sorted(source_digests(file).items())}


@functools.cache
def imported_files(path: Path) -> Sequence[Path]:
    """Find the files of this package that a file imports.

    They are read from its text, as to parse all files takes half a second of each start. The package's own ``__init__.py`` is not among
    them: it only offers names.

    Parameters
    ----------
    path : Path
        A file with absolute imports only, which the linter sees to.
    """
    stems: set[str] = set()
    for base, imported, alone in _IMPORT.findall(_TYPES.sub("", path.read_text(encoding="utf-8"))):
        words = re.findall(r"\w+", imported)
        names = [alone] if alone else [base, *(f"{base}.{name}" for name in words)]
        if base == "bccp.core.registries":  # its tables name modules that are imported when an entry is looked up
            tables = [getattr(registries, word, None) for word in words]
            names += [module for table in tables if isinstance(table, registries.Registry) for module in table.modules()]
        for name in names:
            parts = name.split(".")[1:]
            stems |= {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}  # Python runs the packages around a module too
    files = (f"{paths.PACKAGE}/{stem}{end}" for stem in sorted(stems) for end in (".py", "/__init__.py"))
    return [Path(file) for file in files if os.path.isfile(file)]  # noqa: PTH113 - many names are none, and a Path for each takes its time


def _dtypes() -> dict[str, str]:
    """What learns is float32, but where ``train.precision`` says otherwise; what is frozen may be less."""
    return {"training": "float32", "frozen": device.features_dtype(device.device_type())}


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: installed_version(name) or "missing" for name in packages}


def shared_parts(module: str) -> dict[str, Any]:
    """Give the parts that the key of work shared by steps has beside its parameters: code, packages, dtype, device.

    Parameters
    ----------
    module : str
        Dotted name of the module whose function does the work.
    """
    # what is not trained needs no lightning, which the step test does not have
    trains = any(name.endswith("/fitting/training.py") for name in _code(_file(module)))
    parts = code_parts(module, ("numpy", "torch", "torchvision", *(("lightning",) if trains else ())))
    return {**parts, "dtype": _dtypes(), "device": device.device_type()}


def code_parts(module: str, packages: Iterable[str]) -> dict[str, Any]:
    """Give the parts of such a key that tell of code alone: a module with all that it imports, and the packages that it computes with."""
    return {"runtime": RUNTIME_VERSION, "code": _code(_file(module)), "installed": _versions(packages)}


def _file(module: str) -> Path:
    top, *rest = module.split(".")
    return paths.PACKAGE.joinpath(*rest).with_suffix(".py") if top == "bccp" else Path(str(sys.modules[module].__file__))


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
