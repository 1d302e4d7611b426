"""The whole pipeline, in this process, on real small image files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

import bccp
from bccp.cli.app import call
from bccp.core import automatic_models, config, config_schema, step_graph
from bccp.core.errors import BCCPError
from bccp.core.home import scratch
from bccp.core.paths import ROOT
from bccp.core.step_context import Context, Step
from bccp.core.step_graph import SPECS
from bccp.data import tables
from bccp.pipeline.runner import load_step
from bccp.pipeline.step_runner import execute
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.dashboard import dashboard_names
from support.pictures import write_images

IMAGE_PX = 16
QUICK = ["preprocessing.image_size=16", "train.epochs=3", "bayes_cutoff.epochs=3", "bayes_cutoff.passes=3", "main.threads=1"]


class Story:
    """A finished pipeline that several tests look at; they do not change it."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        shutil.copy(database, self.home / "mlflow.db")
        self.images = write_images(folder / "images", {"ant  hill": 40, "bee": 30, "cat": 30}, size=IMAGE_PX)
        self.options = [*QUICK, "data.source=folder", f"data.path='{self.images}'", "noisy_labels.source=simulated"]
        os.environ["BCCP_HOME"] = str(self.home)
        self.summary = bccp.run(self.options)
        self.outputs: dict[str, str] = {k: v for step in self.summary["steps"] for k, v in step["outputs"].items()}

    def ledger(self) -> Ledger:
        return Ledger(ledger_uri(None)[0])

    def config(self, *overrides: str) -> config_schema.Config:
        loaded: Any = OmegaConf.merge(OmegaConf.load(ROOT / "config.yaml"), OmegaConf.from_dotlist([*self.options, *overrides]))
        del loaded["defaults"], loaded["hydra"]
        loaded.data.path = str(self.images)
        checked = config.load(loaded, base=ROOT)
        automatic_models.resolve(checked, IMAGE_PX)
        return checked

    def step(self, name: str, inputs: dict[str, str], *overrides: str) -> Step:
        ledger = self.ledger()
        return execute(
            load_step(name).run,
            name=name,
            section=self.config(*overrides).section(name),
            inputs=inputs,
            context=Context(ledger.uri, "disabled", None, "bccp", True, "tests", 1),
            ledger=ledger,
            key=f"test-{name}",
            key_parts={},
        )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Story]:
    before = dict(os.environ)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "WANDB_API_KEY", "BCCP_CONTEXT"):
        os.environ.pop(name, None)
    os.environ["NETRC"] = "/nonexistent"
    yield Story(tmp_path_factory.mktemp("story"), empty_database)
    os.environ.clear()
    os.environ.update(before)


def test_all_eight_steps_ran_and_the_summary_says_so(story: Story) -> None:
    summary = json.loads((Path(story.summary["folder"]) / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["error"] is None
    assert [(step["name"], step["status"]) for step in summary["steps"]] == [(name, "ran") for name in step_graph.STEPS]
    for step in summary["steps"]:
        assert set(step["outputs"]) == set(SPECS[step["name"]].outputs)
        assert 0 < step["work_seconds"] <= step["seconds"]
    assert {"preprocessing/images", "bayes_cutoff/auroc", "train/val_accuracy", "test/accuracy", "test/accuracy_tuesday"} <= set(
        summary["metrics"]
    )
    assert summary["metrics"]["preprocessing/images"] == 100


def test_the_parent_run_holds_nested_step_runs_with_explicit_versions(story: Story) -> None:
    ledger = story.ledger()
    runs = {step["name"]: ledger.client.get_run(step["run_id"]) for step in story.summary["steps"]}
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs.values()}
    assert len(runs) == 8
    assert len(parents) == 1
    parent = ledger.client.get_run(parents.pop())
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["test/accuracy"] == pytest.approx(story.summary["metrics"]["test/accuracy"])
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        for artifact in SPECS[name].inputs:
            assert run.data.tags[f"bccp.input.{artifact}"] == story.outputs[artifact]


def test_no_label_of_tuesdays_training_images_is_in_what_decides(story: Story) -> None:
    splits = tables.read(story.ledger().fetch(f"segregated_data:{story.outputs['segregated_data']}") / "splits.csv")
    training = splits[(splits["day"] == "tuesday") & (splits["split"] == "train")]
    assert len(training) > 20
    assert set(training["label"]) == {""}
    truth = tables.read(story.ledger().fetch(f"true_labels:{story.outputs['true_labels']}") / "true_labels.csv")
    assert set(truth["image"]) == set(splits.loc[splits["day"] == "tuesday", "image"])


def test_the_same_seed_gives_the_same_versions_twice_and_another_seed_does_not(story: Story) -> None:
    again = bccp.run([*story.options, "main.cache=false"])
    assert [step["status"] for step in again["steps"]] == ["ran"] * 8
    assert {k: v for step in again["steps"] for k, v in step["outputs"].items()} == story.outputs
    other = bccp.run([*story.options, "main.random_seed=7", "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels]"])
    outputs = {k: v for step in other["steps"] for k, v in step["outputs"].items()}
    assert outputs["clean_data"] == story.outputs["clean_data"]
    assert outputs["given_labels"] != story.outputs["given_labels"]


def test_a_second_run_reuses_every_step(story: Story) -> None:
    again = bccp.run(story.options)
    assert [step["status"] for step in again["steps"]] == ["reused"] * 8
    assert again["metrics"] == story.summary["metrics"]


def test_a_run_compared_with_itself_is_paired_on_all_its_test_images_and_differs_in_nothing(story: Story, tmp_path: Path) -> None:
    assert call(["compare", story.summary["folder"], Path(story.summary["folder"]).name[-6:], "--out", str(tmp_path)]) == 0
    page = (tmp_path / "compare.md").read_text()
    assert "Nothing differs." in page
    assert "All artifacts are the same." in page
    figures = tables.read(tmp_path / "compare.csv").set_index("metric")
    assert float(figures.loc["test/accuracy", "a"]) == pytest.approx(story.summary["metrics"]["test/accuracy"])
    assert float(figures.loc["test/accuracy", "images"]) == story.summary["metrics"]["test/images"]
    assert float(figures.loc["test/f1_macro", "b"]) == pytest.approx(story.summary["metrics"]["test/f1_macro"])
    assert set(figures["difference"].astype(float)) == {0.0}


def test_poisoned_true_labels_change_no_decision_and_no_weight(story: Story) -> None:
    ledger = story.ledger()
    with scratch("true_labels") as parent:
        folder = parent / "true_labels"
        shutil.copytree(ledger.fetch(f"true_labels:{story.outputs['true_labels']}"), folder)
        truth = tables.read(folder / "true_labels.csv")
        names = sorted(set(truth["label"]))
        truth["label"] = [names[(names.index(label) + 1) % len(names)] for label in truth["label"]]
        tables.write(truth, folder / "true_labels.csv")
        run_id = ledger.start("poison")
        poisoned, _ = ledger.publish(run_id, "true_labels", folder)
        ledger.end(run_id, "FINISHED")
    assert poisoned != story.outputs["true_labels"]
    images = {name: story.outputs[name] for name in ("clean_data", "segregated_data")}
    judged = story.step("bayes_cutoff", {**images, "given_labels": story.outputs["given_labels"], "true_labels": poisoned})
    assert judged.outputs["cleansed_labels"] == story.outputs["cleansed_labels"]
    assert judged.metrics["bayes_cutoff/true_user_accuracy"] != story.summary["metrics"]["bayes_cutoff/true_user_accuracy"]
    sampled = story.step("cp_sampling", {**images, **judged.outputs})
    assert sampled.outputs["replay_sample"] == story.outputs["replay_sample"]
    trained = story.step("train", {**images, **judged.outputs, **sampled.outputs})
    assert trained.outputs["model"] == story.outputs["model"]


def test_steps_left_out_give_the_outputs_of_their_finished_run(story: Story) -> None:
    part = bccp.run([*story.options, "main.execute_steps=[train,test]", "main.cache=false"])
    assert [step["status"] for step in part["steps"]] == ["skipped"] * 6 + ["ran"] * 2
    assert part["steps"][-2]["outputs"]["model"] == story.outputs["model"]


def test_steps_left_out_without_a_fitting_run_are_named_with_what_differs(story: Story) -> None:
    with pytest.raises(BCCPError) as refused:
        bccp.run([*story.options, "main.execute_steps='train,test'", "noisy_labels.user_accuracy=0.61"])
    assert "noisy_labels" in str(refused.value)
    assert "noisy_labels.user_accuracy 0.7 → 0.61" in str(refused.value)
    assert "add noisy_labels to main.execute_steps" in str(refused.value)


def test_with_true_labels_the_label_steps_may_be_left_out(story: Story) -> None:
    plain = [
        "main.execute_steps=[fetch_data,preprocessing,segregation,train,test]",
        "main.target_day=monday",
        "noisy_labels.label=ground_truth",
    ]
    summary = bccp.run([*story.options, *plain])
    assert [step["status"] for step in summary["steps"]] == ["reused", "reused", "ran", "skipped", "skipped", "skipped", "ran", "ran"]
    assert "test/accuracy_monday" in summary["metrics"]
    assert "test/accuracy_tuesday" not in summary["metrics"]


def test_one_folder_with_doubtful_labels_is_judged_whole_and_the_figures_say_unverified(
    story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = bccp.run([*story.options, "main.target_day=monday", "noisy_labels.source=folder", "bayes_cutoff.folds=2"])
    outputs = {k: v for step in summary["steps"] for k, v in step["outputs"].items()}
    judged = tables.read(story.ledger().fetch(f"cleansed_labels:{outputs['cleansed_labels']}") / "cleansed_labels.csv")
    assert len(judged) == 100
    assert not any(name == "bayes_cutoff/auroc" or "true_user" in name for name in summary["metrics"])
    assert "verified=false" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["none", "l1_norm", "l2_norm", "cosine_similarity"])
def test_every_sampling_runs(story: Story, kind: str) -> None:
    summary = bccp.run([*story.options, f"cp_sampling.type={kind}", "main.execute_steps=[cp_sampling]"])
    replay = tables.read(story.ledger().fetch(f"replay_sample:{summary['steps'][5]['outputs']['replay_sample']}") / "replay_sample.csv")
    n_monday = 100 // 2 * 0.8 * 0.75
    assert len(replay) == (0 if kind == "none" else pytest.approx(n_monday / 2, abs=4))


@pytest.mark.parametrize("method", ["cleanlab", "logit_variance", "predictive_entropy", "mutual_information"])
def test_every_method_of_the_cut_off_runs(story: Story, method: str) -> None:
    summary = bccp.run([*story.options, f"bayes_cutoff.method={method}", "main.execute_steps=[bayes_cutoff]"])
    assert 0 <= summary["metrics"]["bayes_cutoff/auroc"] <= 1


def test_a_step_that_fails_leaves_a_failed_run_and_a_summary_and_nothing_else(story: Story) -> None:
    before = set((story.home / "outputs").iterdir())
    with pytest.raises(BCCPError, match=r"cp_sampling\.ratio"):
        bccp.run([*story.options, "cp_sampling.type=l2_norm", "cp_sampling.ratio=1.0"])
    (folder,) = set((story.home / "outputs").iterdir()) - before
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "cp_sampling.ratio" in summary["error"]
    assert [step["status"] for step in summary["steps"]][5:] == ["failed", "skipped", "skipped"]
    ledger = story.ledger()
    running = ledger.client.search_runs([ledger.experiment_id], "attributes.status = 'RUNNING'")
    assert running == []
    assert list((story.home / "tmp").iterdir()) == []


def test_the_dashboard_names_figures_and_keys_that_runs_have(story: Story) -> None:
    ledger, figures = story.ledger(), dashboard_names("summary") | dashboard_names("logged")
    logged = {name for step in story.summary["steps"] for name in ledger.client.get_run(step["run_id"]).data.metrics}
    pictures = {"test/confusion_matrix", "test/threshold_curves"}
    assert figures - logged == pictures | {"bayes_cutoff/most_suspect_labels", "test/errors", "train/epoch"}
    for key in dashboard_names("config"):
        assert OmegaConf.select(OmegaConf.create({"pipeline": story.summary["config"]}), key) is not None, key


def test_wandb_records_offline_under_the_home_and_disabled_writes_nothing(story: Story) -> None:
    def recorded() -> int:
        return len(list((story.home / "wandb").glob("offline-run-*")))

    before = recorded()
    assert before >= 8
    bccp.run([*story.options, "main.random_seed=5", "tracking.wandb=disabled", "main.execute_steps=[fetch_data,preprocessing,segregation]"])
    assert recorded() == before


def test_the_model_says_how_to_load_it_and_that_works(story: Story) -> None:
    from bccp.models import classifier

    folder = story.ledger().fetch(f"model:{story.outputs['model']}")
    model, about = classifier.load_classifier(folder)
    assert about["class_names"] == ["ant  hill", "bee", "cat"]
    assert "models.load" in (folder / "README.md").read_text()
    assert classifier.probabilities(model, np.zeros((2, 16, 16, 3), np.uint8), batch_size=2).shape == (2, 3)


def test_a_first_model_is_compared_with_the_monday_model_that_is_there(story: Story) -> None:
    ledger = story.ledger()
    inputs = {name: story.outputs[name] for name in ("model", "clean_data", "segregated_data", "true_labels")}
    before = len(ledger.finished("monday_model"))
    step = story.step("test", inputs, "test.registered_model_name=first")
    tags = ledger.client.get_run(step.run_id).data.tags
    assert tags["bccp.verdict"] in ("promoted", "rejected")
    assert ", against monday_model" in tags["bccp.verdict_reason"]
    assert tags["bccp.registered"] == "models:/first/1"
    assert step.metrics["test/accuracy"] - step.metrics["test/champion_accuracy"] == pytest.approx(step.metrics["test/gain"])
    assert len(ledger.finished("monday_model")) == before  # bayes_cutoff has trained it
