"""A folder that is written as a whole: replaced while nobody has changed it, refused else, and never half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.pipeline.exports import own_folder
from bccp.pipeline.exports.own_folder import MANIFEST, OwnFolder


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))


def write(out: Path, text: str = "first", *, then: Callable[[], object] = lambda: None) -> None:
    with OwnFolder(out).writing() as folder:
        (folder / "images" / "cat").mkdir(parents=True)
        (folder / "images" / "cat" / "1.png").write_text(text)
        (folder / "labels.csv").write_text("rank\n")
        then()


def interrupt() -> None:
    raise KeyboardInterrupt


def files(out: Path) -> dict[str, str]:
    return {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file() and path.name != MANIFEST}


def beside(out: Path) -> set[str]:
    return {path.name for path in out.parent.iterdir()} - {out.name, "home"}


@pytest.fixture(params=["exchange", "two renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as the system swaps folders, and once as where it cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(own_folder, "_exchange", lambda one, other: False)


@pytest.mark.usefixtures("swap")
def test_a_folder_as_it_was_written_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    write(out)
    write(out, "second")
    assert files(out) == {"images/cat/1.png": "second", "labels.csv": "rank\n"}
    assert not beside(out)


def test_equal_files_make_equal_folders(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write(tmp_path / name)
    assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "other" / MANIFEST).read_bytes()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a new file": (lambda out: (out / "checked.csv").write_text(""), "'checked.csv' is new"),
    "a file that is gone": (lambda out: (out / "labels.csv").unlink(), "'labels.csv' is gone"),
    "a file of other bytes": (lambda out: (out / "labels.csv").write_text("knar\n"), "'labels.csv' is another file"),
    "a new folder": (lambda out: (out / "images" / "dog").mkdir(), "the folder 'images/dog' is new"),
    "a file in place of which there is a link": (
        lambda out: ((out / "labels.csv").rename(out.parent / "labels.csv"), (out / "labels.csv").symlink_to(out.parent / "labels.csv")),
        "'labels.csv' is another file",
    ),
    "no manifest": (lambda out: (out / MANIFEST).unlink(), "is not empty, and bccp clean did not write it"),
    "a manifest of something else": (lambda out: (out / MANIFEST).write_text('{"files": {}}'), "is not empty, and bccp clean did not"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_folder_that_somebody_changed_is_refused_before_and_after_the_work(tmp_path: Path, case: str) -> None:
    change, said = CHANGES[case]
    out = tmp_path / "cleaned"
    write(out)
    change(out)
    before = files(out)
    with pytest.raises(BCCPError, match="move this one away first") as refused:
        OwnFolder(out).check()
    assert said in str(refused.value)
    with pytest.raises(BCCPError, match="move this one away first"):
        write(out, "second")
    assert files(out) == before
    assert not [name for name in beside(out) if name.startswith(".")]


@pytest.mark.usefixtures("swap")
def test_a_change_during_the_work_keeps_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    write(out)
    with pytest.raises(BCCPError, match=r"'mine\.txt' is new"):
        write(out, "second", then=lambda: (out / "mine.txt").write_text("do not lose this"))
    assert files(out)["mine.txt"] == "do not lose this"
    assert not beside(out)


def test_what_a_desktop_leaves_in_a_folder_that_is_looked_at_is_no_change(tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    write(out)
    (out / "images" / ".DS_Store").write_text("")
    (out / "Thumbs.db").write_text("")
    OwnFolder(out).check()


def test_places_that_cannot_be_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, said in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "below", "is a file and no folder")):
        with pytest.raises(BCCPError, match=said):
            OwnFolder(place).check()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
def test_a_place_where_permissions_promise_too_much_is_refused_before_the_work() -> None:
    with pytest.raises(BCCPError, match=r"cannot be made in /proc .*: choose another folder"):
        OwnFolder("/proc/cleaned").check()


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    OwnFolder(tmp_path / "a" / "cleaned").check()
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    with pytest.raises(KeyboardInterrupt):
        write(out, then=interrupt)
    assert not out.exists()
    assert not beside(out)


def test_what_a_killed_process_left_is_cleared_up_or_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, dead = tmp_path / "cleaned", "host@1.2"
    monkeypatch.setattr(own_folder, "abandoned", lambda name: name.startswith(dead))
    write(out)
    out.rename(tmp_path / f".cleaned.{dead}.aside")  # killed between two renames
    (tmp_path / f".cleaned.{dead}.partial").mkdir()
    (tmp_path / ".cleaned.other@1.2.partial").mkdir()  # of a process that lives
    with pytest.raises(KeyboardInterrupt):
        write(out, "second", then=interrupt)
    assert files(out)["images/cat/1.png"] == "first"
    assert beside(out) == {".cleaned.other@1.2.partial"}


def test_the_manifest_lists_every_other_file(tmp_path: Path) -> None:
    write(tmp_path / "cleaned")
    listed = json.loads((tmp_path / "cleaned" / MANIFEST).read_text())["files"]
    assert listed.keys() == files(tmp_path / "cleaned").keys()
    assert all(len(one["sha256"]) == 64 for one in listed.values())


WRITER = """
import sys, time
from pathlib import Path
from bccp.pipeline.exports.own_folder import OwnFolder

out, text, rounds, pause = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
for _ in range(rounds):
    with OwnFolder(out).writing() as folder:
        for name in ("a", "b", "c"):
            (folder / name).write_text(text)
        print("written", flush=True)
        time.sleep(pause)
"""


def writer(out: Path, text: str, *, rounds: int = 1, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(out), text, str(rounds), str(pause)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.PIPE, text=True)


def test_a_process_that_is_killed_while_it_writes_leaves_the_folder_and_is_cleared_up_after(tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    write(out)
    with writer(out, "killed", pause=60) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.kill()
    assert files(out)["images/cat/1.png"] == "first"
    assert len(beside(out)) == 1  # what the process had written so far
    write(out, "second")
    assert files(out)["images/cat/1.png"] == "second"
    assert not beside(out)


def test_processes_that_write_to_one_place_at_once_leave_the_whole_result_of_one(tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    running = [writer(out, text, rounds=20) for text in ("one", "two", "three")]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert [process.communicate()[0].count("written") for process in running] == [20, 20, 20]
    assert len(set(files(out).values())) == 1
    assert files(out).keys() == {"a", "b", "c"}
    assert not beside(out)
    OwnFolder(out).check()
