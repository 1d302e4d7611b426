"""Paths of the project's files, in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from bccp.core import paths


@pytest.mark.parametrize("lacking", ["", "config.yaml", "MLproject"])
def test_the_project_is_the_checkout_round_the_package_or_the_folder_in_it(tmp_path: Path, lacking: str) -> None:
    package = tmp_path / "src" / "bccp"
    for name in {"config.yaml", "MLproject"} - {lacking}:
        (tmp_path / name).touch()
    assert paths.project_folder(package) == (package / "project" if lacking else tmp_path)


def test_a_file_has_the_same_name_in_a_checkout_and_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = (paths.PACKAGE / "models" / "fitting" / "losses" / "gce.py", paths.ROOT / "train" / "run.py")
    assert [paths.name_of(file) for file in files] == ["src/bccp/models/fitting/losses/gce.py", "train/run.py"]
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "bccp")
    monkeypatch.setattr(paths, "ROOT", tmp_path / "bccp" / "project")
    files = (tmp_path / "bccp" / "models" / "fitting" / "losses" / "gce.py", tmp_path / "bccp" / "project" / "train" / "run.py")
    assert [paths.name_of(file) for file in files] == ["src/bccp/models/fitting/losses/gce.py", "train/run.py"]
