"""Paths of the project's files, in a checkout and in a wheel."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from bccp.core import paths
from bccp.core.errors import BCCPError
from bccp.core.home import PLACES, QUIET, home, keep_within_home


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


def test_what_leads_to_no_home_folder_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.expanded("~/photos") == Path("/home/me/photos")
    assert paths.expanded("a/~/b") == Path("a/~/b")
    with pytest.raises(BCCPError, match=r"^data\.path=~nouser/photos leads nowhere, as no user 'nouser' has a home folder here: give an"):
        paths.expanded("~nouser/photos", option="data.path")
    (tmp_path / "~nouser").mkdir()
    assert paths.expanded("~nouser") == Path("~nouser")  # its own name begins so
    without_home_folder(monkeypatch)
    with pytest.raises(BCCPError, match=r"^~/photos leads nowhere, as this user \(uid \d+\) has no home folder: give an absolute path$"):
        paths.expanded("~/photos")


def test_a_home_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_HOME", f"{tmp_path}/a?b")
    with pytest.raises(BCCPError, match=r"/a\?b has a question mark, which a database's address ends at: set it to a folder without"):
        home()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("BCCP_HOME", "~nouser/x")
    with pytest.raises(BCCPError, match=r"^BCCP_HOME=~nouser/x leads nowhere, as no user 'nouser' has a home folder here"):
        home()
    monkeypatch.delenv("BCCP_HOME")
    without_home_folder(monkeypatch)
    with pytest.raises(BCCPError, match=r"^the home ~/\.bccp leads nowhere, as this user \(uid \d+\) has no home folder: give an"):
        home()


def test_libraries_get_the_home_where_the_user_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", *QUIET, *PLACES):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("BCCP_HOME", str(tmp_path))
    without_home_folder(monkeypatch)
    keep_within_home()
    assert os.environ["HOME"] == str(tmp_path)
    assert {name: os.environ[name] for name in PLACES} == {name: str(tmp_path / place) for name, place in PLACES.items()}


def test_where_a_relative_path_was_looked_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("photos"), tmp_path / "photos"):
        assert paths.where_relative(path) == f" (relative paths count from {tmp_path}; under `mlflow run` that is the project's folder)"
    assert paths.where_relative(Path("/elsewhere")) == ""


def without_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this user be one that the system does not know, in an environment that names no home folder."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
