"""The step ``fetch_data``: every source ends as the same archive, or as one sentence."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import run
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from bccp.core import digests, paths
from bccp.core.config_schema import Data
from bccp.core.errors import BCCPError
from bccp.data import archives, downloads, sources
from support.file_server import ID, Server

NAMES = ("w/Full  level/1 a.png", "w/Größe/水.jpg", "w/Full  level/0.png", "w/Größe/notes.txt", "w/.DS_Store")
IDS = ["Full  level/0.png", "Full  level/1 a.png", "Größe/notes.txt", "Größe/水.jpg"]


def config(source: str, path: object = None, **changes: Any) -> Data:
    settings: dict[str, Any] = {"subfolder": None, "layout": "auto", "sha256": None, "refresh": False, "max_bytes": 1_000_000}
    settings |= {"zip_encoding": None, "table": "auto", "columns": None, "trusted": None}
    return Data(source=source, path=None if path is None else str(path), **(settings | changes))


def no_ledger(reference: str) -> Path:
    raise AssertionError(f"the ledger was asked for {reference}")


def fetch(tmp_path: Path, data: Data, ledger: Callable[[str], Path] = no_ledger, **options: Any) -> tuple[sources.Fetched, bytes]:
    """What was fetched, and the bytes of the archive."""
    archive = tmp_path / "images.zip"
    fetched = sources.fetch(data, archive, cache=tmp_path / "cache", fetch_ledger=ledger, **options)
    return fetched, archive.read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A wrapper around two classes, with odd names and a hidden file."""
    for name in NAMES:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "data"


def packed(folder: Path, path: Path) -> Path:
    """A zip or tar of a folder, in an order that is not sorted."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in NAMES:
                archive.write(folder / name, name)
    else:
        with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "")) as archive:  # type: ignore[call-overload]
            for name in NAMES:
                archive.add(folder / name, name)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_a_folder_and_its_archives_become_the_same_bytes(tmp_path: Path, folder: Path, name: str) -> None:
    fetched, content = fetch(tmp_path, config("folder", folder))
    assert fetched.files["image"].tolist() == IDS
    assert fetched.files["bytes"].tolist() == [len(f"w/{name}".encode()) for name in IDS]
    assert fetched.files["sha256"].tolist() == [hashlib.sha256(f"w/{name}".encode()).hexdigest() for name in IDS]
    assert sum(fetched.left_out.values()) == 1
    for path in folder.rglob("*"):
        os.utime(path, (0, 10**9))
        path.chmod(0o755)
    again, other = fetch(tmp_path, config("archive", packed(folder, tmp_path / name)))
    assert other == content
    assert again.files.equals(fetched.files)


def test_a_subfolder_holds_the_class_folders_and_what_lies_beside_it_does_not_count(tmp_path: Path, folder: Path) -> None:
    data = config("archive", packed(folder, tmp_path / "a.zip"), subfolder="w/")
    assert fetch(tmp_path, data)[0].files["image"].tolist() == IDS
    (folder / "annotated").mkdir()
    (folder / "annotated" / "0.png").write_bytes(b"all classes in one")
    data = config("folder", folder)
    assert fetch(tmp_path, data)[0].files["image"].tolist() == ["annotated/0.png", *(f"w/{image}" for image in IDS)]
    assert fetch(tmp_path, replace(data, subfolder="w"))[0].files["image"].tolist() == IDS
    with pytest.raises(BCCPError, match=r"data.subfolder='annotatd' \(did you mean 'annotated'\?\): name one of its folders, or null"):
        fetch(tmp_path, replace(data, subfolder="annotatd"))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_empty_folders_are_kept_for_they_may_be_classes_without_an_image(tmp_path: Path, folder: Path, kind: str) -> None:
    before = sources.source_fingerprint(config("folder", folder))
    (folder / "w" / "Leer" / "deep").mkdir(parents=True)
    (folder / "w" / "hidden").mkdir()
    (folder / "w" / "hidden" / ".DS_Store").write_bytes(b"x")
    (folder / "w" / ".git" / "objects").mkdir(parents=True)
    (folder / "beside").mkdir()
    place = folder
    if kind == "zip":
        place = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    elif kind == "tar":
        place = tmp_path / "packed.tar"
        with tarfile.open(place, "w") as archive:
            archive.add(folder, ".")
    found, data = fetch(tmp_path, config("folder" if kind == "folder" else "archive", place))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert [name for name in archive.namelist() if name.endswith("/")] == ["Leer/", "Leer/deep/", "hidden/"]
    assert found.files["image"].tolist() == IDS
    assert sources.source_fingerprint(config("folder", folder)) != before


def test_the_archive_is_stored_with_fixed_dates_and_permissions(tmp_path: Path, folder: Path) -> None:
    _, content = fetch(tmp_path, config("folder", folder))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == IDS
    assert {(e.compress_type, e.date_time, e.external_attr, e.create_system) for e in entries} == {
        (zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0), 0o100644 << 16, 3)
    }


def test_the_bundled_digits_are_1797_grey_pictures_of_8_pixels(tmp_path: Path) -> None:
    fetched, content = fetch(tmp_path, config("digits"))
    assert len(fetched.files) == 1797
    assert {name.partition("/")[0] for name in fetched.files["image"]} == set("0123456789")
    with zipfile.ZipFile(io.BytesIO(content)) as archive, Image.open(archive.open("0/digit_0000.png")) as picture:
        assert (picture.mode, picture.size, picture.format) == ("L", (8, 8), "PNG")
        pixels = np.asarray(picture)
    assert (pixels[0].tolist(), int(pixels.max())) == ([0, 0, 80, 207, 143, 16, 0, 0], 239)  # 0 0 5 13 9 1 0 0 and 15 of 16
    assert fetch(tmp_path, config("digits"))[1] == content


def test_an_archive_from_a_server_is_fetched_once(tmp_path: Path, folder: Path, server: Server) -> None:
    server.bodies["/a.zip"], server.headers = packed(folder, tmp_path / "a.zip").read_bytes(), {"ETag": '"v1"'}
    data = config("archive", server.url("/a.zip"))
    fetched, content = fetch(tmp_path, data)
    assert fetched.files["image"].tolist() == IDS
    assert fetch(tmp_path, data)[1] == content
    assert server.asked == [("GET", 200), ("GET", 304)]


def test_drive_and_kaggle_may_give_a_file_a_folder_or_a_folder_with_an_archive(
    tmp_path: Path, folder: Path, drive: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kagglehub = pytest.importorskip("kagglehub")
    archive = packed(folder, tmp_path / "a.zip").read_bytes()
    for holds in (archive, {"my data.zip": archive}, {name: (folder / name).read_bytes() for name in NAMES}):
        drive["holds"] = holds
        assert fetch(tmp_path, config("gdrive", ID, refresh=True))[0].files["image"].tolist() == IDS
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle, force_download: str(folder))
    assert fetch(tmp_path, config("kaggle", "me/data"))[0].files["image"].tolist() == IDS


def test_fsspec_reads_files_and_folders_near_and_far(tmp_path: Path, folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    archive = packed(folder, tmp_path / "a.tar.gz")
    memory.pipe({"/bucket/a.tar.gz": archive.read_bytes(), **{f"/bucket/all/{name}": (folder / name).read_bytes() for name in NAMES}})
    _, content = fetch(tmp_path, config("folder", folder))
    for url in ("memory://bucket/a.tar.gz", "memory://bucket/all", archive.as_uri(), folder.as_uri()):
        assert fetch(tmp_path, config("fsspec", url))[1] == content, url


def test_an_artifact_may_be_raw_data_of_the_ledger_or_anything_of_wandb(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))
    _, content = fetch(tmp_path, config("folder", folder))
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "images.zip").write_bytes(content)
    (raw / "files.csv").write_text("image,bytes,sha256\n")
    asked: list[str] = []

    def ledger(reference: str) -> Path:
        asked.append(reference)
        return raw

    assert fetch(tmp_path, config("artifact", "raw_data:0123456789ab"), ledger)[1] == content
    assert asked == ["raw_data:0123456789ab"]
    places: list[Path] = []

    def wandb(reference: str, place: Path) -> Path:
        assert reference == "team/project/photos:latest"
        places.append(place)
        packed(folder, place / "photos.zip")
        return place

    assert fetch(tmp_path, config("artifact", "team/project/photos:latest"), fetch_wandb=wandb)[1] == content
    assert places[0].is_relative_to(tmp_path / "home")
    assert not places[0].exists()


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_the_checksum_is_that_of_the_archive_or_of_the_folders_files(tmp_path: Path, folder: Path, source: str) -> None:
    path = folder if source == "folder" else packed(folder, tmp_path / "a.zip")
    lines = "".join(f"{name}\0{hashlib.sha256(f'w/{name}'.encode()).hexdigest()}\n" for name in IDS)
    right = hashlib.sha256(lines.encode() if source == "folder" else path.read_bytes()).hexdigest()
    fetch(tmp_path, config(source, path, sha256=right.upper()))
    wrong = "0" * 64
    with pytest.raises(BCCPError, match=f"has the SHA-256 checksum {right}, not data.sha256={wrong}"):
        fetch(tmp_path, config(source, path, sha256=wrong))


def test_an_archive_of_the_wrong_checksum_is_not_even_opened(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no archive at all")
    with pytest.raises(BCCPError, match="has the SHA-256 checksum"):
        fetch(tmp_path, config("archive", tmp_path / "a.zip", sha256="0" * 64))


@pytest.mark.parametrize("wrong", ["123", "x" * 64, "0" * 63])
def test_a_checksum_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(BCCPError, match=f"data.sha256='{wrong}' is no SHA-256 checksum"):
        config("archive", "a.zip", sha256=wrong).check()


def test_each_misfit_of_source_and_path_is_told_in_one_sentence(tmp_path: Path, folder: Path) -> None:
    archive, nothing = packed(folder, tmp_path / "photos.zip"), tmp_path / "nothing"
    nothing.mkdir()
    boxed = tmp_path / "boxed"
    boxed.mkdir()
    packed(folder, boxed / "photos.zip")
    misfits = {
        r"data.source=folder needs data.path": config("folder"),
        r"data.source=kaggle needs data.path": config("kaggle"),
        r"data.source=digits takes no data.path=.*set data.source": config("digits", folder),
        r"photo.zip does not exist \(did you mean 'photos.zip'\?\)": config("archive", tmp_path / "photo.zip"),
        r"none/dat does not exist: give a folder that does": config("folder", tmp_path / "none/dat"),
        r"none/dat.zip does not exist: give an archive that does": config("archive", tmp_path / "none/dat.zip"),
        r"data is a folder: set data.source=folder": config("archive", folder),
        r"photos.zip is a file: set data.source=archive": config("folder", archive),
        r"boxed holds nothing but the archive 'photos.zip': set data.source=archive data.path=.*photos.zip": config("folder", boxed),
        r"nothing holds no files": config("folder", nothing),
        r"data.path=https://h/a.zip is a URL: set data.source=archive": config("folder", "https://me:key@h/a.zip?k=1"),
        r"data.path=s3://b/a.zip is a URL: set data.source=fsspec": config("archive", "s3://b/a.zip"),
        r"is no Google Drive id": config("gdrive", "two words"),
        r"is no Kaggle handle": config("kaggle", "titanic"),
    }
    for sentence, data in misfits.items():
        for ask in (lambda data=data: fetch(tmp_path, data), lambda data=data: sources.source_fingerprint(data)):
            with pytest.raises(BCCPError, match=sentence):
                ask()


def test_a_folder_over_the_limit_is_refused(tmp_path: Path, folder: Path) -> None:
    total = sum(len(name.encode()) for name in NAMES if ".DS" not in name)
    fetch(tmp_path, config("folder", folder, max_bytes=total))
    with pytest.raises(BCCPError, match=f"data.max_bytes={total - 1} "):
        fetch(tmp_path, config("folder", folder, max_bytes=total - 1))


def test_a_stream_longer_than_it_declares_is_cut(tmp_path: Path) -> None:
    lying = sources.File("a/1.png", 1000, lambda: io.BytesIO(bytes(20_000_000)))
    with pytest.raises(BCCPError, match=r"'a/1\.png' has more bytes than the 1000 declared"):
        sources.pack([lying], tmp_path / "images.zip", shown="it")
    assert (tmp_path / "images.zip").stat().st_size < 2000


def test_the_fingerprint_of_local_data_is_that_of_their_content(tmp_path: Path, folder: Path) -> None:
    prints = [sources.source_fingerprint(config("folder", folder))]
    folder = folder.rename(tmp_path / "moved")
    os.utime(folder / NAMES[0], (0, 0))
    (folder / "w/.DS_Store").write_bytes(b"changed")
    assert sources.source_fingerprint(config("folder", folder)) == prints[0]
    assert sources.source_fingerprint(config("fsspec", folder.as_uri())) == prints[0]
    (folder / NAMES[0]).write_bytes(b"changed")
    prints.append(sources.source_fingerprint(config("folder", folder)))
    (folder / NAMES[0]).rename(folder / "w/Full  level/renamed.png")
    prints.append(sources.source_fingerprint(config("folder", folder)))
    assert len(set(prints)) == 3
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"whatever")
    assert sources.source_fingerprint(config("archive", archive)) == f"archive {hashlib.sha256(b'whatever').hexdigest()}"
    assert sources.source_fingerprint(config("digits")).startswith("digits of scikit-learn ")


def test_a_sweeps_later_jobs_do_not_read_the_images_again(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    before = sources.source_fingerprint(config("folder", folder))
    with monkeypatch.context() as none_is_read:
        none_is_read.setattr(archives, "read_chunks", lambda file, shown: pytest.fail(f"{file.name} was read"))
        assert sources.source_fingerprint(config("folder", folder)) == before
    time.sleep(0.02)
    (folder / NAMES[0]).write_bytes(b"another")
    assert sources.source_fingerprint(config("folder", folder)) != before


def test_the_fingerprint_of_remote_data_is_their_version(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.bodies["/a.zip"], server.headers = b"", {"ETag": '"v1"'}
    url = server.url("/a.zip")

    def fingerprint(source: str, path: str, **changes: Any) -> str:
        return sources.source_fingerprint(config(source, path, **changes))

    first = fingerprint("archive", url)
    assert fingerprint("archive", url, refresh=True) == first
    server.headers = {"ETag": '"v2"'}
    assert fingerprint("archive", url) != first
    server.headers = {}
    assert fingerprint("archive", url).endswith(" unversioned")
    assert fingerprint("archive", url) == fingerprint("archive", url)
    assert fingerprint("archive", url, refresh=True) != fingerprint("archive", url, refresh=True)
    asked = len(server.asked)
    assert fingerprint("archive", url, sha256="A" * 64) == f"sha256 {'a' * 64}"
    assert len(server.asked) == asked
    assert fingerprint("gdrive", ID) == fingerprint("gdrive", f"https://drive.google.com/file/d/{ID}/view")
    assert fingerprint("gdrive", ID, refresh=True) != fingerprint("gdrive", ID, refresh=True)
    assert fingerprint("kaggle", "a/b/versions/1", refresh=True) == fingerprint("kaggle", "a/b/versions/1", refresh=True)
    assert fingerprint("kaggle", "a/b/versions/1") != fingerprint("kaggle", "a/b/versions/2")
    assert fingerprint("artifact", "raw_data:0123456789ab") == "artifact raw_data:0123456789ab"
    monkeypatch.setattr(downloads, "wandb_version", lambda reference: f"digest of {reference}")
    assert fingerprint("artifact", "team/p/raw:latest").endswith("digest of team/p/raw:latest")
    assert fingerprint("artifact", "team/p/raw:v3").endswith(" v3")


def test_a_fingerprint_needs_no_heavy_package(tmp_path: Path, folder: Path) -> None:
    code = (
        "import sys; from bccp.data import sources; from bccp.core.config_schema import Data\n"
        f"for source, path in (('digits', None), ('folder', {str(folder)!r})):\n"
        "    settings = dict(trusted=None, subfolder=None, layout='auto', sha256=None, refresh=False, max_bytes=10**6, zip_encoding=None)\n"
        "    settings |= dict(table=None, columns=None)\n"
        "    sources.source_fingerprint(Data(source=source, path=path, **settings))\n"
        "print(sorted({'torch', 'pandas', 'sklearn', 'numpy', 'mlflow', 'wandb', 'fsspec', 'gdown', 'kagglehub'} & set(sys.modules)))"
    )
    source = paths.PACKAGE.parent
    shown = run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(source)})
    assert shown.stdout.strip() == "[]"


def test_trusted_images_are_monday_and_all_others_tuesday(tmp_path: Path, folder: Path) -> None:
    right = tmp_path / "right" / "wrapper"
    for name in ("Größe/1.png", "Full  level/2.png"):
        (right / name).parent.mkdir(parents=True)
        (right / name).write_bytes(name.encode())
    data = config("folder", folder, trusted=str(right))
    fetched, _ = fetch(tmp_path, data)
    assert fetched.files["image"].tolist() == [
        *(f"monday/{n}" for n in ("Full  level/2.png", "Größe/1.png")),
        *(f"tuesday/{n}" for n in IDS),
    ]
    before = sources.source_fingerprint(data)
    assert before != sources.source_fingerprint(config("folder", folder))
    (right / "Größe" / "3.png").write_bytes(b"one more")
    assert sources.source_fingerprint(data) != before


def test_trusted_images_may_lie_among_the_others(tmp_path: Path, folder: Path) -> None:
    data = config("folder", folder, trusted=str(folder / "w" / "Größe"))
    (folder / "w" / "Größe" / "class").mkdir()
    (folder / "w" / "Größe" / "class" / "3.png").write_bytes(b"3")
    fetched, _ = fetch(tmp_path, data)
    tops = fetched.files["image"].str.partition("/")[0]
    assert tops.tolist() == ["monday"] * 3 + ["tuesday"] * 2
    assert not fetched.files["image"].str.startswith("tuesday/Größe").any()


@pytest.mark.parametrize(
    ("trusted", "days", "said"),
    [
        ("data", False, "so that no label is left to judge"),
        ("right", True, r"is one too many, as the data has days of its own \('Monday'\)"),
    ],
)
def test_trusted_images_that_leave_nothing_to_judge_are_refused(tmp_path: Path, folder: Path, trusted: str, days: bool, said: str) -> None:
    (tmp_path / "right" / "a").mkdir(parents=True)
    (tmp_path / "right" / "a" / "1.png").write_bytes(b"1")
    if days:
        (folder / "w").rename(folder / "Monday")
    with pytest.raises(BCCPError, match=said):
        fetch(tmp_path, config("folder", folder, trusted=str(tmp_path / trusted)))


def test_a_folder_that_changed_while_it_was_read_is_refused(folder: Path) -> None:
    data = config("folder", folder)
    before = sources.source_fingerprint(data)
    sources.refuse_change(data, before)
    (folder / "w" / "Größe" / "水.jpg").write_bytes(b"another picture")
    with pytest.raises(BCCPError, match=r"data\.path=.* was changed while it was read: run again once nothing writes to it"):
        sources.refuse_change(data, before)
    sources.refuse_change(config("digits"), "digits of an earlier release")  # what is not of this machine cannot be compared
