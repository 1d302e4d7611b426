"""The benchmark of photographs on few small images: what is split are the pipeline's own images, and every part gives its table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import photographs

pytestmark = pytest.mark.usefixtures("home", "one_thread")


def test_splits_are_made_of_the_images_that_the_pipeline_prepares(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image_folder({"ant": 14, "bee": 14, "cat": 14})
    shutil.copy(data / "ant" / "000.png", data / "ant" / "copy.png")
    monkeypatch.setattr(photographs, "features_of", lambda pixels: pixels.mean(axis=(1, 2)))
    text = photographs.splits(["data.source=folder", f"data.path='{data}'", "preprocessing.image_size=16"], range(1, 3))
    assert "43 images of 3 classes" in text
    assert "(16 px), 2 seeds" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows] == ["split", photographs.TOGETHER, photographs.BY_HASH, photographs.RANDOM]
    for row in rows[1:]:
        assert row[1] == "2"
        assert float(row[2].split()[0]) > 0.9


@pytest.mark.slow
def test_the_command_tells_of_every_part(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(photographs, "WIDTH", 400)
    monkeypatch.setattr(photographs, "HEIGHT", 300)
    data = image_folder({"ant": 20, "bee": 20, "cat": 20}, size=64)
    photographs.main(["--data", str(data), "--seeds", "1", "--photographs", "30"])
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"\| copies together \| 0 \| (0\.9|1\.0)", line) for line in lines)
    assert any(line.startswith(f"| {photographs.FULL} minus true labels, same replay | ") for line in lines)
    cold, read, whole, memory = lines[-4:]
    assert "preprocessing" in cold
    assert "≤ 90 s" in cold
    assert "decode" in read
    assert all("30 photographs of 400 x 300 px" in line for line in (read, whole, memory))
    assert np.isfinite(float(re.findall(r"([\d.]+) times \(", whole)[0]))
