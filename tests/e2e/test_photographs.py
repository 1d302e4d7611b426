"""Photographs from the first command on: pictures of unequal shapes, of which nothing is said but where they lie."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

import bccp
from bccp.cli.app import call
from bccp.data import tables
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

CLASSES = ("discs", "fences", "tiles")


def photograph(kind: str, seed: int) -> Image.Image:
    """A blurred ground of two colours with discs, bars or a chequered floor before it, 100 px or more at its shorter side."""
    rng = np.random.default_rng([CLASSES.index(kind), seed])
    width, height = (int(side) for side in rng.integers(100, 220, 2))
    ground = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    draw, step = ImageDraw.Draw(ground), int(rng.integers(18, 34))
    colours = [tuple(int(level) for level in rng.integers(0, 256, 3)) for _ in range(2)]
    for x in range(-step, width, step):
        if kind == "fences":
            draw.rectangle((x, 0, x + step // 3, height), colours[0])
        for y in range(-step, height, step):
            if kind == "discs":
                draw.ellipse((x, y, x + step - 5, y + step - 5), colours[0])
            elif kind == "tiles":
                draw.rectangle((x, y, x + step, y + step), colours[(x // step + y // step) % 2])
    noisy = np.asarray(ground.rotate(float(rng.uniform(-10, 10))).filter(ImageFilter.GaussianBlur(0.7))) + rng.normal(
        0, 6, (height, width, 3)
    )
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of 150 photographs in three classes; of each class five lie in the next one's folder."""
    for number, kind in enumerate(CLASSES):
        for seed in range(50):
            file = io.BytesIO()
            photograph(kind, seed).save(file, "JPEG", quality=90)
            place = tmp_path / "photographs" / CLASSES[(number + (seed % 10 == 0)) % 3]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{kind} {seed}.jpg").write_bytes(file.getvalue())
    return tmp_path / "photographs"


@pytest.mark.slow
def test_photographs_are_judged_and_learnt_by_a_pretrained_backbone_without_an_option(
    home: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data.source=folder", f"data.path={photographs}", "tracking.wandb=disabled"]
    summary = bccp.run(words)
    (chosen,) = (line for line in capsys.readouterr().out.splitlines() if "shorter side" in line)
    assert "train.model=efficientnet_lite0 (pretrained, only its head learns), preprocessing.image_size=1" in chosen
    ledger = Ledger(ledger_uri(None)[0])
    outputs = {name: ledger.fetch(f"{name}:{version}") for step in summary["steps"] for name, version in step["outputs"].items()}
    about = json.loads((outputs["model"] / "model.json").read_text(encoding="utf-8"))
    assert (about["architecture"], about["frozen"], about["resize"]) == ("efficientnet_lite0", True, "pad")
    assert about["image_size"] in (128, 160)

    report = tables.read(outputs["cleansed_labels"] / "label_report.csv")
    suspects = report.sort_values("p_wrong", key=lambda column: column.astype(float), ascending=False)["image"][:15]
    misplaced = {f"{CLASSES[(number + 1) % 3]}/{kind} {seed}.jpg" for number, kind in enumerate(CLASSES) for seed in range(0, 50, 10)}
    assert len(misplaced & set(suspects)) >= 12
    assert summary["metrics"]["test/accuracy"] >= 0.75  # of labels of which a tenth is wrong

    again = bccp.run(words)
    assert {step["status"] for step in again["steps"]} == {"reused"}
    table = photographs.parent / "answers.csv"
    assert call(["predict", "--model", summary["folder"], "--images", str(photographs), "--out", str(table)]) == 0
    answers = tables.read(table)
    kinds = [Path(image).name.split()[0] for image in answers["image"]]
    assert np.mean(answers["class"].to_numpy() == np.array(kinds)) >= 0.9
