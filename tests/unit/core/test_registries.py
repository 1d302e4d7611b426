"""Extension points: every entry can be had, the schema follows the tables, and a key has the code that a step may look up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bccp.core import config_schema, registries
from bccp.core.errors import BCCPError
from bccp.core.registries import LOSSES, SAMPLERS, SOURCES, Entry, Registry, SamplerEntry
from bccp.pipeline import cache_keys

TABLES = {name: table for name, table in vars(registries).items() if isinstance(table, Registry)}


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, entries in TABLES.items() for name in entries])
def test_every_entry_is_where_its_table_says(table: str, name: str) -> None:
    assert callable(TABLES[table][name])


def test_the_tables_are_read_without_importing_what_they_name(root: Path) -> None:
    heavy = {"numpy", "pandas", "torch", "mlflow", "bccp.data.replay_samplers"}
    asked = "from bccp.core.registries import BACKBONES, SAMPLERS; assert 'small_cnn' in BACKBONES; assert 'diverse' in SAMPLERS"
    code = f"import sys; {asked}; print(sorted({heavy} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(root / "src")}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout == "[]\n"


@pytest.mark.parametrize(
    ("section", "key", "table"),
    [(config_schema.Train, "loss", LOSSES), (config_schema.CpSampling, "type", SAMPLERS), (config_schema.Data, "source", SOURCES)],
)
def test_the_schema_takes_the_names_of_its_table(section: Any, key: str, table: Registry[Any]) -> None:
    assert section.__dataclass_fields__[key].metadata["choices"] == tuple(table)
    assert table.key.endswith(f".{key}")


def test_an_unknown_name_is_refused_with_those_that_there_are_and_the_nearest_one() -> None:
    with pytest.raises(BCCPError, match=r"^train\.loss=gcee is unknown: use one of cross_entropy, gce, .*jal_ce \(did you mean 'gce'\?\)$"):
        LOSSES.check("gcee")


@pytest.mark.parametrize(
    ("step", "inside", "outside"),
    [
        ("train", "models/fitting/losses/gce", "data/replay_samplers"),
        ("cp_sampling", "data/replay_samplers", "data/scan_filters"),
        ("preprocessing", "data/scan_filters", "data/replay_samplers"),
    ],
)
def test_a_steps_key_has_the_modules_of_the_tables_that_it_looks_up_alone(root: Path, step: str, inside: str, outside: str) -> None:
    found = set(cache_keys.source_digests(root / step / "run.py"))
    assert f"src/bccp/{inside}.py" in found
    assert f"src/bccp/{outside}.py" not in found


def test_a_new_sampler_is_one_line_beside_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS.entries, "first_ones", SamplerEntry("bccp.data.replay_samplers:sample_all"))
    SAMPLERS.check("first_ones")
    assert SAMPLERS["first_ones"] is SAMPLERS["all"]
    assert list(SAMPLERS)[-1] == "first_ones"


def test_each_module_of_a_table_is_named_once() -> None:
    table = Registry(
        "a.b",
        {
            "x": Entry("bccp.data.replay_samplers:f"),
            "y": Entry("bccp.models.fitting.losses.gce:g"),
            "z": Entry("bccp.data.replay_samplers:h"),
        },
    )
    assert table.modules() == ["bccp.data.replay_samplers", "bccp.models.fitting.losses.gce"]
