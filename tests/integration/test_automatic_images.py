"""What is chosen by the sizes of a user's images, by a pipeline, by a step alone, by `bccp why`, a sweep's plan and incoming images."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import bccp
from bccp.cli.app import call
from bccp.core import config, config_schema, provenance
from bccp.core.errors import BCCPError
from bccp.data import image_sizes
from bccp.pipeline import data_images, explain
from bccp.pipeline.sweeps.plan import plan_sweep
from bccp.tracking.store import Ledger
from bccp.tracking.tags import INPUT_PREFIX, STEP_TAG
from support.stub_steps import all_runs, grow_old, ledger, plan

TWO = "main.execute_steps=[fetch_data,preprocessing]"
QUIET = ["tracking.wandb=disabled", "main.threads=1"]
SENTENCE = (
    "half of the images have a shorter side of 40 px or more, so train.model=efficientnet_lite0 (pretrained, only its head learns), "
    "preprocessing.image_size=64, preprocessing.resize=pad: give any of these options to choose otherwise"
)


@pytest.fixture
def photographs(home: Path, image_folder: Callable[..., Path]) -> list[str]:
    """The options of a folder of images of 40 px."""
    return ["data.source=folder", f"data.path={image_folder({'ant': 6, 'bee': 6}, size=40)}"]


def run(*options: str) -> dict[str, Any]:
    return bccp.run([*QUIET, TWO, *options])


def shapes(summary: dict[str, Any], store: Ledger) -> tuple[int, ...]:
    clean = store.fetch(f"clean_data:{summary['steps'][1]['outputs']['clean_data']}")
    return tuple(np.load(clean / "images.npy", mmap_mode="r").shape)


def passes(store: Ledger) -> list[Any]:
    return [one for one in all_runs(store) if one.data.tags.get(STEP_TAG) == "image_sizes"]


def test_the_sizes_decide_once_and_a_reused_run_opens_no_image(
    photographs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, store = run(*photographs), ledger()
    said = capsys.readouterr().out
    assert SENTENCE in said.splitlines()
    assert said.index("fetch_data: runs") < said.index(SENTENCE) < said.index("preprocessing: runs")
    assert shapes(first, store) == (12, 64, 64, 3)
    assert [first["config"]["preprocessing"][key] for key in ("image_size", "resize")] == [64, "pad"]
    assert first["config"]["cp_sampling"]["monday_model"]["model"] == "efficientnet_lite0"
    (one_pass,) = passes(store)
    parent = store.client.get_run(one_pass.data.tags["mlflow.parentRunId"])
    assert (parent.data.params["train.model"], parent.data.params["preprocessing.image_size"]) == ("efficientnet_lite0", "64")
    assert parent.data.params["test.monday_model.freeze_backbone"] == "true"
    assert parent.data.tags[f"{INPUT_PREFIX}image_sizes"] == one_pass.data.tags["bccp.output.image_sizes"]

    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image is opened"))
    again = run(*photographs)
    assert [step["status"] for step in again["steps"][:2]] == ["reused", "reused"]
    assert SENTENCE in capsys.readouterr().out.splitlines()
    assert again["config"] == first["config"]
    assert len(passes(store)) == 1


def test_what_was_chosen_can_be_given_and_is_then_the_same_run(photographs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = run(*photographs)
    given = [provenance.override(one.key, one.value) for one in provenance.differences(first["config"])]
    assert {"preprocessing.image_size=64", "preprocessing.resize=pad", "train.model=efficientnet_lite0"} <= set(given)
    capsys.readouterr()
    again = run(*given)
    assert [step["status"] for step in again["steps"][:2]] == ["reused", "reused"]
    assert "shorter side" not in capsys.readouterr().out
    assert again["config"] == first["config"]
    assert provenance.command(again["config"]) == provenance.command(first["config"])


def test_preprocessing_has_the_size_in_its_key_and_not_the_model(photographs: list[str]) -> None:
    run(*photographs)
    other = run(*photographs, "train.model=resnet_small", "preprocessing.image_size=64")
    assert other["steps"][1]["status"] == "reused"
    small = run(*photographs, "train.model=resnet_small")
    assert (small["steps"][1]["status"], shapes(small, ledger())) == ("ran", (12, 32, 32, 3))


def test_small_images_are_treated_as_ever(home: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = run("data.source=folder", f"data.path={image_folder({'ant': 6, 'bee': 6}, size=28)}")["config"]
    assert (found["preprocessing"]["image_size"], found["preprocessing"]["resize"], found["train"]["model"]) == (32, "stretch", "small_cnn")
    assert "a shorter side of 28 px or less, so train.model=small_cnn (trained from scratch), preproc" in capsys.readouterr().out


def test_files_of_which_none_is_an_image_are_refused_by_preprocessing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.png").write_text("no picture")
    with pytest.raises(BCCPError, match="none of the 2 files is a readable image"):
        run("data.source=folder", f"data.path={tmp_path / 'images'}")
    assert "shorter side" not in capsys.readouterr().out


def test_nothing_is_read_where_nothing_waits_for_it(photographs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sizes, "shorter_sides", lambda _: pytest.fail("headers are read"))
    run(*photographs, "train.model=small_cnn", "preprocessing.image_size=16", "preprocessing.resize=stretch")
    bccp.run([*QUIET, *photographs, "main.execute_steps=[fetch_data]"])
    bccp.run([*QUIET, TWO])


def test_without_a_cache_the_headers_are_read_in_each_pipeline(photographs: list[str]) -> None:
    for _ in range(2):
        run(*photographs, "main.cache=false")
    assert len(passes(ledger())) == 2


def test_the_sizes_stay_for_as_long_as_a_pipeline_that_was_decided_by_them(photographs: list[str], home: Path) -> None:
    run(*photographs)
    grow_old(home, 40)
    run(*photographs)
    assert call(["gc", "--delete"]) == 0
    store = ledger()
    assert len(passes(store)) == 1
    grow_old(home, 40)
    assert call(["gc", "--delete"]) == 0
    assert not all_runs(store)


def test_why_reads_the_sizes_and_keeps_nothing(photographs: list[str]) -> None:
    bccp.run([*QUIET, *photographs, "main.execute_steps=[fetch_data]"])
    store = ledger()
    for name in ("train.model=resnet_small", "preprocessing.image_size=auto"):
        (said,) = explain.explain("preprocessing", plan(*photographs, name), store)
        assert said.reason == "preprocessing would run: it has never finished here"
    assert not passes(store)
    first = run(*photographs)["steps"][1]["run_id"]
    (said,) = explain.explain("preprocessing", plan(*photographs), ledger())
    assert said.reason.startswith(f"preprocessing would be reused: run {first[:8]}")
    (said,) = explain.explain("preprocessing", plan(*photographs, "train.model=resnet_small"), ledger())
    assert said.differences == ["preprocessing.image_size 64 → 32"]


def test_a_step_that_is_run_alone_goes_by_what_it_reads(photographs: list[str], tmp_path: Path) -> None:
    outputs = {name: version for step in run(*photographs)["steps"] for name, version in step["outputs"].items()}
    store = ledger()

    def alone(step: str, **given: str) -> Any:
        texts = {key: config.encode(value) for key, value in defaults(step).items()} | given
        section = config.section(config_schema.section_type(step), texts, step, tmp_path)
        data_images.resolve_alone(section, outputs, store)
        return section

    cleaned = alone("preprocessing")
    assert (cleaned.image_size, cleaned.resize) == (64, "pad")
    assert alone("preprocessing", image_size="40").image_size == 40
    judge = alone("bayes_cutoff")
    assert (judge.model, judge.weights, judge.freeze_backbone, judge.head) == ("efficientnet_lite0", "DEFAULT", True, "logistic_regression")
    trained = alone("train", model="resnet_small", init="monday_model")
    assert (trained.model, trained.weights, trained.freeze_backbone, trained.head) == ("resnet_small", None, False, "sgd")
    assert (trained.monday_model.model, trained.monday_model.head) == ("efficientnet_lite0", "logistic_regression")
    assert alone("cp_sampling").monday_model.freeze_backbone is alone("test").monday_model.freeze_backbone is True


def defaults(step: str) -> dict[str, Any]:
    """The section as ``config.yaml`` has it, links resolved."""
    values = config.defaults()
    del values["defaults"], values["hydra"]
    plain: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    return dict(plain[config_schema.section_name(step)])


def test_a_sweep_counts_the_sizes_that_its_models_ask_for(photographs: list[str]) -> None:
    made = plan_sweep([*QUIET, *photographs, TWO, "train.model=auto,efficientnet_lite0,small_cnn,resnet_small"])
    assert (made.n_jobs, made.steps, made.refused) == (4, {"fetch_data": 1, "preprocessing": 2}, [])
    made = plan_sweep([*QUIET, *photographs, "train.model=auto,small_cnn", "preprocessing.image_size=32,64", "bayes_cutoff.enabled=false"])
    assert (made.n_jobs, made.steps["preprocessing"], made.steps["train"], made.needs) == (4, 2, 4, [])


def test_incoming_images_without_a_reference_get_a_size_by_their_own(photographs: list[str], home: Path) -> None:
    images = photographs[1].removeprefix("data.path=")
    for reference, size in (("none", 64), ("", 40)):
        run(*photographs, "preprocessing.image_size=40")
        assert call(["check-new", "--data", images, *(["--reference", reference] if reference else [])]) == 0
        (array,) = home.glob("incoming/*/clean_data/images.npy")
        assert np.load(array).shape == (12, size, size, 3)


def test_a_joined_batch_is_trained_on_as_its_reference_was_whatever_its_own_sizes(
    home: Path, image_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    three = "main.execute_steps=[fetch_data,preprocessing,segregation]"
    known = image_folder({"monday/ant": 12, "monday/bee": 12, "tuesday/ant": 6, "tuesday/bee": 6}, name="known", size=40)
    first = bccp.run([*QUIET, three, "data.source=folder", f"data.path={known}"])
    new = image_folder({"ant": 40, "bee": 40}, name="new", seed=0, size=16)
    assert call(["check-new", "--data", str(new), "--accept"]) == 0
    options = shlex.split(capsys.readouterr().out.splitlines()[-1])[2:]
    assert {"preprocessing.image_size=64", "preprocessing.resize=pad", "train.model=efficientnet_lite0"} <= set(options)
    joined = bccp.run([*QUIET, three, *options])
    assert shapes(joined, ledger()) == (116, 64, 64, 3)
    assert "shorter side" not in capsys.readouterr().out
    for section in ("bayes_cutoff", "cp_sampling", "train", "preprocessing"):
        before, after = first["config"][section], joined["config"][section]
        assert {key: after[key] for key in after if before[key] != after[key]} == {}
