"""A step's key: every part of it changes it, and nothing else does."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bccp.core import config, paths, registries, step_graph
from bccp.core.runtime import device, requirements
from bccp.pipeline import cache_keys


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
    assert "array_types" not in (checkout / "noisy_labels" / "run.py").read_text()
    edit(checkout / "src/bccp/data/array_types.py")
    assert cache_keys.key_differences("noisy_labels", before, parts(root)) == ["src/bccp/data/array_types.py changed"]


PLATFORM_NAMES = {
    "core.automatic.BUILT_IN",
    "core.automatic.registration_refused",
    "core.automatic.untrusted_rest",
    "core.config_schema.BayesCutoff",
    "core.config_schema.Data",
    "core.config_schema.MondayModel",
    "core.config_schema.Segregation",
    "core.config_schema.NOISES",
    "core.config_schema.Train",
    "core.digests.digest_once",
    "core.digests.file_digest",
    "core.digests.folder_digest",
    "core.errors.BCCPError",
    "core.errors.describe_difference",
    "core.errors.few",
    "core.errors.nearest",
    "core.home.scratch",
    "core.logs.emit",
    "core.paths.PACKAGE",
    "core.paths.ROOT",
    "core.paths.expanded",
    "core.paths.where_relative",
    "core.progress.each",
    "core.progress.on_terminal",
    "core.progress.show",
    "core.proxies.proxy_note",
    "core.redaction.redact_text",
    "core.redaction.redact_url",
    "core.registries.BACKBONES",
    "core.registries.FILTERS",
    "core.registries.LOSSES",
    "core.registries.SAMPLERS",
    "core.registries.SOURCES",
    "core.registries.SamplerEntry",
    "core.registries.found_at",
    "core.runtime.device.features_dtype",
    "core.runtime.requirements.installed_version",
    "core.runtime.requirements.pins",
    "core.runtime.wandb_import.import_wandb",
    "core.step_context.Step",
    "core.user_code.describe_error",
    "core.user_code.import_object",
    "core.user_code.is_dotted_name",
    "core.user_code.source_digest",
    "core.user_code.source_location",
    "core.user_code.targets",
    "tracking.finished_runs.data_source_of",
    "tracking.registry.CHAMPION",
    "tracking.registry.NO_CHAMPION",
    "tracking.registry.champion",
    "tracking.registry.fetch_model",
    "tracking.registry.find_version",
    "tracking.registry.lock_name",
    "tracking.registry.promote",
    "tracking.registry.register",
    "tracking.registry.rolled_back_versions",
    "tracking.tags.JUDGED_TAG",
    "tracking.tags.REGISTERED_TAG",
    "tracking.tags.SIMULATED_TAG",
    "tracking.tags.UNVERIFIED_TAG",
    "tracking.tags.VERDICT_REASON_TAG",
    "tracking.tags.VERDICT_TAG",
}
"""What science takes from other packages, types included."""

SOURCE = paths.PACKAGE.parent
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in paths.PACKAGE.rglob("*.py"))
SHARED = (
    "bccp.models.monday_model",
    "bccp.models.feature_cache",
    "bccp.models.offline_augmentation",
    "bccp.labels.student",
    "bccp.labels.network_scoring",
    "bccp.labels.frozen_scoring",
    "bccp.labels.untrusted_scoring",
    "bccp.labels.folder_checking",
)
"""Whose functions do work that steps share."""


def python_imports(path: Path, *, types_too: bool = False) -> set[str]:
    """What a file imports of the package, as Python's own parser tells it: modules, and names that may be modules."""
    tree = ast.parse(path.read_bytes())
    if not types_too:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bccp":
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            if node.module == "bccp.core.registries":
                tables = [getattr(registries, alias.name) for alias in node.names]
                imported |= {name for table in tables if isinstance(table, registries.Registry) for name in table.modules()}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name.split(".")[0] == "bccp"}
    # Python runs the packages around a module first
    return imported | {name.rsplit(".", depth)[0] for name in imported for depth in range(1, name.count("."))}


def dotted(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


@functools.cache
def science_needed_by(file: Path) -> frozenset[str]:
    """The modules of science that a file rests on, without a look at the code under test."""
    science = {dotted(name): name for name in MODULES if name.split("/")[1] in ("data", "models", "labels", "evaluation")}
    needed: set[str] = set()
    todo = [file]
    while todo:
        found = {science[name] for name in python_imports(todo.pop()) if name in science} - needed
        needed |= found
        todo += [SOURCE / name for name in found]
    return frozenset(needed)


def test_every_module_is_looked_at_by_the_next_test() -> None:
    assert len(MODULES) == 279


@pytest.fixture(scope="module")
def whole_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("copy")
    for part in ("src", *step_graph.STEPS):
        shutil.copytree(paths.ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return copy


def digests(copy: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A digest of the code in the key of each step, and of all work that steps share."""
    monkeypatch.setattr(paths, "ROOT", copy)
    monkeypatch.setattr(paths, "PACKAGE", copy / "src" / "bccp")
    cache_keys.source_digests.cache_clear()
    of_steps = {step: json.dumps(cache_keys.source_digests(copy / step / "run.py")) for step in step_graph.STEPS}
    of_shared = {name: json.dumps(cache_keys.shared_parts(name)["code"]) for name in SHARED}
    cache_keys.source_digests.cache_clear()
    return of_steps | of_shared


@pytest.fixture(scope="module")
def before(whole_copy: Path) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return digests(whole_copy, monkeypatch)


@pytest.mark.parametrize("file", MODULES)
def test_a_changed_module_runs_again_exactly_what_rests_on_it_and_nothing_where_it_is_no_science(
    whole_copy: Path, before: dict[str, str], file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = {step: paths.ROOT / step / "run.py" for step in step_graph.STEPS}
    readers |= {name: SOURCE / f"{name.replace('.', '/')}.py" for name in SHARED}
    expected = {name for name, path in readers.items() if file in science_needed_by(path) or path == SOURCE / file}
    text = (whole_copy / "src" / file).read_text()
    try:
        edit(whole_copy / "src" / file)
        after = digests(whole_copy, monkeypatch)
    finally:
        (whole_copy / "src" / file).write_text(text)
    assert {name for name in before if before[name] != after[name]} == expected
    if file.split("/")[1] not in cache_keys.SCIENCE:
        assert not expected


def test_science_rests_on_these_names_of_the_platform_and_a_new_one_is_a_decision() -> None:
    """What changes in them changes no key: where it changes what a step makes, ``RUNTIME_VERSION`` is to be raised."""
    taken: set[str] = set()
    for file in MODULES:
        if file.split("/")[1] not in cache_keys.SCIENCE:
            continue
        tree = ast.parse((SOURCE / file).read_bytes())
        modules: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bccp."):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    if full.split(".")[1] in cache_keys.SCIENCE:
                        continue
                    if f"{full.replace('.', '/')}.py" in MODULES:
                        modules[alias.asname or alias.name] = full
                    else:
                        taken.add(full)
        taken |= {
            f"{modules[node.value.id]}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
        }
    assert {name.removeprefix("bccp.") for name in taken} == PLATFORM_NAMES


def test_imports_are_told_from_a_files_text_as_python_tells_them(root: Path) -> None:
    modules = {dotted(file): SOURCE / file for file in MODULES}
    del modules["bccp"]  # it only offers names
    assert any(name.count(".") > 2 for name in modules)  # some lie in a package within a package
    for path in (*modules.values(), *(root / step / "run.py" for step in step_graph.STEPS)):
        imported = python_imports(path)
        expected = {file for name, file in modules.items() if name in imported}
        assert set(cache_keys.imported_files(path)) - {path} == expected - {path}, path  # an example may import the module that it is in


@pytest.mark.parametrize(
    "line",
    [
        "import bccp.data.rooms.inner.shelf",
        "from bccp.data.rooms.inner import shelf",
        "from bccp.data.rooms.inner.shelf import (\n    BOOKS,\n)",
    ],
)
def test_a_module_in_a_package_within_the_package_counts_and_so_do_the_packages_around_it(checkout: Path, root: Path, line: str) -> None:
    files = [f"src/bccp/data/rooms/{name}" for name in ("__init__.py", "inner/__init__.py", "inner/shelf.py", "inner/window.py")]
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
        assert cache_keys.key_differences("noisy_labels", before, after) == [f"{file} changed"]
        before = after


@pytest.mark.parametrize("name", SHARED[:2])
def test_work_shared_by_steps_has_the_code_that_it_runs_in_its_key(checkout: Path, name: str) -> None:
    before = cache_keys.shared_parts(name)
    edit(checkout / "src/bccp/labels/noisy_labels.py")
    cache_keys.source_digests.cache_clear()
    assert cache_keys.shared_parts(name) == before
    edit(checkout / "src/bccp/models/classifier.py")
    cache_keys.source_digests.cache_clear()
    assert cache_keys.key_differences("train", before, cache_keys.shared_parts(name)) == ["src/bccp/models/classifier.py changed"]
    trains = (
        name == "bccp.models.monday_model"
    )  # a frozen backbone is not trained, and the step test, which reads its features, has no lightning
    assert ("lightning" in before["installed"]) is trains


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
    assert cache_keys.key_differences("train", other, parts(root, "train")) == ["device cpu → cuda"]
    assert parts(root) == labels
    assert cache_keys.parts_key(train) != cache_keys.parts_key(train | {"dtype": {"training": "bfloat16", "frozen": "bfloat16"}})


def test_what_training_computes_in_and_on_counts_and_not_how_it_was_said(
    checkout: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "features_dtype", lambda device: "float32")
    train = parts(root, "train")
    assert parts(root, "train", accelerator="cpu") == train
    other = parts(root, "train", precision="bfloat16")
    expected = ["train.precision float32 → bfloat16", "dtype.training float32 → bfloat16"]
    assert cache_keys.key_differences("train", train, other) == expected
    assert parts(root, "train", strategy="ddp_fork") == train
    assert parts(root, "train", strategy="ddp_fork", devices=2) != parts(root, "train", devices=2) != train
    monkeypatch.setattr(device, "device_type", lambda: "cuda")
    assert cache_keys.key_differences("train", train, parts(root, "train", accelerator="cpu")) == []
    assert parts(root, "train")["device"] == "cuda"


def test_the_installed_version_of_each_pinned_package_counts_and_no_other(
    checkout: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, installed = parts(root, "train"), requirements.metadata.version
    for changed, seen in (("torch", ["torch"]), ("matplotlib", [])):
        monkeypatch.setattr(requirements.metadata, "version", lambda name, changed=changed: "0.0.1" if name == changed else installed(name))
        requirements.installed_version.cache_clear()
        assert [change.partition(" ")[0] for change in cache_keys.key_differences("train", before, parts(root, "train"))] == seen


def test_differences_name_what_changed_from_old_to_new() -> None:
    files = {"train/run.py": "1", "src/bccp/data/tables.py": "1", "src/bccp/data/drift.py": "1"}
    old = {
        "step": "train",
        "runtime": 1,
        "code": files,
        "environment": "a",
        "parameters": {"epochs": 3, "model": "a", "weights": None, "monday_model": {"epochs": 25, "decay": 0.9}, "subset": "x" * 80},
        "installed": {"torch": "2.12"},
        "inputs": {"model": "x" * 64, "cleansed_labels": "b" * 64},
    }
    new = {
        "step": "train",
        "runtime": 2,
        "code": {"train/run.py": "1", "src/bccp/data/tables.py": "2", "src/bccp/data/dataset.py": "1"},
        "environment": "b",
        "parameters": {"epochs": 4, "model": "a", "weights": "my file", "monday_model": {"epochs": 9, "decay": 0.9}, "subset": "y" * 80},
        "installed": {"torch": "2.13"},
        "inputs": {"model": "y" * 64, "cleansed_labels": f"true_labels:{'b' * 64}"},
    }
    assert cache_keys.key_differences("train", old, old) == []
    of_inputs = [
        f"input cleansed_labels {'b' * 12} → true_labels:{'b' * 12}",
        f"input model {'x' * 12} → {'y' * 12}",
    ]
    others = [
        "train.epochs 3 → 4",
        "train.monday_model.epochs 25 → 9",
        f"train.subset {'x' * 24}… → {'y' * 24}…",
        'train.weights null → "my file"',
        "src/bccp/data/dataset.py is new",
        "src/bccp/data/drift.py is not used any more",
        "src/bccp/data/tables.py changed",
        "train/conda.yml changed",
        "torch 2.12 → 2.13",
    ]
    assert cache_keys.key_differences("train", old, new) == [*others, *of_inputs, "runtime 1 → 2"]
    assert cache_keys.key_differences("train", old, new, with_inputs=False) == [*others, "runtime 1 → 2"]
    of_earlier_version = {name: value for name, value in old.items() if name != "runtime"} | {"code": {"src/bccp/train.py": "1"}}
    assert cache_keys.key_differences("train", of_earlier_version, old) == ["the code was an earlier version's"]


def test_keys_of_the_step_that_fetches_are_called_after_its_section() -> None:
    assert cache_keys.key_differences("fetch_data", {"parameters": {"path": "a"}}, {"parameters": {"path": "b"}}) == ["data.path a → b"]
