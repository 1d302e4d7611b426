"""The report of a pipeline, from artifacts made by hand: what it says, that it is whole, and how it looks in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import webbrowser
from collections.abc import Mapping, Sequence
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

import bccp
from bccp.cli.app import call
from bccp.core import config, provenance
from bccp.core.errors import BCCPError
from bccp.core.overrides import split_options
from bccp.core.run_summary import PAGE
from bccp.core.step_graph import STEPS
from bccp.data import tables
from bccp.pipeline import hydra_app
from bccp.pipeline.compose import compose
from bccp.reporting import run_page, run_report
from bccp.reporting.run_data import MOST_PICTURES, read_story, wilson
from bccp.reporting.run_page import page
from support import stub_steps
from support.wandb_stand_in import WandbStandIn

Stubs = stub_steps.Stubs

EVIL = "<script>alert(1)</script>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IDS = {"clean_data": "c", "segregated_data": "d", "true_labels": "e", "given_labels": "f", "cleansed_labels": "a", "model": "b"}
MAKES = {
    "preprocessing": ["clean_data"],
    "segregation": ["segregated_data", "true_labels"],
    "noisy_labels": ["given_labels"],
    "bayes_cutoff": ["cleansed_labels"],
    "train": ["model"],
    "test": ["evaluation"],
}


class Artifacts:
    """Stands in for the ledger: what a pipeline on made-up images of some classes has left.

    Each class has 4 training images a day and 2 test images a day. Of Tuesday's labels every third is wrong and above the cut-off; of the
    test images of each class one is taken for the next class.
    """

    def __init__(self, place: Path, classes: Sequence[str], *, truth_known: bool = True) -> None:
        self.place, self.classes = place, list(classes)
        rng = np.random.default_rng(0)
        ids = [(f"{k:03d}/{n}.png", name, n) for k, name in enumerate(classes) for n in range(12)]
        splits = [(image, n % 2, "test" if n < 4 else "train", name) for image, name, n in ids]
        day = ["monday", "tuesday"]
        self._write("clean_data", "manifest", {"image": [i[0] for i in ids], "label": [i[1] for i in ids]})
        self._write("clean_data", "quarantine", {"image": [f"{EVIL}.png"], "reason": ["not an image"]})
        nothing = {"copies": 2, "across_classes": 1}
        report = {"images": len(ids), "rejected": 1, "classes": dict.fromkeys(classes, 12), "anomalies": {"tiny": {"images": 3}}}
        self._write_json("clean_data", "report", report | {"exact_duplicates": nothing, "near_duplicates": nothing})
        np.save(place / "clean_data" / "images.npy", rng.integers(0, 256, (len(ids), 16, 16, 3), dtype=np.uint8))
        columns = {
            "image": [s[0] for s in splits],
            "row": list(range(len(ids))),
            "day": [day[s[1]] for s in splits],
            "split": [s[2] for s in splits],
            "label": [s[3] if not (s[1] and s[2] == "train") else "" for s in splits],
            "corruption": ["mosaic" if s[1] else "" for s in splits],
            "corrupted_row": [-1] * len(ids),
        }
        self._write("segregated_data", "splits", columns)
        self._write("segregated_data", "classes", {"label": classes})
        self._write_json("segregated_data", "clean_data", {"truth_known": truth_known, "target_day": "tuesday"})
        doubtful = [(image, name) for image, d, split, name in splits if d and split == "train"]
        following = {name: classes[(k + 1) % len(classes)] for k, name in enumerate(classes)}
        given = [following[name] if n % 3 == 0 else name for n, (_, name) in enumerate(doubtful)]
        wrong = [n % 3 == 0 for n in range(len(doubtful))]
        images = [image for image, _ in doubtful]
        if truth_known:
            self._write("true_labels", "true_labels", {"image": images, "label": [name for _, name in doubtful]})
        decided = {
            "image": images,
            "given_label": given,
            "score": [0.9 if w else 0.1 for w in wrong],
            "p_wrong": [0.9 if w else 0.1 for w in wrong],
            "above_cutoff": wrong,
            "action": ["relabel" if w else "keep" for w in wrong],
            "final_label": [name for _, name in doubtful],
        }
        self._write("cleansed_labels", "cleansed_labels", decided)
        looks = {
            "image": images,
            "label": [""] * len(images),
            "given_label": given,
            "p_wrong": decided["p_wrong"],
            "suggested_label": [name for _, name in doubtful],
            "nearest_trusted": [splits[0][0]] * len(images),
            "rank": list(range(1, len(images) + 1)),
        }
        self._write("cleansed_labels", "label_report", looks)
        self._write("cleansed_labels", "users", {"user": [EVIL], "votes": [3], "estimated_accuracy": [0.5], "low": [0.1], "high": [0.9]})
        noise = np.full((len(classes), len(classes)), 0.3 / (len(classes) - 1))
        np.fill_diagonal(noise, 0.7)
        about = {"method": "label_posterior", "tier": "trusted day", "cutoff_value": 0.5, "action": "relabel"}
        self._write_json("cleansed_labels", "cutoff", about | {"classes": list(classes), "noise_matrix": noise.tolist()})
        self._write("model", "history", {"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_loss": [1.5, 1.6], "val_accuracy": [0.4, 0.5]})
        tested = [(image, day[d], name) for image, d, split, name in splits if split == "test"]
        taken = [following[name] if n % 4 == 0 else name for n, (_, _, name) in enumerate(tested)]
        self.predictions = pd.DataFrame(
            {
                "image": [t[0] for t in tested],
                "day": [t[1] for t in tested],
                "true_label": [t[2] for t in tested],
                "predicted_label": taken,
                "probability": 0.75,
                "correct": ["true" if t[2] == p else "false" for t, p in zip(tested, taken, strict=True)],
                "verified": "true" if truth_known else "false",
            }
        )
        tables.write(self.predictions, self._folder("evaluation") / "predictions.csv")
        figures = {
            "day": "all",
            "label": classes,
            "images": 4,
            "predicted": 4,
            "precision": 0.5,
            "recall": 0.75,
            "f1": 0.6,
            "verified": "true",
        }
        tables.write(pd.DataFrame(figures), self._folder("evaluation") / "per_class.csv")

    def fetch(self, version: str) -> Path:
        """As the ledger's."""
        place = self.place / version.partition(":")[0]
        if not place.is_dir():
            raise BCCPError(f"{version} is gone")
        return place

    def _folder(self, artifact: str) -> Path:
        (self.place / artifact).mkdir(parents=True, exist_ok=True)
        return self.place / artifact

    def _write(self, artifact: str, name: str, columns: Mapping[str, Any]) -> None:
        tables.write(pd.DataFrame(columns), self._folder(artifact) / f"{name}.csv")

    def _write_json(self, artifact: str, name: str, value: Any) -> None:
        (self._folder(artifact) / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


def summarised(
    *, status: str = "finished", error: str | None = None, failed: str | None = None, options: Sequence[str] = ()
) -> dict[str, Any]:
    """A summary; the steps from the one that failed on have made nothing."""
    reached = STEPS[: STEPS.index(failed)] if failed else STEPS
    steps = [
        {
            "name": name,
            "status": "ran" if name in reached else "failed" if name == failed else "skipped",
            "reason": "",
            "seconds": 1.5,
            "work_seconds": 1.0,
            "run_id": None,
            "outputs": dict.fromkeys(MAKES.get(name, []), "0" * 64) if name in reached else {},
        }
        for name in STEPS
    ]
    metrics = {"preprocessing/images": 36.0, "preprocessing/classes": 3.0, "train/images": 24.0, "train/epochs": 2.0, "test/images": 12.0}
    metrics |= {"test/accuracy": 0.75, "bayes_cutoff/estimated_user_accuracy": 0.7, "bayes_cutoff/kept_rate": 0.66}
    checked = config_of(options)
    return {
        "status": status,
        "error": error,
        "metrics": {name: value for name, value in metrics.items() if name.split("/")[0] in reached},
        "steps": steps,
        "config": checked,
        "environment": provenance.environment(),
    }


def config_of(options: Sequence[str]) -> dict[str, Any]:
    """What a summary has of a configuration."""
    from dataclasses import asdict

    return asdict(config.load(compose(list(options)), base=Path("/nowhere")))


def told(text: str) -> str:
    """What a page says."""
    text = re.sub(r"<style>.*?</style>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", text)))


class Parsed(HTMLParser):
    """A page's elements; every one that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [about for name, about in self.found if name == tag]


def is_whole(text: str) -> Parsed:
    """A page that has all that it shows within it, and runs nothing."""
    parsed = Parsed(text)
    assert {name for name, _ in parsed.found} & {"script", "link", "iframe", "object", "a", "base", "form"} == set()
    for _, about in parsed.found:
        assert not [name for name in about if name.startswith("on") or name in ("href", "srcset", "action")]
        if "src" in about:
            kind, _, data = str(about["src"]).partition(";base64,")
            assert kind in ("data:image/png", "data:image/jpeg")
            Image.open(io.BytesIO(base64.b64decode(data, validate=True))).load()
    assert not re.search(r"@import|url\(|https?://", re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL))
    assert len(text.encode()) < 5e6
    assert "prefers-color-scheme: dark" in text
    return parsed


def test_the_page_tells_what_happened_and_is_whole(tmp_path: Path, home: Path) -> None:
    artifacts = Artifacts(tmp_path, ["ant", "bee", "cat"])
    text = page(read_story(summarised(options=["train.epochs=2"]), tmp_path / "run-1", artifacts))
    parsed, said = is_whole(text), told(text)
    # 12 given labels, 4 of them wrong; 3 of 12 test images
    assert "Of 12 given labels 4 are doubted: 4 relabelled. The new model was trained on 24 images." in said
    assert "It is right on 75.0% (46.8 to 91.1) of 12 test images." in said
    assert all(f"{name} ✓ 1.5 s" in said for name in STEPS)
    # the suspects, each beside a trusted image, and the errors
    assert len(parsed.of("img")) == 2 * 4 + 3
    assert "given bee likely ant P(wrong) 90.0%" in said
    assert re.search(r"is ant taken for bee, 75.0% 000/\d.png", said)
    assert "Most confused label taken for images ant bee 1 bee cat 1 cat ant 1" in said
    assert "weights are those of epoch 1, with the least validation loss" in said
    # twice the flow, accuracy, noise, P(wrong), losses, accuracies, two matrices
    assert len(parsed.of("svg")) == 9
    assert "train.epochs 30 2" in said
    assert "Rejected files file reason" in said


def test_a_head_that_was_fitted_at_once_has_penalties_and_no_epochs(tmp_path: Path, home: Path) -> None:
    artifacts = Artifacts(tmp_path, ["ant", "bee", "cat"])
    tried = {"strength": [0.03, 0.01], "train_loss": [0.7, 0.6], "val_loss": [0.9, 0.8], "val_accuracy": [0.5, 0.6]}
    tables.write(pd.DataFrame({"epoch": [1, 2]} | tried), artifacts.fetch("model:0") / "history.csv")
    summary = summarised()
    del summary["metrics"]["train/epochs"]
    text = page(read_story(summary, tmp_path / "run-1", artifacts))
    is_whole(text)
    said = told(text)
    assert "penalties tried: 0.03, 0.01; number 2 had the least validation loss" in said
    assert "24 images, logistic regression" in said
    assert "penalty 1" in said
    assert "epoch 1" not in said
    assert "loss by penalty" in text


def test_what_images_and_users_are_called_stays_text(tmp_path: Path, home: Path) -> None:
    classes = [EVIL, 'a" onload="x', "it's & <b>"]
    text = page(read_story(summarised(), tmp_path / f"{EVIL}", Artifacts(tmp_path / "a", classes)))
    is_whole(text)
    assert "alert(1)" in text
    assert "<script" not in text
    assert told(text).count(EVIL) > 10
    assert escape(classes[1]) in text


@pytest.mark.parametrize("missing", [*MAKES["segregation"], "clean_data", "cleansed_labels", "model", "evaluation"])
def test_an_artifact_that_is_gone_or_strange_leaves_its_part_out(tmp_path: Path, home: Path, missing: str) -> None:
    artifacts = Artifacts(tmp_path, ["ant", "bee", "cat"])
    shutil.rmtree(tmp_path / missing)
    whole = read_story(summarised(), tmp_path, artifacts)
    (tmp_path / missing).mkdir()
    for path in ("report.json", "cutoff.json", "history.csv", "predictions.csv"):
        (tmp_path / missing / path).write_text("")
    for story in (whole, read_story(summarised(), tmp_path, artifacts)):
        parts = {"clean_data": story.data, "cleansed_labels": story.labels, "model": story.history, "evaluation": story.evaluation}
        assert [name for name, part in parts.items() if part is None] == ([missing] if missing in parts else [])
        is_whole(page(story))


def test_a_failed_pipeline_names_the_step_and_the_error_and_what_was_not_reached(tmp_path: Path, home: Path) -> None:
    summary = summarised(
        status="failed", failed="cp_sampling", error="cp_sampling.ratio=<1>: too large", options=["main.execute_steps=[cp_sampling,train]"]
    )
    text = page(read_story(summary, tmp_path, Artifacts(tmp_path, ["ant", "bee"])))
    is_whole(text)
    assert "cp_sampling failed cp_sampling.ratio=<1>: too large" in told(text)
    assert "train · not reached" in told(text)
    assert "test · left out" in told(text)
    assert "Most suspect labels" in told(text)
    assert "Evaluation" not in told(text)


def test_without_any_artifact_the_summary_is_told(tmp_path: Path, home: Path) -> None:
    refused = {
        "status": "failed",
        "error": "unknown key",
        "steps": summarised(failed="fetch_data")["steps"],
        "config": {"overrides": ["a.b=1"]},
    }
    assert "unknown key" in told(page(read_story(refused, tmp_path, None)))


def test_where_nobody_knows_the_truth_that_is_said(tmp_path: Path, home: Path) -> None:
    text = told(page(read_story(summarised(), tmp_path, Artifacts(tmp_path, ["ant", "bee", "cat"], truth_known=False))))
    assert "verified=false" in text
    assert "test accuracy, unverified" in text
    assert "wrong in truth" not in text
    assert "right ones doubted" not in text


def test_no_pixel_is_seen_where_none_may_be(tmp_path: Path, home: Path) -> None:
    text = page(read_story(summarised(), tmp_path, Artifacts(tmp_path, ["ant", "bee"]), pixels=False))
    assert is_whole(text).of("img") == []
    assert "Without pictures" in told(text)


@pytest.mark.parametrize("n_classes", [2, 200])
def test_many_classes_and_few_fit(tmp_path: Path, home: Path, n_classes: int) -> None:
    artifacts = Artifacts(tmp_path, [f"a class with a name as long as they come in practice, number {k:03d}" for k in range(n_classes)])
    story = read_story(summarised(), tmp_path, artifacts)
    parsed = is_whole(page(story))
    assert len(page(story).encode()) < 1e6
    assert len(parsed.of("img")) == (2 * 3 + 2 if n_classes == 2 else 3 * MOST_PICTURES)
    expected = confusion_matrix(artifacts.predictions["true_label"], artifacts.predictions["predicted_label"], labels=artifacts.classes)
    assert story.evaluation is not None
    np.testing.assert_array_equal(story.evaluation.confusion, expected)


def test_the_evaluations_own_intervals_are_shown_where_it_has_any(tmp_path: Path, home: Path) -> None:
    artifacts = Artifacts(tmp_path, ["ant", "bee"])
    rows = [
        ("f1_macro", "all", 0.7, 0.6, 0.8, 8),
        ("accuracy", "day=tuesday", 0.5, 0.25, 0.75, 4),
        ("accuracy", "all", 0.75, 0.5, 0.875, 8),
    ]
    tables.write(pd.DataFrame(rows, columns=["metric", "slice", "value", "low", "high", "n"]), tmp_path / "evaluation" / "metrics.csv")
    said = told(page(read_story(summarised(), tmp_path, artifacts)))
    assert "It is right on 75.0% (50.0 to 87.5) of 8 test images." in said
    assert "f1_macro all 70.0% (60.0 to 80.0) 8" in said
    assert "all 75.0% Tuesday 50.0%" in said


def test_a_verdict_is_shown_where_there_is_one(tmp_path: Path, home: Path) -> None:
    summary = summarised() | {"verdict": "rejected", "verdict_reason": "2 points worse on Monday"}
    assert "Verdict rejected 2 points worse on Monday" in told(page(read_story(summary, tmp_path, None)))
    assert "Verdict" not in told(page(read_story(summarised(), tmp_path, None)))


def test_the_interval_of_a_share_by_hand_and_at_its_ends() -> None:
    assert wilson(15, 20) == pytest.approx((0.531, 0.888), abs=5e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=5e-5)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["main.execute_steps='fetch_data, preprocessing'", "main.random_seed=7", "tracking.wandb=disabled"],
        ["data.source=folder", "data.path='/my images/it\\'s \"a\" {b}, $HOME'", "noisy_labels.noise=[[0.9,0.1],[0.2,0.8]]"],
        [
            f"data.sha256='{'01' * 32}'",
            "train.patience=null",
            "bayes_cutoff.epochs=3",
            "train.learning_rate=1e-05",
            "train.model=efficientnet_lite0",
        ],
        ["cp_sampling.monday_model.epochs=5", "train.class_weights=true", "train.init=models:/a@champion"],
    ],
)
def test_the_command_repeats_the_configuration_and_changes_nothing_else(home: Path, options: list[str]) -> None:
    config = config_of(options)
    differing = provenance.differences(config)
    assert {one.key for one in differing} == {one.split("=")[0] for one in options}
    words = shlex.split(provenance.command(config))
    assert words[:4] == ["mlflow", "run", ".", "--env-manager=local"]
    assert config_of(split_options(words[5].removeprefix("hydra_options=")) if options else []) == config


@pytest.fixture
def stubs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    """Steps that cost nothing."""
    return Stubs(monkeypatch)


def test_every_pipeline_ends_with_its_page_and_says_where_it_is(
    stubs: Stubs, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hydra_app.hydra_main(["main.threads=1", "tracking.wandb=disabled"]) == 0
    (folder,) = (home / "outputs").iterdir()
    assert capfd.readouterr().out.splitlines()[-1] == f"  report      {folder / PAGE}"
    text = (folder / PAGE).read_text(encoding="utf-8")
    assert all(f"{name} ✓" in told(text) for name in STEPS)
    ledger = stub_steps.ledger()
    (parent,) = [run for run in stub_steps.all_runs(ledger) if run.data.tags.get("bccp.folder") == str(folder)]
    kept = Path(ledger.client.download_artifacts(parent.info.run_id, PAGE, str(home)))
    assert kept.read_text(encoding="utf-8") == text

    stubs.failing = "train"
    assert hydra_app.hydra_main(["main.threads=1", "tracking.wandb=disabled", "train.epochs=2"]) == 1
    out, err = capfd.readouterr()
    (other,) = [place for place in (home / "outputs").iterdir() if place != folder]
    assert out.splitlines()[-1] == f"report: {other / PAGE}"
    assert err.splitlines()[-1].startswith("error: RuntimeError: train breaks")
    assert "train failed RuntimeError: train breaks" in told((other / PAGE).read_text(encoding="utf-8"))


def test_a_report_that_cannot_be_made_is_one_line_and_the_pipeline_is_finished(
    stubs: Stubs, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_report, "page", lambda story: 1 / 0)
    summary = stub_steps.run(stub_steps.FETCH)
    assert summary["status"] == "finished"
    assert "warning: the report is not made or not recorded (division by zero): bccp report " in capsys.readouterr().out
    assert not list(Path(summary["folder"]).glob("*.html*"))
    assert stub_steps.ledger().client.get_run(summary["runs"]["pipeline"]).info.status == "FINISHED"


def test_make_report_finds_a_run_by_all_its_names_and_makes_its_page_where_it_is_missing(
    stubs: Stubs, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert call(["report", ""]) == 1
    assert "no run is in" in capsys.readouterr().err
    summary = stub_steps.run(stub_steps.FEW)
    folder = Path(summary["folder"])
    (folder / PAGE).unlink()
    names = ["", str(folder), str(folder / "summary.json"), folder.name, summary["runs"]["pipeline"]]
    for name in names:
        assert call(["report", name]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"report: {folder / PAGE}"
    assert "noisy_labels ✓" in told((folder / PAGE).read_text(encoding="utf-8"))
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert call(["report"]) == 0
    assert opened == [(folder / PAGE).as_uri()]
    assert call(["report", "elsewhere"]) == 1
    assert "RUN=elsewhere is no finished or failed run" in capsys.readouterr().err
    (folder / PAGE).unlink()
    (folder / "summary.json").write_text("{")
    assert call(["report", str(folder)]) == 1
    assert capsys.readouterr().err.startswith(f"error: RUN={folder / 'summary.json'} is no summary of a run")


@pytest.mark.parametrize("upload_images", [pytest.param(True, marks=pytest.mark.slow), False])
def test_wandb_gets_the_page_of_a_pipeline_that_has_tested_a_model(
    server: WandbStandIn, stubs: Stubs, upload_images: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = run_report.read_story
    artifacts = SimpleNamespace()

    def seen(summary: Any, folder: Path, ledger: Any, *, pixels: bool = True) -> Any:
        artifacts.made = Artifacts(folder / "made", ["ant", "bee"]) if pixels else artifacts.made
        return read(summarised(), folder, artifacts.made, pixels=pixels)

    monkeypatch.setattr(run_report, "read_story", seen)
    bccp.run(["main.threads=1", f"tracking.upload_images={upload_images}"])
    (run,) = [run for run in server.runs.values() if run.job_type == "pipeline_report"]
    assert run.state == "finished"
    (body,) = [body for name, body in run.files.items() if name.endswith(".html")]
    assert (b"data:image/png" in body) is upload_images
    bccp.run(["main.threads=1"])  # all is reused, and W&B has it all
    assert len([run for run in server.runs.values() if run.job_type == "pipeline_report"]) == 1


WIDTHS = (1280, 390)
LOOK = """<!doctype html><body style="margin:0"><script>
const pages = %s;
const found = [];
for (const [page, width] of pages) {
  const frame = document.createElement('iframe');
  frame.style.cssText = `width:${width}px;height:800px;border:0`;
  frame.srcdoc = page;
  frame.onload = () => {
    const inside = frame.contentDocument;
    const broken = [...inside.images].filter((one) => !(one.complete && one.naturalWidth)).length;
    found.push(`${width} ${inside.documentElement.scrollWidth} ${inside.images.length} ${broken}`);
    if (found.length === pages.length) document.title = found.sort().join(';');
  };
  document.body.append(frame);
}
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_a_browser_shows_it_at_any_width_without_a_complaint(tmp_path: Path, home: Path) -> None:
    many = [f"a class with a name as long as they come in practice, number {k}" for k in range(200)]
    stories = [
        read_story(summarised(), tmp_path, Artifacts(tmp_path / "few", ["ant", "bee", EVIL])),
        read_story(summarised(), tmp_path, Artifacts(tmp_path / "many", many)),
        read_story(
            summarised(status="failed", failed="segregation", error=f"{'x' * 300} {EVIL}"),
            tmp_path,
            Artifacts(tmp_path / "failed", many[:9]),
        ),
    ]
    texts = [page(story) for story in stories]
    wanted = json.dumps([[text, width] for text in texts for width in WIDTHS]).replace("<", "\\u003c")
    (tmp_path / "look.html").write_text(LOOK % wanted, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"]
    shown = subprocess.run(
        [str(CHROMIUM), *flags, (tmp_path / "look.html").as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "CONSOLE" not in shown.stderr
    title = re.search(r"<title>(.*?)</title>", shown.stdout)
    assert title, shown.stderr[-2000:]
    counts = [Parsed(text).of("img") for text in texts]
    expected = sorted(f"{width} {width} {len(pictures)} 0" for pictures in counts for width in WIDTHS)
    assert title[1].split(";") == expected


def test_a_new_section_is_one_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run_page.PAGE_SECTIONS, "greeting", lambda story: [f"<p>Hello {story.status}</p>"])
    assert "<p>Hello finished</p>" in page(read_story(summarised(), tmp_path, Artifacts(tmp_path, ["ant", "bee"])))
