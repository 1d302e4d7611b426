"""A step's key: every part of it changes it, and nothing else does."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bccp.core import config, config_schema, paths, registries, step_graph
from bccp.core.runtime import device, requirements
from bccp.core.step_graph import SPECS
from bccp.pipeline import cache_keys
from bccp.tracking import store


@pytest.fixture
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the checkout that may be edited."""
    copy = tmp_path / "checkout"
    shutil.copytree(root / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for step in step_graph.STEPS:
        shutil.copytree(root / step, copy / step, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "ROOT", copy)
    monkeypatch.setattr(paths, "PACKAGE", copy / "src" / "bccp")
    cache_keys.source_digests.cache_clear()
    requirements.installed_version.cache_clear()
    yield copy
    cache_keys.source_digests.cache_clear()
    requirements.installed_version.cache_clear()


def section(root: Path, step: str = "noisy_labels", **changes: Any) -> Any:
    loaded: Any = OmegaConf.load(root / "config.yaml")
    del loaded["defaults"], loaded["hydra"]
    return dataclasses.replace(config.load(loaded, base=root).section(step), **changes)


def parts(root: Path, step: str = "noisy_labels", inputs: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    cache_keys.source_digests.cache_clear()
    return cache_keys.step_key(step, section(root, step, **changes), inputs or {"segregated_data": "a" * 64}, isolated=False)[1]


def key(root: Path, step: str = "noisy_labels", inputs: dict[str, str] | None = None, **changes: Any) -> str:
    return cache_keys.parts_key(parts(root, step, inputs, **changes))


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "\n# changed\n")


def test_the_same_configuration_has_the_same_key(checkout: Path, root: Path) -> None:
    assert key(root) == key(root)


@pytest.mark.parametrize(
    "file", ["noisy_labels/run.py", "noisy_labels/conda.yml", "src/bccp/labels/noisy_labels.py", "src/bccp/data/tables.py"]
)
def test_a_change_of_what_the_step_runs_changes_the_key(checkout: Path, root: Path, file: str) -> None:
    before = key(root)
    edit(checkout / file)
    assert key(root) != before


def test_the_module_that_changed_is_named_also_where_only_another_module_imports_it(checkout: Path, root: Path) -> None:
    before = parts(root)
    assert "masking" not in (checkout / "noisy_labels" / "run.py").read_text()
    edit(checkout / "src/bccp/core/redaction.py")
    (change,) = cache_keys.differences(before, parts(root))
    assert change.startswith('code.src/bccp/core/redaction.py: "')


def test_imports_are_told_from_a_files_text_as_python_tells_them(root: Path) -> None:
    source = root / "src"
    modules = {}
    for file in (source / "bccp").rglob("*.py"):
        parts = file.relative_to(source).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    assert len(modules) > 90
    assert any(name.count(".") > 1 for name in modules)  # some lie in a package within the package
    for path in (*modules.values(), *(root / step / "run.py" for step in step_graph.STEPS)):
        imported: set[str] = set()
        tree = ast.parse(path.read_bytes())
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bccp":
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                if node.module == "bccp.core.registries":
                    tables = [getattr(registries, alias.name) for alias in node.names]
                    imported |= {name for table in tables if isinstance(table, registries.Registry) for name in table.modules()}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names if alias.name.split(".")[0] == "bccp"}
        # Python runs the packages around a module first; that of all of them only offers names
        imported |= {name.rsplit(".", depth)[0] for name in imported for depth in range(1, name.count("."))}
        expected = {file for name, file in modules.items() if name in imported}
        assert set(cache_keys._imported_files(path)) - {path} == expected - {path}, path  # an example may import the module that it is in


@pytest.mark.parametrize(
    "line", ["import bccp.rooms.inner.shelf", "from bccp.rooms.inner import shelf", "from bccp.rooms.inner.shelf import (\n    BOOKS,\n)"]
)
def test_a_module_in_a_package_within_the_package_counts_and_so_do_the_packages_around_it(checkout: Path, root: Path, line: str) -> None:
    files = [f"src/bccp/rooms/{name}" for name in ("__init__.py", "inner/__init__.py", "inner/shelf.py", "inner/window.py")]
    (checkout / files[2]).parent.mkdir(parents=True)
    for file in files:
        (checkout / file).write_text("BOOKS = 3\n")
    with (checkout / "src/bccp/labels/noisy_labels.py").open("a") as module:
        module.write(f"\n{line}\n")
    before = parts(root)
    assert set(files) & set(before["code"]) == set(files[:3])  # nobody imports the last one
    for file in files[:3]:
        edit(checkout / file)
        after = parts(root)
        assert [change.partition(": ")[0] for change in cache_keys.differences(before, after)] == [f"code.{file}"]
        before = after


@pytest.mark.parametrize("step", step_graph.STEPS)
def test_what_runs_the_steps_and_tells_of_them_is_in_no_key(root: Path, step: str) -> None:
    imported = {Path(name).stem for name in cache_keys.source_digests(root / step / "run.py")}
    assert not imported & {"pipeline", "pipeline_page", "pipeline_report", "pages", "plan", "sweeps", "environments", "wandb_reused"}


@pytest.mark.parametrize("name", ["monday_model", "frozen_features"])
def test_work_shared_by_steps_has_the_code_that_it_runs_in_its_key(checkout: Path, name: str) -> None:
    before = cache_keys.shared_parts(name)
    edit(checkout / "src/bccp/labels/noisy_labels.py")
    cache_keys.source_digests.cache_clear()
    assert cache_keys.shared_parts(name) == before
    edit(checkout / "src/bccp/models/classifier.py")
    cache_keys.source_digests.cache_clear()
    (change,) = cache_keys.differences(before, cache_keys.shared_parts(name))
    assert change.startswith("code.src/bccp/models/classifier.py: ")


@pytest.mark.parametrize("step", step_graph.STEPS)
def test_what_a_key_is_made_of_fits_into_a_tag(root: Path, step: str) -> None:
    longest = {f.name: "x" * 200 for f in dataclasses.fields(config_schema.section_type(step)) if f.type in ("Any", "str | None")}
    inputs = dict.fromkeys(SPECS[step].all_inputs, "true_labels:" + "a" * 64)
    _, made_of = cache_keys.step_key(step, section(root, step, **longest), inputs, isolated=False)
    assert len(json.dumps(made_of)) < store._TAG_LIMIT


@pytest.mark.parametrize(
    "file",
    ["train/run.py", "train/conda.yml", "src/bccp/models/fitting/training.py", "src/bccp/data/corruption.py", "noisy_labels/MLproject"],
)
def test_a_change_of_another_file_does_not(checkout: Path, root: Path, file: str) -> None:
    before = key(root)
    edit(checkout / file)
    assert key(root) == before


def test_parameters_seed_and_inputs_change_the_key(checkout: Path, root: Path) -> None:
    different = {
        key(root),
        key(root, user_accuracy=0.6),
        key(root, noise="pair"),
        key(root, random_seed=43),
        key(root, inputs={"segregated_data": "b" * 64}),
        key(root, inputs={"segregated_data": "a" * 64, "true_labels": "a" * 64}),
    }
    assert len(different) == 6


def test_a_mapping_and_a_list_of_mappings_are_values_too(root: Path) -> None:
    """They reach the pipeline from a command line as these."""
    subset = {"classes": ["ant"], "images_per_class": 20}
    assert parts(root, "train", subset=subset)["parameters"]["subset"] == subset
    changes = [{"_target_": "torchvision.transforms.v2.GaussianBlur", "kernel_size": 3}]
    assert parts(root, "train", augmentation=changes)["parameters"]["augmentation"] == changes
    cleanup = [{"median_filter": {"size": 3}}]
    assert parts(root, "preprocessing", cleanup=cleanup)["parameters"]["cleanup"] == cleanup


def test_a_file_counts_as_what_it_holds(checkout: Path, root: Path, tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.csv", "same.csv", "other.csv"))
    one.write_text("image,label\na,b\n")
    same.write_text("image,label\na,b\n")
    other.write_text("image,label\na,c\n")
    of_one, of_same, of_other = (key(root, "segregation", feedback_file=str(path)) for path in (one, same, other))
    assert of_one == of_same
    assert of_one != of_other


def test_the_device_counts_where_torch_is_used(checkout: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = parts(root, "train"), parts(root)
    assert train["dtype"] == {"training": "float32", "frozen": device.features_dtype("cpu")}
    monkeypatch.setattr(device, "features_dtype", lambda device: "bfloat16")
    other = parts(root, "train")
    assert other["dtype"] == {"training": "float32", "frozen": "bfloat16"}
    monkeypatch.setattr(device, "device_type", lambda: "cuda")
    assert cache_keys.differences(other, parts(root, "train")) == ['device: "cpu" -> "cuda"']
    assert parts(root) == labels
    assert cache_keys.parts_key(train) != cache_keys.parts_key(train | {"dtype": {"training": "bfloat16", "frozen": "bfloat16"}})


def test_what_training_computes_in_and_on_counts_and_not_how_it_was_said(
    checkout: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "features_dtype", lambda device: "float32")
    train = parts(root, "train")
    assert parts(root, "train", accelerator="cpu") == train
    other = parts(root, "train", precision="bfloat16")
    assert cache_keys.differences(train, other) == [
        'dtype.training: "float32" -> "bfloat16"',
        'parameters.precision: "float32" -> "bfloat16"',
    ]
    assert parts(root, "train", strategy="ddp_fork") == train
    assert parts(root, "train", strategy="ddp_fork", devices=2) != parts(root, "train", devices=2) != train
    monkeypatch.setattr(device, "device_type", lambda: "cuda")
    assert cache_keys.differences(train, parts(root, "train", accelerator="cpu")) == []
    assert parts(root, "train")["device"] == "cuda"


def test_the_installed_version_of_each_pinned_package_counts_and_no_other(
    checkout: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, installed = parts(root, "train"), requirements.metadata.version
    for changed, seen in (("torch", ["installed.torch"]), ("matplotlib", [])):
        monkeypatch.setattr(requirements.metadata, "version", lambda name, changed=changed: "0.0.1" if name == changed else installed(name))
        requirements.installed_version.cache_clear()
        assert [change.partition(":")[0] for change in cache_keys.differences(before, parts(root, "train"))] == seen


def test_differences_name_what_changed_from_old_to_new() -> None:
    old = {"step": "train", "parameters": {"epochs": 3, "model": "a"}, "inputs": {"model": "x" * 64}}
    new = {"step": "train", "parameters": {"epochs": 4, "model": "a"}, "inputs": {"model": "y" * 64}}
    assert cache_keys.differences(old, new) == [f'inputs.model: "{"x" * 23}… -> "{"y" * 23}…', "parameters.epochs: 3 -> 4"]
