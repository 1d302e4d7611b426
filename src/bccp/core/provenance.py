"""What a pipeline's figures rest on beside its data: the code, the packages and the kind of machine, and the command that repeats it."""

from __future__ import annotations

import functools
import json
import platform
import re
import shlex
import shutil
import subprocess  # nosec B404
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bccp.core import automatic
from bccp.core import config as configuration
from bccp.core.paths import ROOT
from bccp.core.runtime.device import device_type
from bccp.core.runtime.requirements import installed_version
from bccp.core.runtime.threads import default_threads

SHOWN = ("bccp", "torch", "torchvision", "lightning", "numpy", "pandas", "scikit-learn", "cleanlab", "mlflow", "wandb", "pillow")
"""Packages whose versions are told; ``conda.yml`` pins all."""

_LINK = re.compile(r"\$\{([\w.]+)\}")
_PLAIN = re.compile(r"[A-Za-z_/.~][\w/.~@%+:-]*")
_ASK_SECONDS = 10


class Difference(NamedTuple):
    """A key whose value is not that of ``config.yaml``."""

    key: str
    default: Any
    value: Any


def environment() -> dict[str, Any]:
    """What a run's record says of its surroundings: ``commit``, ``changed``, ``python``, ``system``, ``cores``, ``device``, ``packages``.

    No name of a host, a user or a folder is in it. ``commit`` is empty where the checkout is no clone, or there is no git.
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "changed": bool(commit and _git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": default_threads(),
        "device": device_type(),
        "packages": {name: version for name in SHOWN if (version := installed_version(name))},
    }


def _git(*words: str) -> str:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return ""
    try:
        told = subprocess.run(  # nosec B603
            [git, "-C", str(ROOT), *words], capture_output=True, text=True, check=False, timeout=_ASK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def differences(config: Mapping[str, Any]) -> list[Difference]:
    """List the values of a configuration that neither ``config.yaml`` has nor its ``auto`` stands for.

    Parameters
    ----------
    config : mapping
        By section, resolved, as ``summary.json`` has it.

    Returns
    -------
    list of Difference
        In the order of ``config.yaml``. A key that is linked to another one differs where its value is not the other's.
    """
    implied = automatic.implied(config)
    found = (one for name, values in _defaults().items() if name in config for one in _differing(name, values, config[name], config))
    return [one for one in found if one.key not in implied or implied[one.key] != one.value]


@functools.cache
def _defaults() -> dict[str, Any]:
    """The sections of ``config.yaml``, with their links."""
    return {name: section for name, section in configuration.defaults().items() if name not in ("defaults", "hydra")}


def _differing(key: str, default: Any, value: Any, config: Mapping[str, Any]) -> Iterator[Difference]:
    link = _LINK.fullmatch(default) if isinstance(default, str) else None
    if link:
        default = config
        for name in link[1].split("."):
            default = default.get(name) if isinstance(default, Mapping) else None
    if isinstance(default, Mapping) and isinstance(value, Mapping) and not link:
        for name in default:
            if name in value:
                yield from _differing(f"{key}.{name}", default[name], value[name], config)
    elif default != value:
        yield Difference(key, default, value)


def override(key: str, value: Any) -> str:
    """An option that gives a key a value, as Hydra reads it.

    Examples
    --------
    >>> override("main.execute_steps", ["train", "test"]), override("data.path", "my images/it's"), override("data.sha256", None)
    ('main.execute_steps=[train,test]', "data.path='my images/it\\\\'s'", 'data.sha256=null')
    """
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_written(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in ("null", "none", "true", "false", "nan", "inf"):
        return value
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{quoted}'"


def command(config: Mapping[str, Any]) -> str:
    """The command that runs a pipeline again with the same configuration."""
    options = " ".join(override(one.key, one.value) for one in differences(config))
    return "mlflow run . --env-manager=local" + (f" -P hydra_options={shlex.quote(options)}" if options else "")
