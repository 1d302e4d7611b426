"""A user's own code: the documented examples run, count in keys, are packed for serving, and are refused in one sentence."""

from __future__ import annotations

import importlib
import io
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from bccp.core import config, config_schema, registries, step_graph, user_code
from bccp.core.errors import BCCPError
from bccp.core.registries import FILTERS, LOSSES
from bccp.data import replay_samplers, sources
from bccp.data.scan_filters import clean_up
from bccp.evaluation import metrics, scores
from bccp.models import classifier, mlflow_flavor, predictor
from bccp.models.fitting import losses
from bccp.pipeline import export_dataset, preflight
from bccp.pipeline.exports import targets
from bccp.pipeline.step_runner import resolve_external_refs
from support.exported_artifacts import make_artifacts, parts_of

WRONG = """

def one_number(logits, targets):
    return logits.sum()

def fails(*arguments, **options):
    raise ValueError("no\\nmore")

def twice(embeddings, labels, *, n_chosen, rng):
    return [0, 0]

def shrunk(pixels):
    return pixels[1:]

def as_float(pixels):
    return pixels / 255

def text(label_idx, probs, weights):
    return "much"

level = 3
"""


@pytest.fixture
def my_module(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The examples of the documentation, and some that will not do, in one file."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (root / "docs" / "extending.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    path = tmp_path / "own" / "my_module.py"
    path.parent.mkdir()
    path.write_text("\n\n".join(blocks) + WRONG)
    monkeypatch.syspath_prepend(path.parent)
    user_code.module_digest.cache_clear()
    yield path
    user_code.module_digest.cache_clear()
    sys.modules.pop("my_module", None)


def load(**sections: dict[str, Any]) -> config_schema.Config:
    values = OmegaConf.create({name: value for name, value in config.defaults().items() if name not in ("hydra", "defaults")})
    for name, changes in sections.items():
        values[name].update(changes)
    return config.load(values, base=Path("/nowhere"))


def test_the_configuration_takes_the_names_of_own_code(my_module: Path) -> None:
    cleanup = [{"my_module.threshold": {"level": 90}}, "erosion"]
    loaded = load(
        data={"source": "my_module.Stripes"},
        preprocessing={"cleanup": cleanup},
        cp_sampling={"type": "my_module.hardest"},
        train={"loss": "my_module.smoothed"},
        test={"metrics": ["my_module.mean_confidence"]},
    )
    assert loaded.preprocessing.cleanup == [{"my_module.threshold": {"level": 90}}, {"erosion": {"size": 3}}]
    assert loaded.cp_sampling.relevant()["embedding"] == "monday_model"
    named = [name for step in step_graph.STEPS for _, name in config_schema.own_names(step, loaded.section(step))]
    assert named == [f"my_module.{name}" for name in ("Stripes", "threshold", "hardest", "smoothed", "mean_confidence")]
    preflight.check(loaded, ["cp_sampling"], isolated=False)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "source", "other_module.Stripes"),
        ("preprocessing", "cleanup", ["other_module.f"]),
        ("cp_sampling", "type", "other_module.f"),
        ("train", "loss", "other_module.f"),
        ("test", "metrics", ["other_module.f"]),
    ],
)
def test_a_module_that_is_not_there_is_refused_before_anything_runs(my_module: Path, section: str, key: str, value: Any) -> None:
    with pytest.raises(
        BCCPError, match=rf"^{section}\.{key}: other_module\.\w+ is not found: there is no module 'other_module' on Python's"
    ):
        load(**{section: {key: value}})
    with pytest.raises(BCCPError, match="there is no module 'other_module'"):
        config.check_choice(f"{section}.{key}", value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("my_module.smooth", "the module my_module has no 'smooth' (did you mean 'smoothed'?)"),
        ("my_module.level", "train.loss: my_module.level is a int, which cannot be called: name a function or a class"),
        ("my_module.fails", "train.loss: my_module.fails fails (ValueError: no): give a function of logits and targets"),
        ("my_module.one_number", "train.loss: my_module.one_number gives torch.float32 () for 2 images: give a function"),
    ],
)
def test_a_loss_that_will_not_do_is_refused_in_one_sentence(my_module: Path, name: str, sentence: str) -> None:
    with pytest.raises(BCCPError, match=re.escape(sentence)) as refused:
        losses.find_loss(name)
    assert "\n" not in str(refused.value)


def test_a_module_that_cannot_be_imported_is_refused_before_the_first_step(my_module: Path) -> None:
    my_module.write_text("1 / 0")
    loaded = load(train={"loss": "my_module.f"})
    with pytest.raises(
        BCCPError, match=r"train\.loss: my_module\.f cannot be imported \(ZeroDivisionError: .*\): mend the module my_module$"
    ):
        preflight.check(loaded, ["train"], isolated=False)
    preflight.check(loaded, ["test"], isolated=False)


def test_the_sampler_of_the_documentation_chooses_the_farthest(my_module: Path) -> None:
    embeddings, labels = np.array([[0.0], [1], [9], [5], [5], [8]]), np.array([0, 0, 0, 1, 1, 1])
    sampler, entry = replay_samplers.find_sampler("my_module.hardest")
    sample = sampler(embeddings, labels, n_chosen=2, rng=np.random.default_rng(0))
    assert entry.needs_embeddings
    assert (sample.image_idx.tolist(), sample.pair.tolist()) == ([0, 2], [-1, -1])
    sys.modules["my_module"].hardest.needs_embeddings = False  # type: ignore[attr-defined]
    assert not replay_samplers.find_sampler("my_module.hardest")[1].needs_embeddings
    for name, sentence in (("twice", "chooses an image twice"), ("fails", r"fails \(ValueError: no\)")):
        with pytest.raises(BCCPError, match=rf"^cp_sampling\.type: my_module\.{name} {sentence}"):
            replay_samplers.find_sampler(f"my_module.{name}")[0](embeddings, labels, n_chosen=2, rng=np.random.default_rng(0))


def test_the_loss_of_the_documentation_is_cross_entropy_with_smoothed_targets(my_module: Path) -> None:
    logits, targets = torch.tensor([[2.0, 0, 0, 0]]), torch.eye(4)[:1]
    found = losses.find_loss("my_module.smoothed")
    expected = LOSSES["cross_entropy"](logits, torch.tensor([[0.925, 0.025, 0.025, 0.025]]))
    torch.testing.assert_close(found.per_image(logits, targets), expected)
    assert found.l1 == 0
    sys.modules["my_module"].smoothed.l1 = 0.5  # type: ignore[attr-defined]
    assert losses.find_loss("my_module.smoothed").l1 == 0.5


def test_the_metric_of_the_documentation_is_in_the_table_with_its_interval(my_module: Path) -> None:
    n = 40
    rng = np.random.default_rng(0)
    label_idx, probs = rng.integers(0, 2, n), rng.dirichlet([1, 1], n)
    said = {"true_label": np.array(["ant", "bee"])[label_idx], "verified": "true", "day": "monday", "corruption": "", "size": ""}
    name = "my_module.mean_confidence"
    table = scores.metrics_table(pd.DataFrame(said), probs, None, ["ant", "bee"], top_k=1, n_resamples=30, seed=0, own=[name])
    value, low, high = table[(table["metric"] == name) & (table["slice"] == "all")][["value", "low", "high"]].to_numpy()[0]
    assert value == pytest.approx(probs.max(axis=1).mean())
    assert low < value < high
    assert scores.run_figures(table)[name] == value
    with pytest.raises(BCCPError, match=r"^test\.metrics: my_module\.text fails \(ValueError: could not convert .*\): give a function of"):
        metrics.measure(np.ones((1, n)), label_idx, probs, top_k=1, more={"text": metrics.own("my_module.text")})
    assert name not in metrics.METRICS


def test_the_source_of_the_documentation_is_fetched_packed_and_told_by_its_fingerprint(my_module: Path, tmp_path: Path) -> None:
    data = load(data={"source": "my_module.Stripes", "path": "3"}).data
    fetched = sources.fetch(data, tmp_path / "images.zip", cache=tmp_path / "cache", fetch_ledger=lambda name: tmp_path)
    assert fetched.files["image"].tolist() == [f"{name}/{number}.png" for name in ("lying", "standing") for number in range(3)]
    meant = resolve_external_refs("fetch_data", data, None)  # type: ignore[arg-type]
    assert meant["path"] == "my_module.Stripes 3 stripes"
    assert set(meant) == {"path", "own_code"}
    data.path = "many"
    with pytest.raises(BCCPError, match=r"^data\.source=my_module\.Stripes: it cannot be made \(ValueError: invalid literal"):
        sources.source_fingerprint(data)


def test_the_filter_of_the_documentation_is_applied_in_its_place(my_module: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    found = np.asarray(clean_up(image, [{"my_module.threshold": {"level": 100}}]))
    np.testing.assert_array_equal(found, np.where(np.asarray(image).mean(axis=2, keepdims=True) > 100, 255, 0).repeat(3, axis=2))
    for name, sentence in (
        ("shrunk", r"makes uint8 \(8, 7, 3\) of uint8 \(9, 7, 3\): give"),
        ("as_float", "makes float64"),
        ("fails", "fails on a picture"),
    ):
        with pytest.raises(BCCPError, match=rf"^preprocessing\.cleanup: my_module\.{name} {sentence}"):
            clean_up(image, [{f"my_module.{name}": {}}])
    assert "my_module.threshold" not in FILTERS


def test_the_format_of_the_documentation_writes_files_and_then_their_list(my_module: Path, tmp_path: Path) -> None:
    parts = parts_of(make_artifacts(tmp_path / "artifacts"))
    exported = export_dataset.export(targets.find(str(tmp_path / "out")), **parts, format_name="my_module.write_names")
    assert exported.list_file == str(tmp_path / "out" / "labels.txt")
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    labels = b"000000000 cat\n000000001 dog\n000000002 cat\n000000003 dog\n000000004 cat\n"
    assert written.pop("labels.txt") == labels
    assert [written[name] for name in sorted(written)] == [b"one", b"two", b"three", b"five", b"six"]


def test_a_filter_is_packed_with_a_registered_model_which_answers_without_the_users_file(
    my_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleanup = [{"my_module.threshold": {"level": 100}}]
    trained = tmp_path / "model"
    trained.mkdir()
    model = classifier.build_classifier("small_cnn", 2, image_size=8, dropout=0.0, seed=0)
    about = {"class_names": ["ant", "bee"], "resize": "stretch", "cleanup": cleanup}
    classifier.save_classifier(model, trained, about, last_state=model.state_dict(), history=pd.DataFrame({"epoch": [1]}))
    mlflow_flavor.write_model(tmp_path / "packed", trained, seen=np.array([], np.uint64))
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    expected = predictor.load_predictor(trained).answers([file.getvalue()])
    sys.modules.pop("my_module")
    my_module.unlink()
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(my_module.parent)])
    with pytest.raises(BCCPError, match="there is no module 'my_module'"):
        predictor.load_predictor(trained).answers([file.getvalue()])
    (place,) = (path.parent for path in (tmp_path / "packed").rglob("model.json"))
    assert predictor.load_predictor(place).answers([file.getvalue()]) == expected


def test_the_source_of_own_code_is_in_the_key_of_the_steps_that_use_it_alone(my_module: Path) -> None:
    loaded: Any = load(train={"loss": "my_module.smoothed"}, cp_sampling={"type": "my_module.hardest"})
    before = {step: resolve_external_refs(step, loaded.section(step), None) for step in ("cp_sampling", "train", "test")}  # type: ignore[arg-type]
    assert {step: set(meant) for step, meant in before.items()} == {"cp_sampling": {"own_code"}, "train": {"own_code"}, "test": set()}
    my_module.write_text(my_module.read_text().replace("0.9 *", "0.8 *"))
    user_code.module_digest.cache_clear()
    assert resolve_external_refs("train", loaded.train, None) != before["train"]  # type: ignore[arg-type]
    assert resolve_external_refs("train", SimpleNamespace(init="scratch", augmentation="none", loss="gce"), None) == {}  # type: ignore[arg-type]


def test_the_new_sampler_of_the_page_on_architecture_passes_the_test_that_the_page_gives_it(root: Path) -> None:
    page = (root / "docs" / "architecture.md").read_text()
    blocks = re.findall(r"^   ```python\n(.*?)^   ```$", page, flags=re.MULTILINE | re.DOTALL)
    function, entry, test = map(textwrap.dedent, blocks)
    module = dict(vars(replay_samplers))
    exec(function, module)
    entries = eval(f"{{{entry}}}", dict(vars(registries)))
    assert entries == {"outliers": registries.SamplerEntry("bccp.data.replay_samplers:sample_outliers", needs_embeddings=True)}

    def choose(name: str, embeddings: Any, labels: Any, n_chosen: int) -> replay_samplers.Sample:
        chosen: replay_samplers.Sample = module[entries[name].place.partition(":")[2]](
            embeddings, labels, n_chosen=n_chosen, rng=np.random.default_rng(0)
        )
        return chosen

    tests = {"np": np, "choose": choose}
    exec(test, tests)
    (name,) = [name for name in tests if name.startswith("test_")]
    tests[name]()


def test_each_module_that_the_page_on_architecture_names_is_there(root: Path) -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", (root / "docs" / "architecture.md").read_text()))
    assert len(named) > 20
    tests = (root / "tests" / "integration", root / "tests" / "unit" / "pipeline")
    places = (root, root / "src", root / "src" / "bccp", root / "src" / "bccp" / "models" / "fitting", *tests)
    own = {"run.py", "__init__.py"}
    assert [name for name in sorted(named - own) if not any((place / name).is_file() for place in places)] == []
