"""The steps' ``MLproject`` files, written from the schema, so that no parameter is declared by hand twice.

``bccp mlproject`` rewrites them; a test asserts that they are what this module would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bccp.core import config, config_schema, step_graph
from bccp.core.paths import ROOT
from bccp.core.step_graph import MAKER, SPECS
from bccp.pipeline import config_text


def mlproject(step: str) -> str:
    """The text of a step's ``MLproject``: one parameter per input artifact and one per key of its section."""
    name = config_schema.section_name(step)
    defaults = config.defaults()
    del defaults["hydra"]
    values: Any = OmegaConf.to_container(OmegaConf.create(defaults), resolve=True)
    comments = {entry.key: entry.comment for entry in config_text.entries()}
    spec = SPECS[step]
    lines = [f"name: {step}", "", "conda_env: conda.yml", "", "entry_points:", "  main:", "    parameters:"]
    for artifact in spec.all_inputs:
        optional = ", or null" if artifact in spec.optional_inputs else ""
        lines += _parameter(artifact, f"name:digest of the artifact, made by {MAKER[artifact]}{optional}", "null")
    keys = list(values[name])
    for key in keys:
        lines += _parameter(key, comments.get(f"{name}.{key}") or f"{name}.{key} of the configuration", config.encode(values[name][key]))
    options = " ".join(f"--{key}={{{key}}}" for key in (*spec.all_inputs, *keys))
    return "\n".join([*lines, f"    command: {json.dumps(f'python run.py {options}')}", ""])


def _parameter(name: str, description: str, default: str) -> list[str]:
    return [
        f"      {name}:",
        f"        description: {json.dumps(description)}",
        "        type: string",
        f"        default: {json.dumps(default)}",
    ]


def write_all() -> list[Path]:
    """Write the ``MLproject`` of every step; returns the files."""
    files = [ROOT / step / "MLproject" for step in step_graph.STEPS]
    for step, file in zip(step_graph.STEPS, files, strict=True):
        file.write_text(mlproject(step), encoding="utf-8")
    return files
