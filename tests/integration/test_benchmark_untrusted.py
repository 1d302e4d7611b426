"""The benchmark where nothing is trusted, from a folder of images to its tables, by features that are quickly computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import untrusted

pytestmark = pytest.mark.usefixtures("home", "one_thread")


def quick_views(pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    """Mean colours, and those of a half, for features."""
    return [part.mean(axis=(1, 2)).astype(np.float32) for part in (pixels, pixels[:, ::2])]


def test_one_command_goes_from_a_folder_and_its_users_to_the_tables(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(untrusted, "views_of", quick_views)
    data = image_folder({"ant": 16, "bee": 16, "cat": 16})
    names = [f"{path.parent.name}/{path.name}" for path in sorted(data.glob("*/*.png"))]
    answers = tmp_path / "answers.csv"
    lines = [f"{name},{name.split('/')[0]},{user}" for name in names for user in ("u1", "u2")]
    answers.write_text("\n".join(["image,label,user", *lines]) + "\n")
    asked = ["--data", str(data), "--feedback", str(answers), "--people-seeds", "1", "--images", "40", "--sizes", "60x3"]
    untrusted.main([*asked, "--only", "data", "users", "speed", "--runs", str(tmp_path / "runs.csv"), "--", "preprocessing.image_size=16"])
    text = capsys.readouterr().out
    assert f"| {data.name} | 40 images, one user's labels | judge | 1 |" in text
    assert f"| {data.name} | 40 images, majority | users' model, pool's p | 1 |" in text
    assert "| said at most the truth and 3 points more |" in text
    assert "| 60 | 3 |" in text
    assert (tmp_path / "runs.csv").exists()
