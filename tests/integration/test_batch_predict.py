"""`bccp predict`, on a model with made-up answers."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.home import scratch
from bccp.data import preprocessing
from bccp.models import classifier, predictor
from bccp.serving import batch_predict
from bccp.serving.named_models import find_named
from support.made_up_models import CLASSES, MONDAY, TUESDAY, World


@pytest.fixture
def world(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> World:
    made = World(tmp_path / "made")
    made.monday_model(monkeypatch, wrong=TUESDAY, seed=50)
    return made


@pytest.fixture
def pictures(world: World, tmp_path: Path) -> Path:
    """The world's test images as files, in two folders."""
    folder = tmp_path / "pictures"
    for place, image in enumerate([*MONDAY, *TUESDAY]):
        file = folder / ("first" if image in MONDAY else "second/deeper") / image
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(world.images[place]).save(file)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_gets_a_table_of_classes(world: World, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest, out = world.model(seed=1), tmp_path / "predictions.csv"
    step = world.test(digest)
    (pictures / ".hidden").write_text("left out")
    assert call(["predict", "--model", "models:/made-up@champion", "--images", str(pictures), "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"60 of 60 files have an answer: {out}\n")
    table = rows(out)
    assert [row["image"] for row in table] == [*(f"first/{i}" for i in MONDAY), *(f"second/deeper/{i}" for i in TUESDAY)]
    assert [row["class"] for row in table] == [CLASSES[k] for k in world.label_idx[:60]]
    for row in table:
        top = json.loads(row["top_3"])
        assert next(iter(top.items())) == (row["class"], float(row["probability"]))
        assert len(top) == 3
        assert sum(top.values()) == pytest.approx(1, abs=1e-5)
        assert row["error"] == ""
    # every way to name the model
    for name in ("made-up@champion", "models:/made-up/1", step.run_id, f"model:{digest[:12]}", str(world.ledger.fetch(f"model:{digest}"))):
        assert call(["predict", "--model", name, "--images", str(pictures), "--out", str(tmp_path / "again.csv")]) == 0, name
        assert (tmp_path / "again.csv").read_bytes() == out.read_bytes()
    assert call(["predict", "--model", "made-up@champion", "--images", str(pictures / "first" / MONDAY[3]), "--out", str(out)]) == 0
    assert [row["image"] for row in rows(out)] == [MONDAY[3]]


def test_unreadable_files_are_listed_with_the_reason_and_the_status_says_so(
    world: World, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "first" / "m00.png").write_bytes(b"garbage")
    (pictures / "first" / "m01.png").write_bytes(b"")
    (pictures / "first" / "m02x.png").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "predictions.csv"
    assert call(["predict", "--model", f"model:{world.model()}", "--images", str(pictures), "--out", str(out)]) == 1
    bad = {row["image"]: (row["class"], row["error"]) for row in rows(out) if row["error"]}
    assert bad == {
        "first/m00.png": ("", "not an image"),
        "first/m01.png": ("", "empty file"),
        "first/m02x.png": ("", "no file, or a broken link"),
    }
    said = capsys.readouterr()
    assert f"58 of 61 files have an answer: {out}" in said.out
    assert "  first/m00.png: not an image\n" in said.err
    assert said.err.endswith(f"error: 3 of 61 files have no answer: the column error of {out} says why\n")


def test_linked_folders_are_followed_and_circles_of_them_told(tmp_path: Path) -> None:
    place, other = tmp_path / "images", tmp_path / "other"
    for name in ("b.png", "in/a.png", "in/.hidden/x.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "c.png").touch()
    (place / "linked").symlink_to(other)
    (other / "back").symlink_to(place)
    (place / "in" / "self").symlink_to(place / "in")
    (place / "again").symlink_to(other / "deep")
    found = [path.relative_to(place).as_posix() for path in batch_predict.image_files(place, but=place / "out.csv")]
    assert found == ["b.png", "again/c.png", "in/a.png", "in/self", "linked/back", "linked/deep/c.png"]
    assert batch_predict._read(place / "in" / "self") == "a link to a folder that it lies in"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "", "--images", "full"], "which model? give MODEL="),
        (["--model", "none@x", "--images", ""], "of what? give IMAGES="),
        (["--model", "models:/none@champion", "--images", "nowhere"], "IMAGES=nowhere does not exist"),
        (["--model", "models:/none@champion", "--images", "empty"], "IMAGES=empty holds no files"),
        (["--model", "models:/none@champion", "--images", "full"], "MODEL=models:/none@champion is not in the registry"),
        (["--model", "abcdef", "--images", "full"], "MODEL=abcdef is neither a registered model (models:/name@alias) nor a run"),
        (["--model", "model:123456789012", "--images", "full"], "no artifact model:123456789012 is in"),
        (["--model", "none@x", "--images", "full", "--out", "empty"], "OUT=empty cannot be written"),
        (["--model", "none@x", "--images", "full", "--out", "full/a.png"], "OUT=full/a.png exists and is no table of predictions: choose"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence_and_leaves_no_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert call(["predict", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not (tmp_path / "predictions.csv").exists()
    assert (tmp_path / "full" / "a.png").read_bytes() == b"x"


def test_a_table_among_the_images_is_none_of_them_and_is_replaced(
    world: World, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, model = pictures / "predictions.csv", f"model:{world.model()}"
    monkeypatch.chdir(pictures)  # the default OUT is in the current folder
    out.write_bytes(b"")
    for _ in range(2):
        assert call(["predict", "--model", model, "--images", str(pictures)]) == 0
        assert "60 of 60 files have an answer" in capsys.readouterr().out
    assert len(rows(out)) == 60


def test_memory_does_not_grow_with_the_number_of_files(world: World, tmp_path: Path) -> None:
    class Blind(predictor.ServedModel):
        def answers(self, files: Any) -> list[predictor.Answer]:
            return [predictor.Answer("ant", 1.0, {"ant": 1.0}, None) for _ in files]

    model = Blind(*classifier.load_classifier(world.ledger.fetch(f"model:{world.model()}")))
    peaks = []
    for n_files in (200, 800):
        folder = tmp_path / str(n_files)
        folder.mkdir()
        for number in range(n_files):
            (folder / f"{number:04d}.png").write_bytes(bytes(20_000))
        tracemalloc.start()
        with (tmp_path / "out.csv").open("w", encoding="utf-8") as out:
            assert batch_predict.predict(model, batch_predict.image_files(folder, but=tmp_path / "out.csv"), folder, out)[:2] == (
                n_files,
                0,
            )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 400_000  # 600 files of 20,000 bytes more, of which only the names are held


def test_a_pipelines_run_stands_for_its_model(world: World) -> None:
    digest, ledger = world.model(), world.ledger
    pipeline = ledger.start("pipeline", tags={"bccp.folder": "somewhere"})
    with scratch("test") as folder:
        with pytest.raises(BCCPError, match="has made no model"):
            find_named(ledger, pipeline, folder)
        trained = ledger.start("train", parent=pipeline, tags={"bccp.output.model": digest})
        ledger.end(trained, "FINISHED")
        assert find_named(ledger, pipeline, folder).folder == ledger.fetch(f"model:{digest}")
        other = ledger.start("pipeline")
        ledger.tag(other, {"bccp.reused.train": trained})
        assert find_named(ledger, other, folder).folder == ledger.fetch(f"model:{digest}")


def test_files_are_cleaned_up_as_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        classifier, "probabilities", lambda _model, pixels, **_: seen.append(pixels) or np.full((len(pixels), 2), 0.5, np.float32)
    )
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(file, "PNG")
    cleanup = [{"erosion": {"size": 3}}]
    for filters in (cleanup, []):
        about = {"class_names": ["ant", "bee"], "resize": "pad", "cleanup": filters}
        predictor.ServedModel(cast("Any", SimpleNamespace(image_size=8)), about).answers([file.getvalue()])
        trained_on = preprocessing.pictures([file.getvalue()], image_size=8, resize="pad", cleanup=filters)[0]
        assert isinstance(trained_on, preprocessing.DecodedPicture)
        assert seen[-1].tobytes() == trained_on.pixels
    assert seen[0].tobytes() != seen[1].tobytes()
