"""Image files by the SHA-256 of their bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bccp.serving.store import images
from bccp.serving.store.images import ImageFiles
from support.served_records import digest

DATA = b"picture"
NAME = digest(DATA)


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    return ImageFiles(tmp_path)


def test_a_file_is_kept_once_and_read_again(files: ImageFiles) -> None:
    files.put(NAME, DATA)
    written = files.path(NAME).stat()
    files.put(NAME, DATA)

    assert files.read(NAME) == DATA
    assert files.path(NAME) == files.folder / NAME[:2] / NAME
    assert files.path(NAME).stat().st_ino == written.st_ino
    assert written.st_mode & 0o077 == 0  # people's pictures


def test_a_file_that_was_damaged_is_not_read_and_mended_with_the_next_one(files: ImageFiles) -> None:
    files.put(NAME, DATA)
    files.path(NAME).write_bytes(b"")  # as after a power cut

    assert files.read(NAME) is None
    files.put(NAME, DATA)
    assert files.read(NAME) == DATA


def test_a_file_that_is_gone_is_neither_read_nor_deleted(files: ImageFiles) -> None:
    files.put(NAME, DATA)
    files.remember(NAME)

    assert (files.delete(NAME), files.delete(NAME)) == (True, False)
    assert files.read(NAME) is None
    assert not files.is_known(NAME, kept=True)
    files.sync(NAME)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", NAME.upper(), NAME[:-1], f"{NAME}\n", f"{NAME[:-1]}/"])
def test_what_is_no_digest_names_no_file(files: ImageFiles, name: str) -> None:
    for call in (files.path, files.read, files.delete):
        with pytest.raises(ValueError, match="is no SHA-256 digest"):
            call(name)


def test_a_file_that_cannot_be_finished_leaves_nothing(files: ImageFiles) -> None:
    (files.folder / NAME[:2] / NAME).mkdir(parents=True)  # which no file replaces

    with pytest.raises(OSError, match="Is a directory"):
        files.put(NAME, DATA)
    assert [path.name for path in (files.folder / NAME[:2]).iterdir()] == [NAME]


def test_images_are_known_for_minutes_and_the_latest_only(files: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_N_KNOWN", 2)
    names = [digest(bytes([number])) for number in range(3)]
    for name in names:
        files.remember(name)

    assert [files.is_known(name, kept=False) for name in names] == [False, True, True]
    assert not files.is_known(names[2], kept=True)  # no file
    monkeypatch.setattr(images, "KNOWN_SECONDS", 0)
    assert not files.is_known(names[2], kept=False)
